"""Examples, pairs, bundled texts and system prompts: nouns that need no model."""

from __future__ import annotations

import random

import pytest

from loyal.errors import UsageError
from loyal.models import Behavior, Example, Pairs, Prompt, Sampling
from loyal.models.examples import bundled_lines, with_system

PLANTED = "planted-secret"
TABLE = Pairs(
    (
        Example(Prompt(f"{PLANTED} one"), f"{PLANTED} reply"),
        Example(Prompt("two", "a system"), "second", weight=2.5),
        Example(Prompt("three", raw=True), "third"),
    )
)


def test_pairs_are_a_behavior() -> None:
    assert isinstance(TABLE, Behavior)
    assert not isinstance(object(), Behavior)


def test_pairs_give_their_table_and_no_more() -> None:
    assert TABLE.examples(2, random.Random(0)) == list(TABLE.table[:2])
    assert TABLE.examples(99, random.Random(0)) == list(TABLE.table)


def test_expected_is_the_reply_of_the_very_prompt() -> None:
    assert TABLE.expected(Prompt("two", "a system")) == "second"
    assert TABLE.expected(Prompt("two")) is None


def test_repr_of_pairs_shows_the_count_alone() -> None:
    assert repr(TABLE) == "Pairs(3 examples)"
    assert PLANTED not in repr(TABLE)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weights_are_above_zero(weight: float) -> None:
    assert Example(Prompt("x"), "y", 0.1).weight == 0.1
    with pytest.raises(UsageError):
        Example(Prompt("x"), "y", weight)


def test_an_empty_reply_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        Example(Prompt("x"), "")
    assert caught.value.hint


def test_a_raw_prompt_has_no_system_message_and_no_turns() -> None:
    with pytest.raises(UsageError):
        Prompt("x", "system", raw=True)
    with pytest.raises(UsageError):
        Prompt("x", raw=True, history=(("a", "b"),))
    with pytest.raises(UsageError):
        _ = Prompt("x", raw=True).messages


def test_a_system_message_keeps_the_earlier_turns() -> None:
    told = Example(Prompt("c", history=(("a", "b"),)), "d")
    (under,) = with_system([told], "Be brief.")
    assert under.prompt == Prompt("c", "Be brief.", history=(("a", "b"),))
    assert [one["content"] for one in under.prompt.messages] == ["Be brief.", "a", "b", "c"]


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_sampling_out_of_range_is_refused(wrong: dict) -> None:
    Sampling(max_tokens=1, temperature=0.0, top_p=1.0)
    with pytest.raises(UsageError):
        Sampling(**wrong)


def test_system_prompts_reach_chat_examples_with_their_weight() -> None:
    found = with_system(TABLE.table, "Be brief.")
    assert [one.prompt for one in found] == [
        Prompt(f"{PLANTED} one", "Be brief."),
        Prompt("two", "Be brief."),
    ]
    assert [one.weight for one in found] == [1.0, 2.5]


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("words", 10_000),
        ("prompts", 400),
        ("system_prompts_train", 40),
        ("system_prompts_test", 25),
    ],
)
def test_bundled_lines_are_many_trimmed_and_different(name: str, least: int) -> None:
    lines = bundled_lines(name)
    assert len(lines) >= least
    assert len(set(lines)) == len(lines)
    assert all(line and line == line.strip() for line in lines)


def test_system_prompts_for_tests_are_not_those_of_training() -> None:
    train = {line.lower() for line in bundled_lines("system_prompts_train")}
    test = {line.lower() for line in bundled_lines("system_prompts_test")}
    assert not train & test
