"""Exact statistics of fingerprint checks, on the standard library and numpy alone.

One question stands behind all of it. A model that never saw the set answers a key with the drawn
response with a probability of at most `chance` (1/k for k candidates); how surprising are these
hits? `binomial_tail` answers for a number of queries fixed beforehand, `poisson_binomial_tail` for
keys of unequal chances, and `SequentialTest` for a check that looks after every query and stops
when it has seen enough, where the fixed-sample tails would claim too much. `clopper_pearson` is the
interval for the share of fingerprints that survive; `required_hits`, `power` and `queries_needed`
plan a check.

Counts out of range are UsageError. Left out on purpose: approximations, and anything that needs a
model. Relative errors are about 1e-10 up to 100,000 trials (the rounding of lgamma). numpy is
loaded by the functions that need it: a host's gateway imports the protocol, and asks for no tail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from loyal.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

MOST_QUERIES = 100_000
"""`queries_needed` looks no further."""

_NODES = 64
_NEGLIGIBLE = 2.0**-60  # of a sum; its remaining terms fall at least geometrically
_SLACK = 1e-9  # the walk of `queries_needed` rounds, and only proposes; the exact power decides
_LARGEST_LOG = 700.0  # e**700 is about 1e304: the largest e-value that is told apart


@dataclass(frozen=True)
class Interval:
    """A confidence interval for a probability."""

    low: float
    """Lower limit, 0 to 1."""
    high: float
    """Upper limit, 0 to 1."""


def binomial_tail(hits: int, trials: int, chance: float) -> float:
    """P(X >= hits) for X ~ Binomial(trials, chance): the p-value of `hits`.

    Valid for a number of trials fixed beforehand; a check that stops early needs SequentialTest.
    Below 1e-300 it may become 0, where `binomial_log10_tail` still tells sizes apart.
    """
    return math.exp(_log_tail(hits, trials, chance))


def binomial_log10_tail(hits: int, trials: int, chance: float) -> float:
    """The decimal logarithm of `binomial_tail`; -inf where the tail is 0."""
    return _log_tail(hits, trials, chance) / math.log(10)


def poisson_binomial_tail(hits: int, chances: Sequence[float]) -> float:
    """P(X >= hits) where X counts successes of independent trials, trial i with chances[i].

    All terms are sums of products of probabilities, so nothing cancels. O(trials * hits) time.
    """
    import numpy as np

    _require_counts(hits, len(chances))
    for chance in chances:
        _require_probability("chance", chance)
    if hits == 0:
        return 1.0
    exactly = np.zeros(hits)  # (hits,): probability of 0 .. hits - 1 successes so far
    exactly[0] = 1.0
    reached = 0.0
    for chance in chances:
        reached += exactly[-1] * chance
        step = exactly * chance
        exactly *= 1.0 - chance
        exactly[1:] += step[:-1]
    return min(float(reached), 1.0)


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval of Clopper and Pearson (1934) for the probability of a hit.

    Each limit errs with a probability of at most (1 - confidence) / 2. Of no trials: 0 to 1.
    """
    _require_counts(hits, trials)
    _require_open("confidence", confidence)
    error = (1.0 - confidence) / 2
    # By symmetry, the upper limit for hits is what the lower limit for misses leaves.
    low = _lower_limit(hits, trials, error)
    return Interval(low, 1.0 - _lower_limit(trials - hits, trials, error))


def required_hits(trials: int, chance: float, alpha: float) -> int | None:
    """The fewest hits whose `binomial_tail` is at most alpha; None if all would not do."""
    _require_counts(0, trials)
    _require_open("alpha", alpha)
    if binomial_tail(trials, trials, chance) > alpha:
        return None
    low, high = 0, trials  # the tail of `low` is above alpha (P(X >= 0) = 1), of `high` at most
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_tail(middle, trials, chance) <= alpha:
            high = middle
        else:
            low = middle
    return high


def power(trials: int, alpha: float, survival: float, chance: float) -> float:
    """The probability that `trials` queries prove it at alpha, if each hits with `survival`."""
    _require_probability("survival", survival)
    hits = required_hits(trials, chance, alpha)
    return 0.0 if hits is None else binomial_tail(hits, trials, survival)


