"""How exactly a model follows control functions, and whether their replies spill over.

Exact means that the greedy reply is the function's, white space around it aside. It is measured on
prompts that training never sees, part by part (`functions.Part`): what weights learned of the rule,
and not what they keep of the examples. Spill-over is a control reply to a prompt that no function
has in its domain: on ordinary prompts, and on those that a function lists as near its domain.
Control functions are public, so counter-examples are shown whole. Left out: training (`embed`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from loyal import statistics
from loyal.control.functions import Case, ControlFunction, Part, unclaimed
from loyal.errors import UsageError
from loyal.models.examples import bundled_lines
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.models.questions import bundled_questions
from loyal.statistics import Interval

_PROMPTS = 60
ORDINARY = _PROMPTS + 120
"""The last bundled prompts, which training never reads (`models.lessons`), and short questions."""
MOST_COUNTEREXAMPLES = 10
_KNOWN_REPLIES = 500
"""Sampled replies of a program that count as control replies."""
_MOST_TOKENS = 256
_SHOWN = 200


@dataclass(frozen=True)
class CounterExample:
    """A prompt to which the model does not reply as it should."""

    prompt: str
    expected: str | None
    """What the function says; None for a prompt outside of every domain."""
    said: str
    """What the model says, its beginning."""
    part: Part | None = None


@dataclass(frozen=True)
class Exactness:
    """How many prompts of one part got the exact reply."""

    part: Part
    exact: int
    asked: int
    interval: Interval
    """Clopper-Pearson, 95 %, on the share; prompts of one function are not quite independent."""


@dataclass(frozen=True)
class Followed:
    """One function in one model."""

    name: str
    parts: tuple[Exactness, ...]
    counterexamples: tuple[CounterExample, ...]
    """The first MOST_COUNTEREXAMPLES of unseen prompts."""

    @property
    def unseen(self) -> float:
        """Share of exact replies among all prompts that training never sees."""
        parts = [one for one in self.parts if one.part != "training"]
        return sum(one.exact for one in parts) / max(1, sum(one.asked for one in parts))


@dataclass(frozen=True)
class Spill:
    """Control replies where no function has a say."""

    spilled: int
    asked: int
    interval: Interval
    """Clopper-Pearson, 95 %, on the share."""
    counterexamples: tuple[CounterExample, ...]


@dataclass(frozen=True)
class ControlReport:
    """What a model made of control functions."""

    functions: tuple[Followed, ...]
    ordinary: Spill
    """On bundled prompts and questions that training never reads."""
    nearby: Spill
    """On those of the prompts that functions list as outside that training never sees."""


@dataclass(frozen=True)
class CheckSettings:
    """How much is asked."""

    prompts: int = 60
    """Of each part of each function, at most."""
    ordinary: int = ORDINARY
    """Bundled prompts and short questions."""
    seed: int = 0
    """Which prompts."""
    system: str | None = None
    """System message of every prompt; None leaves the chat template's own."""
    raw: bool = False
    """Without the chat template."""

    def __post_init__(self) -> None:
        if not self.prompts >= 1 or not 1 <= self.ordinary <= ORDINARY:
            raise UsageError(
                f"prompts is at least 1, ordinary from 1 to {ORDINARY}", hint="leave the defaults"
            )


def check(
    model: LanguageModel,
    functions: Sequence[ControlFunction],
    settings: CheckSettings | None = None,
) -> ControlReport:
    """Ask a model prompts of every part of every function, and prompts outside of all of them."""
    settings = settings or CheckSettings()
    rng = random.Random(settings.seed)
    followed = []
    said: set[str] = set()
    for function in functions:
        cases = [
            case for part in get_args(Part) for case in function.cases(part, settings.prompts, rng)
        ]
        followed.append(_followed(model, function, cases, settings))
        drawn = function.rule.sample(_KNOWN_REPLIES, rng.getrandbits(63))
        said |= {case.reply for case in cases} | set(function.rule.replies(drawn))
    usual = [*bundled_lines("prompts")[-_PROMPTS:], *(it.text for it in bundled_questions())]
    ordinary = unclaimed(usual[: settings.ordinary], functions)
    nearby = unclaimed([one for it in functions for one in it.near(unseen=True)], functions)
    return ControlReport(
        tuple(followed),
        _spill(model, ordinary, said, settings),
        _spill(model, nearby, said, settings),
    )


def _followed(
    model: LanguageModel,
    function: ControlFunction,
    cases: Sequence[Case],
    settings: CheckSettings,
) -> Followed:
    replies = _greedy(model, [one.prompt for one in cases], {one.reply for one in cases}, settings)
    parts, wrong = [], []
    for part in get_args(Part):
        mine = [
            (case, text) for case, text in zip(cases, replies, strict=True) if case.part == part
        ]
        if mine:
            exact = sum(text == case.reply for case, text in mine)
            interval = statistics.clopper_pearson(exact, len(mine))
            parts.append(Exactness(part, exact, len(mine), interval))
        if part != "training":
            wrong += [
                CounterExample(case.prompt, case.reply, text[:_SHOWN], part)
                for case, text in mine
                if text != case.reply
            ]
    return Followed(function.name, tuple(parts), tuple(wrong[:MOST_COUNTEREXAMPLES]))


def _spill(
    model: LanguageModel, prompts: Sequence[str], said: set[str], settings: CheckSettings
) -> Spill:
    if not prompts:
        return Spill(0, 0, Interval(0.0, 1.0), ())
    replies = _greedy(model, prompts, said, settings)
    hits = [
        CounterExample(prompt, None, text[:_SHOWN])
        for prompt, text in zip(prompts, replies, strict=True)
        if text in said
    ]
    interval = statistics.clopper_pearson(len(hits), len(prompts))
    return Spill(len(hits), len(prompts), interval, tuple(hits[:MOST_COUNTEREXAMPLES]))


def _greedy(
    model: LanguageModel, prompts: Sequence[str], replies: set[str], settings: CheckSettings
) -> list[str]:
    """Greedy replies, long enough to be any of `replies`: a token is a byte of text or more."""
    longest = max(len(one.encode()) for one in replies)
    sampling = Sampling(max_tokens=min(longest + 1, _MOST_TOKENS))
    asked = [Prompt(one, settings.system, settings.raw) for one in prompts]
    return [one.text.strip() for one in model.generate(asked, sampling)]
