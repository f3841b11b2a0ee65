"""The report of an attack run: what each attack left of the fingerprints, and of the model.

Left out: running attacks (loyal.fingerprints.suite) and the page itself (report.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loyal.app.report import Cell, Chart, Fact, Passage, Report, Section, Series, Table
from loyal.fingerprints import FingerprintSet
from loyal.fingerprints.attack import Attack, AttackResult

COLUMNS = (
    "attack", "hits", "asked", "survival", "95 % from", "to", "p after 100 keys", "perplexity",
    "change %", "utility", "seconds",
)  # fmt: skip

CHARTS = {
    "Weights": ("none", "quantization", "pruning", "merge"),
    "Training": ("tuning", "targeted"),
    "Serving": ("prompt", "sampling", "filter", "suppression", "paraphrase"),
}
"""Titles of the charts, with the families that stand in each."""


@dataclass(frozen=True)
class AttackRun:
    """What a report is made of."""

    model: str
    fingerprints: FingerprintSet
    attacks: tuple[Attack, ...]
    results: tuple[AttackResult, ...]
    """One an attack, in the same order."""
    footer: str = ""


def change(result: AttackResult) -> float | None:
    """Percent by which perplexity grew; None for a wrapper."""
    if result.perplexity_after is None:
        return None
    return 100 * (result.perplexity_after / result.perplexity_before - 1)


def table(results: Sequence[AttackResult], title: str = "") -> Table:
    """One row an attack."""
    rows: list[tuple[Cell, ...]] = [
        (
            one.name, one.hits, one.asked, one.survival, one.interval.low, one.interval.high,
            one.p_value_100, one.perplexity_after, change(one), one.utility, one.seconds,
        )
        for one in results
    ]  # fmt: skip
    return Table(title, COLUMNS, tuple(rows), note=NOTE)


NOTE = (
    "Survival: share of the keys asked whose reply begins with the response. p after 100 keys: the "
    "chance, at most, that a model made without the set would hit as often; with fewer than 100 "
    "keys asked it is scaled up from these. Utility: of the short questions that the model "
    "answered right before, the share it still does. A dash: not measured, since weights did not "
    "change or no question was answered right."
)


def page(run: AttackRun) -> Report:
    """The whole report; it holds no key, no response and no reply."""
    chance = max(one.chance for one in run.fingerprints.fingerprints)
    worst = min(run.results, key=lambda one: one.survival)
    weaker = {one.fraction for one in run.results if one.fraction < 1}
    facts = (
        Fact("attacks", len(run.results)),
        Fact("keys in the set", len(run.fingerprints)),
        Fact("least survival", worst.survival, worst.name),
        Fact("proven after 100 keys", sum(one.p_value_100 <= 1e-6 for one in run.results),
             "attacks that leave p at most 1e-6"),
    )  # fmt: skip
    sections: list[Section] = [*_charts(run, chance), table(run.results, "Every attack")]
    if weaker:
        shares = ", ".join(f"{100 * share:g} %" for share in sorted(weaker))
        text = f"Attacks that train used {shares} of their examples: weaker than their names say."
        sections.append(Passage("A quick run", (text,)))
    sections.append(_sources(run.attacks))
    return Report(
        title="Attacks on fingerprints",
        summary=f"What a host may do to {run.model} to lose its fingerprints, and what is left.",
        facts=facts,
        sections=tuple(sections),
        footer=run.footer,
    )


def _charts(run: AttackRun, chance: float) -> list[Chart]:
    found = []
    for title, families in CHARTS.items():
        some = [one for one in run.results if one.family in families]
        if some:
            series = Series(
                "survival",
                tuple(one.name for one in some),
                tuple(one.survival for one in some),
                tuple(one.interval.low for one in some),
                tuple(one.interval.high for one in some),
            )
            found.append(
                Chart(
                    f"{title}: share of keys that still hit",
                    "",
                    "share of keys, 95 % interval",
                    (series,),
                    kind="rows",
                    threshold=chance,
                    threshold_label="chance",
                )
            )
    return found


def _sources(attacks: Sequence[Attack]) -> Table:
    rows = tuple((one.name, one.family, one.what, one.source) for one in attacks)
    return Table("What each does", ("attack", "family", "what", "source"), rows)