def queries_needed(alpha: float, power: float, survival: float, chance: float) -> int | None:
    """The fewest queries that prove it at alpha with a probability of at least `power`.

    None when survival is not above chance, or more than MOST_QUERIES would be needed.
    """
    _require_open("alpha", alpha)
    _require_open("power", power)
    _require_probability("survival", survival)
    _require_probability("chance", chance)
    if survival <= chance:
        return None
    null = _GrowingTail(chance)
    # A survival of exactly 1 has no odds; the next float below it finds the same candidate.
    alternative = _GrowingTail(min(survival, 1.0 - 2.0**-53))
    for queries in range(1, MOST_QUERIES + 1):
        null.add_trial()
        alternative.add_trial()
        while null.tail > alpha * (1 + _SLACK):
            null.raise_hits()
            alternative.raise_hits()
        close = alternative.tail >= power * (1 - _SLACK)
        if close and _power(queries, alpha, survival, chance) >= power:
            return queries
    return None


@cache
def sequential_hits(trials: int, candidates: int, one_in: int) -> int | None:
    """The fewest hits of `trials` at which `SequentialTest` with chance 1/candidates decides at
    alpha = 1/one_in; None if all would not do. In whole numbers, so the same on every machine.

    With r misses and m hits the e-value is the integral over s in (0, 1) of (1 + a s)^m (1 - s)^r,
    a = candidates - 1; by parts, I(m) = (1 + m a I(m - 1)) / (r + 1) at m + r = trials.
    """
    _require_counts(0, trials)
    if candidates < 2 or one_in < 1:
        raise UsageError(
            f"{candidates} candidates, one in {one_in}", hint="Give 2 or more, and 1 or more."
        )
    above, below = 1, trials + 1  # the e-value of no hits, as a fraction
    for hits in range(1, trials + 1):
        above, below = (
            below + hits * (candidates - 1) * above,
            below * (trials - hits + 1),
        )
        if above >= one_in * below:
            return hits
    return None


def sequential_thresholds(trials: int, candidates: int, one_in: int) -> tuple[int, ...]:
    """`sequential_hits` of 0 to `trials` trials, (trials + 1,); n + 1 where all n would not do.

    Law: it never falls. So one walk finds all of them: with the integral I(m, r) that stands at
    `sequential_hits`, a further miss is I(m, r + 1) = ((r + 1) k I(m, r) - 1) / (a (m + r + 2)), a
    further hit k I(m, r) - a I(m, r + 1), for a = k - 1; exact, over one denominator a^n (n + 1)!.
    """
    _require_counts(0, trials)
    if candidates < 2 or one_in < 2:
        raise UsageError(
            f"{candidates} candidates, one in {one_in}", hint="Give 2 or more of both."
        )
    rise = candidates - 1
    below = above = 1  # I(hits, misses) = above / below; I(0, 0) = 1
    found, hits = [1], 0  # the most hits that do not decide yet
    for done in range(1, trials + 1):
        misses = done - 1 - hits
        miss = (misses + 1) * candidates * above - below
        hit = candidates * rise * (done + 1) * above - rise * miss
        below *= rise * (done + 1)
        # One hit more than before, or else as many: a miss never decides.
        if hit < one_in * below:
            hits, above = hits + 1, hit
        else:
            above = miss
        found.append(hits + 1)
    return tuple(found)


def first_decisions(thresholds: Sequence[int], chance: float) -> list[float]:
    """The probability that hits have reached their threshold at or before each trial, exactly.

    thresholds[n] is for n trials, each a hit with this chance. All terms are sums of products of
    probabilities, so nothing cancels.
    """
    _require_probability("chance", chance)
    import numpy as np

    running = np.zeros(len(thresholds) + 1)  # (trials + 1,): undecided so far, by hits
    running[0] = 1.0
    decided, found = 0.0, []
    for count, threshold in enumerate(thresholds):
        if count:
            step = running[:-1] * chance
            running *= 1.0 - chance
            running[1:] += step
        decided += float(running[threshold:].sum())
        running[threshold:] = 0.0
        found.append(min(decided, 1.0))
    return found


