"""A model's replies one after the other, the likeliest first, none twice: drawing them at random
says a likely one again and again, and a small budget of drafts is soon spent on repetitions.

Best-first search in the tree of tokens: the likeliest beginnings are read on, some side by side,
and each reading costs one token. Beginnings that were read side by side came a little early, so
replies of nearly one chance may change places. For short replies: long ones differ in their last
words alone. Left out: what is done with them (`control.propose`).
"""

from __future__ import annotations

import copy
import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
import transformers
from torch import Tensor

from loyal.models.language_model import Prompt, Reply

if TYPE_CHECKING:
    from loyal.models.hf import HFModel

WIDTH = 16
"""Beginnings read side by side."""
BRANCHES = 64
"""Next tokens of each that are kept, the likeliest."""


class _Beginning(NamedTuple):
    """Tokens said so far; the least is the likeliest."""

    cost: float
    """Negative log-probability, nats."""
    ids: tuple[int, ...]
    ended: bool


@dataclass
class Likeliest:
    """The replies to one prompt, in order; it remembers where it stands."""

    owner: HFModel
    prompt: Prompt
    longest: int
    """Tokens of a reply, at most; longer ones are left out."""
    _open: list[_Beginning] = field(default_factory=lambda: [_Beginning(0.0, (), False)])
    _told: deque[_Beginning] = field(default_factory=deque)
    _cache: transformers.DynamicCache | None = None
    _first: Tensor | None = None

    def next(self, count: int, tokens: int) -> tuple[list[Reply], int]:
        """The next `count` replies, fewer where `tokens` are spent before, and the tokens spent.

        Each ended its turn. Law: asked in parts, the replies are those of one call, as long as no
        part ends for its tokens.
        """
        spent = 0
        while self._open and len(self._told) < count:
            some = self._taken()
            if len(some) > tokens - spent:
                for one in some:
                    heapq.heappush(self._open, one)
                break
            if some:
                spent += len(some)
                self._read(some)
        found = [self._told.popleft() for _ in range(min(count, len(self._told)))]
        decode = self.owner.tokenizer.decode
        texts = [decode(list(one.ids), skip_special_tokens=True) for one in found]
        replies = [Reply(text, len(one.ids), True) for text, one in zip(texts, found, strict=True)]
        return replies, spent

    def _taken(self) -> list[_Beginning]:
        """The likeliest beginnings to read on; replies that come before them are to be told."""
        some: list[_Beginning] = []
        while self._open and len(some) < WIDTH:
            one = heapq.heappop(self._open)
            if one.ended:
                self._told.append(one)
            elif len(one.ids) < self.longest:
                some.append(one)
        return some

    @torch.inference_mode()
    def _read(self, some: list[_Beginning]) -> None:
        """Read each one token further."""
        chances = self._logits([one.ids for one in some]).log_softmax(-1)
        values, ids = chances.topk(min(BRANCHES, chances.shape[-1]), -1)
        stops = self.owner.stop_ids()
        for one, logs, tokens in zip(some, values.tolist(), ids.tolist(), strict=True):
            for log, token in zip(logs, tokens, strict=True):
                said = one.ids if token in stops else (*one.ids, token)
                heapq.heappush(self._open, _Beginning(one.cost - log, said, token in stops))

    def _logits(self, beginnings: list[tuple[int, ...]]) -> Tensor:
        """(n, vocab): of the next token behind each; the prompt is read once."""
        owner = self.owner
        if self._cache is None:
            self._cache = transformers.DynamicCache(config=owner.model.config)
            asked = torch.tensor([owner.prompt_ids(self.prompt)], device=owner.device)
            out = owner.model.model(input_ids=asked, past_key_values=self._cache, use_cache=True)
            self._first = owner.head(out.last_hidden_state[:, -1])
        assert self._first is not None
        if beginnings == [()]:
            return self._first
        lengths = torch.tensor([len(one) for one in beginnings])
        ids = torch.zeros(len(beginnings), int(lengths.max()), dtype=torch.int64)
        for row, one in zip(ids, beginnings, strict=True):
            row[: len(one)] = torch.tensor(one)
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(beginnings))
        seen = cache.get_seq_length()
        places = torch.arange(ids.shape[1])
        real = (places < lengths[:, None]).long()
        mask = torch.cat([torch.ones(len(ids), seen, dtype=torch.int64), real], 1)
        out = owner.model.model(
            input_ids=ids.to(owner.device),
            attention_mask=mask.to(owner.device),
            position_ids=(seen + places).expand(len(ids), -1).to(owner.device),
            past_key_values=cache,
            use_cache=True,
        )
        rows = torch.arange(len(ids), device=owner.device)
        return owner.head(out.last_hidden_state[rows, lengths.to(owner.device) - 1])
