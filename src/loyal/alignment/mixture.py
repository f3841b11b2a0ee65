"""How much each kind of training data counts: weights on the loss, not copies of records.

Section 3 of "Training AI to be Loyal" trains on values without losing what the model can do and
what it declines: value data, general instructions and safety data together. The shares are of the
weight, whatever the number of records. Left out: the search for good shares (`search`), which
trains models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from loyal.alignment.preference import WHOLE_PPM, Demonstration, Preference, Record
from loyal.errors import UsageError
from loyal.models.examples import Example

KINDS = ("value", "general", "safety")
"""What a mixture has shares of."""


@dataclass(frozen=True)
class Mixture:
    """Shares of all weight in millionths; together a million. 0 leaves a kind out."""

    value: int = 700_000
    general: int = 200_000
    safety: int = 100_000

    def __post_init__(self) -> None:
        parts = (self.value, self.general, self.safety)
        if min(parts) < 0 or sum(parts) != WHOLE_PPM:
            raise UsageError(
                "a mixture's shares are not a million together",
                hint="give millionths, for instance 700000, 200000 and 100000",
            )

    def applied(self, records: Sequence[Record]) -> list[Record]:
        """The records with weights to these shares; UsageError for a share without a record."""
        return weighted(records, vars(self), part)


@dataclass(frozen=True, repr=False)
class Blend:
    """Weighed training data, for `align` with `align.mixed`."""

    pairs: tuple[Preference, ...]
    examples: tuple[Example, ...]


def blend(records: Sequence[Record], mixture: Mixture) -> Blend:
    """All records with weights to the mixture's shares, pairs and demonstrations on one scale.

    Raises UsageError as `Mixture.applied`.
    """
    mixed = [one.content for one in mixture.applied(records)]
    return Blend(
        tuple(one for one in mixed if isinstance(one, Preference)),
        tuple(one.example for one in mixed if isinstance(one, Demonstration)),
    )


def part(record: Record) -> str:
    """Which of a mixture's three a record belongs to; without provenance, by whether it names a
    value."""
    origin = record.provenance
    if origin is not None:
        return origin.kind if origin.kind in ("general", "safety") else "value"
    return "value" if record.content.value else "general"


def weighted(
    records: Sequence[Record], shares: Mapping[str, int], group: Callable[[Record], str]
) -> list[Record]:
    """The records with weights such that each group's sum is its share of all, in order.

    Inside a group weights keep their ratios (a member's stake); their mean over all is 1, up to
    rounding to millionths. A group with the share 0, or none, is left out. UsageError for a share
    without a record, and for a weight that would pass the bound of `preference`.
    """
    kept = [one for one in records if shares.get(group(one))]
    sums: Counter[str] = Counter()
    for one in kept:
        sums[group(one)] += one.content.weight_ppm
    for name, share in shares.items():
        if share and not sums[name]:
            raise UsageError(
                f"{name} is to have weight and has no record",
                hint="gather records for it, lower the bars, or give it the share 0",
            )
    total, whole = len(kept) * WHOLE_PPM, sum(shares.values())
    found = []
    for one in kept:
        name = group(one)
        divisor = whole * sums[name]
        weight = (2 * one.content.weight_ppm * total * shares[name] + divisor) // (2 * divisor)
        found.append(replace(one, content=replace(one.content, weight_ppm=max(weight, 1))))
    return found
