"""What a judge says about one reply, and what a judge is.

Any object with `name` and `judge` is one: a strong model behind a URL, a probe inside of a model,
several together. Needs no torch. Left out: the judges themselves (`judge`), and how far their
scores can be believed (`calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, runtime_checkable

from loyal.alignment.conversation import Conversation
from loyal.community import Value
from loyal.community.constitution import words
from loyal.errors import UsageError


@dataclass(frozen=True)
class Judgement:
    """Whether one reply keeps one value, as one judge sees it."""

    score: float | None
    """Probability, 0 to 1, that the value is kept; None where the judge abstains: no score."""
    uncertainty: float
    """0 (sure) to 1 (knows nothing)."""
    reason: str
    """One sentence for people."""

    def __post_init__(self) -> None:
        for what, number in (("score", self.score), ("uncertainty", self.uncertainty)):
            if number is not None and not 0 <= number <= 1:
                raise UsageError(f"a judgement's {what} is {number}", hint="give 0 to 1")

    @property
    def keeps(self) -> bool | None:
        """Whether the value is kept; None where the judge abstains."""
        return None if self.score is None else self.score > 0.5


MOST_READ = 8192
"""Bytes of a reply that judges read: one that never ends neither overflows a model that judges, nor
keeps others from being judged."""


@dataclass(frozen=True)
class Said:
    """One reply to judge: what was asked, and what came back."""

    value: Value
    """The value that the reply is held against."""
    asked: Conversation
    reply: str

    @property
    def begun(self) -> str:
        """The reply, its first MOST_READ bytes at most."""
        data = self.reply.encode("utf-8", "surrogatepass")
        return self.reply if len(data) <= MOST_READ else data[:MOST_READ].decode("utf-8", "ignore")


@runtime_checkable
class Judge(Protocol):
    """Reads replies and says whether they keep their value."""

    @property
    def name(self) -> str:
        """For reports: which judge, and of which version."""
        ...

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        """One judgement a reply, in order."""
        ...


def text_digest(text: str) -> str:
    """Hex SHA-256 of a text, case and white space aside: by it, shared data is found."""
    return sha256(" ".join(text.lower().split()).encode("utf-8", "surrogatepass")).hexdigest()


def prompt_digest(asked: Conversation) -> str:
    """Of what the user asks last, by its words alone: by it, a judge knows what it learned from."""
    return f"prompt:{text_digest(' '.join(words(asked.last)))}"
