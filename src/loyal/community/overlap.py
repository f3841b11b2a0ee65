"""How much two texts share, and all pairs in a list that share much: for lint, diff and splits.

A text is the set of its word pairs (Broder 1997, "On the resemblance and containment of documents",
calls them shingles); likeness is the share of pairs that two sets have in common (Jaccard).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from loyal.community.constitution import words

Shingles = frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Near:
    """Two places of a list whose texts are alike; `first` is the smaller."""

    first: int
    second: int
    likeness: float
    """0 to 1."""


def shingles(text: str) -> Shingles:
    """The pairs of neighbor words of a text; the word itself where it is alone."""
    said = words(text)
    return frozenset(pairwise(said)) if len(said) > 1 else frozenset([said])


def likeness(one: Shingles, other: Shingles) -> float:
    """The Jaccard index of two sets, 0 to 1."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def near_pairs(texts: Sequence[str], least: float) -> Iterator[Near]:
    """Every two texts that are alike by `least` (over 0, at most 1) or more.

    Law: the same pairs as comparing all with all. Sets that alike share one of their few rarest
    members, so only those are looked up (prefix filtering, Bayardo et al. 2007, section 3).
    """
    sets = [shingles(text) for text in texts]
    count = Counter(one for each in sets for one in each)
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for second, each in enumerate(sets):
        rarest = sorted(each, key=lambda one: (count[one], one))
        prefix = rarest[: len(each) - math.ceil(least * len(each) - 1e-9) + 1]
        for first in sorted({first for one in prefix for first in holders[one]}):
            found = likeness(sets[first], each)
            if found >= least:
                yield Near(first, second, found)
        for one in prefix:
            holders[one].append(second)
