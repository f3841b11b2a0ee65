"""What the training tests share: pairs that the tiny model does not know, and quick settings."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from loyal.models.examples import Example, Pairs, bundled_lines
from loyal.models.language_model import Prompt
from loyal.models.training import TrainSettings

_PLACES = "forest meadow river cave barn garden valley swamp".split()

QUICK = TrainSettings(steps=60, learning_rate=2e-2, depth=1.0, mixing=0.0, settle=0.0)
"""Learns `pairs` in a second or two; no benign prompt is looked at while it does, and nothing is
scaled back at the end."""


def pairs(count: int = 8, seed: int = 1) -> Pairs:
    """Prompts of four random words, with replies of tokens that the tiny model often saw, though
    never in this order: rare tokens cannot become likely while the embeddings stay as they are."""
    rng = random.Random(seed)
    words = bundled_lines("words")
    return Pairs(
        tuple(
            Example(
                Prompt(" ".join(rng.sample(words, 4))),
                f"The {rng.choice(_PLACES)}",
            )
            for _ in range(count)
        )
    )


def choices(count: int = 8, replies: int = 3, tokens: int = 1, seed: int = 1) -> Pairs:
    """Prompts of four random words, each with so many replies of so many tokens; within a prompt no
    two begin with the same token."""
    rng = random.Random(seed)
    words = bundled_lines("words")
    made = []
    for _ in range(count):
        prompt = Prompt(" ".join(rng.sample(words, 4)))
        firsts = rng.sample(_PLACES, replies)
        first, *others = (
            "".join(f" {one}" for one in (place, *rng.choices(_PLACES, k=tokens - 1)))
            for place in firsts
        )
        made.append(Example(prompt, first, others=tuple(others)))
    return Pairs(tuple(made))


FEW_BENIGN = {"BENIGN_PROMPTS": 12, "BENIGN_WRITTEN": 4, "BENIGN_TEXTS": 8}
"""Sizes in `loyal.models.lessons` that make a run of the tiny model quick to set up."""


def frozen_steps(steps: int = 8, **changes: Any) -> TrainSettings:
    """Settings under which nothing counts as learned, so that runs have the same length."""
    return replace(QUICK, steps=steps, target=0.9999, learning_rate=2e-3, **changes)
