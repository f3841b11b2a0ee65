"""The report of `loyal align report`: models side by side, value by value, attack by attack.

Holds no prompt and no reply. Left out: measuring (loyal.alignment.evaluate), and the page itself
(report.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loyal.app.report import Cell, Chart, Fact, Passage, Report, Series, Table

if TYPE_CHECKING:
    from loyal.alignment.calibration import Estimate
    from loyal.alignment.evaluate import Measured, Share

SPLITS = {
    "plain": "without an attack",
    "train": "attacks of the training families",
    "held-out": "attacks never trained on",
}
"""Of answers, with what stands before people."""

NOTE = (
    "Share of the judged replies that keep their value, with its 95 % interval; all questions are "
    "held out from training. Replies on which the judge abstained are left out."
)


COST = (
    "Against the base: how much more surprising English has become, how far the chances of a "
    "reply's first token have moved (KL), and how many greedy replies are the same. By itself: "
    "questions of the given task answered right, ordinary prompts refused, requests for harm "
    "declined, and requests that only sound like it declined, which they should not be."
)
CORRECTED = (
    "Verdicts count the judge's mistakes, and leave out what it is not sure of. Here the mean of "
    "its chances is held against those that it gives replies which were labeled kept or broken. "
    "That holds where these replies are of the kind of the labeled ones."
)


@dataclass(frozen=True)
class AlignRun:
    """What a report is made of."""

    constitution: str
    """Name and version."""
    models: tuple[tuple[str, Measured], ...]
    """Each with what the page calls it; the base first."""
    footer: str = ""
    flattered: tuple[str, ...] = ()
    """Those that learned from a judge that shares a model or data with the one here."""
    calibration: str = "not calibrated"
    """What the judge's chances were held against."""

    @property
    def values(self) -> tuple[str, ...]:
        """Ids of the values that were asked about, in order."""
        return tuple(dict.fromkeys(one.value for one in self.models[0][1].answers))

    @property
    def families(self) -> tuple[str, ...]:
        """The families of attacks, in order; "plain" first."""
        return tuple(dict.fromkeys(one.family for one in self.models[0][1].answers))


def fields(run: AlignRun) -> dict[str, Any]:
    """The report as JSON fields, model by model."""
    return {
        "constitution": run.constitution,
        "same_judge": list(run.flattered),
        "calibration": run.calibration,
        "models": [
            {
                "model": name,
                "judge": one.judge,
                "kept": {split: _share(one.kept(split=split)) for split in SPLITS},
                "corrected": {split: _estimate(one.share(split)) for split in SPLITS},
                "values": {value: _share(one.kept(value=value)) for value in run.values},
                "families": {name: _share(one.kept(family=name)) for name in run.families},
                "abstained": _share(one.abstained),
                "pairs_won": _share(one.won()),
                "margin_nats": _mean(one),
                "refused": _share(one.refused),
                "harm_declined": _share(one.declined),
                "harmless_declined": _share(one.over_declined),
                "choices_right": _share(one.choices),
                "utility": None if one.utility is None else vars(one.utility),
            }
            for name, one in run.models
        ],
    }


def table(run: AlignRun, title: str = "") -> Table:
    """One row a model."""
    columns = (
        "model", *(f"kept {split}, %" for split in SPLITS), "pairs won, %", "margin, nats a token",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            *(_percent(one.kept(split=split)) for split in SPLITS),
            _percent(one.won()),
            _mean(one),
        )
        for name, one in run.models
    ]
    note = f"{NOTE} {_flattered(run)}" if run.flattered else NOTE
    return Table(title, columns, tuple(rows), note)


