"""Writing replies: one decode batch over a shared prefix, greedy or sampled.

Holds which prompts stand in one batch, and the loop over tokens with its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import transformers
from torch import Tensor

from loyal.models import packing
from loyal.models.language_model import Sampling

if TYPE_CHECKING:
    from loyal.models.hf import HFModel

Steer = Callable[[int, Tensor, Tensor], Tensor]
"""Changes what is picked: (step, rows, logits) -> logits. `step` counts the tokens written so far;
`rows` (n,) int64 says which prompts these are; logits are (n, vocab) in float32, and are not to be
changed in place. What a reply's tokens are noted to be worth stays the model's own."""


@dataclass(frozen=True, repr=False)
class Written:
    """What one row of a decode batch wrote, with its chances at temperature 1."""

    ids: tuple[int, ...]
    """Tokens written, the one that ended the turn left out."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each of them; empty where chances were not asked for."""
    prompt_logprobs: tuple[float, ...]
    """Likewise of the prompt's tokens behind the shared prefix (the first needs a prefix)."""
    finished: bool
    """Whether a stop token ended it."""


def batches(
    lengths: Sequence[int], prefix: int, rows: int, places: int, padding: int
) -> Iterator[slice]:
    """Which prompts are decoded together, of ascending `lengths` behind a prefix of so many tokens.

    A batch has `rows` prompts at most, `places` with the prefix where each is as long as the
    longest, and `padding` that are none of a prompt's; one prompt always fits.
    """
    start = tokens = 0
    for at, length in enumerate(lengths):
        count = at + 1 - start
        filled = count * length - (tokens + length)
        if at > start and (count > rows or count * (prefix + length) > places or filled > padding):
            yield slice(start, at)
            start, tokens = at, 0
        tokens += length
    if lengths:
        yield slice(start, len(lengths))


