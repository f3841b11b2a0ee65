"""Who mixed their copies? Hosts are accused from what a model answers, with a proven error bound.

Theorem (soundness). Fix the biases p, which fingerprints were asked, and the outcomes y. Call a
host innocent if nothing of its copy went into the model asked. Accuse host h if its score
S_h = sum_i w_i X_hi is at least the threshold, where X_h is its row, the whole weights w are any
function of (p, asked, y), and the threshold s satisfies hosts * P(sum_i w_i B_i >= s) <= alpha for
independent B_i ~ Bernoulli(p_i). Then some innocent host is accused with a chance of at most alpha.

Proof. An innocent's bits are independent Bernoulli(p_i) given p, and independent of the rows of
everybody else. The outcome depends on those other rows, p, and chance alone, and so do the weights.
So given (p, asked, y), an innocent's bits still are independent Bernoulli(p_i), and its score
reaches s with exactly the probability in the theorem. The union bound over all hosts does the rest.

It is assumed that the code is as good as random (HMAC-SHA256 and SHAKE256), that what was asked was
chosen without looking at an innocent's row, and that colluders know no innocent's row. Nothing is
assumed of what they do: how many they are, whether they keep to the marking assumption, what a
fine-tuning made the model forget, and replies that match by chance (one in k) only change y.

The bound is no approximation: the score's law is computed by convolution of whole weights, all
terms positive, and `_SLACK` covers the rounding. The weights decide about power alone, which is
measured (benchmarks/tracing.py), not proven. Left out on purpose: asking (`check`), the code
(`codes`), and evidence of use: an accusation is a reason to look, never a claim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from loyal.errors import UsageError
from loyal.fingerprints.codes import ONE, TracingCode

Decoder = Literal["matched", "interleaving", "symmetric", "additive"]
"""How replies are weighed; see the function of each name."""

Floats = npt.NDArray[np.float64]
Observed = npt.NDArray[np.int8]
"""Shape (length,): HIT, MISS or UNASKED for each fingerprint of the set."""

HIT, MISS, UNASKED = 1, 0, -1

COALITION = 6
"""Colluders that the likelihoods are written for. A coalition of fewer is a special case of it; of
a larger one the first six terms are seen."""

_TYPICAL, _LARGEST = 8, 127  # whole weights: their root mean square, and a limit
_ROUNDS, _SETTLED = 300, 1e-4
_SLACK = 1e-9  # relative; the sums round by at most 1e-10 of themselves at MOST_FINGERPRINTS
_UNDERFLOW = 1e-290  # what a tail may have lost to numbers too small to hold
_BLOCK = 256
_SYMBOLS = {"1": HIT, "0": MISS, "?": UNASKED}


@dataclass(frozen=True, repr=False)
class Accusation:
    """Who is accused, and on what grounds. Holds no key and no bit of the code."""

    scores: npt.NDArray[np.int64]
    """Shape (hosts,)."""
    p_values: Floats
    """Shape (hosts,): the chance that this host, if innocent, scores so high. Exact, one host."""
    accused: tuple[int, ...]
    """Host numbers with hosts * p_value <= alpha, the most certain first."""
    threshold: int | None
    """The least score that accuses; None if no score could."""
    bound: float
    """Proven chance that any innocent host reaches the threshold; at most `alpha`."""
    alpha: float
    decoder: Decoder
    asked: int
    hits: int

    def __repr__(self) -> str:
        return (
            f"Accusation({len(self.accused)} of {len(self.scores)} hosts, bound {self.bound:.2g})"
        )


def accuse(
    code: TracingCode,
    observed: Sequence[int] | Observed,
    alpha: float = 1e-3,
    decoder: Decoder | None = None,
) -> Accusation:
    """Name the hosts whose copies went into a model, from `observed`, shape (length,).

    `alpha` bounds the chance that any innocent host is accused, over all hosts (module: theorem).
    `decoder` None takes the code's own: matched for arcsine, additive for additive. Choose it
    before looking: trying all and keeping the best multiplies the bound by how many were tried.
    UsageError for an alpha outside (0, 1), a wrong shape, or values that are none of the three.
    """
    seen = np.asarray(observed)
    if seen.shape != (code.length,) or not np.isin(seen, (HIT, MISS, UNASKED)).all():
        raise UsageError(
            "what was observed does not fit the code",
            hint=f"give one of 1, 0 and -1 for each of the {code.length} fingerprints",
        )
    if not 0 < alpha < 1:
        raise UsageError("alpha must be in (0, 1)", hint="1e-3 is the default")
    chosen = decoder or ("matched" if code.scheme == "arcsine" else "additive")
    asked = np.flatnonzero(seen != UNASKED)
    hit = seen[asked] == HIT
    chances = code.biases[asked] / ONE
    weights = whole(DECODERS[chosen](chances, hit))
    scores = _scores(code, asked, weights)
    tail = Tail.of(weights, chances)
    p_values = tail.at(scores)
    threshold = tail.threshold(alpha / code.hosts)
    found = np.flatnonzero(scores >= threshold) if threshold is not None else np.arange(0)
    order = np.argsort(p_values[found], kind="stable")
    return Accusation(
        scores=scores,
        p_values=p_values,
        accused=tuple(int(host) for host in found[order]),
        threshold=threshold,
        bound=0.0 if threshold is None else code.hosts * float(tail.at(np.array([threshold]))[0]),
        alpha=alpha,
        decoder=chosen,
        asked=len(asked),
        hits=int(hit.sum()),
    )


def _scores(
    code: TracingCode, asked: npt.NDArray[np.intp], weights: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """S, shape (hosts,); exact, since float32 holds whole numbers up to 2^24."""
    spread = np.zeros(code.length, np.float32)
    spread[asked] = weights
    scores = np.empty(code.hosts, np.int64)
    for start in range(0, code.hosts, _BLOCK):
        block = range(start, min(start + _BLOCK, code.hosts))
        scores[block.start : block.stop] = code.matrix(block).astype(np.float32) @ spread
    return scores


@dataclass(frozen=True)
class Tail:
    """P(S >= s) of an innocent's score S = sum_i w_i B_i, for every whole s."""

    lowest: int
    """The least value that S can take."""
    upper: Floats
    """upper[j] >= P(S >= lowest + j), and larger by no more than 1e-9 of itself."""

    @classmethod
    def of(cls, weights: npt.NDArray[np.int64], chances: Floats) -> Tail:
        """The law by convolution: weights (n,) whole, chances (n,) in [0, 1].

        Negative weights are turned around (w B = w + |w| (1 - B)), so all steps go up. O(n sum|w|).
        """
        sizes = np.abs(weights)
        ups = np.where(weights < 0, 1 - chances, chances)
        order = np.argsort(sizes, kind="stable")  # short steps first: the law stays short longer
        law = np.zeros(int(sizes.sum()) + 1)
        other = np.empty_like(law)
        law[0], length = 1.0, 1
        for size, up in zip(sizes[order].tolist(), ups[order].tolist(), strict=True):
            if size:
                np.multiply(law[:length], 1.0 - up, out=other[:length])
                other[length : length + size] = 0.0
                other[size : size + length] += up * law[:length]
                law, other, length = other, law, length + size
        tail = np.cumsum(law[::-1])[::-1]
        upper = np.minimum(tail * (1 + _SLACK) + _UNDERFLOW, 1.0)
        return cls(int(weights[weights < 0].sum()), upper)

    def at(self, scores: npt.NDArray[np.int64]) -> Floats:
        """P(S >= s) for each score that S can take."""
        return self.upper[scores - self.lowest]

    def threshold(self, level: float) -> int | None:
        """The least s with P(S >= s) <= level; None if even the highest score is likelier."""
        place = int(np.searchsorted(-self.upper, -level))  # upper falls, so -upper rises
        return None if place == len(self.upper) else self.lowest + place


