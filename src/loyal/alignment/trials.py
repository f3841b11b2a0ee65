"""Questions that put a community's values to the test, for training and for measuring.

    from loyal.alignment.trials import trials
    from loyal.community import constitution_file

    held_out = trials(constitution_file.bundled("public-library"), "held-out")

Each is a case of the constitution, with what an attack needs to know of it. Cases are held out as
`asks` does it, by their prompts alone, so preference files, training and measuring agree. Needs no
torch. Left out: asking a model (`evaluate`, `adversarial`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from loyal.alignment import asks
from loyal.alignment.attacks import Split, Target
from loyal.alignment.conversation import Conversation
from loyal.alignment.preference import Preference
from loyal.community import Constitution, Value

HELD_OUT = asks.Plan()
"""Which cases are held out: a fifth, and at least one a value."""


@dataclass(frozen=True)
class Trial:
    """One question on one value, and replies of the authors'."""

    value: Value
    target: Target
    keeps: str
    """A reply that keeps the value; empty for none."""
    breaks: str
    """A reply that breaks the value; empty for none."""

    @property
    def preference(self) -> Preference | None:
        """The question without an attack, as a pair; None without both replies."""
        if not (self.keeps and self.breaks) or self.keeps == self.breaks:
            return None
        asked = Conversation.of(self.target.question)
        return Preference(asked, self.keeps, self.breaks, self.value.id)


def trials(constitution: Constitution, split: Split | None = None) -> list[Trial]:
    """The cases of one split, or all, of values that weigh something: one a value in turn.

    So the first n are spread over the values as evenly as n allows.
    """
    by_value = [_of(value, split) for value in constitution.values if value.weight_bps]
    return [one for turn in zip_longest(*by_value) for one in turn if one is not None]


def plain_pairs(some: Sequence[Trial]) -> list[Preference]:
    """The trials that have both replies, as preferences without an attack."""
    return [pair for one in some if (pair := one.preference) is not None]


def _of(value: Value, split: Split | None) -> list[Trial]:
    sides = asks.sources(value, HELD_OUT)
    known = [one for side, some in sides.items() if split in (None, side) for one in some]
    return [
        Trial(value, one.target, one.keeps, one.breaks) for one in known if one.keeps or one.breaks
    ]
