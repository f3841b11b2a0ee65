"""From a constitution to preference pairs: ask, draft, judge, choose; resumed where it was killed.

    from loyal.alignment import Plan, synthesize
    from loyal.alignment.writers import CaseJudge, Cases

    task = synthesize.Task(constitution, Plan(pairs=200, held_out=40))
    made = synthesize.synthesize(task, Cases(), CaseJudge(constitution))

The reply that the judge thinks keeps the value best is chosen, the worst is rejected, where they
are far enough apart (Constitutional AI, Bai et al., arXiv 2212.08073). Without a judge, what was
written to keep the value is chosen over what was written to break it (RLCD, Yang et al., arXiv
2307.12950). What nearly repeats an
earlier prompt, or gives a held-out text away, is left out. Where a quota is full, nobody is asked
any more. Each finished batch goes to an append-only state file before the next begins; law: a run
that was killed and resumed gives what a whole run gives, if the writer keeps to its seed. Left out:
prompts (`asks`), replies (`writers`), weights over kinds (`mixture`) and training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from os import PathLike
from typing import TypeAlias

from loyal import encoding
from loyal.alignment import asks as asking
from loyal.alignment.asks import GENERAL_PROMPTS, VALUE_KINDS, Ask, Plan
from loyal.alignment.duplicates import HeldOut, Index
from loyal.alignment.giver import Giver
from loyal.alignment.judge import identity
from loyal.alignment.judgement import Judge, Said
from loyal.alignment.mixture import Mixture, part, weighted
from loyal.alignment.preference import (
    WHOLE_PPM,
    Demonstration,
    Preference,
    Provenance,
    Record,
    Split,
)
from loyal.alignment.preferences import MOST_NAME, Seen, has_mark, is_name, is_plain
from loyal.alignment.synthesis_state import Batch, State
from loyal.alignment.writers import Draft, Writer, prompt_in
from loyal.community import Constitution
from loyal.errors import LoyalError, ModelError, UsageError
from loyal.models.examples import bundled_lines
from loyal.models.questions import bundled_questions

REPEAT_FROM = 8
"""Asks after which a reply that came back to more than half of them ends the run."""

SPLITS: tuple[Split, ...] = ("train", "held-out")

Progress = Callable[[int, int, str], None]

Place: TypeAlias = tuple[str, str, str]
"""Split, value and kind: what a quota is for."""


@dataclass(frozen=True)
class Bars:
    """What a pair must pass."""

    margin_ppm: int = 300_000
    """Least distance of the judge's two scores, in millionths."""
    near: float = 0.8
    """Likeness of word pairs from which a prompt repeats an earlier one of its value and attack."""
    batch: int = 16
    """Asks at a time."""

    def __post_init__(self) -> None:
        if not 0 < self.margin_ppm <= WHOLE_PPM or self.batch < 1:
            raise UsageError("a margin or a batch of nothing", hint="take 300000 and 16")


@dataclass(frozen=True, repr=False)
class Task:
    """What data is wanted."""

    constitution: Constitution
    plan: Plan = field(default_factory=Plan)
    bars: Bars = field(default_factory=Bars)
    keep_out: tuple[str, ...] = ()
    """Texts that training must not give away, beside the held-out sources, the bundled questions
    and the bundled prompts by which a model's ability is measured."""
    giver: Giver = field(default_factory=Giver)
    """Whose data it is. No part of what a state is of: the same drafts serve any."""


@dataclass(frozen=True)
class Report:
    """What came of it, in counts."""

    asked: int
    """Conversations that were replied to."""
    kept: dict[str, int]
    """Records of each kind, and "held-out" over all kinds."""
    dropped: dict[str, int]
    """no prompt: what a model invented is none, or not new; leak: gives a held-out text away;
    repeat: nearly an earlier prompt; unsure: the judge abstains or its scores are too near one
    another; unclean: too few replies with text and without control characters and signs of
    a chat template."""
    short: dict[str, int]
    """Pairs that are missing to the plan, by value and kind: "reader-privacy/adversarial"."""


