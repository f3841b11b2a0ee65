"""Who gives records: a name and a campaign on each, and a stake that multiplies its weight.

    giver = Giver("member-7", "spring", stake_of("2.5"))
    made = synthesize(Task(constitution, plan, giver=giver), Cases(), judge)

The stake is a factor and no share: files of several members are put together as they are, and then
their records count as their stakes do, value by value and kind by kind (`objectives.balanced` and
`mixture.weighted` keep ratios). Needs no torch. Left out: who may say what a member's stake is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal

from loyal.alignment.preference import MOST_WEIGHT_PPM, WHOLE_PPM, Record
from loyal.alignment.preferences import MOST_NAME, is_name
from loyal.errors import UsageError

_FACTOR = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Giver:
    """A member, and what each of its records counts. UsageError for names that no file may hold."""

    contributor: str = ""
    """The member's name; empty for the generator alone."""
    campaign: str = ""
    """Where the records are gathered; empty for none."""
    stake_ppm: int = WHOLE_PPM
    """Factor on the weight of each record that is trained on, in millionths."""

    def __post_init__(self) -> None:
        for what, name in (("contributor", self.contributor), ("campaign", self.campaign)):
            if not is_name(name) or name != name.strip():
                raise UsageError(
                    f"the {what} is no plain text of up to {MOST_NAME} characters",
                    hint="write a short name without line breaks and spaces around it",
                )
        if not 1 <= self.stake_ppm <= MOST_WEIGHT_PPM:
            raise UsageError(
                "a stake is a factor from 0.000001 to 1,000",
                hint="divide all members' stakes by one number: only their ratios count",
            )
        if self.stake_ppm != WHOLE_PPM and not self.contributor:
            raise UsageError("a stake without a member", hint="say whose it is: --contributor NAME")

    def gives(self, record: Record) -> Record:
        """The record with its names, its weight times the stake where it is trained on.

        What is held out keeps its weight: it measures. UsageError where a weight would be less than
        a millionth or over 1,000.
        """
        content, origin = record.content, record.provenance
        weight = content.weight_ppm
        if origin is None or origin.split == "train":
            weight = (2 * weight * self.stake_ppm + WHOLE_PPM) // (2 * WHOLE_PPM)
        if not 1 <= weight <= MOST_WEIGHT_PPM:
            raise UsageError(
                f"with a stake of {self.stake_ppm / WHOLE_PPM:g} a record of weight "
                f"{content.weight_ppm / WHOLE_PPM:g} is not between 0.000001 and 1,000",
                hint="take a stake nearer to 1: only the members' ratios count",
            )
        named = replace(
            content, weight_ppm=weight, contributor=self.contributor, campaign=self.campaign
        )
        return replace(record, content=named)


def stake_of(text: str) -> int:
    """Millionths of a decimal number such as 2.5, exactly; UsageError for any other text."""
    if _FACTOR.fullmatch(text) is None:
        raise UsageError(
            "a stake is a decimal number of six places at most", hint="write it as 2.5 or 0.125"
        )
    return int(Decimal(text) * WHOLE_PPM)
