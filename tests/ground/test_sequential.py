"""The sequential test: what it claims under chance, how soon it decides, exactly and simulated.

With one chance for all keys the e-value depends on hits and trials alone, so "decided at trial n"
is "at least boundary[n] hits", and the distribution of the stopping time is an exact recursion.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.errors import UsageError
from loyal.statistics import (
    SequentialTest,
    binomial_tail,
    first_decisions,
    sequential_hits,
    sequential_thresholds,
)

CHANCE = 1 / 16


def log_evidence(hits: np.ndarray, misses: np.ndarray, chance: float) -> np.ndarray:
    """The log e-value by its integral over survival, on a fine grid: none of the tested code."""
    survivals = (np.arange(4000) + 0.5) / 4000
    ratio_hit = np.log((chance + (1 - chance) * survivals) / chance)
    ratio_miss = np.log(1 - survivals)
    logs = hits[..., None] * ratio_hit + misses[..., None] * ratio_miss
    top = logs.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logs - top[..., None]).mean(axis=-1)))


def boundary(alpha: float, trials: int, chance: float = CHANCE) -> np.ndarray:
    """(trials + 1,): the fewest hits that decide at each number of trials, if so many fit in."""
    fewest = np.zeros(trials + 1, dtype=int)
    hits = 0  # a miss lowers the e-value and a hit raises it, so the boundary never falls
    for count in range(trials + 1):
        while hits <= count and log_evidence(
            np.array(hits), np.array(count - hits), chance
        ) < -math.log(alpha):
            hits += 1
        fewest[count] = hits
    return fewest


def decided_by(fewest: np.ndarray, truth: float) -> np.ndarray:
    """(trials + 1,): the exact probability of a decision at or before each trial."""
    running = np.zeros(len(fewest) + 1)
    running[0] = 1.0
    decided = np.zeros(len(fewest))
    for count in range(1, len(fewest)):
        running[1:] = running[1:] * (1 - truth) + running[:-1] * truth
        running[0] *= 1 - truth
        decided[count] = decided[count - 1] + running[fewest[count] :].sum()
        running[fewest[count] :] = 0.0
    return decided


def run(test: SequentialTest, hits: np.ndarray) -> int | None:
    """The trial at which the test decides, if it does."""
    for count, hit in enumerate(hits, start=1):
        test.update(bool(hit))
        if test.decided:
            return count
    return None


@pytest.mark.parametrize(("survival", "most"), [(0.6, 15), (0.9, 7)])
def test_median_queries_to_a_proof(survival: float, most: int) -> None:
    decided = decided_by(boundary(1e-6, 40), survival)
    assert decided[most] >= 0.5
    assert decided[40] > 0.99

    rng = np.random.default_rng(1)
    stops = [run(SequentialTest(CHANCE, 1e-6), rng.random(60) < survival) for _ in range(400)]
    assert sorted(stop or 61 for stop in stops)[200] <= most


@pytest.mark.parametrize("survival", [0.0, CHANCE])
def test_an_unmarked_model_is_not_claimed(survival: float) -> None:
    assert decided_by(boundary(1e-6, 100), survival)[100] <= 1e-6


def test_early_stopping_keeps_alpha() -> None:
    alpha, runs, trials = 1e-2, 20_000, 300
    fewest = boundary(alpha, trials)
    hits = np.random.default_rng(2).random((runs, trials)) < CHANCE
    counts = hits.cumsum(axis=1)
    claimed = (counts >= fewest[1:]).any(axis=1)
    assert 0 < claimed.mean() <= alpha
    assert 0 < decided_by(fewest, CHANCE)[-1] <= alpha

    for index in [*np.flatnonzero(claimed)[:5], *np.flatnonzero(~claimed)[:15]]:
        stop = run(SequentialTest(CHANCE, alpha), hits[index])
        assert (stop is not None) == claimed[index]
        if stop is not None:
            assert counts[index, stop - 1] >= fewest[stop]


def test_looking_at_a_fixed_sample_tail_after_every_query_does_not_keep_alpha() -> None:
    alpha, runs, trials = 1e-2, 20_000, 300
    fewest = [
        next(h for h in range(n + 2) if h > n or binomial_tail(h, n, CHANCE) <= alpha)
        for n in range(1, trials + 1)
    ]
    counts = (np.random.default_rng(2).random((runs, trials)) < CHANCE).cumsum(axis=1)
    assert (counts >= np.array(fewest)).any(axis=1).mean() > 3 * alpha


def test_chances_chosen_on_the_way_keep_alpha() -> None:
    """Each next key's chance depends on the evidence so far, against the test."""
    alpha, runs, trials = 1e-2, 10_000, 60
    rng = np.random.default_rng(3)
    survivals = np.linspace(0.01, 0.99, 25)
    wealth = np.full((runs, len(survivals)), 1 / len(survivals))
    highest = np.ones(runs)
    for _ in range(trials):
        evidence = wealth.sum(axis=1)
        chance = np.where(evidence < 0.2, 1 / 64, np.where(evidence < 5, 1 / 4, 1 / 2))
        hit = rng.random(runs) < chance
        gain = 1 + survivals * ((1 - chance) / chance)[:, None]
        wealth *= np.where(hit[:, None], gain, 1 - survivals)
        highest = np.maximum(highest, wealth.sum(axis=1))
    assert 0 < (highest >= 1 / alpha).mean() <= alpha


def test_chances_chosen_on_the_way_keep_alpha_in_the_class_itself() -> None:
    alpha, runs = 0.2, 500
    rng = np.random.default_rng(4)
    claims = 0
    for _ in range(runs):
        test = SequentialTest(CHANCE, alpha)
        for _ in range(40):
            chance = 1 / 64 if test.e_value < 0.2 else 1 / 2
            test.update(bool(rng.random() < chance), chance)
        claims += test.decided
    assert 0 < claims <= alpha * runs


