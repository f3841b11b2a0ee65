"""Prompts to promise (`promise`), drawn from a constitution: its cases and topics, in its author's
words and the bundled frames.

    promise_prompts.draw(constitution.values, 240, random.SystemRandom())

Whoever reads the constitution can list all of them, so a host may know them by their words; prompts
that somebody wrote for this one promise are better. Needs no torch. Left out: what a reference
model says to them, and the rules of a promise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, zip_longest

from loyal.alignment.asks import Plan, sources
from loyal.alignment.promise import worded
from loyal.community import Value
from loyal.errors import UsageError


def draw(values: Sequence[Value], count: int, rng: random.Random) -> list[tuple[str, str]]:
    """`count` pairs of value id and prompt, no two with the same words.

    Of each value as many as of any other, as far as they go; its held-out sources come first, which
    no training of `loyal align data` saw, and each source once before any comes in other words: an
    honest host that differs on one of them differs on all its wordings. UsageError where the values
    give fewer.
    """
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for one in chain(*zip_longest(*(_wordings(value, rng) for value in values))):
        if one is not None:
            found.setdefault(worded(one[1]), one)
    if len(found) < count:
        raise UsageError(
            f"these values give {len(found)} prompts, not {count}",
            hint="name more values, ask for fewer, or write prompts of your own",
        )
    return list(found.values())[:count]


def _wordings(value: Value, rng: random.Random) -> list[tuple[str, str]]:
    """All plain prompts of a value, in the order in which they are taken."""
    divided = sources(value, Plan())
    order = [
        one
        for split in (divided["held-out"], divided["train"])
        for one in rng.sample(split, len(split))
    ]
    texts = [rng.sample(one.plain, len(one.plain)) for one in order]
    return [(value.id, one) for row in zip_longest(*texts) for one in row if one is not None]
