"""One preference: a conversation, the reply to prefer, and the one to leave.

Needs no torch. Left out: files of them (`preferences`) and training on them (`adversarial`).
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal.alignment.conversation import Conversation
from loyal.errors import UsageError

WHOLE_PPM = 1_000_000


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
        if self.asked.open_turns:
            raise UsageError(
                "a preference leaves turns to the model", hint="write out what it said there"
            )
        if not self.chosen.strip() or not self.rejected.strip():
            raise UsageError("a preference has an empty reply", hint="give both replies")
        if self.chosen == self.rejected:
            raise UsageError("a preference has one reply twice", hint="give two that differ")
        if type(self.weight_ppm) is not int or self.weight_ppm < 1:
            raise UsageError(
                "a preference's weight is not a whole number above 0", hint="drop it instead"
            )
