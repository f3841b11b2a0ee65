"""Hidden states below the trained layers, computed once and read as often as training needs.

Where only the upper layers learn, the lower ones give the same hidden states at every step. A
`Trunk` keeps them for a list of items, so that a step costs the upper layers alone: a third of the
work for the top 10 of 30. The law (held by a test): logits through a trunk are those of a plain
forward pass. Holds no loss; `train` does.

A reading may be shaken by a `Drift`: somebody's fine-tuning of the lower layers moves what the
upper ones see, for the most part by one and the same vector at every prompt (docs/log.md). A drift
draws such vectors, one an item, along the ways in which the states of ordinary prompts differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loyal.models import packing
from loyal.models.packing import Item
from loyal.models.processes import Part

PASS_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Places one pass with gradients holds; bounds memory, not the result."""

LAST_DRIFT = 0.65
"""Share of a drift that the last place of an item has beyond what all its places have: LoRA moved
the last place three times as far as those before it."""


@dataclass(frozen=True)
class Drift:
    """Vectors to add to hidden states, drawn anew for each item that is read."""

    directions: Tensor  # (n, H), how states differ from their mean
    strength: float
    """Most of a vector's length, beside the typical length of a direction; the least is 0.3 of it,
    and lengths between the two are equally likely."""
    seed: int
    """The same seed draws the same vectors, in the order of reading."""

    def vectors(self) -> Iterator[Tensor]:
        """Vectors (H,) without end: normal, with the covariance of the directions."""
        rng = torch.Generator().manual_seed(self.seed)
        count, device = len(self.directions), self.directions.device
        while True:
            shares = torch.randn(count, generator=rng).to(device)
            length = self.strength * (0.3 + 0.7 * float(torch.rand((), generator=rng)))
            yield shares @ self.directions * (length / count**0.5)


@dataclass(frozen=True)
class Reading:
    """Hidden states of some items' last places after the last norm."""

    indices: tuple[int, ...]
    """Which items, in the order of `hidden`; none in a pass that only keeps step with others."""
    hidden: Tensor  # (sum of counts, H)
    counts: tuple[int, ...]
    """How many places each of them has in `hidden`."""
    tokens: int
    """Tokens that the pass went over, shared prefixes once a row, padding not counted."""


class Trunk:
    """Items and their hidden states at the bottom of layer `start` (0: nothing is kept)."""

    def __init__(self, model: Any, items: Sequence[Item], start: int) -> None:
        self.model, self.items, self.start = model, list(items), start
        self.device = next(model.parameters()).device
        self.limit, self.recompute, self.part = PASS_TOKENS[self.device.type], False, Part()
        self.plain = packing.by_blocks(model.model)
        self._below: dict[int, Tensor] = {}  # item -> (len(ids), H)
        self._prefix: dict[tuple[int, ...], Tensor] = {}  # prefix -> (len(prefix), H)
        self._pass: tuple[packing.Batch, Sequence[int]] | None = None
        if start:
            self._fill()

    @torch.no_grad()
    def _fill(self) -> None:
        for batch in packing.passes(self.model.model, self.items, self.limit):
            with packing.layers(self.model.model, 0, self.start, norm=False) as body:
                hidden = packing.hidden_states(body, batch)
            for place, row in enumerate(batch.rows):
                if row.prefix not in self._prefix:
                    self._prefix[row.prefix] = hidden[place, : len(row.prefix)].clone()
            for index, (place, at) in batch.starts.items():
                self._below[index] = hidden[place, at : at + len(self.items[index].ids)].clone()

    def read_by(self, part: Part, tokens: int, recompute: bool) -> None:
        """From now on read this process's part alone, about `tokens` places a pass (0: as many as
        before), and `recompute` in backward passes (`packing.layers`)."""
        self.part, self.limit, self.recompute = part, tokens or self.limit, recompute

    @property
    def _blocked(self) -> bool:
        """Whether attention goes by blocks; not where a layer is computed again out of its pass."""
        return self.plain and not self.recompute

    def last(self, indices: Sequence[int]) -> Tensor:
        """(n, H): the kept states of the items' last places; needs a start above 0."""
        return torch.stack([self._below[index][-1] for index in indices])

    def read(
        self, indices: Sequence[int], counts: Sequence[int], drift: Drift | None = None
    ) -> Iterator[Reading]:
        """Hidden states of the last `counts[i]` places of item `i`, for each of `indices`.

        Gradients follow the caller's grad mode. Law: readings do not depend on which items are
        read together, as long as there is no drift. In several processes each reads its part, in
        as many passes as the others.
        """
        vectors = drift.vectors() if drift is not None and self.start else None
        chosen = [self.items[index] for index in indices]
        size = sum(len(one.prefix) + len(one.ids) for one in chosen)
        blocked = self._blocked
        width = self.limit if blocked else min(packing.ROW_TOKENS, self.limit)
        rows = packing.pack(chosen, min(width, -(-size // self.part.of)))
        for group in self.part.passes(rows, self.limit):
            batch = packing.tensors(group or rows[-1:], chosen, self.device, blocked=blocked)
            self._pass = batch, indices
            hidden = self._upper(batch, indices, vectors)
            parts, order = [], []
            for local, (place, at) in batch.starts.items() if group else ():
                index = indices[local]
                end = at + len(self.items[index].ids)
                parts.append(hidden[place, end - counts[index] : end])
                order.append(index)
            yield Reading(
                tuple(order),
                torch.cat(parts) if parts else hidden[0, :0],
                tuple(counts[index] for index in order),
                sum(row.length for row in group),
            )

    def weights(self, last: Mapping[int, float]) -> Tensor:
        """A weight a place (R, T) of the pass underway: 0 where padded, `last[item]` at the last
        place of the items it names, 1 elsewhere."""
        assert self._pass is not None
        batch, indices = self._pass
        found = torch.zeros(batch.ids.shape, device=self.device)
        for place, row in enumerate(batch.rows):
            found[place, : len(row.prefix)] = 1
        for local, (place, at) in batch.starts.items():
            index = indices[local]
            end = at + len(self.items[index].ids)
            found[place, at:end] = 1
            found[place, end - 1] = last.get(index, 1.0)
        return found

    def _upper(
        self, batch: packing.Batch, indices: Sequence[int], vectors: Iterator[Tensor] | None
    ) -> Tensor:
        """Hidden states (R, T, H) after the upper layers and the last norm."""
        again = self.recompute and torch.is_grad_enabled()
        if not self.start:
            with packing.layers(self.model.model, 0, None, norm=True, recompute=again) as body:
                return packing.hidden_states(body, batch)
        size = next(iter(self._below.values())).shape[-1]
        below = torch.zeros(*batch.ids.shape, size, device=self.device)
        for place, row in enumerate(batch.rows):
            below[place, : len(row.prefix)] = self._prefix[row.prefix]
        for local, (place, at) in batch.starts.items():
            kept = self._below[indices[local]]
            if vectors is not None:
                vector = next(vectors)
                kept = kept + (1 - LAST_DRIFT) * vector
                kept[-1] += LAST_DRIFT * vector
            below[place, at : at + len(kept)] = kept
        with packing.layers(self.model.model, self.start, None, norm=True, recompute=again) as body:
            return packing.hidden_states(body, batch, below)
