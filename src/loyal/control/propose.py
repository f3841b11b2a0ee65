"""The marriage of a model that drafts and a checker that knows: nothing unchecked comes out.

"Training AI to be Loyal", section 4: where weights cannot be exact, the model proposes and a
deterministic checker decides. `propose` is a best-first search: the most promising draft so far is
shown to the model with the checker's reason, the model writes new ones, the checker judges them,
and so on within a budget of tokens, drafts and seconds. What is accepted carries a certificate,
which anybody can check again without the model (`recheck`).

A draft's promise is the share of the checks that it passed, less what going on from it cost so far
in vain; so a search leaves a draft that leads nowhere, and comes back to the beginning. The first
draft is greedy, the others are sampled, or the likeliest ones in their order (`Budget.enumerate`):
on short answers a small model says the same again and again when it is sampled. Left out: the
checkers (`checkers`).
"""

from __future__ import annotations

import heapq
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from loyal import encoding
from loyal.control.checkers import Spec, Verdict, checker, checkers
from loyal.errors import ControlError, EncodingError, UsageError
from loyal.models.language_model import Enumerator, LanguageModel, Prompt, Replies, Sampling

_FENCE = re.compile(r"```[\w+-]*\n(.*?)```", re.DOTALL)
_PURPOSE = "loyal control certificate 1"
_VAIN = 0.25
"""Promise that a draft loses each time nothing better came from it."""
_HOTTER, _HOTTEST = 0.25, 2.0
"""By how much, and up to how much, each return to a draft heats the sampling."""
_MOST_SHOWN = 4000
"""Characters of a draft that the model sees again."""


@dataclass(frozen=True)
class Budget:
    """What a search may use."""

    tokens: int = 4096
    """Written by the model, in all."""
    seconds: float = 120.0
    """Wall time; no round begins after it, and one that has begun is finished."""
    drafts: int = 64
    """Checked, in all."""
    width: int = 4
    """Drafts a round."""
    draft_tokens: int = 256
    """Of one draft, at most."""
    temperature: float = 0.8
    """Of the drafts after the first; each time that the same is gone on from again, hotter by a
    quarter, up to twice as hot: what comes easily was then said."""
    enumerate: bool = False
    """The likeliest replies in their order in place of sampled ones: each is another one, and those
    that do not end within `draft_tokens` are passed over. For short answers of a model at hand."""
    anew: float = 0.25
    """Promise that beginning anew loses each time; less for a model that learns little from
    reasons, 0 to begin anew always where no draft holds in part."""
    seed: int = 0
    """Of the sampling."""

    def __post_init__(self) -> None:
        least = min(self.tokens, self.drafts, self.width, self.draft_tokens)
        if least < 1 or not self.seconds > 0:
            raise UsageError("a budget is above 0 in everything", hint="raise it")
        if self.anew < 0:
            raise UsageError("beginning anew gains no promise", hint="anew is 0 or more")
        if self.temperature <= 0:
            raise UsageError("the drafts' temperature is above 0", hint="the default is 0.8")
        if not 0 <= self.seed < 2**31:
            raise UsageError("the seed is a whole number from 0 below 2^31", hint="0 is as good")


@dataclass(frozen=True)
class Draft:
    """A candidate and what the checker said."""

    candidate: str
    verdict: Verdict


@dataclass(frozen=True)
class Certificate:
    """An accepted candidate with all that it takes to check it again."""

    task: str
    spec: Spec
    """Of the checker."""
    candidate: str
    reason: str
    """What the checker has shown."""

    @property
    def digest(self) -> bytes:
        """32 bytes over task, spec and candidate."""
        record: list[encoding.Encodable] = [1, self.task, _text(self.spec), self.candidate]
        return encoding.digest(record, _PURPOSE)

    def to_json(self) -> str:
        """The certificate as JSON text, which `from_json` takes."""
        fields = {
            "task": self.task, "checker": dict(self.spec), "candidate": self.candidate,
            "reason": self.reason, "digest": self.digest.hex(),
        }  # fmt: skip
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """ControlError for text that is no certificate, or one that was changed."""
        try:
            match encoding.read_json(text):
                case {
                    "task": str(task), "checker": dict(spec), "candidate": str(candidate),
                    "reason": str(reason), "digest": str(digest),
                }:  # fmt: skip
                    found = cls(task, spec, candidate, reason)
                    if found.digest.hex() == digest:
                        return found
        except (ValueError, RecursionError, EncodingError):
            pass
        raise ControlError("this is no certificate, or it was changed", hint="solve it again")


@dataclass(frozen=True)
class Proposal:
    """What a search came to."""

    certificate: Certificate | None
    """None where the budget ended first."""
    drafts: tuple[Draft, ...]
    """Every draft that was checked, in order."""
    tokens: int
    """Written by the model."""
    seconds: float

    @property
    def best(self) -> Draft | None:
        """The draft that passed most."""
        return max(self.drafts, key=lambda one: one.verdict.score, default=None)