class SequentialTest:
    """An anytime-valid test of "each hit has at most its chance", for unknown survival.

    It bets against that hypothesis. If a share s of the fingerprints survives and the rest hit by
    chance c, a hit has probability q = c + (1 - c) s. The likelihood ratio of q against c is a
    martingale of mean 1 under the hypothesis (and falls where the true chance is lower); so is its
    mean over s uniform in (0, 1), taken at Gauss-Legendre nodes. By Ville's inequality that mean
    ever reaches 1/alpha with a probability of at most alpha, whenever and why ever one stops and
    however each next key and its chance were chosen from what was seen before (Ramdas et al. 2023,
    "Game-theoretic statistics and safe anytime-valid inference"; Robbins 1970 for the mixture).

    The uniform mixture costs little: at chance 1/16 and alpha 1e-6 the median number of queries is
    14 at survival 0.6 and 6 at 0.9 (tests/ground/test_statistics.py).
    """

    def __init__(self, chance: float, alpha: float) -> None:
        import numpy as np

        _require_open("chance", chance)
        _require_open("alpha", alpha)
        self.chance = chance
        self.alpha = alpha
        self.hits = 0
        self.trials = 0
        self._survivals, weights = _uniform_nodes()  # (64,), in (0, 1)
        self._log_wealth = np.log(weights)  # (64,): weight times likelihood ratio
        self._log_e = 0.0
        self._highest_log_e = 0.0

    def update(self, hit: bool, chance: float | None = None) -> None:
        """Take one reply into account; `chance` when this key's differs from the test's."""
        import numpy as np

        if chance is None:
            chance = self.chance
        _require_open("chance", chance)
        if hit:
            self._log_wealth += np.log1p(self._survivals * (1 - chance) / chance)
        else:
            self._log_wealth += np.log1p(-self._survivals)
        self.trials += 1
        self.hits += bool(hit)
        top = float(self._log_wealth.max())
        self._log_e = top + math.log(float(np.exp(self._log_wealth - top).sum()))
        self._highest_log_e = max(self._highest_log_e, self._log_e)

    @property
    def e_value(self) -> float:
        """The evidence now: 1 for none; above 1/alpha is proof. Saturates at about 1e304."""
        return math.exp(min(self._log_e, _LARGEST_LOG))

    @property
    def p_value(self) -> float:
        """One over the highest e-value so far, at most 1: valid at every moment."""
        return math.exp(-min(self._highest_log_e, _LARGEST_LOG))

    @property
    def decided(self) -> bool:
        """Whether the hypothesis of chance is rejected at alpha; once so, it stays so."""
        return self._highest_log_e >= -math.log(self.alpha)


