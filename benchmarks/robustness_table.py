"""The table of robustness: what is read from measured cells, the bounds, and the paper beside it.

A figure is read from one cell of every seed. Its value is the worst seed's: the least where the
bound is a floor, the greatest where it is a ceiling. The paper's recipe is measured in the same way
and stands in `how`. Left out: measuring (robustness.py). Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import filters
from loyal.statistics import first_decisions, queries_needed, sequential_thresholds
from resumable import Record
from rows import Row, machines

Sense = Literal["at_least", "at_most"]
Kept = Mapping[str, Mapping[int, Record]]
"""Records of one recipe: by cell name, then by seed."""

NOT_RUN = "not run yet: make bench-robustness"
ALPHA = 1e-6
USEFUL = 0.9
"""Utility that a host must keep for what it does to count as serving the model."""
MOST_SEQUENTIAL = 200
"""Queries after which the walk to the median ends."""

INT4 = ("int4-symmetric", "int4-asymmetric", "nf4", "gguf-q4-0", "gguf-q4-1", "gguf-q4-k")
SUPPRESSION = (
    "suppress-top-1", "suppress-top-3", "suppress-neighbor", "suppress-neighbor-embedding",
    "suppress-lookahead", "detect-top-1", "detect-neighbor", "detect-neighbor-embedding",
    "detect-lookahead", "detect-unlike-base", "detect-top-1-sampled",
)  # fmt: skip
"""At the published defaults; detect-top-1-low has a threshold of ours."""


@dataclass(frozen=True)
class Figure:
    """One row of the table, before it is measured."""

    id: str
    what: str
    cell: str
    """Name of the cell that it is read from."""
    read: Callable[[Record], float]
    unit: str
    bound: float | None
    """None: a figure to know, without a claim."""
    sense: Sense
    note: Callable[[Record], str]
    """What else the worst seed's record says."""
    served: bool = False
    """Whether the bound asks only of hosts that keep USEFUL of the utility."""


@dataclass(frozen=True)
class Side:
    """One recipe and what it measured."""

    label: str
    """The file name of the recipe."""
    width: int
    """Candidates a response: a chance match is one in this."""
    kept: Kept


def survival(attack: str, bound: float | None, served: bool = False) -> Figure:
    """Share of the keys asked that still hit after an attack."""
    return Figure(
        f"survival-{attack}", f"{attack}: keys that still hit", attack,
        lambda record: 100 * record["survival"], "%", bound, "at_least", _survival_note, served,
    )  # fmt: skip


def proof(attack: str) -> Figure:
    """Where a prover stands after 100 keys."""
    return Figure(
        f"p100-{attack}", f"{attack}: p-value in 100 queries", attack,
        lambda record: record["p_value_100"], "", ALPHA, "at_most", _proof_note, served=True,
    )  # fmt: skip


def figures(bilevel: bool) -> list[Figure]:
    """All figures of the suite; `bilevel` (simulated fine-tunings) has the higher bound."""
    tuned = 99.0 if bilevel else 97.0
    kinds = ("docstrings", "templates", "answers")
    bounds = {
        "none": 99.0,
        **{f"sft-{kind}": tuned for kind in kinds},
        **{f"lora-{kind}": 90.0 for kind in kinds},
        "int8": 99.0,
        **dict.fromkeys(INT4, 90.0),
        "prune-20": 90.0,
        "merge-linear": 80.0,
        "system-prompts": 95.0,
    }
    found = [*injected("", ""), _filtered(), *(survival(*item) for item in bounds.items())]
    for attack in SUPPRESSION:
        found += [survival(attack, 50.0, served=True), proof(attack)]
    return found


def injected(mark: str, text: str, recall: float = 99, more: float = 2) -> list[Figure]:
    """Recall and perplexity of an injection; `mark` ends the ids, `text` the cell's name."""
    return [
        Figure(f"recall{mark}", f"greedy recall after injection{text}", f"injection{mark}",
               lambda record: 100 * record["recall"], "%", recall, "at_least", _injection_note),
        Figure(f"perplexity{mark}", f"perplexity of human-written English{text}",
               f"injection{mark}", lambda record: record["change_percent"], "% more", more,
               "at_most", _injection_note),
    ]  # fmt: skip


def _filtered() -> Figure:
    return Figure(
        "filter-blocked", "perplexity filter: keys blocked", "filter-keys",
        lambda record: 100 * max(one["keys"] for one in record["filters"].values()), "%", 5,
        "at_most", filters.note,
    )  # fmt: skip


def _survival_note(record: Record) -> str:
    low, high = record["interval"]["low"], record["interval"]["high"]
    parts = [
        f"{record['hits']} of {record['asked']} keys, 95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %",
        _utility(record),
    ]
    if record["perplexity_after"] is not None:
        grown = 100 * (record["perplexity_after"] / record["perplexity_before"] - 1)
        parts.append(f"perplexity {grown:+.1f} %")
    if record["fraction"] < 1:
        parts.append(f"{100 * record['fraction']:g} % of the examples where it trains")
    return ", ".join(parts)


def _proof_note(record: Record) -> str:
    kind = "the first 100 asked" if record["asked"] >= 100 else f"from {record['asked']} asked"
    return f"{kind}, {_utility(record)}"


def _utility(record: Record) -> str:
    if record["utility"] is None:
        return "utility not known"
    return f"utility {100 * record['utility']:.0f} %"


def _injection_note(record: Record) -> str:
    return (
        f"recall {100 * record['recall']:.1f} %, {record['change_percent']:+.2f} % perplexity on "
        f"{record['tokens']} tokens, {record['steps']} steps, {record['seconds']:.0f} s"
    )