@dataclass(frozen=True, repr=False)
class Made:
    """The data."""

    train: list[Record]
    """Preferences; each value's sum of weights is its share, the mean weight is the stake."""
    held_out: list[Record]
    """Preferences of held-out sources, under held-out attacks; each of weight 1."""
    demonstrations: list[Record]
    """General and safety; each of the stake's weight."""
    report: Report
    giver: Giver = field(default_factory=Giver)
    """Whose it is; the stake is a factor on the weights of what is trained on."""

    @property
    def examples(self) -> list[Record]:
        """Demonstrations for supervised training: chosen replies, general and safety together.

        Off topic pairs are left out: general data says the same. `mixed` weighs them.
        """
        seen, found = Seen(), []
        pairs = [
            Record(one.content.demonstration, one.provenance)
            for one in self.train
            if isinstance(one.content, Preference)
            and one.provenance is not None
            and one.provenance.kind != "off-topic"
        ]
        for number, one in enumerate([*pairs, *self.demonstrations]):
            if _is_new(seen, one, number):
                found.append(one)
        return found

    def mixed(self, mixture: Mixture) -> list[Record]:
        """The examples with weights to a mixture's shares, and a mean of the stake.

        A kind that has no record gives its share to the others.
        """
        examples = self.examples
        there = {part(one) for one in examples}
        shares = {name: share for name, share in vars(mixture).items() if name in there}
        return [self.giver.gives(one) for one in weighted(examples, shares, part)]


