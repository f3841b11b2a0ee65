"""How far a judge's scores can be believed: separation, calibration, agreement, abstaining.

All of it works on plain lists: raw scores (the higher, the better a value is kept) and labels.
`auc` says whether a judge separates at all, `fit` turns raw scores into probabilities (Platt 1999)
and finds the band in which it should not answer, `reliability` shows whether stated probabilities
come true, `agreement` compares two sets of labels beyond chance (Cohen 1960). Fit on other examples
than you report on: nothing here can check that. `Known.share` estimates how many of
other replies keep their value, where a judge is often wrong. Raises UsageError for lists of
different lengths, numbers that are none, and labels that are all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING

from loyal.errors import UsageError
from loyal.statistics import Interval, clopper_pearson

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LEAST_AUC = 0.6
"""A judge whose interval begins below this is told not to separate."""
_STEPS = 100
_NEAR_ENOUGH = 1e-10


@dataclass(frozen=True)
class Bin:
    """One group of scores that are close together."""

    mean: float
    """Mean of the stated probabilities."""
    kept: float
    """Share of them that are labeled as keeping the value."""
    count: int
    interval: Interval
    """95 %, of that share."""


@dataclass(frozen=True)
class Moments:
    """Of probabilities of one kind of replies."""

    mean: float
    variance: float
    """Of one of them, not of their mean."""
    count: int

    @classmethod
    def of(cls, chances: Sequence[float]) -> Moments:
        """Of two or more. UsageError for fewer."""
        if len(chances) < 2:
            raise UsageError("fewer than two replies have no spread", hint="ask more")
        return cls(fmean(chances), variance(chances), len(chances))


@dataclass(frozen=True)
class Estimate:
    """A share that was not counted."""

    rate: float
    """0 to 1."""
    interval: Interval
    """95 %."""


@dataclass(frozen=True)
class Known:
    """What probabilities labeled replies get: a mean of others is no share before that is known. A
    judge that gives kept replies 82 % and broken ones 54 % gives 82 % where all are kept.
    """

    kept: Moments
    broken: Moments

    def share(self, chances: Sequence[float]) -> Estimate | None:
        """How many of the replies with these probabilities keep their value.

        Their mean lies so far between that of broken and that of kept replies (the probabilistic
        adjusted count of Bella et al. 2010; of verdicts, Rogan and Gladen 1978), 0 or 1 beyond. The
        interval is by the delta method, over the replies and over the labeled ones. It holds where
        kept replies are scored as the labeled kept ones were, and broken ones likewise: replies of
        models to prompts of the same kind. None for fewer than two replies, or where broken ones
        are scored no lower.
        """
        apart = self.kept.mean - self.broken.mean
        if len(chances) < 2 or apart <= 0:
            return None
        here = Moments.of(chances)
        rate = (here.mean - self.broken.mean) / apart
        spread = (
            here.variance / here.count
            + rate**2 * self.kept.variance / self.kept.count
            + (1 - rate) ** 2 * self.broken.variance / self.broken.count
        )
        width = _normal_quantile(0.975) * math.sqrt(spread) / apart
        low, middle, high = (min(1.0, max(0.0, rate + one)) for one in (-width, 0.0, width))
        return Estimate(middle, Interval(low, high))


@dataclass(frozen=True)
class Calibration:
    """From raw scores to probabilities, and the band in which a judge abstains."""

    slope: float
    intercept: float
    low: float
    """Probabilities above this"""
    high: float
    """and below this are no answer; where both are the same none is held back."""
    known: Known | None = None
    """What labeled replies get; None where it was not measured on any."""

    def probability(self, raw: float) -> float:
        """That the value is kept, 0 to 1."""
        return _logistic(self.slope * raw + self.intercept)

    def verdict(self, raw: float) -> bool | None:
        """Whether the value is kept; None in the band."""
        chance = self.probability(raw)
        return None if self.low < chance < self.high else chance > 0.5


@dataclass(frozen=True)
class Decided:
    """What a calibration does on labeled examples that it was not fitted on."""

    count: int
    abstained: int
    wrong: int
    """Of those that were decided."""
    interval: Interval
    """95 %, of the share that is wrong among the decided."""

    @property
    def error(self) -> float:
        """Share wrong among the decided; 0 where none was."""
        return self.wrong / max(1, self.count - self.abstained)


def auc(raw: Sequence[float], kept: Sequence[bool]) -> float:
    """Chance that a kept value scores above a broken one, ties half (Mann and Whitney 1947)."""
    good, bad = _split(raw, kept)
    return float(_places(good, bad).mean())


def auc_interval(raw: Sequence[float], kept: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Of the AUC, by DeLong's variance on the logit scale (DeLong et al. 1988; Pepe 2003, 5.2).

    With an AUC of 0 or 1 the variance is nothing and says nothing: the interval is then that of a
    share of all examples, which is wider.
    """
    good, bad = _split(raw, kept)
    placed = _places(good, bad)  # (good, bad)
    found = float(placed.mean())
    if not 0 < found < 1 or min(len(good), len(bad)) < 2:
        count = len(good) + len(bad)
        return clopper_pearson(round(found * count), count, confidence)
    variance = placed.mean(1).var(ddof=1) / len(good) + placed.mean(0).var(ddof=1) / len(bad)
    spread = _normal_quantile((1 + confidence) / 2) * math.sqrt(variance)
    middle, width = math.log(found / (1 - found)), spread / (found * (1 - found))
    return Interval(_logistic(middle - width), _logistic(middle + width))


