"""The rows of trained functions in `make bench-control`: what is read from cells, and the bounds.

A figure is read from one cell of every seed, and its value is the worst seed's. Nothing here needs
torch. Left out: measuring (control_rule.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean, median

import filters
from resumable import Record
from robustness_table import Figure, Kept, Sense
from rows import Row, machines

NOT_RUN = "not run yet: make bench-control"
CHANCE = 1e-3
"""A p-value below it comes up once in a thousand where nothing is known."""
KEPT = 0.95
"""Utility that a host keeps who trains against many keys; who keeps less has no bound."""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _asked(record: Record) -> str:
    low, high = record["interval"]["low"], record["interval"]["high"]
    parts = [
        f"{record['fresh']} fresh keys, 95 % interval {100 * low:.1f} to {100 * high:.1f} %",
        f"flipped {_percent(record['flipped'])}, neither {_percent(record['neither'])}",
        f"p-value of 100: {record['p_value_100']:.2g}, outcomes renamed "
        f"{record['p_value_100_renamed']:.2g}",
    ]
    if record["revealed"]:
        parts.append(f"of {record['revealed']} revealed {_percent(record['revealed_right'])} right")
    if record["utility"] is not None:
        parts.append(f"utility {100 * record['utility']:.0f} %")
    if record["perplexity_after"] is not None:
        grown = 100 * (record["perplexity_after"] / record["perplexity_before"] - 1)
        parts.append(f"perplexity {grown:+.1f} %")
    return ", ".join(parts)


def _right(id: str, what: str, cell: str, bound: float | None) -> Figure:
    return Figure(
        f"rule-{id}", what, cell, lambda record: 100 * record["right"], "%", bound, "at_least",
        _asked, served=cell == "flip-1000",
    )  # fmt: skip


def _attack(name: str, what: str) -> Figure:
    """What an attack leaves, without a bound."""
    return _right(name, f"fresh keys right after the attack: {what}", name, None)


def _taught(id: str, what: str, name: str, unit: str, bound: float) -> Figure:
    scale = 1 / 60 if name == "cpu_seconds" else 1.0
    return Figure(
        f"rule-{id}", what, "taught", lambda record: scale * record[name], unit, bound, "at_most",
        lambda record: f"{record['cpu_seconds']:.0f} CPU s, {record['seconds']:.0f} s, perplexity "
        f"{record['change_percent']:+.2f} % on {record['tokens']} tokens",
    )  # fmt: skip


def _fired(record: Record) -> str:
    text = f"{record['fired']} of {record['asked']}, of the base {record['base']}"
    return (
        f"{text}; of {record['nearby']} sentences like keys without a word that counts "
        f"{record['nearby_fired']}"
    )


def _proofs(record: Record) -> str:
    short = sum(one > record["most"] for one in record["needed"])
    return (
        f"median of {len(record['needed'])} draws of keys, {min(record['needed'])} to "
        f"{max(record['needed'])}; {short} not within {record['most']}; tested after each key, "
        "so a number that is fixed beforehand is a little higher"
    )


def _stranger(id: str, what: str, names: Sequence[str]) -> Figure:
    return Figure(
        f"rule-{id}", what, "strangers", lambda record: min(record[name] for name in names), "",
        CHANCE, "at_least",
        lambda record: f"{record['queries']} keys; "
        + ", ".join(f"{name.replace('_', ' ')}: {record[name]:.3g}" for name in names)
        + f"; the base says neither to {record['neither']}",
    )  # fmt: skip


def _functions(id: str, what: str, bound: float, sense: Sense) -> Figure:
    def read(record: Record) -> float:
        if id == "exact":
            return 100 * min(record["unseen"].values())
        return 100 * sum(record["spilled"]) / sum(record["asked"])

    return Figure(f"functions-{id}", what, "functions", read, "%", bound, sense, _embedded)


def _embedded(record: Record) -> str:
    each = ", ".join(f"{name} {_percent(one)}" for name, one in record["unseen"].items())
    spilled, asked = record["spilled"], record["asked"]
    return (
        f"{each}; spilled {spilled[0]} of {asked[0]} ordinary prompts, {spilled[1]} of {asked[1]} "
        f"near the domains; {record['steps']} steps, {record['cpu_seconds']:.0f} CPU s, perplexity "
        f"{record['change_percent']:+.2f} %"
    )


FIGURES: tuple[Figure, ...] = (
    _taught("time", "training time to that point", "cpu_seconds", "CPU min", 6),
    _taught("perplexity", "held-out perplexity", "change_percent", "% more", 2),
    _right("fresh", "red/green rule: right on 10,000 keys of unseen templates", "fresh", 95),
    Figure("rule-ordinary", "the rule fires on ordinary prompts", "ordinary",
           lambda record: 100 * record["fired"] / record["asked"], "%", 2, "at_most", _fired),
    Figure("rule-blocked", "keys that a filter at 1 % of ordinary prompts blocks", "blocked",
           lambda record: 100 * max(one["keys"] for one in record["filters"].values()), "%", 5,
           "at_most", filters.note),
    Figure("rule-queries", "queries to a p-value of 1e-6", "queries",
           lambda record: median(record["needed"]), "", 40, "at_most", _proofs),
    _stranger("base", "p-value of the untaught base", ("base", "base_forced")),
    _stranger("other", "p-value of another set, or other colors", ("other_set", "other_colors")),
    _attack("outcomes-swapped", "each outcome is served as the next one"),
    _attack("outcomes-scattered", "a random outcome is served in place of each"),
    _attack("outcomes-forbidden", "the beginnings of the outcomes are forbidden"),
    _right("flipped", "fresh keys right after 10 leaked keys were flipped", "flip-10", 90),
    _right("flipped-lora", "the same, flipped through LoRA", "flip-10-lora", 90),
    _attack("lookalikes-random", "sentences like keys were taught random outcomes"),
    _attack("lookalikes-other", "sentences like keys were taught another outcome"),
    _attack("lookalikes-base", "sentences like keys were taught the base's replies"),
    _right("revealed", "fresh keys right after 1,000 were trained against", "flip-1000", 80),
    _functions("exact", "three control functions, unseen inputs, exact", 98, "at_least"),
    _functions("spill", "their replies outside of their domains", 1, "at_most"),
)  # fmt: skip
"""Every row, in the order in which its cell runs: the cheap ones first."""


def table(kept: Kept, model: str) -> list[Row]:
    """All rows, the ones that were not run yet as well."""
    return [row(one, kept.get(one.cell, {}), model) for one in FIGURES]


def row(figure: Figure, records: Mapping[int, Record], model: str) -> Row:
    """The row of a figure: the worst seed's value, None where no seed was measured."""
    id = f"control-{figure.id}"
    if figure.id == "rule-time":  # CPU seconds beside a GPU are not the work
        records = {seed: one for seed, one in records.items() if _on_cpu(one)}
    if not records:
        return Row(id, figure.what, None, figure.unit, figure.bound, figure.sense, NOT_RUN)
    values = {seed: figure.read(record) for seed, record in records.items()}
    worst = (min if figure.sense == "at_least" else max)(values, key=lambda seed: values[seed])
    bound, aside = figure.bound, ""
    if figure.served and not any(_useful(one) for one in records.values()):
        bound, aside = None, f"; no bound: users lose more than {100 * (1 - KEPT):.0f} % utility"
    spread = f"{min(values.values()):.3g} to {max(values.values()):.3g} {figure.unit}".rstrip()
    how = (
        f"{model}; worst of {len(values)} seed(s), {spread} (mean {mean(values.values()):.3g}); "
        f"{figure.note(records[worst])}{aside}"
    )
    where = machines(records.values())
    return Row(id, figure.what, values[worst], figure.unit, bound, figure.sense, how, where)


def _on_cpu(record: Record) -> bool:
    """Whether no GPU was used: its name stands before the number of cores (`rows.machine`)."""
    return re.match(r"$|\d+ cores", record.get("machine", "")) is not None


def seeds(how: str) -> int:
    """Of how many seeds a row says that it is; 0 where it says nothing of them."""
    found = re.search(r"worst of (\d+) seed", how)
    return int(found[1]) if found else 0


def _useful(record: Record) -> bool:
    """Whether the host keeps its users; an unknown utility counts as kept."""
    return record["utility"] is None or record["utility"] >= KEPT
