"""The exact law of convictions, against all sequences of draws; and the plan against the law."""

from __future__ import annotations

import itertools

import pytest

from loyal.errors import UsageError
from loyal.protocol.parameters import Parameters
from loyal.roles import Cheating, PlanRequest
from loyal.roles.planning import MOST_DRAWS, convictions, looked_at_once, plan
from loyal.statistics import binomial_tail, first_decisions, sequential_hits

EASY = Parameters(false_conviction_one_in=20, least_provers=2)


def by_hand(cheating: Cheating, draws: int) -> list[float]:
    """Every sequence of misses and of hits by each prover."""
    convicted = [0.0] * (draws + 1)
    p, provers = cheating.hit_chance, cheating.provers
    parameters = cheating.parameters
    for sequence in itertools.product(range(-1, provers), repeat=draws):
        hits, who, chance, at = 0, set(), 1.0, None
        for count, prover in enumerate(sequence, start=1):
            chance *= 1 - p if prover < 0 else p / provers
            if prover < 0:
                continue
            hits += 1
            who.add(prover)
            needed = sequential_hits(count, cheating.candidates, parameters.false_conviction_one_in)
            enough = needed is not None and hits >= needed and len(who) >= parameters.least_provers
            if at is None and enough:
                at = count
        for count in range(at or draws + 1, draws + 1):
            convicted[count] += chance
    return convicted


@pytest.mark.parametrize("provers", [1, 2, 3])
@pytest.mark.parametrize(("skip_share", "survival"), [(1.0, 1.0), (0.7, 0.8), (0.3, 0.5)])
def test_the_law_is_what_all_sequences_say(
    provers: int, skip_share: float, survival: float
) -> None:
    cheating = Cheating(skip_share, survival, 4, provers, EASY)
    assert list(convictions(cheating, 6)) == pytest.approx(by_hand(cheating, 6), abs=1e-12)


def test_three_of_three_provers() -> None:
    three = Parameters(false_conviction_one_in=5, least_provers=3)
    cheating = Cheating(0.9, 0.9, 3, 3, three)
    assert list(convictions(cheating, 7)) == pytest.approx(by_hand(cheating, 7), abs=1e-12)


def test_one_prover_enough_is_the_plain_first_passage() -> None:
    one = Parameters(least_provers=1)
    cheating = Cheating(0.8, 0.7, parameters=one)
    expected = first_decisions(cheating.thresholds(80), cheating.hit_chance)
    assert list(convictions(cheating, 80)) == pytest.approx(expected, abs=1e-12)


def test_looking_after_every_draw_convicts_sooner_than_once() -> None:
    many = Cheating(0.8, 0.6, provers=1_000)
    first, once = convictions(many, 60), looked_at_once(many, 60)
    assert once[20] == pytest.approx(binomial_tail(13, 20, 0.48))
    assert all(a >= b - 1e-5 for a, b in zip(first, once, strict=True))
    assert first[30] > once[30] + 0.05
    assert looked_at_once(many, 8)[8] == 0.0


@pytest.mark.parametrize(("skip_share", "survival"), [(0.5, 0.9), (0.9, 0.9), (1.0, 1.0)])
def test_a_plan_is_the_fewest_keys_that_catch(skip_share: float, survival: float) -> None:
    cheating = Cheating(skip_share, survival)
    found = plan(PlanRequest(cheating, inferences=100_000))
    assert found.keys is not None
    law = convictions(cheating, found.keys)
    assert law[-1] >= 0.95 > law[-2]
    assert found.caught == pytest.approx(law[-1])
    assert found.fits
    assert found.every_inferences == 100_000 // found.keys
    assert found.every_seconds is None
    long = convictions(cheating, 2_000)
    assert found.expected_draws == pytest.approx(sum(1 - one for one in long), rel=1e-6)


def test_a_period_has_room_for_a_key_a_day() -> None:
    short = plan(PlanRequest(Cheating(0.5, 0.9), days=30))
    assert (short.fits, short.most_keys) == (False, 29)
    assert short.caught == pytest.approx(convictions(Cheating(0.5, 0.9), 29)[-1])
    long = plan(PlanRequest(Cheating(0.5, 0.9), days=200, inferences=1_000))
    assert long.fits
    assert long.every_seconds is not None
    assert long.every_seconds > long.slowest_seconds
    few = plan(PlanRequest(Cheating(0.5, 0.9), inferences=20))
    assert (few.fits, few.most_keys, few.every_inferences) == (False, 20, 1)


def test_a_model_like_any_other_is_not_planned_for() -> None:
    found = plan(PlanRequest(Cheating(1.0, 1 / 16), inferences=1_000_000))
    assert (found.keys, found.fits, found.expected_draws) == (None, False, None)
    assert found.most_keys == MOST_DRAWS
    assert found.caught <= 1e-9
    assert plan(PlanRequest(Cheating(0.0, 1.0), days=1)).most_keys == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: Cheating(1.5, 1.0),
        lambda: Cheating(1.0, -0.5),
        lambda: Cheating(1.0, 1.0, provers=0),
        lambda: Cheating(1.0, 1.0, candidates=1),
        lambda: PlanRequest(Cheating(1.0, 1.0)),
        lambda: PlanRequest(Cheating(1.0, 1.0), inferences=0),
        lambda: PlanRequest(Cheating(1.0, 1.0), days=3, caught=1.0),
    ],
)
def test_what_cannot_be_is_refused(call: object) -> None:
    with pytest.raises(UsageError):
        call()  # type: ignore[operator]