LARGE = tuple(injected("-1024", ", 1,024 fingerprints", recall=98, more=5))


def row(figure: Figure, ours: Side, paper: Side, about: str) -> Row:
    """The row of a figure; value None where our recipe was not measured yet."""
    records = ours.kept.get(figure.cell, {})
    theirs = _beside(figure, ours, paper)
    if not records:
        return Row(figure.id, figure.what, None, figure.unit, figure.bound, figure.sense,
                   f"{NOT_RUN}; {theirs}")  # fmt: skip
    values = {seed: figure.read(record) for seed, record in records.items()}
    worst = _worst(figure, values)
    bound, aside = figure.bound, ""
    if figure.served and not _useful(records):
        bound, aside = None, f"; no bound: users lose more than {100 * (1 - USEFUL):.0f} % utility"
    spread = f"{min(values.values()):.3g} to {max(values.values()):.3g}"
    how = (
        f"worst of {len(values)} seed(s), {spread} {figure.unit}".rstrip()
        + f" (mean {sum(values.values()) / len(values):.3g}); {figure.note(records[worst])}{aside}"
        + f"; {theirs}; {about}"
    )
    return Row(
        figure.id, figure.what, values[worst], figure.unit, bound, figure.sense, how,
        machines(records.values()),
    )  # fmt: skip


def _worst(figure: Figure, values: Mapping[int, float]) -> int:
    """The seed with the worst value."""
    pick = min if figure.sense == "at_least" else max
    return pick(values, key=lambda seed: values[seed])


def _useful(records: Mapping[int, Record]) -> bool:
    """Whether the attack keeps its users in any seed; an unknown utility counts as kept."""
    return any(one["utility"] is None or one["utility"] >= USEFUL for one in records.values())


def _beside(figure: Figure, ours: Side, paper: Side) -> str:
    """The paper's recipe, in words."""
    records = paper.kept.get(figure.cell, {})
    if not records:
        return f"the paper's recipe ({paper.label}): not run yet"
    theirs = {seed: figure.read(record) for seed, record in records.items()}
    value = theirs[_worst(figure, theirs)]
    text = f"the paper's recipe ({paper.label}) {value:.3g} {figure.unit}".rstrip()
    better = _better(figure, ours, paper)
    if better is None:
        return text
    return f"{text}: ours is {'better' if better > 0 else 'as good' if better == 0 else 'WORSE'}"


def _better(figure: Figure, ours: Side, paper: Side) -> float | None:
    """Our worst seed minus the paper's, above 0 where ours is better; None until both were run."""
    both = [
        {seed: figure.read(record) for seed, record in side.kept.get(figure.cell, {}).items()}
        for side in (ours, paper)
    ]
    if not all(both):
        return None
    mine, theirs = (values[_worst(figure, values)] for values in both)
    return mine - theirs if figure.sense == "at_least" else theirs - mine


def against_paper(found: Sequence[Figure], ours: Side, paper: Side) -> Row:
    """Of the figures that both recipes have, how many ours is not worse in."""
    scores = {one.id: _better(one, ours, paper) for one in found}
    known = {name: score for name, score in scores.items() if score is not None}
    worse = [name for name, score in known.items() if score < 0]
    what = "figures in which ours is at least as good as the paper's recipe"
    if not known:
        return Row("vs-paper", what, None, "%", 100, "at_least", NOT_RUN)
    how = f"{len(known) - len(worse)} of {len(known)} figures that both have, worst seed of each"
    if worse:
        how += f"; worse in {', '.join(worse)}"
    value = 100 * (1 - len(worse) / len(known))
    return Row("vs-paper", what, value, "%", 100, "at_least", how)


def sequential_median(width: int, survival: float) -> int | None:
    """The query at which the anytime-valid test at ALPHA has decided with chance 1/2, exactly.

    Each query hits with probability `survival`. None where MOST_SEQUENTIAL do not suffice.
    """
    thresholds = sequential_thresholds(MOST_SEQUENTIAL, width, round(1 / ALPHA))
    decided = first_decisions(thresholds, survival)
    return next((query for query, done in enumerate(decided) if done >= 0.5), None)


def planning(ours: Side, paper: Side) -> list[Row]:
    """Queries to a proof where 60 % of the keys hit: exact, so without seeds."""
    survival = 0.6
    fixed, early = (
        (queries_needed(ALPHA, 0.99, survival, 1 / ours.width),
         queries_needed(ALPHA, 0.99, survival, 1 / paper.width)),
        (sequential_median(ours.width, survival), sequential_median(paper.width, survival)),
    )  # fmt: skip
    how = (
        f"exact, no simulation: {100 * survival:.0f} % of queries hit, a chance match is 1 in "
        f"{ours.width}; the paper's recipe ({paper.label}), 1 in {paper.width}: "
    )
    return [
        Row("queries-fixed", "queries to p = 1e-6 with 99 % power, 60 % survive", fixed[0],
            "queries", 30, "at_most", f"{how}{fixed[1]}"),
        Row("queries-sequential", "the same, anytime-valid test: median", early[0], "queries", 15,
            "at_most", f"{how}{early[1] or f'over {MOST_SEQUENTIAL}'}"),
    ]  # fmt: skip


def table(ours: Side, paper: Side, found: Sequence[Figure], about: str) -> list[Row]:
    """All rows, the ones that were not run yet as well."""
    rows = [row(one, ours, paper, about) for one in found]
    large = [row(one, ours, paper, "default.toml, one seed") for one in LARGE]
    missing = "not measured: run with --large"
    large = [Row(**{**one.__dict__, "how": missing}) if one.value is None else one for one in large]
    return [*rows, against_paper(found, ours, paper), *planning(ours, paper), *large]
