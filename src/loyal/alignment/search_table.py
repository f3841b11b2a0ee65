"""Which mixtures a search tries, what came of each, and the file that keeps it.

The first five are the start, the corners of what is allowed, and their middle. Then a smooth
surface is laid through the scores, a Gaussian process, and the next mixture is where its mean and
half its spread together are highest (upper confidence bound: arXiv 0912.3995). On made-up smooth
surfaces twelve runs end 0.01 of the weight from the peak on average, and steps half way to the best
0.06. Nothing is drawn, so a search that was cut off goes on the same way. Needs no torch. Left out:
training and measuring (`search`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loyal.alignment.mixture import KINDS, Mixture
from loyal.alignment.preference import WHOLE_PPM
from loyal.alignment.settings import Goal, SearchSettings
from loyal.alignment.table_file import TableForm
from loyal.encoding import atomic_write
from loyal.errors import UsageError
from loyal.statistics import Interval, clopper_pearson

Floats = npt.NDArray[np.float64]

FORM = TableForm("loyal mixture search 1", "mixture search", "loyal align search", 1 << 20)
_GRID = 25_000
"""Shares of later mixtures are multiples of it, in millionths."""
_REACH = 0.4
"""How far a score says something of others, as a distance of shares."""
_NOISE = 0.01
"""Variance of a score around the surface, over that of the scores."""
_SPREAD = 0.5
"""How much doubt counts beside the mean."""


@dataclass(frozen=True)
class Outcome:
    """What a model was found to be. Holds no text."""

    won: int
    """Held-out pairs whose chosen reply is likelier, token for token."""
    pairs: int
    margin: float
    """Mean over the held-out pairs, nats a token."""
    perplexity: float
    """Of ordinary English, over that of the untouched model."""
    agreement: float
    """Share of ordinary prompts whose greedy reply begins as the untouched model's."""
    declined: int
    """Requests for harm that are refused."""
    harmful: int
    over_declined: int
    """Requests that only sound like harm and are refused."""
    harmless: int

    @property
    def alignment(self) -> float:
        """Share of the held-out pairs that are won."""
        return self.won / max(1, self.pairs)

    @property
    def interval(self) -> Interval:
        """95 % of `alignment`, Clopper and Pearson."""
        return clopper_pearson(self.won, self.pairs) if self.pairs else Interval(0.0, 1.0)

    @property
    def capability(self) -> float:
        """1 for a model that lost nothing, 0 for one that lost all."""
        return (min(1.0, 1 / self.perplexity) + self.agreement) / 2

    @property
    def safety(self) -> float:
        """1 where all harm is declined and all that only sounds like it is answered."""
        declined = self.declined / max(1, self.harmful)
        answered = 1 - self.over_declined / max(1, self.harmless)
        return (declined + answered) / 2

    def score(self, goal: Goal) -> float:
        """The mean of the three by the goal's weights, 0 to 1."""
        parts = (
            (goal.alignment, self.alignment),
            (goal.capability, self.capability),
            (goal.safety, self.safety),
        )
        return sum(weight * one for weight, one in parts) / sum(weight for weight, _ in parts)


@dataclass(frozen=True)
class Trained:
    """One run of a search."""

    mixture: Mixture
    outcome: Outcome
    stopped: str
    """What a guard took the run back for; empty for none."""
    seconds: float


@dataclass(frozen=True)
class Table:
    """All runs so far."""

    start: Mixture
    """The first, and the one that ties go to."""
    untouched: Outcome
    """Of the model as it was given."""
    runs: tuple[Trained, ...] = ()

    def best(self, goal: Goal, tie: float = 0.0) -> Trained:
        """The run of the highest score; of those within `tie` of it, the one nearest the start.

        UsageError before the first run.
        """
        if not self.runs:
            raise UsageError("nothing was trained yet", hint="search with one run or more")
        most = max(one.outcome.score(goal) for one in self.runs)
        near = [one for one in self.runs if one.outcome.score(goal) >= most - tie]
        return min(near, key=lambda one: distance(one.mixture, self.start))

    def next(self, kinds: Iterable[str], settings: SearchSettings, goal: Goal) -> Mixture | None:
        """The mixture to try next; None where all are tried that differ by `near` or more."""
        tried = [one.mixture for one in self.runs]
        if len(tried) >= settings.runs:
            return None
        first = design(self.start, kinds, settings)
        if len(tried) < len(first):
            return first[len(tried)]
        least = max(1, settings.near)
        free = [
            one
            for one in _grid(kinds, settings)
            if all(distance(one, old) >= least for old in tried)
        ]
        if not free:
            return None
        return free[_most_hopeful(tried, [one.outcome.score(goal) for one in self.runs], free)]


def distance(one: Mixture, other: Mixture) -> int:
    """How much weight has to move to make one of the other, in millionths."""
    mine, others = asdict(one), asdict(other)
    moved: int = sum(abs(mine[kind] - others[kind]) for kind in KINDS) // 2
    return moved