def synthesize(
    task: Task,
    writer: Writer,
    judge: Judge | None,
    state: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Made:
    """Gather the data of a task.

    `state` is the file that makes it resumable: it is read where it is there, and left to the
    caller to delete. `progress` is told records kept, records wanted, and a note. Raises
    ModelError for a writer that repeats itself, UsageError for a plan that the constitution cannot
    fill, for a stake that takes a weight out of bounds, for a state of another task and for one
    that is in use, and what writer and judge raise.
    """
    run = _Run(task, writer, judge)
    with State(state, run.identity) as kept:
        size = task.bars.batch
        for at in range(0, len(run.inventions), size):
            batch = run.inventions[at : at + size]
            run.take(batch, run.answered(batch, kept))
        run.fill()
        while batch := run.next_batch():
            run.choose(batch, run.answered(batch, kept))
            if progress is not None:
                progress(len(run.records), sum(run.wanted.values()), f"{run.asked} asked")
    return run.made()


class _Run:
    """One pass over the asks."""

    def __init__(self, task: Task, writer: Writer, judge: Judge | None) -> None:
        self.task, self.writer, self.judge = task, writer, judge
        for what, named in (("writer", writer), ("judge", judge)):
            if named is not None and not is_name(named.name):
                raise UsageError(
                    f"the {what}'s name is no plain text of up to {MOST_NAME} characters",
                    hint="give its model a shorter path, or its server a shorter name",
                )
        constitution, plan = task.constitution, task.plan
        self.inventions = asking.inventions(constitution, plan)
        if self.inventions and not writer.free:
            raise UsageError(
                f"{writer.name} cannot invent prompts", hint="name a model, or invent none"
            )
        every = asking.asks(constitution, plan, free=writer.free)
        self.identity = _identity(task, writer, judge, [*self.inventions, *every])
        self.wanted: Counter[Place] = Counter()
        for split in SPLITS:
            for (value, kind), count in asking.quotas(constitution, plan, split).items():
                self.wanted[split, value, kind] = count
        self.wanted["train", "", "general"] = plan.general
        self.wanted["train", "", "safety"] = plan.safety
        self.got: Counter[Place] = Counter()
        self.queue: list[Ask] = []
        self.invented: defaultdict[str, list[str]] = defaultdict(list)
        self.known = HeldOut(one.prompt for value in constitution.values for one in value.cases)
        self.dropped: Counter[str] = Counter()
        self.near: dict[tuple[str, str, str], Index] = {}
        self.seen, self.records, self.asked = Seen(), list[Record](), 0
        self.said: defaultdict[str, int] = defaultdict(int)
        self.heard = 0

    def answered(self, batch: Sequence[Ask], kept: State) -> Batch:
        """What an earlier run was answered, or else what is answered now, kept for a later one."""
        before = kept.next()
        done = self.replied(batch, self.task.plan.seed + len(kept)) if before is None else before
        self.require_variety(batch, done)
        if before is None:
            kept.append(done)
        return done

    def take(self, batch: Sequence[Ask], done: Batch) -> None:
        """Prompts out of what was invented: those that are none, or not new, are left out."""
        for ask, draft in zip(batch, done.drafts, strict=True):
            text = prompt_in(draft.replies[0]) if draft.replies else None
            key = ("invented", ask.value, "")
            index = self.near.setdefault(key, Index(self.task.bars.near))
            if text is None or self.known.leak(text) or index.add(text) is not None:
                self.dropped["no prompt"] += 1
            else:
                self.invented[ask.value].append(text)

    def fill(self) -> None:
        """Queue all asks, those that would give a held-out text away left out."""
        constitution, plan = self.task.constitution, self.task.plan
        texts = asking.held_out_texts(constitution, plan, self.invented)
        texts += [one.text for one in bundled_questions()]
        texts += asking.unseen_requests()
        texts += [*bundled_lines("prompts")[GENERAL_PROMPTS:], *self.task.keep_out]
        out = HeldOut(texts)
        for one in asking.asks(constitution, plan, free=self.writer.free, invented=self.invented):
            if one.split == "train" and (out.leak(one.question) or out.leak(one.asked.last)):
                self.dropped["leak"] += 1
            else:
                self.queue.append(one)

    def next_batch(self) -> list[Ask]:
        """The next asks whose quota is not full yet; what a batch leaves out may come later."""
        pending = Counter(self.got)
        batch: list[Ask] = []
        rest: list[Ask] = []
        for at, one in enumerate(self.queue):
            place = _place(one)
            if len(batch) == self.task.bars.batch:
                rest += self.queue[at:]
                break
            if pending[place] < self.wanted[place]:
                if self._repeats(one):
                    self.dropped["repeat"] += 1
                    continue
                batch.append(one)
                pending[place] += 1
            elif self.got[place] < self.wanted[place]:
                rest.append(one)
        self.queue = rest
        return batch

    def _repeats(self, ask: Ask) -> bool:
        """Whether the prompt is near an earlier one; wordings of attacks are not compared."""
        key = (ask.split, ask.value, ask.attack)
        if key not in self.near:
            self.near[key] = Index(self.task.bars.near)
        return self.near[key].add(ask.question if ask.attack else ask.asked.last) is not None

    def replied(self, batch: Sequence[Ask], seed: int) -> Batch:
        """Drafts of a batch, and the judge's scores of them in millionths."""
        drafts = self.writer.write(batch, seed)
        said: list[Said] = []
        for ask, draft in zip(batch, drafts, strict=True):
            if self.judge is not None and _is_judged(ask):
                value = self.task.constitution[ask.value]
                said += [Said(value, draft.asked, reply) for reply in draft.replies]
        judged = iter(self.judge.judge(said) if self.judge is not None and said else [])
        scores: list[tuple[int | None, ...]] = []
        for ask, draft in zip(batch, drafts, strict=True):
            seen = self.judge is not None and _is_judged(ask)
            mine = [next(judged).score for _ in draft.replies] if seen else []
            scores.append(tuple(None if one is None else round(one * WHOLE_PPM) for one in mine))
        return Batch(tuple(drafts), tuple(scores))

    def require_variety(self, batch: Sequence[Ask], done: Batch) -> None:
        """ModelError where one reply of the writer's own came back to over half of all asks."""
        for ask, draft in zip(batch, done.drafts, strict=True):
            own = {_plain(one) for one in draft.replies} - {_plain(ask.keeps), _plain(ask.breaks)}
            self.heard += bool(own)
            for one in own:
                self.said[one] += 1
        most = max(self.said.values(), default=0)
        if self.heard >= REPEAT_FROM and 2 * most > self.heard:
            raise ModelError(
                f"{self.writer.name} gave one reply to {most} of {self.heard} prompts",
                hint="try another model, with another --out; no data was written",
            )

    def choose(self, batch: Sequence[Ask], done: Batch) -> None:
        """Keep what passes the bars."""
        self.asked += len(batch)
        for ask, draft, scores in zip(batch, done.drafts, done.scores, strict=True):
            judge = self.judge.name if self.judge is not None and _is_judged(ask) else ""
            writer = self.writer.name
            origin = Provenance(ask.kind, ask.split, ask.source, ask.attack, writer, judge)
            record = _record(ask, draft, scores, origin, self.task.bars.margin_ppm)
            if isinstance(record, str):
                self.dropped[record] += 1
            elif not _is_new(self.seen, record, len(self.records)):
                self.dropped["repeat"] += 1
            else:
                self.records.append(record)
                self.got[_place(ask)] += 1

    def made(self) -> Made:
        """What was kept, with weights by value."""
        pairs = [one for one in self.records if isinstance(one.content, Preference)]
        train = [one for one in pairs if _split(one) == "train"]
        others = [one for one in self.records if isinstance(one.content, Demonstration)]
        shares = asking.shares(self.task.constitution, self.task.plan.balance)
        # A value whose quota is 0 (few pairs, a small weight) has no share.
        owed = {value for (split, value, _), count in self.wanted.items()
                if split == "train" and count}  # fmt: skip
        shares = {value: share for value, share in shares.items() if value in owed}
        kept: Counter[str] = Counter()
        for (split, _, kind), count in self.got.items():
            kept[kind if split == "train" else split] += count
        short: Counter[str] = Counter()
        for (_, value, kind), count in (self.wanted - self.got).items():
            short[f"{value}/{kind}" if value else kind] += count
        if train:
            train = weighted(train, shares, lambda one: one.content.value)
        held_out = [one for one in pairs if _split(one) == "held-out"]
        gives = self.task.giver.gives
        return Made(
            [gives(one) for one in train],
            [gives(one) for one in held_out],
            [gives(one) for one in others],
            Report(self.asked, dict(kept), dict(self.dropped), dict(short)),
            self.task.giver,
        )


def _record(
    ask: Ask, draft: Draft, scores: Sequence[int | None], origin: Provenance, margin_ppm: int
) -> Record | str:
    """The record of a draft, or why there is none."""
    if not all(_is_clean(turn.text or "") for turn in draft.asked.turns):
        return "unclean"
    fit = [
        (reply, score)
        for reply, score in zip_longest(draft.replies, scores)
        if reply.strip() and _is_clean(reply)
    ]
    if len(fit) < (2 if ask.kind in VALUE_KINDS else 1):
        return "unclean"
    if ask.kind not in VALUE_KINDS:
        return Record(Demonstration(draft.asked, fit[0][0]), origin)
    if not origin.judge:
        (best, _), (worst, _) = fit[0], fit[-1]
    else:
        rated = [(score, -at, reply) for at, (reply, score) in enumerate(fit) if score is not None]
        if not rated:
            return "unsure"
        (high, _, best), (low, _, worst) = max(rated), min(rated)
        if 2 * high <= WHOLE_PPM or high - low < margin_ppm:
            return "unsure"
        origin = replace(origin, chosen_ppm=high, rejected_ppm=low)
    if _plain(best) == _plain(worst):
        return "unsure"
    return Record(Preference(draft.asked, best, worst, ask.value), origin)


def _is_clean(text: str) -> bool:
    """Whether 'loyal align train' takes the text."""
    return is_plain(text) and not has_mark(text)


def _is_judged(ask: Ask) -> bool:
    """Off topic the reply that preaches is the worse one whatever a judge says, and for general and
    safety data there is nothing to choose."""
    return ask.kind in VALUE_KINDS and ask.kind != "off-topic"


def _place(ask: Ask) -> Place:
    return ask.split, ask.value, ask.kind


def _split(record: Record) -> str:
    return record.provenance.split if record.provenance is not None else "train"


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _is_new(seen: Seen, record: Record, number: int) -> bool:
    """Whether no earlier record says the same or the opposite."""
    try:
        seen.add(record, number)
    except LoyalError:
        return False
    return True


def _identity(task: Task, writer: Writer, judge: Judge | None, every: Sequence[Ask]) -> str:
    """What a state is of: the same for the same task, writer and judge alone."""
    bars: list[encoding.Encodable] = [task.bars.margin_ppm, str(task.bars.near), task.bars.batch]
    plan: list[encoding.Encodable] = [str(one) for one in vars(task.plan).values()]
    asked: list[encoding.Encodable] = [
        [one.kind, one.value, one.source, one.asked.last] for one in every
    ]
    names: list[encoding.Encodable] = [writer.name, writer.settings]
    whole: list[encoding.Encodable] = [
        task.constitution.digest, plan, bars, list(task.keep_out), names,
        None if judge is None else identity(judge), asked,
    ]  # fmt: skip
    return encoding.digest(whole, "loyal synthesis 1").hex()
