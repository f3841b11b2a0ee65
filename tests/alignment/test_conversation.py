"""Conversations keep their order, and a model is led through them by its own replies."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loyal.alignment import Conversation, Turn
from loyal.alignment.conversation import play
from loyal.errors import UsageError
from loyal.models import Prompt, Reply, Sampling, TokenChance


class Echo:
    """A language model that says how often it was spoken to, and the last words."""

    name = "echo"

    def __init__(self) -> None:
        self.calls: list[list[Prompt]] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One line a prompt."""
        self.calls.append(list(prompts))
        return [Reply(f"{len(one.history)}:{one.text}", 1, True) for one in prompts]

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """Nothing."""
        return [[] for _ in prompts]

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Nothing."""
        return [[] for _ in prompts]


def turns(*said: str) -> Conversation:
    """Turns from "u:text", "a:text", "s:text"; "a:" alone is open."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return Conversation(
        tuple(Turn(roles[one[0]], one[2:] or None) for one in said)  # type: ignore[arg-type]
    )


OPEN = turns("s:be brief", "u:one", "a:", "u:two", "a:said", "u:three", "a:", "u:four")


def test_the_next_prompt_stops_before_an_open_turn() -> None:
    assert OPEN.open_turns == 2
    assert OPEN.prompt() == Prompt("one", "be brief")
    assert OPEN.prompt(["A"]) == Prompt(
        "three", "be brief", history=(("one", "A"), ("two", "said"))
    )
    assert OPEN.prompt(["A", ""]) == Prompt(
        "four", "be brief", history=(("one", "A"), ("two", "said"), ("three", ""))
    )
    with pytest.raises(UsageError):
        OPEN.prompt(["A", "B", "C"])


def test_a_single_turn_is_a_plain_prompt() -> None:
    assert Conversation.of("hello").prompt() == Prompt("hello")
    assert Conversation.of("hello", "be brief").prompt() == Prompt("hello", "be brief")


def test_a_model_is_led_by_its_own_replies_side_by_side() -> None:
    model = Echo()
    found = play(model, [Conversation.of("x"), OPEN, Conversation.of("y", "s")], Sampling())
    assert [[one.text for one in some] for some in found] == [
        ["0:x"],
        ["0:one", "2:three", "3:four"],
        ["0:y"],
    ]
    assert [len(call) for call in model.calls] == [3, 1, 1]
    assert model.calls[-1][0] == OPEN.prompt(["0:one", "2:three"])
    assert play(model, [], Sampling()) == []


def test_turns_are_put_before_and_inside() -> None:
    made = turns("s:be brief", "u:last").after([Turn("user", "a"), Turn("assistant", None)])
    assert made == turns("s:be brief", "u:a", "a:", "u:last")
    assert made.ending_in("new").last == "new"
    assert made.ending_in("new").turns[:-1] == made.turns[:-1]
    under = made.after([Turn("system", "be bold"), Turn("user", "b"), Turn("assistant", "c")])
    assert under == turns("s:be brief\n\nbe bold", "u:b", "a:c", "u:a", "a:", "u:last")
    assert turns("u:last").after([Turn("system", "be bold")]) == turns("s:be bold", "u:last")


@pytest.mark.parametrize(
    "said",
    [
        (),
        ("s:x",),
        ("a:x", "u:y"),
        ("u:x", "u:y"),
        ("u:x", "a:y"),
        ("u:x", "s:y", "u:z"),
        ("s:x", "s:y", "u:z"),
        ("u:x", "a:y", "a:y", "u:z"),
    ],
)
def test_turns_out_of_order_are_refused(said: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        turns(*said)
    assert caught.value.hint


@pytest.mark.parametrize("role", ["s:", "u:"])
def test_only_the_assistant_is_left_open(role: str) -> None:
    with pytest.raises(UsageError):
        turns(role, "u:x")
