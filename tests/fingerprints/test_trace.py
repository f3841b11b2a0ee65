"""Tracing: the tail against brute force, soundness counted, power against five strategies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from loyal.errors import UsageError
from loyal.fingerprints.codes import ONE, TracingCode
from loyal.fingerprints.trace import (
    DECODERS,
    HIT,
    MISS,
    UNASKED,
    Tail,
    accuse,
    observed_in,
    parse_observed,
    whole,
)

Strategy = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""How many of c carry each fingerprint -> what they answer where they can choose."""

STRATEGIES: dict[str, Strategy] = {
    "majority": lambda z, c, rng: 2 * z > c,
    "minority": lambda z, c, rng: 2 * z < c,
    "interleave": lambda z, c, rng: rng.random(len(z)) < z / c,
    "any": lambda z, c, rng: z > 0,
    "refuse": lambda z, c, rng: z == c,
}


def secret(number: int) -> bytes:
    """A fixed secret for a test, so that no test depends on luck."""
    return number.to_bytes(32, "big")


def mixed(code: TracingCode, colluders: range, name: str, survival: float = 1.0) -> np.ndarray:
    """What the colluders' model answers, under the marking assumption and then losses."""
    rng = np.random.default_rng(code.length)
    carried, c = code.matrix(colluders).sum(axis=0), len(colluders)
    answer = STRATEGIES[name](carried, c, rng)
    answer = np.where(carried == 0, False, np.where(carried == c, True, answer))
    return (answer & (rng.random(code.length) < survival)).astype(np.int8)


def brute_tail(weights: np.ndarray, chances: np.ndarray, score: int) -> float:
    """P(S >= score) over all outcomes of the bits."""
    total = 0.0
    for bits in itertools.product((0, 1), repeat=len(weights)):
        if np.dot(bits, weights) >= score:
            total += math.prod(p if b else 1 - p for b, p in zip(bits, chances, strict=True))
    return total


@pytest.mark.parametrize("number", range(4))
def test_the_tail_is_exact(number: int) -> None:
    rng = np.random.default_rng(number)
    weights = rng.integers(-9, 10, 10)
    chances = rng.uniform(0.01, 0.99, 10)
    tail = Tail.of(weights, chances)
    highest = int(weights[weights > 0].sum())
    assert len(tail.upper) == highest - tail.lowest + 1
    for score in range(tail.lowest, highest + 1):
        exact, bound = brute_tail(weights, chances, score), float(tail.at(np.array([score]))[0])
        assert exact * (1 - 1e-12) <= bound <= exact * (1 + 2e-9) + 1e-280


def test_the_threshold_is_the_least_score_at_the_level() -> None:
    tail = Tail.of(np.array([1, 1, -1]), np.array([0.5, 0.5, 0.5]))
    assert tail.lowest == -1
    assert [tail.threshold(level) for level in (1.0, 0.9, 0.51, 0.2, 0.126)] == [-1, 0, 1, 2, 2]
    assert tail.threshold(0.12) is None


def test_a_tail_of_many_agrees_with_the_normal_law() -> None:
    code = TracingCode(secret(1), 1, 4096)
    chances = code.biases / ONE
    weights = whole(DECODERS["symmetric"](chances, code.row(0)))
    tail = Tail.of(weights, chances)
    mean = float(weights @ chances)
    spread = math.sqrt(float(weights**2 @ (chances * (1 - chances))))
    for sigmas, normal in ((0.0, 0.5), (1.0, 0.158655), (2.0, 0.022750)):
        found = float(tail.at(np.array([round(mean + sigmas * spread)]))[0])
        assert found == pytest.approx(normal, rel=0.08)


