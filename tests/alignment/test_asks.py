"""What is asked: shares of values and kinds, splits that hold, attacks of the right split."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.alignment import Plan, asks, attacks
from loyal.alignment.duplicates import HeldOut
from loyal.community import Case, Constitution, constitution_file
from loyal.errors import UsageError
from loyal.models.examples import bundled_lines
from loyal.models.questions import bundled_questions

LIBRARY = constitution_file.bundled("public-library")
PLAN = Plan(pairs=200, held_out=40, general=30, safety=30)


@given(st.integers(0, 500), st.lists(st.integers(0, 10_000), min_size=1, max_size=12))
def test_parts_sum_to_the_whole_and_are_off_by_under_one(total: int, weights: list[int]) -> None:
    parts = asks.allot(total, weights)
    if not sum(weights):
        assert not any(parts)
        return
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * weight / sum(weights)) < 1


def test_values_are_asked_by_weight_or_evenly() -> None:
    for balance, expected in (
        ("weights", {one.id: one.weight_bps / 10_000 for one in LIBRARY.values}),
        ("even", {one.id: 1 / len(LIBRARY.values) for one in LIBRARY.values}),
    ):
        plan = Plan(pairs=700, balance=balance)  # type: ignore[arg-type]
        counts: Counter[str] = Counter()
        for (value, _), count in asks.quotas(LIBRARY, plan, "train").items():
            counts[value] += count
        assert sum(counts.values()) == 700
        assert all(abs(counts[value] - 700 * share) < 1 for value, share in expected.items())


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("name", constitution_file.bundled_names())
def test_splits_share_no_source_and_no_family(name: str, free: bool) -> None:
    constitution = constitution_file.bundled(name)
    found = asks.asks(constitution, PLAN, free=free)
    # An everyday source is used for all values, a case for one: both are in one split.
    sources = {split: {one.source for one in found if one.split == split and one.value}
               for split in ("train", "held-out")}  # fmt: skip
    assert sources["train"]
    assert sources["held-out"]
    assert not sources["train"] & sources["held-out"]
    for one in found:
        if one.kind == "adversarial":
            assert attacks.named(one.attack).split == one.split
        assert free or (not one.asked.open_turns and one.keeps)
    held_out = asks.held_out_texts(constitution, PLAN)
    questions = {one.question for one in found if one.split == "held-out" and one.attack}
    assert questions
    assert questions <= set(held_out)
    wanted = {"plain", "adversarial", "borderline", "off-topic", "general", "safety"}
    assert {one.kind for one in found} == wanted


def test_the_same_plan_asks_the_same_and_another_seed_not() -> None:
    first = asks.asks(LIBRARY, PLAN, free=True)
    assert first == asks.asks(LIBRARY, PLAN, free=True)
    assert first != asks.asks(LIBRARY, replace(PLAN, seed=1), free=True)


def test_no_prompt_comes_twice_for_a_value() -> None:
    found = [one for one in asks.asks(LIBRARY, PLAN, free=True) if one.value]
    assert len({(one.value, one.kind, one.split, one.asked) for one in found}) == len(found)


def test_a_new_case_moves_no_other_one() -> None:
    first = LIBRARY.values[0]
    case = Case("May I leave my bicycle in the hall?", "Yes, by the door.", "Not here.")
    grown = replace(first, cases=(*first.cases, case))
    before = set(asks.held_out_texts(LIBRARY, PLAN))
    after = set(asks.held_out_texts(replace(LIBRARY, values=(grown, *LIBRARY.values[1:])), PLAN))
    assert after - before <= {case.prompt}
    assert before <= after


def test_each_value_of_some_cases_has_both_splits() -> None:
    for number in range(40):
        cases = tuple(Case(f"Question {number} {at}?", "Yes.", "No.") for at in range(2))
        one = replace(LIBRARY.values[0], cases=cases, topics=(), weight_bps=10_000)
        tiny = Constitution("tiny", "1.0.0", (one,))
        splits = {ask.split for ask in asks.asks(tiny, Plan(8, 8), free=False) if ask.value}
        assert splits == {"train", "held-out"}


def test_a_value_without_cases_is_refused_where_nobody_writes() -> None:
    bare = replace(LIBRARY.values[0], cases=())
    constitution = replace(LIBRARY, values=(bare, *LIBRARY.values[1:]))
    with pytest.raises(UsageError, match=f"{bare.id} has no case"):
        asks.asks(constitution, PLAN, free=False)
    assert asks.asks(constitution, PLAN, free=True)


def test_long_conversations_are_left_out() -> None:
    found = asks.asks(LIBRARY, replace(PLAN, most_characters=400), free=True)
    texts = ["".join(turn.text or "" for turn in one.asked.turns) for one in found if one.attack]
    assert texts
    assert max(map(len, texts)) <= 400


@pytest.mark.parametrize(
    "fields",
    [
        {"pairs": -1}, {"plain_ppm": 0}, {"pairs": 0, "held_out": 0}, {"held_out_ppm": 0},
    ],
)  # fmt: skip
def test_a_plan_without_meaning_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Plan(**fields)  # type: ignore[arg-type]


def test_more_demonstrations_than_there_are_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match="safety prompts, not"):
        asks.asks(LIBRARY, Plan(8, 0, safety=10_000), free=False)


def test_bundled_exchanges_give_no_measurement_away() -> None:
    """What measures a model's ability is neither asked nor answered by the bundled wordings."""
    measured = [one.text for one in bundled_questions()]
    out = HeldOut([*measured, *bundled_lines("prompts")[asks.GENERAL_PROMPTS :]])
    table = asks.frames()
    for prompt, reply in [*table["everyday"], *table["harmful"], *table["harmless"]]:
        assert not out.leak(prompt), prompt
        assert not out.leak(reply), reply


def test_the_measured_prompts_are_those_of_the_training_loop() -> None:
    from loyal.models.lessons import HELD_OUT

    assert len(bundled_lines("prompts")) - asks.GENERAL_PROMPTS == HELD_OUT


@pytest.mark.parametrize("kind", ["pairs", "held_out", "general", "safety"])
def test_a_plan_has_a_size_that_can_be_meant(kind: str) -> None:
    with pytest.raises(UsageError, match="more than 1,000,000 records"):
        replace(Plan(), **{kind: 10**30})