def start(kinds: Iterable[str], wanted: Mixture | None = None) -> Mixture:
    """The mixture wanted, or the default one, with nothing for kinds that have no record.

    UsageError where what is left has no share at all.
    """
    shares = {kind: getattr(wanted or Mixture(), kind) for kind in set(kinds)}
    if not shares.get("value"):
        raise UsageError("the mixture gives value data no share", hint="set mixture.value above 0")
    parts = {kind: share * WHOLE_PPM // sum(shares.values()) for kind, share in shares.items()}
    rest = sum(parts.values()) - parts["value"]
    return Mixture(WHOLE_PPM - rest, parts.get("general", 0), parts.get("safety", 0))


def design(first: Mixture, kinds: Iterable[str], settings: SearchSettings) -> list[Mixture]:
    """The first mixtures: `first`, corners with as much of one kind as may be, and their middle."""
    others = [kind for kind in KINDS[1:] if kind in set(kinds)]
    floor = dict.fromkeys(others, settings.least)
    spare = WHOLE_PPM - settings.least_value - settings.least * len(others)
    corners = [_mixture(floor)]
    corners += [_mixture({**floor, kind: settings.least + spare}) for kind in others]
    found: list[Mixture] = []
    for one in (first, *corners, _middle(corners)):
        if one not in found:
            found.append(one)
    return found


def read(path: Path, identity: str) -> Table | None:
    """What the file holds, None where there is none.

    UsageError for another search's, ConfigError for what is none or is damaged.
    """
    if not path.exists():
        return None
    found = FORM.read(path)
    if found.get("identity") != identity:
        raise UsageError(
            f"{path} is of another search: another model, other data or settings",
            hint="repeat the call that wrote it, or name another file",
        )
    try:
        return Table(
            Mixture(**found["start"]),
            _outcome(found["untouched"]),
            tuple(map(_trained, found["runs"])),
        )
    except (KeyError, TypeError, ValueError, UsageError):
        raise FORM.misfit(path) from None


def write(path: str | PathLike[str], identity: str, table: Table) -> None:
    """Write it whole or not at all. StorageError where the disk refuses."""
    content = {"format": FORM.format, "identity": identity, **asdict(table)}
    atomic_write(path, (json.dumps(content, indent=1) + "\n").encode())


def _mixture(others: Mapping[str, int]) -> Mixture:
    """These shares of general and safety data, the rest of value data."""
    general, safety = others.get("general", 0), others.get("safety", 0)
    return Mixture(WHOLE_PPM - general - safety, general, safety)


def _middle(some: Sequence[Mixture]) -> Mixture:
    """The mean mixture; what does not divide goes to value data."""
    return _mixture({kind: sum(asdict(one)[kind] for one in some) // len(some) for kind in KINDS})


def _grid(kinds: Iterable[str], settings: SearchSettings) -> list[Mixture]:
    """All mixtures of the grid within the bounds; nothing for kinds that have no record."""
    there = set(kinds)
    steps = [
        range(settings.least, WHOLE_PPM + 1, _GRID) if kind in there else range(1)
        for kind in KINDS[1:]
    ]
    return [
        _mixture({"general": general, "safety": safety})
        for general, safety in product(*steps)
        if WHOLE_PPM - general - safety >= settings.least_value
    ]


def _most_hopeful(
    tried: Sequence[Mixture], scores: Sequence[float], free: Sequence[Mixture]
) -> int:
    """The place in `free` where mean and spread of the surface are highest; the first of equals.

    A Gaussian process with a squared exponential kernel over the shares, around the scores' mean
    (Rasmussen and Williams, "Gaussian Processes for Machine Learning", equations 2.25 and 2.26).
    """
    known = np.asarray(scores) - np.mean(scores)  # (n,)
    unit = float(known.std()) or 1.0
    old, new = _points(tried), _points(free)  # (n, 3), (m, 3)
    between = _likeness(old, old) + _NOISE * np.eye(len(old))  # (n, n)
    across = _likeness(new, old)  # (m, n)
    mean = across @ np.linalg.solve(between, known / unit)  # (m,)
    lost = np.einsum("mn,nm->m", across, np.linalg.solve(between, across.T))  # (m,)
    return int(np.argmax(mean + _SPREAD * np.sqrt(np.maximum(0.0, 1 - lost))))


def _points(some: Sequence[Mixture]) -> Floats:
    found: Floats = np.array([list(asdict(one).values()) for one in some]) / WHOLE_PPM
    return found


def _likeness(one: Floats, other: Floats) -> Floats:
    """(n, m) for points (n, 3) and (m, 3): 1 at one place, falling to 0 far away."""
    apart = ((one[:, None] - other[None]) ** 2).sum(-1)
    found: Floats = np.exp(-apart / (2 * _REACH**2))
    return found


def _trained(one: dict[str, Any]) -> Trained:
    if not isinstance(one["stopped"], str):
        raise TypeError
    mixture, outcome = Mixture(**one["mixture"]), _outcome(one["outcome"])
    return Trained(mixture, outcome, one["stopped"], _number(one["seconds"]))


def _outcome(fields: dict[str, Any]) -> Outcome:
    for value in fields.values():
        _number(value)
    found = Outcome(**fields)
    counts = (found.won, found.declined, found.over_declined)
    of = (found.pairs, found.harmful, found.harmless)
    whole = all(type(one) is int for one in (*counts, *of))
    ordered = all(0 <= one <= most for one, most in zip(counts, of, strict=True))
    if not (whole and ordered and found.perplexity > 0 and 0 <= found.agreement <= 1):
        raise ValueError
    return found


def _number(one: Any) -> float:
    if type(one) not in (int, float) or not math.isfinite(one):
        raise ValueError
    return float(one)
