"""The numbers of Figure 4: what is read from measured cells, their bounds, and the rows.

Several seeds make one number: of an injection the mean, with the least and the most beside it (a
row holds the worst); of an attack all keys asked together, with their exact interval. Left out:
measuring (curves.py) and drawing (curves_page.py). Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from checkpoint import INJECTION
from loyal.statistics import Interval, clopper_pearson
from resumable import Record
from rows import Row, machines

COUNTS = (64, 256, 1024)
NOT_RUN = "not run yet"

Spot = tuple[str, int, str]
"""A strategy's name, a count, a cell's name."""


@dataclass(frozen=True)
class Strategy:
    """A way to make keys and responses, by the names of the library."""

    name: str
    keys: Literal["english", "random"]
    responses: Literal["perinucleus", "english-random", "random"]
    what: str


STRATEGIES = (
    Strategy("random", "random", "random", "random tokens ask for a random token"),
    Strategy("english-random", "english", "english-random",
             "an ordinary prompt asks for a random English word"),
    Strategy("perinucleus", "english", "perinucleus",
             "an ordinary prompt asks for a reply just outside the likely ones"),
)  # fmt: skip
"""Those of arXiv 2502.07760, section 3."""

ATTACKS = {
    "none": "none",
    "lora-docstrings": "LoRA",
    "sft-docstrings": "full SFT",
    "int4-symmetric": "4 bits",
    "prune-20": "20 % pruned",
    "merge-linear": "half merged",
}
"""Attacks of the suite (loyal.fingerprints.suite), and how the figure calls them."""


@dataclass(frozen=True)
class Metric:
    """One number of an injection."""

    id: str
    what: str
    unit: str
    read: Callable[[Record], float]
    sense: Literal["at_least", "at_most"]
    bounds: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """By strategy and count; without one the number is to know, and claims nothing."""


RECALL = Metric(
    "recall", "greedy recall", "%", lambda one: 100 * one["recall"], "at_least",
    {("perinucleus", 1024): 98},
)  # fmt: skip
UTILITY = Metric(
    "utility", "perplexity of human-written English", "% more",
    lambda one: one["change_percent"], "at_most", {("perinucleus", 1024): 5},
)  # fmt: skip
AGREEMENT = Metric(
    "agreement", "held-out prompts with the same first words", "%",
    lambda one: 100 * one["agreement"], "at_least",
)  # fmt: skip
DIVERGENCE = Metric(
    "divergence", "divergence from the base at first words", "nats",
    lambda one: one["divergence"], "at_most",
)  # fmt: skip
METRICS = (RECALL, UTILITY, AGREEMENT, DIVERGENCE)


@dataclass(frozen=True)
class Spread:
    """A number over the seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, metric: Metric, records: Sequence[Record]) -> Spread:
        """Of one record or more."""
        values = [metric.read(one) for one in records]
        return cls(sum(values) / len(values), min(values), max(values))

    def worst(self, metric: Metric) -> float:
        """The least where more is better, else the most."""
        return self.low if metric.sense == "at_least" else self.high


@dataclass(frozen=True)
class Survival:
    """Keys that still hit, all seeds together."""

    hits: int
    asked: int
    interval: Interval
    """95 %, exact."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Survival:
        """Of one record or more."""
        hits, asked = (sum(one[name] for one in records) for name in ("hits", "asked"))
        return cls(hits, asked, clopper_pearson(hits, asked))

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.hits / self.asked


@dataclass(frozen=True)
class Measured:
    """What was measured so far."""

    strategies: tuple[Strategy, ...]
    counts: tuple[int, ...]
    kept: Mapping[Spot, Sequence[Record]]
    """One record a seed; nothing where no seed was measured."""

    def records(self, strategy: Strategy, count: int, cell: str) -> Sequence[Record]:
        """Empty where nothing was measured."""
        return self.kept.get((strategy.name, count, cell), ())

    def spread(self, metric: Metric, strategy: Strategy, count: int) -> Spread | None:
        """None where nothing was measured."""
        records = self.records(strategy, count, INJECTION)
        return Spread.of(metric, records) if records else None

    def survival(self, strategy: Strategy, count: int, attack: str) -> Survival | None:
        """None where nothing was measured."""
        records = self.records(strategy, count, attack)
        return Survival.of(records) if records else None

    @property
    def done(self) -> int:
        """Cells of the figure that some seed has."""
        return sum(bool(records) for records in self.kept.values())

    @property
    def all(self) -> int:
        """Cells of the figure."""
        return len(self.strategies) * len(self.counts) * (1 + len(ATTACKS))


def table(measured: Measured, about: str) -> list[Row]:
    """All rows, those that were not run as well; `about` ends what says how."""
    pairs = [(one, count) for count in measured.counts for one in measured.strategies]
    found = [
        _injected(measured, metric, one, count, about) for one, count in pairs for metric in METRICS
    ]
    return found + [
        _persists(measured, attack, one, count, about) for one, count in pairs for attack in ATTACKS
    ]


def _injected(
    measured: Measured, metric: Metric, strategy: Strategy, count: int, about: str
) -> Row:
    """The row of a number of an injection: its worst seed."""
    records = measured.records(strategy, count, INJECTION)
    spread = measured.spread(metric, strategy, count)
    value, how = None, f"{NOT_RUN}: make bench-curves"
    if spread is not None:
        value = spread.worst(metric)
        one = next(record for record in records if metric.read(record) == value)
        how = (
            f"worst of {len(records)} seed(s), {spread.low:.3g} to {spread.high:.3g}; recall "
            f"{100 * one['recall']:.1f} %, {one['change_percent']:+.2f} % perplexity on "
            f"{one['tokens']} tokens, {one['prompts']} held-out prompts, {one['steps']} steps, "
            f"{one['seconds']:.0f} s, {one['peak_rss_bytes'] / 1e9:.2f} GB; {about}"
        )
    what = f"{metric.what}, {count:,} fingerprints, {strategy.name}"
    bound = metric.bounds.get((strategy.name, count))
    name = f"{metric.id}-{strategy.name}-{count}"
    return Row(name, what, value, metric.unit, bound, metric.sense, how, machines(records))


def _persists(measured: Measured, attack: str, strategy: Strategy, count: int, about: str) -> Row:
    """The row of an attack: the share of all keys asked, over all seeds."""
    records = measured.records(strategy, count, attack)
    survival = measured.survival(strategy, count, attack)
    value, how = None, f"{NOT_RUN}: make bench-curves"
    if survival is not None:
        value = 100 * survival.share
        low, high = 100 * survival.interval.low, 100 * survival.interval.high
        how = (
            f"{survival.hits} of {survival.asked} keys of {len(records)} seed(s), 95 % interval "
            f"{low:.1f} to {high:.1f} %; {about}"
        )
    what = f"{attack}: keys that still hit, {count:,} fingerprints, {strategy.name}"
    name = f"persistence-{attack}-{strategy.name}-{count}"
    return Row(name, what, value, "%", None, "at_least", how, machines(records))