def whole(weights: Floats) -> npt.NDArray[np.int64]:
    """Weights scaled to whole numbers; this costs about a thousandth of their power.

    They are the weights, not an approximation of them: the tail is that of the rounded score.
    """
    scale = math.sqrt(float(np.mean(weights**2))) if len(weights) else 0.0
    if not scale > 0 or not math.isfinite(scale):
        return np.zeros(len(weights), np.int64)
    return np.rint(weights * (_TYPICAL / scale)).clip(-_LARGEST, _LARGEST).astype(np.int64)


def matched(chances: Floats, hit: npt.NDArray[np.bool_]) -> Floats:
    """Log-likelihood ratios under the strategy that fits the outcomes best; shape (n,).

    A coalition of c = COALITION that answers with probability theta_z where z of them carry the
    fingerprint makes P(hit | p) = sum_z Binomial(z; c, p) theta_z. Losses (theta_c < 1) and chance
    matches (theta_0 > 0) are in it. Expectation maximization finds theta from (p, y) alone, never
    from rows, so the theorem holds. As in Charpentier, Xie, Fontaine and Furon, "Expectation
    maximization decoding of Tardos probabilistic fingerprinting code" (SPIE 2009), with a fixed c.
    """
    c = COALITION
    carried = _binomials(chances, c)  # (n, c + 1)
    theta = np.linspace(0.05, 0.9, c + 1)
    for _ in range(_ROUNDS):
        answer = carried @ theta  # (n,), in (0, 1)
        hits = theta * (carried.T @ (hit / answer)) + 0.5
        misses = (1 - theta) * (carried.T @ (~hit / (1 - answer))) + 0.5
        before, theta = theta, hits / (hits + misses)
        if float(np.abs(theta - before).max()) < _SETTLED:
            break
    others = _binomials(chances, c - 1)  # (n, c)
    return _log_ratio(others @ theta[1:], others @ theta[:-1], hit)


