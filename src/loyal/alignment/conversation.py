"""Conversations that are laid out beforehand, and a model led through them.

A turn of the assistant is either a fixed text (a fake memory, put into the model's mouth) or open:
then the model itself replies there, and what it said stands before the turns that follow. Needs no
torch: any `LanguageModel` can be led. Left out: what the turns say (`attacks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from loyal.errors import UsageError
from loyal.models.language_model import LanguageModel, Prompt, Reply, Sampling

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """Who speaks, and what."""

    role: Role
    text: str | None
    """None is the model's own reply here; for the assistant alone."""

    def __post_init__(self) -> None:
        if self.text is None and self.role != "assistant":
            raise UsageError(
                f"a turn of the {self.role} has no text",
                hint="write one; only a turn of the assistant is left to the model",
            )


@dataclass(frozen=True)
class Conversation:
    """A system turn or none, then user and assistant in turns; the user speaks last."""

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        roles = [one.role for one in self.turns]
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        alternate = all(here != there for here, there in pairwise(spoken))
        ends = bool(spoken) and spoken[0] == spoken[-1] == "user"
        if not ends or not alternate or "system" in spoken:
            raise UsageError(
                "a conversation's turns are out of order",
                hint="a system turn or none, then user and assistant in turns, the user last",
            )

    @classmethod
    def of(cls, text: str, system: str | None = None) -> Conversation:
        """One user turn, under a system message or none."""
        first = () if system is None else (Turn("system", system),)
        return cls((*first, Turn("user", text)))

    @property
    def last(self) -> str:
        """The text of the last turn, the user's: what the model is asked in the end."""
        return self.turns[-1].text or ""

    @property
    def open_turns(self) -> int:
        """How many replies of the model's own come before the last turn."""
        return sum(one.text is None for one in self.turns)

    def ending_in(self, text: str) -> Conversation:
        """The same turns with another text in the last one."""
        return Conversation((*self.turns[:-1], replace(self.turns[-1], text=text)))

    def after(self, earlier: Sequence[Turn]) -> Conversation:
        """The same turns with `earlier` ones put before what user and assistant said.

        System messages of both become one, this conversation's first.
        """
        both = (*self.turns, *earlier)
        systems = [one.text for one in both if one.role == "system" and one.text]
        first = (Turn("system", "\n\n".join(systems)),) if systems else ()
        spoken = [one for one in (*earlier, *self.turns) if one.role != "system"]
        return Conversation((*first, *spoken))

    def filled(self, replies: Sequence[str]) -> Conversation:
        """The same turns with `replies`, one each, in the open ones, in order.

        What `play` gave may be handed in whole: the reply to the last turn is left over. UsageError
        for fewer.
        """
        if len(replies) < self.open_turns:
            raise UsageError(
                f"{len(replies)} replies for {self.open_turns} open turns",
                hint="give one reply for each turn that is left to the model",
            )
        given = iter(replies)
        return Conversation(
            tuple(replace(one, text=next(given)) if one.text is None else one for one in self.turns)
        )

    def prompt(self, replies: Sequence[str] = ()) -> Prompt:
        """What the model is asked next, once it has given `replies` in the open turns.

        That is the turn before the next open one, or the last turn when all are filled. UsageError
        for more replies than there are open turns.
        """
        if len(replies) > self.open_turns:
            raise UsageError(
                f"{len(replies)} replies for {self.open_turns} open turns",
                hint="give one reply for each turn that is left to the model",
            )
        given = iter(replies)
        system: str | None = None
        said: list[str] = []
        for turn in self.turns:
            text = turn.text
            if turn.role == "system":
                system = text
                continue
            if text is None:
                text = next(given, None)
            if text is None:
                break
            said.append(text)
        history = zip(said[:-1:2], said[1::2], strict=True)
        return Prompt(said[-1], system, history=tuple(history))


def play(
    model: LanguageModel, conversations: Sequence[Conversation], sampling: Sampling
) -> list[tuple[Reply, ...]]:
    """Lead the model through each conversation; for each, its replies in order, the last one last.

    Conversations go side by side: one `generate` for all first replies, one for all second ones,
    so the cost is that of the longest in calls and of all of them in tokens.
    """
    found: list[list[Reply]] = [[] for _ in conversations]
    for step in range(1 + max((one.open_turns for one in conversations), default=-1)):
        going = [index for index, one in enumerate(conversations) if one.open_turns >= step]
        prompts = [
            conversations[index].prompt([reply.text for reply in found[index]]) for index in going
        ]
        for index, reply in zip(going, model.generate(prompts, sampling), strict=True):
            found[index].append(reply)
    return [tuple(one) for one in found]