@given(st.lists(st.booleans(), max_size=100), st.floats(0.001, 0.9))
def test_e_value_is_the_integral_and_p_value_its_running_maximum(
    replies: list[bool], chance: float
) -> None:
    test = SequentialTest(chance, 1e-6)
    highest = 1.0
    for count, hit in enumerate(replies, start=1):
        test.update(hit)
        hits = sum(replies[:count])
        assert (test.hits, test.trials) == (hits, count)
        expected = log_evidence(np.array(hits), np.array(count - hits), chance)
        if expected < 600:
            assert math.log(test.e_value) == pytest.approx(float(expected), rel=1e-2, abs=1e-2)
        highest = max(highest, test.e_value)
        assert test.p_value == pytest.approx(1 / highest, rel=1e-9)
        assert test.decided == (test.p_value <= 1e-6)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 0.9)), min_size=1, max_size=30))
def test_the_order_of_replies_does_not_matter_to_the_e_value(
    replies: list[tuple[bool, float]],
) -> None:
    forward, backward = SequentialTest(CHANCE, 0.01), SequentialTest(CHANCE, 0.01)
    for hit, chance in replies:
        forward.update(hit, chance)
    for hit, chance in reversed(replies):
        backward.update(hit, chance)
    assert forward.e_value == pytest.approx(backward.e_value, rel=1e-9)


def test_a_bet_is_fair() -> None:
    """The mean e-value after the next reply is the e-value now, whatever the chance."""
    rng = np.random.default_rng(5)
    history = [(bool(rng.random() < 0.4), float(rng.uniform(0.01, 0.9))) for _ in range(20)]
    for chance in (1 / 64, CHANCE, 0.5, 0.9):
        means = []
        for hit in (True, False):
            test = SequentialTest(CHANCE, 0.01)
            for before, each in history:
                test.update(before, each)
            now = test.e_value
            test.update(hit, chance)
            means.append(test.e_value * (chance if hit else 1 - chance))
        assert sum(means) == pytest.approx(now, rel=1e-9)


def test_without_replies_nothing_is_claimed() -> None:
    test = SequentialTest(CHANCE, 0.01)
    assert (test.e_value, test.p_value, test.decided) == (1.0, 1.0, False)


def test_a_decision_stays_and_nothing_overflows() -> None:
    test = SequentialTest(CHANCE, 1e-6)
    for _ in range(300):
        test.update(True)
    assert math.isfinite(test.e_value)
    assert 0 < test.p_value < 1e-300
    for _ in range(5000):
        test.update(False)
    assert test.e_value < 1
    assert test.decided
    assert test.p_value < 1e-300


def test_the_threshold_in_whole_numbers_is_where_the_test_decides() -> None:
    for candidates in (2, 3, 16, 100):
        for one_in in (10, 1_000, 10**9):
            for trials in (1, 5, 9, 10, 40, 120):
                needed = sequential_hits(trials, candidates, one_in)
                decided = []
                for hits in range(trials + 1):
                    test = SequentialTest(1 / candidates, 1 / one_in)
                    for place in range(trials):
                        test.update(place >= trials - hits)
                    decided.append(test.e_value >= one_in * (1 - 1e-9))
                assert decided.index(True) == needed if needed is not None else not any(decided)


def test_the_threshold_at_sixteen_candidates() -> None:
    assert sequential_hits(8, 16, 10**9) is None
    assert [sequential_hits(n, 16, 10**9) for n in (9, 10, 20, 100)] == [9, 10, 13, 28]


@pytest.mark.parametrize(("trials", "candidates", "one_in"), [(-1, 16, 9), (5, 1, 9), (5, 16, 0)])
def test_thresholds_of_nothing_are_refused(trials: int, candidates: int, one_in: int) -> None:
    with pytest.raises(UsageError):
        sequential_hits(trials, candidates, one_in)


@pytest.mark.parametrize("candidates", [2, 3, 16, 100])
@pytest.mark.parametrize("one_in", [2, 1_000, 10**9])
def test_one_walk_finds_all_thresholds(candidates: int, one_in: int) -> None:
    single = [sequential_hits(n, candidates, one_in) for n in range(121)]
    assert sequential_thresholds(120, candidates, one_in) == tuple(
        n + 1 if one is None else one for n, one in enumerate(single)
    )


@pytest.mark.parametrize(("trials", "candidates", "one_in"), [(-1, 16, 9), (5, 1, 9), (5, 16, 1)])
def test_a_walk_of_nothing_is_refused(trials: int, candidates: int, one_in: int) -> None:
    with pytest.raises(UsageError):
        sequential_thresholds(trials, candidates, one_in)


@pytest.mark.parametrize("truth", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_first_decisions_are_what_all_sequences_say(truth: float) -> None:
    thresholds = sequential_thresholds(10, 4, 50)
    expected = np.zeros(11)
    for replies in np.ndindex(*(2,) * 10):
        hits = np.cumsum((0, *replies))
        chance = truth ** sum(replies) * (1 - truth) ** (10 - sum(replies))
        expected += chance * np.maximum.accumulate(hits >= np.array(thresholds))
    assert first_decisions(thresholds, truth) == pytest.approx(list(expected), abs=1e-12)


def test_first_decisions_are_those_of_the_boundary() -> None:
    found = first_decisions(sequential_thresholds(40, 16, 10**6), 0.6)
    assert found == pytest.approx(list(decided_by(boundary(1e-6, 40), 0.6)), abs=1e-9)
    # To have had enough hits at some trial is likelier than to have enough at the last one.
    assert found[40] > binomial_tail(sequential_hits(40, 16, 10**6) or 41, 40, 0.6)