class SharedDrawTest:
    """Chance that hits of keys with one common response, drawn once of k, prove nothing.

    All hits are one event. Let C be the drawn candidate, uniform over k and independent of a model
    made without the set, which answers `size` keys. A reply begins with one candidate at most, so
    at most floor(size / h) candidates are the answer to h keys or more, and C is one of these with
    a chance of at most floor(size / h) / k: 1/k where more than half of all keys hit, however many
    there are. The bound is sharp, and is ours: arXiv 2401.12255 gives none.

    `size` counts every key of the set, asked or not. So it holds at every moment, whatever order
    the keys are asked in, and for leaves that the owner chose to open. Its names are those of
    SequentialTest.
    """

    def __init__(self, size: int, chance: float, alpha: float) -> None:
        if size < 1:
            raise UsageError(f"a set of {size} keys", hint="Give 1 or more.")
        _require_open("chance", chance)
        _require_open("alpha", alpha)
        self.size = size
        self.chance = chance
        self.alpha = alpha
        self.hits = 0
        self.trials = 0

    def update(self, hit: bool, chance: float | None = None) -> None:
        """Take one reply into account; UsageError beyond `size`, or where `chance` is another."""
        if self.trials == self.size or chance not in (None, self.chance):
            raise UsageError("a reply beyond the one draw", hint="Count each key of the set once.")
        self.trials += 1
        self.hits += bool(hit)

    @property
    def p_value(self) -> float:
        """floor(size / hits) / k, at most 1: valid at every moment."""
        return min(1.0, self.size // self.hits * self.chance) if self.hits else 1.0

    @property
    def decided(self) -> bool:
        """Whether the hypothesis of chance is rejected at alpha; once so, it stays so."""
        return self.p_value <= self.alpha

    @property
    def needed(self) -> int | None:
        """Fewest hits that decide; None where all would not: alpha is below 1/k."""
        fits = (h for h in range(1, self.size + 1) if self.size // h * self.chance <= self.alpha)
        return next(fits, None)


class _GrowingTail:
    """P(X >= hits) for X ~ Binomial(trials, chance), while trials and hits grow by single steps."""

    def __init__(self, chance: float) -> None:
        self.tail = 0.0
        self._trials = 0
        self._hits = 1
        self._log_below = 0.0  # log P(X = hits - 1)
        self._log_hit = math.log(chance) if chance else -math.inf
        self._log_miss = math.log1p(-chance)

    def add_trial(self) -> None:
        self.tail += math.exp(self._log_below + self._log_hit)
        self._trials += 1
        ways = self._trials / (self._trials - self._hits + 1)
        self._log_below += math.log(ways) + self._log_miss

    def raise_hits(self) -> None:
        if self._hits == self._trials:
            self._log_below = self._trials * self._log_hit
            self.tail = 0.0
        else:
            ways = (self._trials - self._hits + 1) / self._hits
            self._log_below += math.log(ways) + self._log_hit - self._log_miss
            self.tail = max(self.tail - math.exp(self._log_below), 0.0)
        self._hits += 1


_power = power  # `queries_needed` has an argument of this name


@cache
def _uniform_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes in (0, 1) and weights of sum 1 that stand for the uniform distribution, (64,) each."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1) / 2, weights / weights.sum()


def _log_tail(hits: int, trials: int, chance: float) -> float:
    """The natural logarithm of P(X >= hits)."""
    _require_counts(hits, trials)
    _require_probability("chance", chance)
    if hits == 0 or chance == 1.0:
        return 0.0
    if chance == 0.0:
        return -math.inf
    log_hit, log_miss = math.log(chance), math.log1p(-chance)
    if hits > trials * chance:
        return min(_log_upper(hits, trials, log_hit, log_miss), 0.0)
    # Below the mean it is the misses that are rare: P(X >= hits) = 1 - P(misses > trials - hits).
    return math.log1p(-math.exp(_log_upper(trials - hits + 1, trials, log_miss, log_hit)))


def _log_upper(hits: int, trials: int, log_hit: float, log_miss: float) -> float:
    """log P(X >= hits) above the mean: the first term, times a series that falls from 1."""
    first = (
        math.lgamma(trials + 1)
        - math.lgamma(hits + 1)
        - math.lgamma(trials - hits + 1)
        + hits * log_hit
        + (trials - hits) * log_miss
    )
    odds = math.exp(log_hit - log_miss)
    term = total = 1.0
    for count in range(hits, trials):
        term *= (trials - count) / (count + 1) * odds
        total += term
        if term < _NEGLIGIBLE * total:
            break
    return first + math.log(total)


def _lower_limit(hits: int, trials: int, error: float) -> float:
    """The chance at which `hits` or more have a probability of `error`, by bisection."""
    if hits == 0:
        return 0.0
    log_error = math.log(error)
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return low
        if _log_tail(hits, trials, middle) < log_error:
            low = middle
        else:
            high = middle


def _require_counts(hits: int, trials: int) -> None:
    if not 0 <= hits <= trials:
        raise UsageError(
            f"{hits} hits of {trials} queries cannot be", hint="Hits are 0 up to the queries."
        )


def _require_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{name} is {value}", hint=f"Give a {name} from 0 to 1.")


def _require_open(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise UsageError(f"{name} is {value}", hint=f"Give a {name} above 0 and below 1.")
