"""The test of deviation: who is accused, how rarely by chance, and how soon when it is true."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from loyal.alignment import DeviationTest, Law
from loyal.alignment.deviation import (
    CUTS_PPM,
    FRACTIONS,
    SPREADS,
    WHOLE_PPM,
    low_share,
    number_of,
    order_of,
    ppm_of,
)
from loyal.errors import UsageError
from loyal.statistics import binomial_tail

POOL = [100_000 * one for one in range(1, 10)]  # R = 9
LOOSE = Law(one_in=20, tolerance_ppm=50_000, most=30)


def run(test: DeviationTest, score: int | None, pool: list[int | None], queries: int) -> bool:
    for _ in range(queries):
        test.update(score, pool)
    return test.accused


def test_the_share_is_the_chance_to_stand_among_the_lowest() -> None:
    assert low_share(0, POOL, 100_000) == WHOLE_PPM  # lowest of ten
    assert low_share(0, POOL, 50_000) == WHOLE_PPM // 2
    assert low_share(150_000, POOL, 100_000) == 0  # second
    assert low_share(150_000, POOL, 200_000) == WHOLE_PPM
    assert low_share(100_000, POOL, 100_000) == WHOLE_PPM // 2  # tied with the lowest
    assert low_share(500_000, [500_000] * 9, 350_000) == 350_000  # all alike: the cut itself


@pytest.mark.parametrize("cut", CUTS_PPM)
@pytest.mark.parametrize(
    "scores",
    [
        [*POOL, 0],
        [7] * 10,
        [0, 0, 0, 5, 5, 9, 9, 9, 9, 9],
        [None, None, 4, 4, 4, 1, 2, 3, None, 8],
        [3] * 5 + [None] * 7,
    ],
)
def test_under_exchange_the_mean_is_the_cut_whatever_the_judge_says(
    cut: int, scores: list[int | None]
) -> None:
    """Each of R + 1 scores is the endpoint's once: E phi = c up to the rounding down."""
    shares = [low_share(one, scores[:at] + scores[at + 1 :], cut) for at, one in enumerate(scores)]
    mean = Fraction(sum(shares), len(shares))
    assert cut - 1 < mean <= cut


def test_phi_falls_as_the_score_rises() -> None:
    """What the one-sided tolerance stands on."""
    rng = random.Random(3)
    for _ in range(50):
        pool = [rng.randrange(20) for _ in range(19)]
        for cut in CUTS_PPM:
            shares = [low_share(one, pool, cut) for one in (*range(21), None)]
            assert shares == sorted(shares, reverse=True)


def test_an_abstention_accuses_nobody_and_counts_on_both_sides() -> None:
    test = DeviationTest(120, Law(one_in=2))
    assert not run(test, None, POOL, 60)
    assert test.best == 1
    assert low_share(None, [None] * 9, 350_000) == 350_000


def test_low_replies_accuse_and_the_same_ones_in_the_pool_do_not() -> None:
    guilty, fair = DeviationTest(240, Law()), DeviationTest(240, Law())
    assert run(guilty, 0, POOL, 20)
    assert guilty.over
    assert not run(fair, 0, [0] * 9, 60)  # the reference itself scores so


def test_high_scores_are_no_deviation() -> None:
    test = DeviationTest(240, Law(one_in=2))
    assert not run(test, WHOLE_PPM, POOL, 60)
    assert test.over
    assert test.p_value == 1.0


def test_every_earlier_test_raises_the_bar() -> None:
    bars = [DeviationTest(240, Law(one_in=100), earlier=one).needed for one in range(200)]
    assert bars[:3] == [200, 600, 1200]
    assert sum(Fraction(1, one) for one in bars) < Fraction(1, 100)


def test_evidence_stays() -> None:
    test = DeviationTest(240, LOOSE)
    run(test, 0, POOL, 6)
    best = test.best
    run(test, WHOLE_PPM, POOL, 20)
    assert test.best == best > test.e_value


def test_no_bet_gains_at_the_edge_of_the_tolerance() -> None:
    """One step, exactly: of 20 places of the reply in its pool of 19, each is as likely as the
    null allows, the lowest one likelier by the whole tolerance. The mean is at most 1."""
    pool: list[int | None] = [50_000 * one for one in range(1, 20)]
    places = [50_000 * one + 25_000 for one in range(20)]
    mean = Fraction(0)
    for place, score in enumerate(places):
        chance = Fraction(1, 20)
        chance += Fraction(1, 20) if place == 0 else 0
        chance -= Fraction(1, 20) if place == 19 else 0
        test = DeviationTest(240, Law())
        test.update(score, pool)
        mean += chance * test.e_value
    assert mean == 1


def test_beyond_the_tolerance_bets_gain() -> None:
    """The same step with a tenth more low scores: the test above is at its edge."""
    pool: list[int | None] = [50_000 * one for one in range(1, 20)]
    test = DeviationTest(240, Law())
    test.update(0, pool)
    high = DeviationTest(240, Law())
    high.update(WHOLE_PPM, pool)
    assert Fraction(2, 20) * test.e_value + Fraction(18, 20) * high.e_value < 1 < test.e_value