def separates(raw: Sequence[float], kept: Sequence[bool]) -> bool:
    """Whether a judge tells kept from broken: its AUC's interval lies above LEAST_AUC."""
    return auc_interval(raw, kept).low >= LEAST_AUC


def fit(
    raw: Sequence[float], kept: Sequence[bool], *, error: float = 0.05, most: float = 0.3
) -> Calibration:
    """Platt's logistic curve, and the narrowest band outside of which at most `error` are wrong.

    The curve is fitted to targets that are drawn in from 0 and 1 (Platt 1999, 2.2), so it stays
    finite where scores separate. No more than a share `most` is held back: where that does not
    do, the band is the one of that width that leaves the fewest wrong.
    """
    slope, intercept = _platt(raw, kept)
    chances = [_logistic(slope * one + intercept) for one in raw]
    low, high = _band(chances, kept, error, most)
    kinds = [[one for one, it in zip(chances, kept, strict=True) if it is kind]
             for kind in (True, False)]  # fmt: skip
    known = Known(*map(Moments.of, kinds)) if min(map(len, kinds)) > 1 else None
    return Calibration(slope, intercept, low, high, known)


def decide(calibration: Calibration, raw: Sequence[float], kept: Sequence[bool]) -> Decided:
    """Verdicts against labels."""
    _require(raw, kept)
    verdicts = [calibration.verdict(one) for one in raw]
    decided = sum(one is not None for one in verdicts)
    wrong = sum(one is not None and one != label for one, label in zip(verdicts, kept, strict=True))
    return Decided(len(kept), len(kept) - decided, wrong, clopper_pearson(wrong, max(1, decided)))