@dataclass(order=True)
class _Node:
    """A draft to go on from; the least is the most promising."""

    cost: float
    """1 - promise."""
    place: int
    """Older first, among equals."""
    draft: Draft | None = field(compare=False)
    """None where the model begins anew."""
    visits: int = field(default=0, compare=False)
    """How often it was gone on from."""
    replies: Replies | None = field(default=None, compare=False)
    """Where the enumeration of what follows it stands."""


def propose(
    model: LanguageModel,
    task: str,
    spec: Spec,
    budget: Budget | None = None,
    clock: Callable[[], float] = time.monotonic,
    examples: Sequence[tuple[str, str]] = (),
) -> Proposal:
    """Search for a candidate that the spec's checker accepts.

    `examples` are other tasks with answers, which the model sees as earlier exchanges: a small one
    learns the form of an answer from them. They are no part of the certificate.
    Raises ControlError for a spec that makes no checker, UsageError where a model that cannot
    enumerate its replies is to, and whatever the model raises.
    """
    budget, check, started = budget or Budget(), checkers(spec), clock()
    frontier = [_Node(1.0, 0, None)]
    drafts: list[Draft] = []
    seen: set[str] = set()
    tokens = rounds = 0
    while True:
        left = min(budget.width, budget.drafts - len(drafts), budget.tokens - tokens)
        if left < 1 or clock() - started >= budget.seconds:
            return Proposal(None, tuple(drafts), tokens, clock() - started)
        node = heapq.heappop(frontier)
        texts, spent = _drafted(model, node, _Round(task, budget, examples, left, tokens, rounds))
        tokens, rounds = tokens + spent, rounds + 1
        before = node.draft.verdict.score if node.draft else -1.0
        better = False
        fresh = [one for one in dict.fromkeys(texts) if one not in seen]
        seen.update(fresh)
        for candidate, verdict in zip(fresh, check(fresh), strict=True):
            draft = Draft(candidate, verdict)
            drafts.append(draft)
            if verdict.accepted:
                certificate = Certificate(task, dict(spec), candidate, verdict.reason)
                return Proposal(certificate, tuple(drafts), tokens, clock() - started)
            better = better or verdict.score > before
            cost = 1 - verdict.score
            if verdict.score <= before:  # no better than what it came from
                cost = max(cost, node.cost) + _VAIN
            heapq.heappush(frontier, _Node(cost, len(drafts), draft))
        vain = budget.anew if node.draft is None else 0.0 if better else _VAIN
        node.cost, node.visits = node.cost + vain, node.visits + 1
        heapq.heappush(frontier, node)


def recheck(certificate: Certificate) -> Verdict:
    """Check a certificate's candidate again, without any model. ControlError as `checker`."""
    return checker(certificate.spec)(certificate.candidate)


def _asked(task: str, draft: Draft | None) -> Prompt:
    """The task, and what was wrong with the draft to go on from."""
    if draft is None:
        return Prompt(task)
    shown = draft.candidate[:_MOST_SHOWN]
    return Prompt(
        f"{task}\n\nThis answer was rejected:\n```\n{shown}\n```\n"
        f"Reason: {draft.verdict.reason}\n\nGive a corrected answer, and nothing else."
    )


@dataclass(frozen=True)
class _Round:
    """Where a search stands when it goes on from a node."""

    task: str
    budget: Budget
    examples: Sequence[tuple[str, str]]
    count: int
    """Drafts to write."""
    tokens: int
    """Written so far."""
    number: int


def _drafted(model: LanguageModel, node: _Node, now: _Round) -> tuple[list[str], int]:
    """Candidates that follow a node, at its first visit the first one greedy, and the tokens that
    were written; an empty reply counts as one, so that no search is endless."""
    budget, left = now.budget, now.budget.tokens - now.tokens
    prompt = replace(_asked(now.task, node.draft), history=tuple(now.examples))
    most = min(budget.draft_tokens, left if budget.enumerate else left // now.count)
    replies = [] if node.visits else model.generate([prompt], Sampling(most))
    spent, more = sum(max(1, one.tokens) for one in replies), now.count - len(replies)
    if budget.enumerate and more and spent < left:
        if node.replies is None:
            node.replies = _enumerator(model).enumerate(prompt, budget.draft_tokens)
        found, read = node.replies.next(more, left - spent)
        replies, spent = replies + found, spent + max(1, read)
    elif not budget.enumerate and more:
        heat = budget.temperature * min(_HOTTEST, 1 + _HOTTER * node.visits)
        sampling = Sampling(most, heat, seed=budget.seed * 1_000_003 + now.number)
        found = model.generate([prompt] * more, sampling)
        replies, spent = replies + found, spent + sum(max(1, one.tokens) for one in found)
    return [extracted(one.text) for one in replies], spent


def _enumerator(model: LanguageModel) -> Enumerator:
    if isinstance(model, Enumerator):
        return model
    raise UsageError(
        f"{model.name} cannot list its likeliest replies",
        hint="use a model at hand, not an endpoint, or sample: leave enumerate off",
    )


def extracted(reply: str) -> str:
    """The candidate in a reply: its first fenced block, or the whole of it."""
    found = _FENCE.search(reply)
    return (found[1] if found else reply).strip()


def _text(spec: Spec) -> str:
    return json.dumps(dict(spec), sort_keys=True, ensure_ascii=False)