@pytest.mark.parametrize("scheme", ["arcsine", "additive"])
def test_innocents_are_accused_as_rarely_as_proven_and_hardly_more_rarely(scheme: str) -> None:
    alpha, runs, wrong = 0.2, 300, 0
    for number in range(runs):
        code = TracingCode(secret(number), 60, 120, scheme)  # type: ignore[arg-type]
        observed = mixed(code, range(3), "interleave", 0.8)
        observed[::7] = UNASKED
        observed[1::11] = HIT  # matches by chance, against the marking assumption
        found = accuse(code, observed, alpha)
        assert found.bound <= alpha
        wrong += any(host > 2 for host in found.accused)
    assert 20 < wrong < 95  # 60 are expected at most, standard deviation 7; the seeds are fixed


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_every_decoder_is_sound_for_whatever_outcome(decoder: str) -> None:
    wrong = 0
    for number in range(60):
        code = TracingCode(secret(1000 + number), 40, 60)
        observed = np.random.default_rng(number).integers(-1, 2, 60).astype(np.int8)
        wrong += bool(accuse(code, observed, 0.1, decoder).accused)  # type: ignore[arg-type]
    assert wrong < 25  # 6 are expected at most


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize(
    ("colluders", "length", "survival"), [(3, 512, 1.0), (3, 1024, 0.6), (5, 2048, 1.0)]
)
def test_colluders_are_named(strategy: str, colluders: int, length: int, survival: float) -> None:
    code = TracingCode(secret(5), 2048, length)
    observed = mixed(code, range(700, 700 + colluders), strategy, survival)
    found = accuse(code, observed)
    assert found.accused
    assert set(found.accused) <= set(range(700, 700 + colluders))
    assert int(found.scores.argmax()) in range(700, 700 + colluders)
    assert found.asked == length
    assert found.hits == observed.sum()
    assert sorted(found.accused) == np.flatnonzero(found.scores >= found.threshold).tolist()


def test_a_host_alone_is_named_by_few_and_nobody_by_nothing() -> None:
    code = TracingCode(secret(6), 2048, 128)
    assert accuse(code, code.row(99).astype(np.int8)).accused == (99,)
    unasked = accuse(code, np.full(128, UNASKED, np.int8))
    assert (unasked.accused, unasked.threshold, unasked.bound) == ((), None, 0.0)
    assert set(unasked.p_values.tolist()) == {1.0}
    stranger = accuse(code, np.full(128, MISS, np.int8))
    assert not stranger.accused


def test_an_accusation_is_the_same_each_time_and_shows_no_code() -> None:
    code = TracingCode(secret(7), 300, 256)
    observed = mixed(code, range(2), "any")
    first, second = accuse(code, observed), accuse(code, observed.tolist())
    assert (first.scores == second.scores).all()
    assert first.accused == second.accused
    assert repr(first).startswith("Accusation(")


def test_what_does_not_fit_is_refused() -> None:
    code = TracingCode(secret(8), 10, 20)
    with pytest.raises(UsageError, match="does not fit"):
        accuse(code, [1] * 19)
    with pytest.raises(UsageError, match="does not fit"):
        accuse(code, [2] * 20)
    for alpha in (0.0, 1.0):
        with pytest.raises(UsageError, match="alpha"):
            accuse(code, [1] * 20, alpha)


def test_observations_are_read_from_both_files() -> None:
    assert parse_observed("1 0?\n1\n", 4).tolist() == [HIT, MISS, UNASKED, HIT]
    state = '{"version": 1, "set": "ab", "model": "m", "asked": [[3, true], [0, false]]}'
    assert parse_observed(state, 5, "ab").tolist() == observed_in(5, [3, 0], [True, False]).tolist()
    assert observed_in(3, [2], [True]).tolist() == [UNASKED, UNASKED, HIT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "101",
        "10a0",
        '{"asked": 1}',
        "{",
        '{"set": "ab", "asked": [[4, true]]}',
        '{"set": "ab", "asked": [[true, true]]}',
        '{"set": "ab", "asked": [[0, 1]]}',
        '{"set": "cd", "asked": [[0, true]]}',
        '{"asked": []}',
    ],
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_observed(text, 4, "ab")
