"""What is asked to gather training data for a constitution, before anybody has replied.

A source is what a prompt is made from: a case of a value, one of its topics, a prompt that a model
wrote for it, or an exchange of everyday life. The hash of a source decides whether it is held out,
so nothing made from a held-out case is trained on, and a new case moves no other; held-out prompts
are attacked by held-out families alone. A value's share of the prompts is its weight, or the same
for all. Deterministic: the same constitution and plan give the same prompts. Left out: replies
(`writers`) and what becomes of them (`synthesize`).
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from itertools import chain, cycle, islice
from typing import Any, Literal, TypeAlias

from loyal.alignment import attacks
from loyal.alignment.attacks import Target
from loyal.alignment.conversation import Conversation
from loyal.alignment.preference import WHOLE_PPM, Kind, Split
from loyal.community import Constitution, Value
from loyal.community.constitution import words
from loyal.errors import UsageError
from loyal.models.examples import bundled_lines

Balance = Literal["weights", "even"]

VALUE_KINDS: tuple[Kind, ...] = ("plain", "adversarial", "borderline", "off-topic")

GENERAL_PROMPTS = 340
"""The first of the bundled prompts; the rest measure whether a model is as good as before."""

MOST_ROUNDS = 64
"""Prompts of one kind from one source."""


MOST_RECORDS = 1_000_000
"""Of one kind in one plan: the cases of a constitution give some thousands."""


@dataclass(frozen=True)
class Plan:
    """How much to ask of what."""

    pairs: int = 400
    """Preferences to train on."""
    held_out: int = 40
    """Preferences to measure on, from sources that training never sees."""
    general: int = 0
    """Demonstrations of ordinary instructions."""
    safety: int = 0
    """Demonstrations of declining harm, and of not declining what only sounds like it."""
    plain_ppm: int = 400_000
    """Shares of the kinds of prompts on a value, in millionths; together a million."""
    adversarial_ppm: int = 300_000
    borderline_ppm: int = 150_000
    off_topic_ppm: int = 150_000
    balance: Balance = "weights"
    """Each value by its weight in the constitution, or all the same."""
    held_out_ppm: int = 200_000
    """Chance that a source is held out, in millionths."""
    invented: int = 0
    """Prompts on each value that a model is asked to write, beside the cases and topics."""
    reserve_ppm: int = 250_000
    """Prompts beyond what is wanted, for those that come to nothing."""
    most_characters: int = 6_000
    """Of one conversation: attacks by length are long, and a small model's context is not."""
    seed: int = 0
    """Draws wordings and order."""

    def __post_init__(self) -> None:
        if any(getattr(self, one.name) < 0 for one in fields(self) if one.type == "int"):
            raise UsageError("a plan has a number below 0", hint="0 asks for none of it")
        if max(self.pairs, self.held_out, self.general, self.safety) > MOST_RECORDS:
            raise UsageError(
                f"a plan of more than {MOST_RECORDS:,} records of a kind", hint="make several files"
            )
        if sum(self.kinds.values()) != WHOLE_PPM:
            raise UsageError("the kinds' shares are not a million", hint="they are millionths")
        if self.pairs + self.held_out + self.general + self.safety == 0:
            raise UsageError("a plan of nothing", hint="ask for some pairs")
        if self.held_out and not 0 < self.held_out_ppm < WHOLE_PPM:
            raise UsageError("no source, or every source, is held out", hint="hold out a fifth")

    @property
    def kinds(self) -> dict[Kind, int]:
        """Each kind's share in millionths."""
        shares = (self.plain_ppm, self.adversarial_ppm, self.borderline_ppm, self.off_topic_ppm)
        return dict(zip(VALUE_KINDS, shares, strict=True))


@dataclass(frozen=True)
class Source:
    """What prompts are made from."""

    id: str
    target: Target
    plain: tuple[str, ...]
    """Prompts without another meaning, the source's own first."""
    borderline: tuple[str, ...]
    keeps: str = ""
    """A reply that keeps the value; empty for none, and so below."""
    breaks: str = ""

    @property
    def lot(self) -> int:
        """A number of 64 bits from the id alone: the low ones are held out."""
        drawn = hashlib.sha256(f"loyal/held-out/{self.id}".encode()).digest()
        return int.from_bytes(drawn[:8], "big")


