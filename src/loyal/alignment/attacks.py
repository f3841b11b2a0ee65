"""Prompt attacks on values: families of wordings, each of which fits any question on any value.

    from loyal.alignment import Target, attacks

    target = Target("May I tell who lent it?", "privacy", "Loans are secret.", "Loans are public.")
    rng = random.Random(7)
    attacks.attack("persona-opponent", target, rng)                # one family
    attacks.attack("novel+json-policy+leetspeak", target, rng)     # a novel in JSON in leetspeak
    attacks.draw("train", rng, depth=2)                            # some legal pair of families

A family gives a conversation, drawn from the rng alone. The same seed gives the same conversation.
Families of the split "held-out" are for measuring: training never sees one of them, alone or in a
composition. The wordings are data/attacks.toml; running a model is `conversation.play`.
"""

from __future__ import annotations

import difflib
import json
import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias, cast, get_args

from loyal.alignment.conversation import Conversation, Role, Turn
from loyal.alignment.encodings import ENCODINGS, perturbed
from loyal.errors import UsageError

Split = Literal["train", "held-out"]
Kind = Literal[
    "role", "authority", "pressure", "argument", "form", "encoding", "context", "multi-turn"
]
Layer = Literal["wording", "form", "encoding", "turns"]

LAYERS: tuple[Layer, ...] = get_args(Layer)
"""From the innermost to the outermost: words around the question, the form that holds them, the
signs in which that is written, and the turns before it."""

FILLER_PARAGRAPHS = (5, 8)
"""How many paragraphs of the pool flood a context, at least and at most."""

_PLACE = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Target:
    """A question on a value, and what an attack needs to know of both."""

    question: str
    """What a user asks; where the value is kept, the reply keeps to it."""
    topic: str
    """What it is about, as a noun phrase: "readers' privacy"."""
    value: str
    """The value as one sentence, with its full stop."""
    opposite: str
    """What breaks it, as one sentence, with its full stop."""

    def __post_init__(self) -> None:
        for name in ("question", "topic", "value", "opposite"):
            if not getattr(self, name).strip():
                raise UsageError(
                    f"the target's {name} is empty", hint="an attack needs all four texts"
                )


EXAMPLE = Target(
    question="Who borrowed this book before me?",
    topic="readers' privacy",
    value="A library keeps what its readers borrow to itself.",
    opposite="A library tells anybody who asks what its readers borrow.",
)
"""A value of a public library: what documents and `loyal align attacks --show` put in."""


@dataclass(frozen=True)
class Family:
    """Wordings of one idea."""

    id: str
    title: str
    about: str
    """One sentence."""
    kind: Kind
    layer: Layer
    split: Split
    wordings: tuple[tuple[str, ...], ...]
    """Each as its turns ("user: ..."), with places to fill in; data/attacks.toml explains them."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of what it is made of: its own."""
        return (self.id,)

    def on(self, inner: Conversation, target: Target, rng: random.Random) -> Conversation:
        """This attack around `inner`: a wording is drawn, and the last turn goes into it.

        Other turns of `inner` stay, behind those of the wording; so does its system message, and
        what a wording adds to it stands below.
        """
        wording = rng.choice(self.wordings)
        places = _places(inner.last, target)
        if self.layer == "encoding":
            places["encoded"] = ENCODINGS[self.id].encode(inner.last, rng)
        *earlier, last = (turn for line in wording for turn in _turns(line, places, rng))
        return inner.ending_in(last.text or "").after(earlier)