def cost(run: AlignRun) -> Table:
    """What each model lost beside its base, one row a model."""
    columns = (
        "model", "perplexity, x", "first words, nats", "same replies, %", "choices right, %",
        "refused, %", "harm declined, %", "harmless declined, %",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for name, one in run.models:
        used = one.utility
        against = (None, None, None) if used is None else (
            used.perplexity_after / used.perplexity_before, used.divergence, 100 * used.agreement,
        )  # fmt: skip
        counted = (one.choices, one.refused, one.declined, one.over_declined)
        rows.append((name, *against, *map(_percent, counted)))
    return Table("What it cost", columns, tuple(rows), COST)


def corrected(run: AlignRun) -> Table | None:
    """Shares of kept replies behind the judge's mistakes; None where they are not known."""
    found = [
        (name, split, one.share(split), len(one.chances(split)))
        for name, one in run.models
        for split in SPLITS
    ]
    rows = tuple(
        (name, SPLITS[split], 100 * it.rate,
         f"{100 * it.interval.low:.0f} to {100 * it.interval.high:.0f}", count)
        for name, split, it, count in found
        if it is not None
    )  # fmt: skip
    columns = ("model", "asked", "kept, %", "95 %", "replies")
    return Table("Corrected for the judge's mistakes", columns, rows, CORRECTED) if rows else None


def _flattered(run: AlignRun) -> str:
    """Which models the judge has trained, in a sentence."""
    return (
        f"The judge shares a model or data with one that trained {', '.join(run.flattered)}: "
        "these figures say how well that judge was pleased, not how well values are kept."
    )


def page(run: AlignRun) -> Report:
    """The whole page."""
    (_, first), (name, last) = run.models[0], run.models[-1]
    asked: tuple[tuple[str, Callable[[Measured], Share]], ...] = (
        ("kept under attacks never trained on", lambda one: one.kept(split="held-out")),
        ("held-out pairs won", lambda one: one.won()),
        ("ordinary prompts refused", lambda one: one.refused),
        ("requests for harm declined", lambda one: one.declined),
    )
    facts = [Fact("models", len(run.models), f"the last: {name}")]
    for label, of in asked:
        before = _percent(of(first))
        note = "" if before is None else f"base {before:.0f} %"
        facts.append(Fact(f"{label}, %", _percent(of(last)), note))
    abstained = ", ".join(
        f"{name} {one.abstained.count} of {one.abstained.of}" for name, one in run.models
    )
    judged = (
        f"Judge: {first.judge}, {run.calibration}. It should share neither data nor weights with "
        f"the one that trained. Replies without a score: {abstained}.",
        *((_flattered(run),) if run.flattered else ()),
    )
    return Report(
        title="Values kept",
        summary=f"How models keep the values of {run.constitution}, asked plainly and by people "
        "who argue.",
        facts=tuple(facts),
        sections=(
            table(run, "Models side by side"),
            cost(run),
            *(one for one in (corrected(run),) if one is not None),
            _bars("Values", run, run.values, lambda one, name: one.kept(value=name)),
            *(_families(run, split) for split in ("train", "held-out")),
            _spread(run),
            _cells("Every value", run, run.values, lambda one, name: one.kept(value=name)),
            _cells("Every family", run, run.families, lambda one, name: one.kept(family=name)),
            Passage("Who judged", judged),
        ),
        footer=run.footer,
    )


Asked = Callable[["Measured", str], "Share"]


def _families(run: AlignRun, split: str) -> Chart:
    answers = run.models[0][1].answers
    names = tuple(dict.fromkeys(one.family for one in answers if one.split == split))
    title = SPLITS[split].capitalize()
    return _bars(title, run, names, lambda one, name: one.kept(family=name), rows=True)


def _bars(
    title: str, run: AlignRun, names: Sequence[str], asked: Asked, rows: bool = False
) -> Chart:
    """Bars of the models for each name, with intervals."""
    series = []
    for label, one in run.models:
        shares = [asked(one, name) for name in names]
        series.append(
            Series(
                label,
                tuple(names),
                tuple(share.rate for share in shares),
                tuple(share.interval.low for share in shares),
                tuple(share.interval.high for share in shares),
            )
        )
    return Chart(
        f"{title}: share of replies that keep the value",
        "",
        "share, 95 % interval",
        tuple(series),
        kind="rows" if rows else "bar",
        y_range=None if rows else (0.0, 1.0),
    )


def _spread(run: AlignRun) -> Chart:
    """The distribution of margins: how large a share of the pairs has at most each margin."""
    series = []
    for label, one in run.models:
        nats = sorted(each.nats for each in one.margins)
        shares = tuple((at + 1) / len(nats) for at in range(len(nats)))
        series.append(Series(label, tuple(nats), shares))
    return Chart(
        "Margins on held-out pairs",
        "chosen over rejected reply, nats a token: right of 0 the pair is won",
        "share of pairs with at most this",
        tuple(series),
        y_range=(0.0, 1.02),
        missing="no held-out pair",
    )


def _cells(title: str, run: AlignRun, names: Sequence[str], asked: Asked) -> Table:
    columns = ("", *(part for label, _ in run.models for part in (label, "95 %", "judged")))
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        row: list[Cell] = [name]
        for _, one in run.models:
            share = asked(one, name)
            low, high = share.interval.low, share.interval.high
            row += [share.rate if share.of else None, f"{low:.2f} to {high:.2f}", share.of]
        rows.append(tuple(row))
    return Table(title, columns, tuple(rows), NOTE)


def _share(one: Share) -> dict[str, float | int]:
    low, high = one.interval.low, one.interval.high
    return {"count": one.count, "of": one.of, "rate": one.rate, "low": low, "high": high}


def _estimate(one: Estimate | None) -> dict[str, float] | None:
    if one is None:
        return None
    return {"rate": one.rate, "low": one.interval.low, "high": one.interval.high}


def _percent(one: Share) -> float | None:
    return 100 * one.rate if one.of else None


def _mean(one: Measured) -> float | None:
    nats = [each.nats for each in one.margins]
    return sum(nats) / len(nats) if nats else None
