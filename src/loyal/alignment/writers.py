"""Who writes the replies that preferences are chosen from, with a model or without.

`Cases` replies with what the constitution's authors wrote, so data comes about offline; `Written`
lets any `LanguageModel` (in this process or behind a server) reply under a system message that
states the value, under one that states its contrary, and under none. The system message is no part
of the record: so a model learns to keep the value without being told (context distillation, Askell
et al., arXiv 2112.00861; contrasting prompts, Yang et al., arXiv 2307.12950). `CaseJudge` judges by
likeness to the authors' replies; a model judge sees more. Left out: choosing (`synthesize`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from loyal.alignment.asks import MOST_ROUNDS, Ask, frames
from loyal.alignment.conversation import Conversation, play
from loyal.alignment.judgement import Judgement, Said, text_digest
from loyal.alignment.preferences import is_plain
from loyal.community import Constitution, Value
from loyal.community.constitution import one_paragraph, words
from loyal.community.overlap import likeness, shingles
from loyal.errors import UsageError
from loyal.models.language_model import LanguageModel, Prompt, Sampling

_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s+")

LIKENESS = "cases of "
"""How the name of the judge begins that knows the authors' replies alone."""
LEAST_LIKE = 0.2
"""Below this likeness to every reply of the authors, `CaseJudge` abstains."""

SAMPLING = Sampling(max_tokens=160, temperature=0.8, top_p=0.95)
"""Replies of a few sentences, unlike enough that a judge has something to choose."""


@dataclass(frozen=True)
class Draft:
    """Replies to one ask, none chosen yet."""

    asked: Conversation
    """The ask's, its open turns filled."""
    replies: tuple[str, ...]
    """Candidates, of any number: the one most sure to keep the value first, the one most sure to
    break it last. For an ask off topic two: the good one, the one that preaches."""


class Writer(Protocol):
    """Drafts replies."""

    @property
    def name(self) -> str:
        """For provenance: who writes."""
        ...

    @property
    def free(self) -> bool:
        """Whether it replies to any prompt, open turns too."""
        ...

    @property
    def settings(self) -> str:
        """What else decides its replies: a state of other settings is not resumed."""
        ...

    def write(self, asks: Sequence[Ask], seed: int) -> list[Draft]:
        """One draft an ask, in order. The same seed gives the same drafts where it can."""
        ...


@dataclass(frozen=True)
class Cases:
    """The authors' own replies: no model, no network, no chance."""

    name: str = "cases"
    free: bool = False
    settings: str = ""

    def write(self, asks: Sequence[Ask], seed: int) -> list[Draft]:
        """The replies that the asks carry; `seed` is not used."""
        return [Draft(one.asked, _known(one)) for one in asks]


@dataclass(frozen=True, repr=False)
class Written:
    """A model's replies, and the authors' beside them, where there are any."""

    model: LanguageModel
    constitution: Constitution
    candidates: int = 4
    """Replies of the model's own to a prompt on a value."""
    sampling: Sampling = SAMPLING
    free: bool = True

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise UsageError("fewer than two candidates", hint="a preference chooses among two")

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name

    @property
    def settings(self) -> str:
        """How replies are drawn, and how many."""
        return f"{self.candidates} {self.sampling}"

    def write(self, asks: Sequence[Ask], seed: int) -> list[Draft]:
        """Open turns first, then all candidates of all asks side by side."""
        sampling = replace(self.sampling, seed=seed)
        asked = self._filled([one.asked for one in asks], sampling)
        prompts: list[Prompt] = []
        places: list[range] = []
        for one, conversation in zip(asks, asked, strict=True):
            prompt = conversation.prompt()
            mine = [_under(prompt, system) for system in self._systems(one)]
            places.append(range(len(prompts), len(prompts) + len(mine)))
            prompts += mine
        replies = self._replies(prompts, seed)
        drafts = []
        for one, conversation, mine_at in zip(asks, asked, places, strict=True):
            own = [replies[at].strip() for at in mine_at]
            if one.kind in ("off-topic", "general"):
                drafts.append(Draft(conversation, tuple(own)))
                continue
            first, last = ((each,) if each else () for each in (one.keeps, one.breaks))
            drafts.append(Draft(conversation, (*first, *own, *last)))
        return drafts

    def _replies(self, prompts: Sequence[Prompt], seed: int) -> list[str]:
        """One reply a prompt. A prompt that comes again is asked in a call of its own, with another
        seed: a server gives the same reply to the same prompt and seed."""
        rounds: list[list[int]] = []
        times: Counter[Prompt] = Counter()
        for at, prompt in enumerate(prompts):
            if times[prompt] == len(rounds):
                rounds.append([])
            rounds[times[prompt]].append(at)
            times[prompt] += 1
        found: dict[int, str] = {}
        for number, mine in enumerate(rounds):
            sampling = replace(self.sampling, seed=seed * MOST_ROUNDS + number)
            said = self.model.generate([prompts[at] for at in mine], sampling)
            found |= {at: one.text for at, one in zip(mine, said, strict=True)}
        return [found[at] for at in range(len(prompts))]

    def _systems(self, ask: Ask) -> list[str | None]:
        """Under what each candidate is written; None is the model as it is."""
        if ask.kind in ("general", "safety"):
            return [] if ask.keeps else [None]
        told = frames()["system"]
        value = self.constitution[ask.value].statement
        keep, against, preach = (
            told[name].replace("{statement}", value) for name in ("keep", "break", "preach")
        )
        if ask.kind == "off-topic":
            return [None, preach]
        half = self.candidates // 2
        return [*[keep] * (self.candidates - half), None, *[against] * (half - 1)]

    def _filled(self, asked: Sequence[Conversation], sampling: Sampling) -> list[Conversation]:
        """The conversations with the model's own replies in their open turns."""
        leads = [_before_last(one) for one in asked if one.open_turns]
        said = iter(play(self.model, leads, sampling) if leads else [])
        return [
            filled(one, [reply.text for reply in next(said)]) if one.open_turns else one
            for one in asked
        ]