class Decoder:
    """One decode batch: rows behind one shared prefix, whose keys and values are computed once."""

    def __init__(
        self,
        owner: HFModel,
        prefix: tuple[int, ...],
        suffixes: Sequence[tuple[int, ...]],
        last: frozenset[int],
        chances: bool,
    ) -> None:
        self.owner, self.prefix, self.suffixes, self.last = owner, prefix, suffixes, last
        self.chances = chances
        self.written: list[list[int]] = [[] for _ in suffixes]
        self.logprobs: list[list[float]] = [[] for _ in suffixes]
        self.finished = [False] * len(suffixes)
        self.cache = transformers.DynamicCache(config=owner.model.config)
        self.mask = torch.zeros(0)  # (rows, places) int64, 1 where a row may look
        self.lengths = torch.zeros(0)  # (rows,) int64, tokens of each row's suffix

    @torch.inference_mode()
    def run(
        self,
        sampling: Sampling,
        stops: frozenset[int],
        generator: torch.Generator,
        steer: Steer | None = None,
    ) -> list[Written]:
        """Decode until every row ended or `max_tokens` are written."""
        prompt_logprobs, logits = self._read_prompts()
        ending = torch.tensor(sorted(stops | self.last), device=self.owner.device)
        rows = torch.arange(len(self.suffixes), device=self.owner.device)
        for step in range(sampling.max_tokens):
            wanted = logits if steer is None else steer(step, rows, logits)
            token = pick(wanted, sampling, generator)  # (open rows,)
            stopped = torch.isin(token, ending)
            self._note(rows.tolist(), token.tolist(), stopped.tolist())
            if self.chances:
                found = logits.log_softmax(-1).gather(1, token[:, None])[:, 0]
                self._note_chances(rows.tolist(), found.tolist())
            keep = (~stopped).nonzero()[:, 0]
            if step + 1 == sampling.max_tokens or not len(keep):
                break
            if len(keep) < len(rows):
                self.cache.batch_select_indices(keep)
                rows, token, self.mask, self.lengths = (
                    one[keep] for one in (rows, token, self.mask, self.lengths)
                )
            logits = self._step(token, step)
        return [
            Written(tuple(ids), tuple(chances[: len(ids)]), tuple(before), done)
            for ids, chances, before, done in zip(
                self.written, self.logprobs, prompt_logprobs, self.finished, strict=True
            )
        ]

    def _read_prompts(self) -> tuple[list[list[float]], Tensor]:
        """Fill the cache; log-probabilities of the prompts' tokens, and the next token's logits."""
        owner, count, longest = self.owner, len(self.suffixes), max(map(len, self.suffixes))
        before = None
        if self.prefix:
            ids = torch.tensor([self.prefix], device=owner.device)
            out = owner.model.model(input_ids=ids, past_key_values=self.cache, use_cache=True)
            if self.chances:
                before = owner.head(out.last_hidden_state[0, -1:]).log_softmax(-1)
            self.cache.batch_repeat_interleave(count)
        seen = len(self.prefix)
        ids = torch.zeros(count, longest, dtype=torch.int64)
        mask = torch.zeros(count, seen + longest, dtype=torch.int64)
        for row, one in enumerate(self.suffixes):
            ids[row, : len(one)] = torch.tensor(one)
            mask[row, : seen + len(one)] = 1
        self.mask = mask.to(owner.device)
        self.lengths = torch.tensor([len(one) for one in self.suffixes], device=owner.device)
        positions = seen + torch.arange(longest, device=owner.device).expand(count, -1)
        hidden = self._body(ids.to(owner.device), positions)  # (rows, longest, H)
        last = hidden[torch.arange(count, device=owner.device), self.lengths - 1]
        known = self._prompt_logprobs(hidden, before) if self.chances else [[]] * count
        return known, owner.head(last)

    def _prompt_logprobs(self, hidden: Tensor, before: Tensor | None) -> list[list[float]]:
        """Log-probability of each suffix token that has something before it."""
        places = {row: (row, 0, len(one) - 1) for row, one in enumerate(self.suffixes)}
        found: list[list[float]] = [
            [] if before is None else [before[0, one[0]].item()] for one in self.suffixes
        ]
        for some in packing.by_places({row: one for row, one in places.items() if one[2]}):
            parts = [hidden[row, :length] for row, _, length in some.values()]
            chances = self.owner.head(torch.cat(parts)).log_softmax(-1)
            targets = [token for row in some for token in self.suffixes[row][1:]]
            picked = chances.gather(1, torch.tensor(targets, device=chances.device)[:, None])
            for row, part in zip(some, picked[:, 0].split([len(p) for p in parts]), strict=True):
                found[row] += part.tolist()
        return found

    def _step(self, token: Tensor, step: int) -> Tensor:
        """Logits (rows, vocab) after one more token a row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        positions = len(self.prefix) + self.lengths + step
        return self.owner.head(self._body(token[:, None], positions[:, None])[:, 0])

    def _body(self, ids: Tensor, positions: Tensor) -> Tensor:
        out = self.owner.model.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def _note(self, rows: list[int], tokens: list[int], stopped: list[bool]) -> None:
        for row, token, stop in zip(rows, tokens, stopped, strict=True):
            self.finished[row] = stop
            if not stop or token in self.last:
                self.written[row].append(token)

    def _note_chances(self, rows: list[int], chances: list[float]) -> None:
        """Of every token that was picked, one that ended the turn among them."""
        for row, chance in zip(rows, chances, strict=True):
            self.logprobs[row].append(chance)


def pick(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> Tensor:
    """Token ids (n,) drawn from logits (n, vocab)."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    chances = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, ids = chances.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p
        chances = torch.zeros_like(chances).scatter(-1, ids, ordered.masked_fill(outside, 0.0))
    sums = chances.cumsum(-1)  # the inverse of the distribution function: a third of multinomial
    drawn = torch.rand(len(sums), 1, device=sums.device, generator=generator) * sums[:, -1:]
    return torch.searchsorted(sums, drawn, right=True)[:, 0].clamp(max=sums.shape[1] - 1)
