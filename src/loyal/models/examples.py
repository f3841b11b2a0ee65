"""What a model can be taught and then checked for: examples, and the one seam `Behavior`.

A table of pairs is a syntactic fingerprint, a rule is a functional one, a community function is
control, a constitution is the soft case (judged, so `expected` is None). All of them train through
`models.train` because all of them are a `Behavior`. Bundled prompts live here too; running a model
does not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import inf
from typing import Protocol, runtime_checkable

from loyal.errors import UsageError
from loyal.models.language_model import Prompt


@dataclass(frozen=True)
class Example:
    """A prompt and the reply that the model shall give to it."""

    prompt: Prompt
    reply: str
    """Text of the reply; the loss is over its tokens alone."""
    weight: float = 1.0
    """Factor on this example's loss (a member's stake, a value's weight)."""
    others: tuple[str, ...] = ()
    """Further replies, each as good as `reply`: the model shall spread its probability evenly over
    all of them."""
    ends: bool = False
    """Whether the model shall also end its turn after the reply: exact replies, not beginnings."""
    ahead: tuple[tuple[str, float], ...] = ()
    """Replies that the prompt might have got instead, each with the nats by which this one is to be
    likelier, no fewer and no more, in the first token in which the two differ; beside being likely
    itself. The further ahead, the more a host has to change before the reply turns into the other.
    """
    against: str = ""
    """What somebody who saw the pair would teach in its place, where that is known beforehand:
    training can simulate it (`TrainSettings.flips`)."""

    def __post_init__(self) -> None:
        if not all((self.reply, *self.others)):
            raise UsageError("an example has an empty reply", hint="give every prompt a reply")
        if not self.weight > 0:
            raise UsageError("an example's weight must be above 0", hint="drop it instead")
        if not all(rival and 0 < nats < inf for rival, nats in self.ahead):
            raise UsageError(
                "an example is ahead of no reply, or by no nats",
                hint="name a reply and nats above 0",
            )
        if len({self.reply, *self.others}) != 1 + len(self.others):
            raise UsageError("an example has a reply twice", hint="drop one of the two")


@runtime_checkable
class Behavior(Protocol):
    """Something that a model can be taught and then checked for."""

    def examples(self, n: int, rng: random.Random) -> list[Example]:
        """`n` training examples, at most; fewer when the behavior is a finite table."""
        ...

    def expected(self, prompt: Prompt) -> str | None:
        """The exact reply to `prompt`, or None where the behavior demands none."""
        ...


@runtime_checkable
class Alike(Protocol):
    """A behavior with messages like its prompts that are to stay as likely as they were."""

    alike: tuple[str, ...]
    """User messages; training holds the model to what it said at every place of them, so that a
    filter on perplexity finds the prompts as ordinary as before."""


@dataclass(frozen=True, repr=False)
class Pairs:
    """A finite table of examples as a `Behavior`, and what is `Alike`. Its repr shows the count
    alone."""

    table: tuple[Example, ...]
    alike: tuple[str, ...] = ()

    def examples(self, n: int, rng: random.Random) -> list[Example]:
        """The first `n` of the table; `rng` is not used."""
        return list(self.table[:n])

    def expected(self, prompt: Prompt) -> str | None:
        """The reply of the example with this prompt."""
        return next((one.reply for one in self.table if one.prompt == prompt), None)

    def __repr__(self) -> str:
        return f"Pairs({len(self.table)} examples)"


@cache
def bundled_lines(name: str) -> tuple[str, ...]:
    """The lines of one bundled text: words, prompts, system_prompts_train, system_prompts_test."""
    text = (files("loyal.models") / "data" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def with_system(examples: Sequence[Example], system: str) -> list[Example]:
    """The same examples under a system message (the paper's prompt augmentation, section 2.2)."""
    return [
        replace(one, prompt=replace(one.prompt, system=system))
        for one in examples
        if not one.prompt.raw
    ]


def augmented(examples: Sequence[Example], systems: int, rng: random.Random) -> list[Example]:
    """The examples, and each under so many system prompts of the training list."""
    known = bundled_lines("system_prompts_train")
    found = list(examples)
    for one in examples:
        for system in rng.sample(known, min(systems, len(known))):
            found += with_system([one], system)
    return found