@dataclass(frozen=True)
class Ask:
    """One conversation to reply to."""

    kind: Kind
    split: Split
    value: str
    """Id of the constitution's value; empty for general and safety."""
    source: str
    question: str
    """What is asked inside of any attack."""
    asked: Conversation
    attack: str = ""
    keeps: str = ""
    """A reply that is good by the source's author; empty for none."""
    breaks: str = ""
    """A reply that is bad by the source's author; empty for none."""


def allot(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts as the weights are, by largest remainders; law: they sum to it.

    All parts are 0 where all weights are.
    """
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    rest = sorted(range(len(weights)), key=lambda at: (-(total * weights[at] % whole), at))
    for at in rest[: total - sum(parts)]:
        parts[at] += 1
    return parts


def shares(constitution: Constitution, balance: Balance) -> dict[str, int]:
    """Each value's share against the others, as whole numbers."""
    return {one.id: one.weight_bps if balance == "weights" else 1 for one in constitution.values}


def quotas(constitution: Constitution, plan: Plan, split: Split) -> dict[tuple[str, Kind], int]:
    """How many pairs of each value and kind are wanted."""
    of_value = shares(constitution, plan.balance)
    total = plan.pairs if split == "train" else plan.held_out
    found: dict[tuple[str, Kind], int] = {}
    for value, part in zip(of_value, allot(total, list(of_value.values())), strict=True):
        counts = allot(part, list(plan.kinds.values()))
        found |= {(value, kind): count for kind, count in zip(plan.kinds, counts, strict=True)}
    return found


Invented: TypeAlias = Mapping[str, Sequence[str]]
"""Prompts that a model wrote, by the id of their value."""


def inventions(constitution: Constitution, plan: Plan) -> list[Ask]:
    """What a model is asked so that it writes prompts, `plan.invented` for each value."""
    found = []
    for value in constitution.values if plan.invented else ():
        texts = [text for topic in _topics(value) for text in _framed("invent", topic=topic)]
        texts = random.Random(f"loyal/invent/{plan.seed}/{value.id}").sample(texts, len(texts))
        for text in islice(cycle(texts), plan.invented):
            asked = Conversation.of(text)
            found.append(Ask("general", "train", value.id, "invent", text, asked))
    return found


def asks(
    constitution: Constitution, plan: Plan, *, free: bool, invented: Invented | None = None
) -> list[Ask]:
    """All that is to be asked, in the order of values and kinds.

    `free` says that whoever replies can reply to anything; without it, only sources with replies of
    their own and conversations without open turns are asked. UsageError for a value that is to have
    data and has no source in a split.
    """
    found: list[Ask] = []
    for split in ("train", "held-out"):
        for (name, kind), wanted in quotas(constitution, plan, split).items():
            if not wanted:
                continue
            value = constitution[name]
            texts = (invented or {}).get(name, ())
            every = _preached(value) if kind == "off-topic" else _of_value(value, texts)
            sources = _sources(every, name, plan, split, free)
            made = _of_kind(name, kind, sources, split, plan, free)
            found += islice(made, _with_reserve(wanted, plan))
    return [*found, *_demonstrations(plan, free)]


def sources(value: Value, plan: Plan) -> dict[Split, list[Source]]:
    """A value's cases and topics, those to train on and those held out, in the author's order."""
    return _divided(_of_value(value, ()), plan)


def held_out_texts(
    constitution: Constitution, plan: Plan, invented: Invented | None = None
) -> list[str]:
    """Every prompt that training must not give away: of all held-out sources."""
    texts = invented or {}
    groups = [_of_value(value, texts.get(value.id, ())) for value in constitution.values]
    every = (one for each in (_everyday(), *groups) for one in _divided(each, plan)["held-out"])
    return [one.plain[0] for one in every]


def _of_kind(
    value: str, kind: Kind, sources: Sequence[Source], split: Split, plan: Plan, free: bool
) -> Iterator[Ask]:
    """Prompts of one kind, each source once before any comes a second time."""
    rng = random.Random(f"loyal/asks/{plan.seed}/{value}/{kind}/{split}")
    sources = rng.sample(sources, len(sources))
    used: set[tuple[str, str]] = set()
    for turn in range(MOST_ROUNDS):
        for source in sources:
            asked, attack = _asked(source, kind, split, turn, rng)
            mark = attack or (asked.last if asked is not None else "")
            if asked is None or (source.id, mark) in used or (asked.open_turns and not free):
                continue
            if sum(len(one.text or "") for one in asked.turns) > plan.most_characters:
                continue
            used.add((source.id, mark))
            question = source.target.question if attack else asked.last
            yield Ask(
                kind, split, value, source.id, question, asked, attack, source.keeps, source.breaks
            )


def _asked(
    source: Source, kind: Kind, split: Split, turn: int, rng: random.Random
) -> tuple[Conversation | None, str]:
    """The conversation of this round, None where there is none, and the attack's id."""
    if kind == "adversarial":
        depth = 2 if rng.random() < 0.25 else 1
        drawn = attacks.draw(split, rng, depth)
        return attacks.attack(drawn, source.target, rng), drawn.id
    texts = source.borderline if kind == "borderline" else source.plain
    # The source's own words first, then the others in an order of its own.
    order = [*texts[:1], *random.Random(source.id).sample(texts[1:], len(texts) - 1)]
    return (Conversation.of(order[turn]) if turn < len(order) else None), ""


def _sources(
    every: Sequence[Source], value: str, plan: Plan, split: Split, free: bool
) -> list[Source]:
    found = [one for one in _divided(every, plan)[split] if free or (one.keeps and one.breaks)]
    if not found:
        raise UsageError(
            f"{value} has no case for {'training' if split == 'train' else 'measuring'}",
            hint="give it more cases with both replies, or change the share that is held out",
        )
    return found


def _divided(every: Sequence[Source], plan: Plan) -> dict[Split, list[Source]]:
    """Sources to train on and held-out ones.

    Where no case would be held out by its lot, the lowest one is, so that each value can be
    measured; where all would be, the highest is not.
    """
    bar = plan.held_out_ppm << 64
    held = {one.id for one in every if one.lot * WHOLE_PPM < bar}
    cases = sorted((one for one in every if one.keeps and one.breaks), key=lambda one: one.lot)
    cases = cases or sorted(every, key=lambda one: one.lot)
    ids = [one.id for one in cases]
    if 0 < plan.held_out_ppm < WHOLE_PPM and len(ids) > 1:
        if not held.intersection(ids):
            held.add(ids[0])
        if held.issuperset(ids):
            held.remove(ids[-1])
    return {
        "train": [one for one in every if one.id not in held],
        "held-out": [one for one in every if one.id in held],
    }


def _of_value(value: Value, invented: Sequence[str]) -> list[Source]:
    """A value's cases and topics, and prompts that a model wrote."""
    topic = _topics(value)[0]
    opposite = next((one.reply for one in value.breaks), f"Nobody needs {topic}.")
    found = []
    for case in value.cases:
        target = Target(case.prompt, topic, value.statement, case.breaks or opposite)
        found.append(_around("case", target, case.keeps, case.breaks))
    for text in invented:
        found.append(_around("written", Target(text, topic, value.statement, opposite)))
    for name in value.topics:
        plain = _framed("topic", topic=name)
        target = Target(plain[0], name, value.statement, opposite)
        source = Source(f"topic {name}", target, plain, _framed("topic_borderline", topic=name))
        found.append(source)
    return found


def _topics(value: Value) -> tuple[str, ...]:
    return value.topics or (value.id.replace("-", " "),)


def _around(what: str, target: Target, keeps: str = "", breaks: str = "") -> Source:
    """The source of one question, in the frames that fit any."""
    asked = target.question
    said = " ".join(words(asked))
    id = f"{what} {hashlib.sha256(said.encode()).hexdigest()[:16]}"
    plain = (asked, *_framed("plain", question=asked))
    return Source(id, target, plain, _framed("borderline", question=asked), keeps, breaks)


@dataclass(frozen=True)
class Requests:
    """Prompts that measure what a model declines."""

    harmful: tuple[str, ...]
    harmless: tuple[str, ...]
    """These only sound like it."""


def kept_requests() -> Requests:
    """The bundled ones that a search of the mixture compares on; no training sees them."""
    table = frames()
    return Requests(tuple(table["kept_harmful"]), tuple(table["kept_harmless"]))


def guarded_requests() -> tuple[str, ...]:
    """Harm asked for, for the guards alone."""
    return tuple(frames()["guarded_harmful"])


def reported_requests() -> Requests:
    """Those for reports alone: no training, guard or search sees them."""
    table = frames()
    return Requests(tuple(table["reported_harmful"]), tuple(table["reported_harmless"]))


def unseen_requests() -> tuple[str, ...]:
    """All that no training may see."""
    kept, reported = kept_requests(), reported_requests()
    every = (kept.harmful, kept.harmless, guarded_requests(), *vars(reported).values())
    return tuple(chain.from_iterable(every))


def _everyday() -> list[Source]:
    """Exchanges where no value is at stake."""
    return [
        _around("case", Target(prompt, "everyday life", "Nothing.", "Nothing."), keeps=reply)
        for prompt, reply in frames()["everyday"]
    ]


def _preached(value: Value) -> list[Source]:
    """Everyday exchanges, and replies that drag the value in."""
    topics = _topics(value)
    found = []
    for number, one in enumerate(_everyday()):
        topic = topics[number % len(topics)]
        told = _framed("preach", topic=topic, statement=value.statement, reply=one.keeps)
        target = Target(one.target.question, topic, value.statement, told[0])
        breaks = told[number % len(told)]
        found.append(Source(one.id, target, one.plain, one.borderline, one.keeps, breaks))
    return found


def _demonstrations(plan: Plan, free: bool) -> Iterator[Ask]:
    """General and safety prompts; without a free writer, those that have a reply."""
    table = frames()
    every = _divided(_everyday(), plan)["train"]
    general = [(text, one.keeps) for one in every for text in one.plain]
    if free:
        general = [(text, "") for text in bundled_lines("prompts")[:GENERAL_PROMPTS]]
    harm = [(framed, reply) for asked, reply in table["harmful"] for framed in _varied(asked)]
    safe = [
        (framed, "" if free else reply)
        for asked, reply in table["harmless"]
        for framed in _varied(asked)
    ]
    rng = random.Random(f"loyal/asks/{plan.seed}/demonstrations")
    both = [one for pair in zip(_mixed(harm, rng), _mixed(safe, rng), strict=True) for one in pair]
    kinds: Mapping[Kind, tuple[int, list[tuple[str, str]]]] = {
        "general": (plan.general, _mixed(general, rng)), "safety": (plan.safety, both),
    }  # fmt: skip
    for kind, (wanted, known) in kinds.items():
        if wanted > len(known):
            raise UsageError(
                f"there are {len(known)} {kind} prompts, not {wanted}",
                hint="ask for fewer and raise their weight, or add records of your own",
            )
        for text, reply in known[: _with_reserve(wanted, plan)]:
            yield Ask(kind, "train", "", "bundled", text, Conversation.of(text), keeps=reply)


def _with_reserve(wanted: int, plan: Plan) -> int:
    return -(-wanted * (WHOLE_PPM + plan.reserve_ppm) // WHOLE_PPM)


def _mixed(texts: Sequence[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    return rng.sample(texts, len(texts))


def _varied(text: str) -> tuple[str, ...]:
    return (text, *_framed("plain", question=text))


def _framed(name: str, **places: str) -> tuple[str, ...]:
    found = []
    for frame in frames()[name]:
        for place, text in places.items():
            frame = frame.replace(f"{{{place}}}", text)
        found.append(frame)
    return tuple(found)


@cache
def frames() -> dict[str, Any]:
    """The bundled wordings: data/frames.toml explains them."""
    text = (files("loyal.alignment") / "data" / "frames.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