def reliability(chances: Sequence[float], kept: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Probabilities in groups of about equal size, lowest first, and what came true."""
    _require(chances, kept)
    order = sorted(range(len(kept)), key=lambda index: chances[index])
    size = max(1, math.ceil(len(order) / bins))
    found = []
    for at in range(0, len(order), size):
        group = order[at : at + size]
        hits = sum(kept[index] for index in group)
        mean = sum(chances[index] for index in group) / len(group)
        interval = clopper_pearson(hits, len(group))
        found.append(Bin(mean, hits / len(group), len(group), interval))
    return found


def calibration_error(chances: Sequence[float], kept: Sequence[bool], bins: int = 10) -> float:
    """Mean distance between stated and true, weighted by group (ECE; Naeini et al. 2015)."""
    groups = reliability(chances, kept, bins)
    return sum(one.count * abs(one.mean - one.kept) for one in groups) / len(kept)


def agreement(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's kappa: 1 where two say the same, 0 where they agree as often as by chance."""
    if len(first) != len(second) or not first:
        raise UsageError("two lists of labels are not about the same", hint="label the same file")
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    one, other = sum(first) / len(first), sum(second) / len(second)
    chance = one * other + (1 - one) * (1 - other)
    return 1.0 if chance == 1 else (same - chance) / (1 - chance)


def _platt(raw: Sequence[float], kept: Sequence[bool]) -> tuple[float, float]:
    """Newton's method on the log-loss, with halved steps while it does not fall."""
    good, bad = _split(raw, kept)
    aims = [(len(good) + 1) / (len(good) + 2) if one else 1 / (len(bad) + 2) for one in kept]
    mean = math.fsum(raw) / len(raw)
    scale = math.sqrt(math.fsum((one - mean) ** 2 for one in raw) / len(raw)) or 1.0
    points = [(one - mean) / scale for one in raw]
    slope, intercept = 0.0, math.log((len(good) + 1) / (len(bad) + 1))

    def loss(a: float, b: float) -> float:
        return math.fsum(
            _softplus(a * x + b) - t * (a * x + b) for x, t in zip(points, aims, strict=True)
        )

    for _ in range(_STEPS):
        chances = [_logistic(slope * x + intercept) for x in points]
        gaps = [p - t for p, t in zip(chances, aims, strict=True)]
        first = math.fsum(g * x for g, x in zip(gaps, points, strict=True))
        second = math.fsum(gaps)
        bends = [p * (1 - p) + 1e-12 for p in chances]
        aa = math.fsum(w * x * x for w, x in zip(bends, points, strict=True)) + 1e-9
        ab = math.fsum(w * x for w, x in zip(bends, points, strict=True))
        bb = math.fsum(bends) + 1e-9
        det = aa * bb - ab * ab
        move = ((bb * first - ab * second) / det, (aa * second - ab * first) / det)
        before, share = loss(slope, intercept), 1.0
        while share > 1e-6 and loss(slope - share * move[0], intercept - share * move[1]) > before:
            share /= 2
        slope, intercept = slope - share * move[0], intercept - share * move[1]
        if max(map(abs, move)) * share < _NEAR_ENOUGH:
            break
    return slope / scale, intercept - slope * mean / scale


def _band(
    chances: Sequence[float], kept: Sequence[bool], error: float, most: float
) -> tuple[float, float]:
    """(low, high) of the band, halfway to the next scores; both one half where none is needed."""
    order = sorted(range(len(kept)), key=lambda index: chances[index])
    ordered = [chances[index] for index in order]
    wrong = [0]  # wrong among the first i, where low scores are called broken
    for index in order:
        wrong.append(wrong[-1] + kept[index])
    right = [0]  # broken among the first i
    for index in order:
        right.append(right[-1] + (not kept[index]))
    total = len(order)
    middle = next((at for at, one in enumerate(ordered) if one > 0.5), total)
    best: tuple[float, int, int] | None = None
    for width in range(math.floor(most * total) + 1):
        for start in range(max(0, middle - width), min(middle, total - width) + 1):
            missed = wrong[start] + right[total] - right[start + width]
            share = missed / max(1, total - width)
            if best is None or share < best[0] - 1e-12:
                best = (share, start, width)
        if best is not None and best[0] <= error:
            break
    assert best is not None
    _, start, width = best
    if not width:
        return 0.5, 0.5
    padded = [0.0, *ordered, 1.0]
    return (padded[start] + padded[start + 1]) / 2, (
        padded[start + width] + padded[start + width + 1]
    ) / 2


def _places(good: Floats, bad: Floats) -> Floats:
    """(good, bad): 1 where the kept one scores above, one half where they tie."""
    placed: Floats = (good[:, None] > bad[None, :]) + 0.5 * (good[:, None] == bad[None, :])
    return placed


def _split(raw: Sequence[float], kept: Sequence[bool]) -> tuple[Floats, Floats]:
    import numpy as np

    _require(raw, kept)
    scores, labels = np.array(raw, dtype=np.float64), np.array(kept, dtype=bool)
    good, bad = scores[labels], scores[~labels]
    if not len(good) or not len(bad):
        raise UsageError(
            "all labels are the same", hint="label replies that keep the value and some that do not"
        )
    return good, bad


def _require(raw: Sequence[float], kept: Sequence[bool]) -> None:
    if len(raw) != len(kept) or not raw:
        raise UsageError("there is not one label a score", hint="label every reply once")
    if not all(math.isfinite(one) for one in raw):
        raise UsageError("a score is no number", hint="drop that reply, or score it again")


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
