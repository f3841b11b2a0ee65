"""One preference: a conversation, the reply to prefer, and the one to leave. And where it is from.

A demonstration is its half: a conversation and a good reply. A record is one of them with its
provenance, as files hold it. Needs no torch. Left out: those files (`preferences`), how records
come about (`synthesize`), and training on them (`adversarial`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loyal import encoding
from loyal.alignment.conversation import Conversation
from loyal.errors import UsageError
from loyal.models.examples import Example

WHOLE_PPM = 1_000_000

MOST_WEIGHT_PPM = 1_000 * WHOLE_PPM
"""No example counts a thousand times as much as an ordinary one, whoever gave it."""

PURPOSE = "loyal preference 1"
"""Of a record's digest."""

Kind = Literal["plain", "adversarial", "borderline", "off-topic", "general", "safety"]
Split = Literal["train", "held-out"]


@dataclass(frozen=True)
class Preference:
    """Of two replies to one conversation, which is to be preferred, and how much that counts."""

    asked: Conversation
    """No turn of it is open: what a model said before is written out."""
    chosen: str
    rejected: str
    value: str = ""
    """Id of the constitution's value that decides; empty for general or safety data."""
    weight_ppm: int = WHOLE_PPM
    """Factor on this example's loss, in millionths: a member's stake, a value's weight."""
    contributor: str = ""
    """Who gave it; empty for the generator alone."""
    campaign: str = ""
    """Where it was gathered; empty for none."""

    def __post_init__(self) -> None:
        _require(self.asked, self.weight_ppm, "a preference")
        if not self.chosen.strip() or not self.rejected.strip():
            raise UsageError("a preference has an empty reply", hint="give both replies")
        if self.chosen == self.rejected:
            raise UsageError("a preference has one reply twice", hint="give two that differ")

    @property
    def demonstration(self) -> Demonstration:
        """The chosen reply alone."""
        return Demonstration(
            self.asked, self.chosen, self.value, self.weight_ppm, self.contributor, self.campaign
        )


@dataclass(frozen=True)
class Demonstration:
    """A conversation, and a reply to learn."""

    asked: Conversation
    """No turn of it is open."""
    reply: str
    value: str = ""
    """As in `Preference`, and so are the fields below."""
    weight_ppm: int = WHOLE_PPM
    contributor: str = ""
    campaign: str = ""

    def __post_init__(self) -> None:
        _require(self.asked, self.weight_ppm, "a demonstration")
        if not self.reply.strip():
            raise UsageError("a demonstration has an empty reply", hint="give it a reply")

    @property
    def example(self) -> Example:
        """What the training loop takes; its weight is a factor on the loss."""
        weight = self.weight_ppm / WHOLE_PPM
        return Example(self.asked.prompt(), self.reply, weight=weight, ends=True)


@dataclass(frozen=True)
class Provenance:
    """Where a record comes from."""

    kind: Kind
    """What it is for: a value asked plainly, under attack, at its border, or where it does not
    matter; general instructions; safety."""
    split: Split = "train"
    source: str = ""
    """What its prompt was made from: "case 3f0c..." (a hash of the case's prompt), "topic ..."."""
    attack: str = ""
    """The family that words the prompt; empty for none."""
    generator: str = ""
    """Who wrote the replies."""
    judge: str = ""
    """Who scored them; empty where the form itself decides."""
    chosen_ppm: int | None = None
    """The judge's probability that the chosen reply keeps the value, in millionths."""
    rejected_ppm: int | None = None


@dataclass(frozen=True)
class Record:
    """A preference or a demonstration, and where it is from."""

    content: Preference | Demonstration
    provenance: Provenance | None = None
    """None for a file that does not say."""

    @property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes, over content and provenance: what `hash` in a file is."""
        one, origin = self.content, self.provenance
        pair = isinstance(one, Preference)
        replies = [one.chosen, one.rejected] if isinstance(one, Preference) else [one.reply]
        asked = [[turn.role, turn.text] for turn in one.asked.turns]
        told = None if origin is None else list(vars(origin).values())
        owner: list[encoding.Encodable] = [one.value, one.weight_ppm, one.contributor, one.campaign]
        return encoding.digest([pair, asked, replies, owner, told], PURPOSE)


def _require(asked: Conversation, weight_ppm: int, what: str) -> None:
    if asked.open_turns:
        raise UsageError(f"{what} leaves turns to the model", hint="write out what it said there")
    if type(weight_ppm) is not int or weight_ppm < 1:
        raise UsageError(f"{what}'s weight is not a whole number above 0", hint="drop it instead")
    if weight_ppm > MOST_WEIGHT_PPM:
        raise UsageError(f"{what}'s weight is over 1,000", hint="lower all weights by one factor")