def filled(asked: Conversation, replies: Sequence[str]) -> Conversation:
    """The conversation with replies in its open turns; an empty one becomes "..."."""
    given = iter(replies)
    turns = (
        replace(turn, text=next(given).strip() or "...") if turn.text is None else turn
        for turn in asked.turns
    )
    return Conversation(tuple(turns))


def prompt_in(reply: str) -> str | None:
    """The prompt that a model was asked to write: its first line, without bullet and quotes.

    None where that is no plain text of 3 to 60 words.
    """
    first = next((line for line in reply.splitlines() if line.strip()), "")
    text = one_paragraph(_BULLET.sub("", first)).strip("\"'\u201c\u201d ")
    return text if 3 <= len(words(text)) <= 60 and is_plain(text) else None


def _before_last(asked: Conversation) -> Conversation:
    """Up to the user's turn that the last open turn answers: nothing after it needs a reply yet."""
    last = max(at for at, turn in enumerate(asked.turns) if turn.text is None)
    return Conversation(asked.turns[:last])


def _under(prompt: Prompt, system: str | None) -> Prompt:
    """The prompt under one more system message, the new one first."""
    both = [one for one in (system, prompt.system) if one]
    return replace(prompt, system="\n\n".join(both) or None)


def _known(ask: Ask) -> tuple[str, ...]:
    return tuple(one for one in (ask.keeps, ask.breaks) if one)


@dataclass(frozen=True, repr=False)
class CaseJudge:
    """Holds a reply against the authors' replies to the same value; satisfies `Judge`.

    A reply that crosses a red line literally scores 0. It abstains on what is like none of them.
    """

    constitution: Constitution

    @property
    def name(self) -> str:
        """The constitution, with its version."""
        return f"{LIKENESS}{self.constitution.name} {self.constitution.version}"

    @property
    def made_of(self) -> frozenset[str]:
        """Digests of the authors' replies."""
        values = self.constitution.values
        every = (one for value in values for one in (*value.keeps, *value.breaks))
        return frozenset(text_digest(one.reply) for one in every)

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        """One judgement a reply, in order."""
        return [self._one(one) for one in said]

    def _one(self, said: Said) -> Judgement:
        if self.constitution.crossed_by(said.reply):
            return Judgement(0.0, 0.0, "It crosses a red line.")
        mine = shingles(said.reply)
        kept, broken = (
            max((likeness(mine, one) for one in known), default=0.0)
            for known in _authors(said.value)
        )
        if max(kept, broken) < LEAST_LIKE:
            return Judgement(None, 1.0, "It is like no reply of the authors.")
        score = kept / (kept + broken)
        return Judgement(score, 1 - max(kept, broken), "By likeness to the authors' replies.")


@lru_cache(maxsize=128)
def _authors(value: Value) -> tuple[list[frozenset[tuple[str, ...]]], ...]:
    return tuple([shingles(one.reply) for one in each] for each in (value.keeps, value.breaks))
