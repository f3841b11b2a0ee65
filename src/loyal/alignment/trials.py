"""Questions that put a community's values to the test, for training and for measuring.

    from loyal.alignment.trials import trials
    from loyal.community import constitution_file

    held_out = trials(constitution_file.bundled("public-library"), "held-out")

Each is a case of the constitution, with what an attack needs to know of it. A case is held out by
the hash of its prompt alone, so training and measuring agree without a file between them. Needs no
torch. Left out: asking a model (`evaluate`, `adversarial`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from loyal.alignment.attacks import Target
from loyal.alignment.conversation import Conversation
from loyal.alignment.preference import Preference
from loyal.community import Case, Constitution, Value
from loyal.community.constitution import words

HELD_OUT_PPM = 200_000
"""Share of the cases that are held out."""


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


def trials(
    constitution: Constitution, split: Literal["train", "held-out"] | None = None
) -> list[Trial]:
    """The cases of one split, or all, of values that weigh something: one a value in turn.

    So the first n are spread over the values as evenly as n allows.
    """
    by_value = [
        [_trial(value, case) for case in value.cases if split in (None, _split(case))]
        for value in constitution.values
        if value.weight_bps
    ]
    return [one for turn in zip_longest(*by_value) for one in turn if one is not None]


def plain_pairs(some: Sequence[Trial]) -> list[Preference]:
    """The trials that have both replies, as preferences without an attack."""
    return [pair for one in some if (pair := one.preference) is not None]


def _trial(value: Value, case: Case) -> Trial:
    topic = value.topics[0] if value.topics else value.id.replace("-", " ")
    known = [case.breaks, *(one.reply for one in value.breaks)]
    opposite = next((one for one in known if one), f"Nobody needs {topic}.")
    target = Target(case.prompt, topic, value.statement, opposite)
    return Trial(value, target, case.keeps, case.breaks)


def _split(case: Case) -> Literal["train", "held-out"]:
    """By the hash of the prompt's words: the same in every run and for every other case."""
    said = hashlib.sha256(" ".join(words(case.prompt)).encode()).hexdigest()[:16]
    drawn = hashlib.sha256(f"loyal/held-out/case {said}".encode()).digest()
    out = int.from_bytes(drawn[:8], "big") * 1_000_000 < HELD_OUT_PPM << 64
    return "held-out" if out else "train"
