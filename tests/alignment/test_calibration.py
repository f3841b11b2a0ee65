"""Calibration of judges: against closed forms, brute force and simulation."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyal.alignment import calibration as cal
from loyal.errors import UsageError

SCORES = st.lists(
    st.tuples(st.integers(-5, 5).map(float), st.booleans()), min_size=2, max_size=40
).filter(lambda some: len({label for _, label in some}) == 2)


@given(SCORES)
def test_auc_counts_pairs(some: list[tuple[float, bool]]) -> None:
    raw, kept = zip(*some, strict=True)
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for (a, yes), (b, no) in product(some, some)
        if yes and not no
    ]
    found = cal.auc(raw, kept)
    assert found == pytest.approx(sum(pairs) / len(pairs))
    assert cal.auc([-one for one in raw], kept) == pytest.approx(1 - found)
    low, high = (interval := cal.auc_interval(raw, kept)).low, interval.high
    assert 0 <= low <= found + 1e-9
    assert found - 1e-9 <= high <= 1


def draws(rng: random.Random, count: int, gap: float) -> tuple[list[float], list[bool]]:
    kept = [place % 2 == 0 for place in range(count)]
    return [rng.gauss(gap if one else 0.0, 1) for one in kept], kept


def test_the_interval_covers_the_true_auc_as_often_as_it_says() -> None:
    """400 sets of 60; 95 % asked, six deviations allowed."""
    rng = random.Random(11)
    truth = 0.5 * (1 + math.erf(1.2 / 2**0.5 / 2**0.5))
    inside = 0
    for _ in range(400):
        found = cal.auc_interval(*draws(rng, 60, 1.2))
        inside += found.low <= truth <= found.high
    assert inside >= 380 - 6 * (400 * 0.05 * 0.95) ** 0.5


def test_a_judge_that_guesses_does_not_separate_and_a_good_one_does() -> None:
    rng = random.Random(3)
    assert not cal.separates(*draws(rng, 200, 0.0))
    assert cal.separates(*draws(rng, 200, 2.0))
    assert not cal.separates([1.0, 0.0], [True, False])  # perfect, but two examples


def test_probabilities_come_true() -> None:
    rng = random.Random(5)
    raw, kept = draws(rng, 4000, 1.5)
    found = cal.fit(raw, kept)
    # for two normal distributions one apart by d the log-odds are d x - d^2 / 2
    assert found.slope == pytest.approx(1.5, abs=0.2)
    assert found.intercept == pytest.approx(-1.125, abs=0.2)
    fresh, labels = draws(rng, 4000, 1.5)
    chances = [found.probability(one) for one in fresh]
    assert cal.calibration_error(chances, labels) < 0.04
    for one in cal.reliability(chances, labels):
        assert one.interval.low - 0.08 <= one.mean <= one.interval.high + 0.08
    assert sum(one.count for one in cal.reliability(chances, labels)) == 4000


def test_scores_that_separate_leave_the_curve_finite() -> None:
    found = cal.fit([0.0, 1.0, 10.0, 11.0], [False, False, True, True])
    assert math.isfinite(found.slope)
    assert 0 < found.probability(-1e3) < found.probability(5.5) < found.probability(1e3) <= 1
    assert [found.verdict(one) for one in (0.0, 11.0)] == [False, True]
    flat = cal.fit([1.0] * 6, [True, False] * 3)
    assert flat.probability(1.0) == pytest.approx(0.5, abs=0.01)


def brute(chances: list[float], kept: list[bool], error: float, most: float) -> tuple[int, bool]:
    """(least number held back, whether the error is then met) over all bands around one half."""
    order = sorted(zip(chances, kept, strict=True))
    best: dict[int, float] = {}
    for start in range(len(order) + 1):
        for stop in range(start, len(order) + 1):
            width = stop - start
            below, above = order[:start], order[stop:]
            if width > most * len(order):
                continue
            if any(c > 0.5 for c, _ in below) or any(c <= 0.5 for c, _ in above):
                continue
            wrong = sum(k for _, k in below) + sum(not k for _, k in above)
            share = wrong / max(1, len(order) - width)
            best[width] = min(best.get(width, 1.0), share)
    enough = [width for width, share in best.items() if share <= error]
    return (min(enough), True) if enough else (-1, False)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=2, max_size=14, unique=True),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_the_band_is_the_narrowest_that_does(
    some: list[tuple[int, bool]], error: float, most: float
) -> None:
    some = list(dict(some).items())  # one label a score
    chances, kept = [score / 100 for score, _ in some], [label for _, label in some]
    low, high = cal._band(chances, kept, error, most)
    curve = cal.Calibration(1.0, 0.0, low, high)
    raw = [math.log(one / (1 - one)) for one in chances]
    found = cal.decide(curve, raw, kept)
    assert found.abstained <= most * len(kept) + 1e-9
    least, met = brute(chances, kept, error, most)
    if met:
        assert found.error <= error + 1e-9
        assert found.abstained == least


def test_holding_back_makes_fewer_errors() -> None:
    rng = random.Random(7)
    curve = cal.fit(*draws(rng, 1000, 1.8))
    raw, kept = draws(rng, 1000, 1.8)
    held = cal.decide(curve, raw, kept)
    plain = cal.decide(cal.Calibration(curve.slope, curve.intercept, 0.5, 0.5), raw, kept)
    assert plain.abstained == 0
    assert 0.1 < held.abstained / held.count <= 0.4
    assert held.error < plain.error - 0.05
    assert held.interval.low <= held.error <= held.interval.high


def test_agreement_beyond_chance() -> None:
    assert cal.agreement([True, False, True], [True, False, True]) == 1
    assert cal.agreement([True, True], [True, True]) == 1
    assert cal.agreement([True, True, False, False], [True, False, True, False]) == 0
    assert cal.agreement([True, False], [False, True]) == -1


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ([], []),
        ([1.0], [True, False]),
        ([1.0, math.nan], [True, False]),
        ([1.0, 2.0], [True, True]),
    ],
)
def test_bad_lists(raw: list[float], kept: list[bool]) -> None:
    with pytest.raises(UsageError):
        cal.fit(raw, kept)
    with pytest.raises(UsageError):
        cal.auc(raw, kept)


def scored(rng: random.Random, kept: int, broken: int) -> list[float]:
    """Log-odds of a judge that often errs: AUC 0.8."""
    return [rng.gauss(0.6 if at < kept else -0.6, 1.0) for at in range(kept + broken)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_a_corrected_share_covers_the_truth_where_verdicts_and_means_do_not(share: float) -> None:
    """300 calibrations on 150 kept and 60 broken replies, each read on 80 others; six deviations of
    95 % allowed, and the mean is off by no more than chance."""
    rng, count, rates, inside, plain = random.Random(5), round(80 * share), [], 0, []
    for _ in range(300):
        raw = scored(rng, 150, 60)
        curve = cal.fit(raw, [at < 150 for at in range(210)])
        chances = [curve.probability(one) for one in scored(rng, count, 80 - count)]
        assert curve.known is not None
        found = curve.known.share(chances)
        assert found is not None
        assert found.interval.low <= found.rate <= found.interval.high
        rates.append(found.rate)
        plain.append(sum(chances) / len(chances))
        inside += found.interval.low <= count / 80 <= found.interval.high
    assert inside >= 285 - 6 * (300 * 0.05 * 0.95) ** 0.5
    assert sum(rates) / 300 == pytest.approx(count / 80, abs=0.06)  # cut off at 0 and 1
    if not 0.5 < share < 0.9:
        assert abs(sum(plain) / 300 - count / 80) > 0.1


def test_a_corrected_share_needs_replies_and_a_judge_that_separates() -> None:
    some = cal.Moments(0.8, 0.02, 50)
    known = cal.Known(some, cal.Moments(0.4, 0.02, 50))
    assert known.share([0.5]) is None
    assert cal.Known(some, some).share([0.5, 0.7]) is None
    assert cal.Known(known.broken, known.kept).share([0.5, 0.7]) is None
    high, low = known.share([0.9, 0.95]), known.share([0.1, 0.2])
    assert (high.rate, high.interval.high, low.rate, low.interval.low) == (1, 1, 0, 0)
    middle = known.share([0.6] * 40)
    assert middle.rate == pytest.approx(0.5)
    spread = (2 * 0.25 * 0.02 / 50) ** 0.5 / 0.4
    assert middle.interval.high == pytest.approx(0.5 + 1.959964 * spread)
    more = cal.Known(cal.Moments(0.8, 0.02, 5000), cal.Moments(0.4, 0.02, 5000))
    assert more.share([0.6] * 40).interval.high < middle.interval.high
    with pytest.raises(UsageError, match="fewer than two"):
        cal.Moments.of([0.5])
