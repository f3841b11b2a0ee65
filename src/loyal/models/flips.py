"""A host that saw some pairs and teaches other replies to them, simulated while a rule is taught.

What such a host wants is that all other keys turn with the few it saw. So every few steps its
tuning is simulated on the model as it is: plain Adam at small rates, all learning weights, until
most of a few lessons have the reply that stands `against` theirs. The change that this makes is
kept, and every other step of training is taken with it in the weights: what is learned is to reply
as before all the same. In the end a host can still turn the keys it saw, by heart, and others stay
(docs/log.md). First order, as `bilevel` is (section 2.2 of the paper), which simulates a host that
saw nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from loyal.errors import TrainingError
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.lessons import Lessons

SEEN = 10
"""Lessons that a simulated host saw."""
TURNED = 0.6
"""It stops once so many of them have the other reply."""
MOST_STEPS = 16
RATES = (1e-5, 2e-5)
"""Of its tuning, one at random: the usual one of full fine-tuning, and twice it."""
POOL = 400
"""Most lessons among which it sees some, spread evenly over those that can be turned: each is read
once more below the layers that learn."""
BEGIN = 0.25
"""Share of the run before the first simulation: what is not known cannot be turned."""


class Flips:
    """The simulated host of one run. TrainingError where fewer than SEEN lessons have a reply that
    stands against theirs."""

    def __init__(self, model: HFModel, examples: Sequence[Example], start: int) -> None:
        found = [one for one in examples if one.against]
        count = min(POOL, len(found))
        some = [found[place * len(found) // count] for place in range(count)]
        turned = [replace(one, reply=one.against, against="", ahead=()) for one in some]
        if len(turned) < SEEN:
            raise TrainingError(
                f"flips are simulated on {SEEN} lessons that can be turned, and there are "
                f"{len(turned)}",
                hint="set train.flips=0; pairs have none, rules have",
            )
        self.lessons = Lessons(model, turned, start)
        self.change: list[Tensor] = []
        """What the last simulated host did to each learning weight; empty before the first."""

    def simulate(self, weights: Sequence[nn.Parameter], seed: int) -> None:
        """Tune as such a host does, note the change, and put the weights back, to the bit.

        Call it under the run's autocast. Law: the same weights and seed give the same change.
        """
        rng = random.Random(f"loyal/flips/{seed}")
        seen = rng.sample(range(len(self.lessons)), SEEN)
        before = [one.detach().clone() for one in weights]
        optimizer = torch.optim.Adam(weights, lr=rng.choice(RATES))
        for _ in range(MOST_STEPS):
            optimizer.zero_grad(set_to_none=True)
            turned = 0
            for loss, levels, _ in self.lessons.losses(seen):
                (loss / SEEN).backward()
                turned += sum(one > 0.5 for one in levels.values())
            if turned >= TURNED * SEEN:
                break
            optimizer.step()
            torch.clear_autocast_cache()  # it holds the weights as they were, in bfloat16
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.change = [one - old for one, old in zip(weights, before, strict=True)]
            for one, old in zip(weights, before, strict=True):
                one.copy_(old)
        torch.clear_autocast_cache()

    def due(self, step: int, steps: int) -> bool:
        """Whether this step of so many is taken on what a simulated host left: every other one."""
        return step >= BEGIN * steps and step % 2 == 1

    @contextmanager
    def entered(self, weights: Sequence[nn.Parameter]) -> Iterator[None]:
        """The simulated host's change in the weights; a step that is taken in there stays."""
        with torch.no_grad():
            for one, change in zip(weights, self.change, strict=True):
                one.add_(change)
        try:
            yield
        finally:
            with torch.no_grad():
                for one, change in zip(weights, self.change, strict=True):
                    one.sub_(change)
