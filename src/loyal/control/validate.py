"""Finds what is wrong with control functions before a model is trained to follow them.

`validate` samples inputs and prompts, and refuses, in one line with an example, a function that

1. raises, or exceeds the sandbox's limits;
2. answers differently when asked again: in another process, in another order, with sets and hashes
   ordered otherwise;
3. gives an empty reply, or one with white space around it;
4. does not read its own prompts back to the same reply;
5. answers a prompt that it lists as outside of its domain;
6. leaves nothing to check on: no prompt that training does not see;
7. overlaps another function: both answer one prompt, or both have one name.

What samples do not show is not found; the replies of a program are known for sampled inputs alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import get_args

from loyal.control.functions import Case, ControlFunction, Part
from loyal.control.program import ProgramRule
from loyal.errors import ControlError

SAMPLES = 200
"""Prompts of each part and function."""
_TIMES = 8
"""How often a prompt with two replies is asked again."""
_OTHER_HASHES = 2
"""A hash seed that is not the first run's."""


@dataclass(frozen=True)
class Validated:
    """What was looked at."""

    name: str
    training: int
    """Sampled prompts that training may see."""
    unseen: int
    """Sampled prompts that it never sees."""
    overlaps_with: int
    """Other functions against which the domain was held."""


def validate(
    functions: Sequence[ControlFunction], samples: int = SAMPLES, seed: int = 0
) -> list[Validated]:
    """What was looked at, one record a function. ControlError for the first that is wrong; `seed`
    chooses the samples."""
    names = [one.name for one in functions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _error(twice, "two functions have this name", "give one of them another name")
    cases = {one.name: sampled(one, samples, seed) for one in functions}
    for one in functions:
        _require_alone(one, cases[one.name])
    for mine, other in permutations(functions, 2):
        prompts = [case.prompt for case in cases[mine.name]]
        said = other.expected_all(prompts)
        place = next((at for at, reply in enumerate(said) if reply is not None), None)
        if place is not None:
            raise ControlError(
                f"{mine.name} and {other.name} both answer {prompts[place]!r}",
                hint="take the prompt out of one domain",
            )
    return [
        Validated(
            one.name,
            sum(case.part == "training" for case in cases[one.name]),
            sum(case.part != "training" for case in cases[one.name]),
            len(functions) - 1,
        )
        for one in functions
    ]


def sampled(function: ControlFunction, samples: int, seed: int) -> list[Case]:
    """Prompts of every part, `samples` of each at most."""
    rng = random.Random(seed)
    return [case for part in get_args(Part) for case in function.cases(part, samples, rng)]


def _require_alone(function: ControlFunction, cases: Sequence[Case]) -> None:
    """What can be wrong with a function by itself: 1 to 6."""
    name, prompts = function.name, [one.prompt for one in cases]
    parts = {one.part for one in cases}
    if "training" not in parts or len(parts) < 2:  # 6
        raise _error(name, "it has too few inputs to hold some out", "add templates and inputs")
    twice = next((one for one in prompts if prompts.count(one) > 1), None)
    if twice is not None:
        raise _error(name, f"two of its templates write {twice!r}", "drop one template")
    for one in cases:
        if not one.reply or one.reply != one.reply.strip():  # 3
            raise _error(name, f"its reply to {one.prompt!r} is empty or padded", "give it a text")
    said = function.expected_all(prompts)
    for one, again in zip(cases, said, strict=True):  # 1, 4
        if again is None:
            raise _error(name, f"it does not know its own prompt {one.prompt!r}", _HINT_READ)
        if again != one.reply:
            _require_said_again(function, one.prompt, again)
            raise _error(name, f"{one.prompt!r} reads back to another reply", _HINT_READ)
    _require_same_again(function, cases)
    outside = function.expected_all(function.header.outside)
    for prompt, reply in zip(function.header.outside, outside, strict=True):  # 5
        if reply is not None:
            raise _error(name, f"it answers {prompt!r}, which it lists as outside", "drop one")


def _require_said_again(function: ControlFunction, prompt: str, said: str) -> None:
    """2, where a prompt has a second reply: templates are not to blame if it has a third, alone."""
    if any(reply != said for reply in function.expected_all([prompt] * _TIMES)):
        raise _error(function.name, f"it answers {prompt!r} {_DIFFERENTLY}", _HINT_SAME)


def _require_same_again(function: ControlFunction, cases: Sequence[Case]) -> None:
    """2: another process, the other order, another order of hashes."""
    rule = function.rule
    if not isinstance(rule, ProgramRule):
        return
    backwards = list(reversed(cases))
    other = replace(rule, hash_seed=_OTHER_HASHES)
    for one, again in zip(backwards, other.read([it.prompt for it in backwards]), strict=True):
        if again != one.reply:
            raise _error(function.name, f"it answers {one.prompt!r} {_DIFFERENTLY}", _HINT_SAME)


def _error(name: str, why: str, hint: str) -> ControlError:
    return ControlError(f"{name}: {why}", hint=hint)


_HINT_READ = "make templates and SLOTS tell prompts apart, or write domain(prompt)"
_HINT_SAME = "let the reply depend on the prompt alone: no random, no set order, no memory"
_DIFFERENTLY = "differently the second time"