def interleaving(chances: Floats, hit: npt.NDArray[np.bool_]) -> Floats:
    """Log-likelihood ratios under "each reply is a random colluder's"; shape (n,).

    The decoder of Laarhoven, "Capacities and capacity-achieving decoders for various fingerprinting
    games" (IH&MMSec 2014), with the share of hits that survive taken from the outcomes.
    """
    expected = float(chances.sum())
    survival = min(0.99, max(0.01, float(hit.sum()) / expected)) if expected else 0.99
    mixed = (1 - 1 / COALITION) * chances
    return _log_ratio(survival * (mixed + 1 / COALITION), survival * mixed, hit)


def symmetric(chances: Floats, hit: npt.NDArray[np.bool_]) -> Floats:
    """The symmetric Tardos score of Skoric, Katzenbeisser and Celik (2008); shape (n,)."""
    return np.where(hit, 1.0, -1.0) / np.sqrt(chances * (1 - chances))


def additive(chances: Floats, hit: npt.NDArray[np.bool_]) -> Floats:
    """One for each hit: arXiv 2502.07760, Definition 5.1; shape (n,)."""
    return hit.astype(np.float64)


DECODERS: Mapping[Decoder, Callable[[Floats, npt.NDArray[np.bool_]], Floats]] = {
    "matched": matched,
    "interleaving": interleaving,
    "symmetric": symmetric,
    "additive": additive,
}


def parse_observed(text: str, length: int, set_id: str | None = None) -> Observed:
    """What was observed, shape (length,), from a file's text.

    Either 1, 0 and ? (hit, no hit, not asked), one a fingerprint, white space aside; or the state
    file that `loyal fingerprint check --resume` keeps. UsageError for anything else, another
    length, or the state of a check of another set than `set_id`.
    """
    symbols = "".join(text.split())
    if not symbols.startswith("{"):
        if len(symbols) != length or not set(symbols) <= _SYMBOLS.keys():
            raise UsageError(
                "the observations are not one of 1, 0 and ? for each fingerprint",
                hint=f"write {length} of them, in the set's order",
            )
        return np.array([_SYMBOLS[one] for one in symbols], np.int8)
    try:
        record = json.loads(text)
        asked = record["asked"]
        if not all(type(index) is int and type(hit) is bool for index, hit in asked):
            raise ValueError
        if not all(0 <= index < length for index, _ in asked):
            raise ValueError
        observed = observed_in(length, [index for index, _ in asked], [hit for _, hit in asked])
        same = set_id is None or record["set"] == set_id
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(
            "this is not the state of a check of so many fingerprints",
            hint="give the file that 'loyal fingerprint check --resume FILE' wrote",
        ) from None
    if not same:
        raise UsageError("this is the state of a check of another set", hint="choose its --set-id")
    return observed


def observed_in(length: int, indices: Sequence[int], outcomes: Sequence[bool]) -> Observed:
    """What a check of `length` fingerprints found, shape (length,): CheckReport's two fields."""
    observed = np.full(length, UNASKED, np.int8)
    for index, hit in zip(indices, outcomes, strict=True):
        observed[index] = HIT if hit else MISS
    return observed


def _log_ratio(with_bit: Floats, without: Floats, hit: npt.NDArray[np.bool_]) -> Floats:
    """log P(outcome | the host carries it) - log P(outcome | it does not)."""
    return np.where(hit, np.log(with_bit / without), np.log((1 - with_bit) / (1 - without)))


def _binomials(chances: Floats, trials: int) -> Floats:
    """P(z of `trials`), shape (n, trials + 1)."""
    z = np.arange(trials + 1)
    ways = np.array([math.comb(trials, k) for k in range(trials + 1)], np.float64)
    return np.asarray(ways * chances[:, None] ** z * (1 - chances[:, None]) ** (trials - z))