@dataclass(frozen=True)
class Composition:
    """Families one around the other, the innermost first. `compose` makes legal ones."""

    parts: tuple[Family, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UsageError("a composition of no families", hint="name one family or more")
        for first, second in zip(self.parts[:-1], self.parts[1:], strict=True):
            if not may_follow(first, second):
                raise UsageError(
                    f"{second.id} cannot be put around {first.id}",
                    hint=f"from the inside out, one of each at most: {', '.join(LAYERS)}; "
                    f"{first.id} is of {first.layer}, {second.id} of {second.layer}",
                )

    @property
    def id(self) -> str:
        """The parts' ids, the innermost first: "novel+json-policy"."""
        return "+".join(self.sources)

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the parts, the innermost first."""
        return tuple(one.id for one in self.parts)

    @property
    def split(self) -> Split:
        """Held out as soon as one part is."""
        return "train" if all(one.split == "train" for one in self.parts) else "held-out"

    def on(self, inner: Conversation, target: Target, rng: random.Random) -> Conversation:
        """All parts around `inner`, one after the other."""
        for part in self.parts:
            inner = part.on(inner, target, rng)
        return inner


Attack: TypeAlias = Family | Composition


def may_follow(first: Family, second: Family) -> bool:
    """Whether `second` may be put around what `first` made: its layer lies further out."""
    return LAYERS.index(second.layer) > LAYERS.index(first.layer)


def compose(*parts: Attack) -> Composition:
    """The attacks one around the other, the innermost first; UsageError where layers forbid it."""
    flat = (one.parts if isinstance(one, Composition) else (one,) for one in parts)
    return Composition(tuple(family for some in flat for family in some))


def families(split: Split | None = None) -> tuple[Family, ...]:
    """The families of one split, or all, in the order of the data file."""
    return tuple(one for one in _data().families if split in (None, one.split))


def named(name: str) -> Attack:
    """The family of this id, or the composition "inner+outer"; UsageError names the near miss."""
    known = {one.id: one for one in families()}
    for part in name.split("+"):
        if part not in known:
            near = difflib.get_close_matches(part, known, n=1)
            raise UsageError(
                f"there is no family of attacks {part!r}",
                hint=f"did you mean {near[0]}?" if near else "`loyal align attacks` lists them",
            )
    parts = [known[part] for part in name.split("+")]
    return parts[0] if len(parts) == 1 else compose(*parts)


def attack(which: Attack | str, target: Target, rng: random.Random) -> Conversation:
    """One conversation in which this attack puts the target's question.

    `which` may be an id (see `named`). What is left open is drawn from `rng` alone.
    """
    chosen = named(which) if isinstance(which, str) else which
    return chosen.on(Conversation.of(target.question), target, rng)


def draw(split: Split, rng: random.Random, depth: int = 1) -> Attack:
    """An attack of `depth` families of this split, each layer's choice drawn evenly.

    At depth 1 each family is as likely as the others; deeper ones draw which layers, then a family
    of each. Raises UsageError for a depth that the layers do not allow (1 to 4).
    """
    if not 1 <= depth <= len(LAYERS):
        raise UsageError(
            f"a composition of {depth} families", hint=f"choose a depth of 1 to {len(LAYERS)}"
        )
    known = families(split)
    if depth == 1:
        return rng.choice(known)
    layers = sorted(rng.sample(LAYERS, depth), key=LAYERS.index)
    return compose(*(rng.choice([one for one in known if one.layer == each]) for each in layers))


def best_of(
    which: Attack | str, target: Target, rng: random.Random, count: int
) -> tuple[Conversation, ...]:
    """`count` conversations of one attack with different perturbations of the last turn.

    Best-of-N (Hughes et al., arXiv 2412.03556): an attacker asks them all and keeps the one that
    broke the value. Two of a short text may be equal. UsageError for a count under 1.
    """
    if count < 1:
        raise UsageError("a best of less than one", hint="ask for one conversation or more")
    made = attack(which, target, rng)
    return tuple(made.ending_in(perturbed(made.last, rng)) for _ in range(count))


@dataclass(frozen=True)
class _Data:
    families: tuple[Family, ...]
    filler: tuple[str, ...]
    shots: tuple[tuple[str, str], ...]


@cache
def _data() -> _Data:
    text = (files("loyal.alignment") / "data" / "attacks.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)
    return _Data(
        tuple(_family(one) for one in table["family"]),
        tuple(table["pool"]["filler"]),
        tuple((asked, said) for asked, said in table["pool"]["shots"]),
    )


def _family(entry: Mapping[str, Any]) -> Family:
    listed = (
        (f"user: {one}",) if isinstance(one, str) else tuple(one) for one in entry["wordings"]
    )
    return Family(**{**entry, "wordings": tuple(listed)})


def _places(text: str, target: Target) -> dict[str, str]:
    """What the places of a wording stand for; `text` is what stands inside."""
    return {
        "question": text,
        "topic": target.topic,
        "value": target.value,
        "opposite": target.opposite,
        "question_json": json.dumps(text, ensure_ascii=False),
        "opposite_json": json.dumps(target.opposite, ensure_ascii=False),
    }


def _turns(line: str, places: Mapping[str, str], rng: random.Random) -> list[Turn]:
    """The turns that one line of a wording stands for."""
    who, _, text = line.partition(": ")
    if who == "shots":
        shots = rng.sample(_data().shots, int(text))
        return [turn for asked, said in shots for turn in _exchange(asked, said)]
    role = cast(Role, who)
    if text == "{reply}":
        return [Turn(role, None)]
    return [Turn(role, _filled(text, places, rng))]


def _exchange(asked: str, said: str) -> tuple[Turn, Turn]:
    return Turn("user", asked), Turn("assistant", said)


def _filled(text: str, places: Mapping[str, str], rng: random.Random) -> str:
    """The text with its places filled in, in one pass: braces of the target's texts stay."""

    def of(match: re.Match[str]) -> str:
        if match[1] == "filler":
            return "\n\n".join(rng.sample(_data().filler, rng.randint(*FILLER_PARAGRAPHS)))
        return places[match[1]]

    return _PLACE.sub(of, text)