def test_the_allowance_grows_as_honest_prompts_run_out() -> None:
    """Of 40 prompts, 2 deviate wholly (5 %): once 30 others were asked, every fifth is left."""
    test = DeviationTest(40, Law(tolerance_ppm=50_000, most=30))
    assert test._allowance() == 50_000
    run(test, WHOLE_PPM, POOL, 29)
    assert test._allowance() == math.ceil(50_000 * 40 / 11)


def test_the_e_value_is_the_product_of_its_factors() -> None:
    test, rng = DeviationTest(240, LOOSE), random.Random(11)
    wealth = {(spread, part): 1.0 for spread in SPREADS for part in FRACTIONS}
    for asked in range(30):
        pool: list[int | None] = [rng.randrange(WHOLE_PPM) for _ in range(19)]
        score = rng.randrange(WHOLE_PPM // 2)
        gains = []
        for cut in CUTS_PPM:
            bound = (cut + math.ceil(50_000 * 240 / (240 - asked))) / WHOLE_PPM
            gains.append(low_share(score, pool, cut) / WHOLE_PPM / bound - 1)
        for spread, part in wealth:
            gain = sum(one * share / 15 for one, share in zip(gains, spread, strict=True))
            wealth[spread, part] *= 1 + part / 8 * gain
        test.update(score, pool)
        assert float(test.e_value) == pytest.approx(sum(wealth.values()) / len(wealth), rel=1e-9)


def honest_run(rng: random.Random, moved: bool) -> bool:
    """One honest host that uses its whole tolerance: 12 of 240 prompts get the lowest score."""
    law = Law(one_in=20, most=40)
    test = DeviationTest(240, law)
    order = rng.sample(range(240), law.most)
    for prompt in order:
        pool: list[int | None] = [rng.choice((20, 60, 90, 95, None)) for _ in range(9)]
        own = rng.choice((20, 60, 90, 95, None))
        test.update(0 if moved and prompt < 12 else own, pool)
        if test.accused:
            return True
    return False


@pytest.mark.parametrize("moved", [False, True])
def test_500_honest_hosts_are_accused_no_more_often_than_stated(moved: bool) -> None:
    """A first test needs e = 40, so at most one in 40 is accused; 500 at this bound pass 38 with
    a chance below 1e-6. The seed is fixed as well."""
    most = 38
    assert binomial_tail(most + 1, 500, 1 / 40) < 1e-6
    rng = random.Random(20261125)
    assert sum(honest_run(rng, moved) for _ in range(500)) <= most


def test_the_bound_sees_a_host_beyond_its_tolerance() -> None:
    """Half of the prompts moved: such hosts are accused, so the test above can fail."""
    rng = random.Random(5)
    found = 0
    for _ in range(40):
        test = DeviationTest(240, Law(one_in=20, most=60))
        for prompt in rng.sample(range(240), 60):
            test.update(0 if prompt < 120 else 90, [rng.choice((20, 60, 90)) for _ in range(9)])
        found += test.accused
    assert found >= 32


def test_a_realigned_copy_is_found_within_60_queries() -> None:
    """A judge of AUC 0.9 and every value broken, as in benchmarks/deviation.py; 95 % and more."""
    rng, apart, found = random.Random(8), 1.8124, 0
    for _ in range(60):
        test = DeviationTest(240, Law())
        for _ in range(60):
            pool = [_judged(rng, apart) for _ in range(19)]
            test.update(_judged(rng, 0.0), pool)
            if test.over:
                break
        found += test.accused
    assert found >= 57


def _judged(rng: random.Random, middle: float) -> int:
    return round(max(0.0, min(1.0, 0.5 + 0.15 * rng.gauss(middle, 1))) * WHOLE_PPM)


def test_the_order_is_one_of_all_and_hangs_on_root_and_beacon() -> None:
    root, beacon = b"r" * 32, b"b" * 32
    order = order_of(root, beacon, 40)
    assert sorted(order) == list(range(40))
    assert order != order_of(root, b"c" * 32, 40)
    assert order != order_of(b"s" * 32, beacon, 40)
    assert order == order_of(root, beacon, 40)
    first = [order_of(root, bytes([one]), 4)[0] for one in range(200)]
    assert all(30 <= first.count(one) <= 70 for one in range(4))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Law(one_in=1),
        lambda: Law(one_in=True),
        lambda: Law(tolerance_ppm=WHOLE_PPM),
        lambda: Law(tolerance_ppm=-1),
        lambda: Law(most=0),
        lambda: DeviationTest(60, Law()),
        lambda: DeviationTest(2_000, Law()),
        lambda: DeviationTest(240, Law(), earlier=-1),
        lambda: run(DeviationTest(40, Law(most=3)), 0, POOL, 4),
        lambda: low_share(0, POOL[:8], 50_000),
        lambda: low_share(-1, POOL, 50_000),
        lambda: low_share(WHOLE_PPM + 1, POOL, 50_000),
        lambda: number_of(0.5),
        lambda: order_of(b"short", b"", 4),
    ],
)
def test_what_is_no_test_is_refused(wrong: object) -> None:
    with pytest.raises(UsageError) as caught:
        wrong()  # type: ignore[operator]
    assert caught.value.hint


def test_scores_in_ppm() -> None:
    assert [ppm_of(one) for one in (None, 0.0, 0.25, 1.0)] == [None, 0, 250_000, WHOLE_PPM]
