"""What a model says about anything else, held as it was: a part of each step's loss.

    ordinary = Ordinary(model, AlignSettings())       # before anything is trained
    Course(beside=ordinary.loss)                      # `loyal.models.tuning`

The divergence KL(untouched || now) at places of ordinary prompts, of the untouched model's sampled
replies and of raw text (`loyal.models.lessons.Benign`, as injection mixes them in). It asks for
every token's chance, where imitating a reply asks for one. Some of the prompts also say what form
the reply is to have: without them instructions of that kind were followed less. Guards and reports
look at other text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from loyal.alignment.asks import frames
from loyal.alignment.settings import AlignSettings
from loyal.models.hf import HFModel
from loyal.models.lessons import Benign, Forms
from loyal.models.products import autocast


class Ordinary:
    """Ordinary places, and the chances that the untouched model gives there."""

    def __init__(self, model: HFModel, settings: AlignSettings) -> None:
        """Read the model as it is; it replies to `settings.divergence_replies` prompts."""
        self.model, self.settings = model, settings
        with autocast(self.settings.precision, self.model.device):
            forms = Forms(tuple(frames()["form"]), settings.divergence_forms)
            replies = settings.divergence_replies
            self.benign = Benign(model, 0, settings.seed, replies, forms=forms)
            self.benign.run()

    def loss(self, items: Sequence[int]) -> Tensor:
        """`settings.divergence` times the nats a place, at places drawn for a step of these items.

        The items' indices and the seed alone decide on the places, so a resumed run draws the same.
        """
        rng = random.Random(f"loyal/ordinary/{self.settings.seed}/{list(items)}")
        parts = []
        with autocast(self.settings.precision, self.model.device):
            most = self.settings.divergence_places
            for every, wanted in ((self.benign.first, -(-most // 4)), (self.benign.rest, most)):
                picked = self._picked(every, wanted, rng)
                places = sum(self.benign.counts[index] for index in picked)
                parts += [total / places for total, _, _ in self.benign.divergences(picked)]
        return self.settings.divergence * torch.stack(parts).sum()

    def _picked(self, every: Sequence[int], wanted: int, rng: random.Random) -> list[int]:
        """Some of them, until they have so many places together."""
        picked: list[int] = []
        places = 0
        for index in rng.sample(every, len(every)):
            picked.append(index)
            places += self.benign.counts[index]
            if places >= wanted:
                break
        return picked
