"""Attention of packed prompts: each to the prefix that it shares and to itself alone.

A mask over a whole row computes what is then thrown away: nine prompts behind a prefix of 24 tokens
look at a sixth of a row of 256. Here prompts of about one length stand side by side in a block,
filled up to the longest of them, so that two batched products a block do. On a CPU that takes a
quarter of the time, and a pass needs its prefix once in place of once in 256 places (docs/log.md).

The law (held by a test): hidden states are those of a plain pass of each prompt alone. A prompt's
own places come before those that fill it up, so none of them looks there. Left out: who stands
where (`packing`), layers that see a window alone, and attention that is not plain (`install`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from loyal.errors import ModelError

NAME = "loyal_blocks"
FULL, MANY = 0.875, 16
"""A block's shortest prompt has at least this share of the length of its longest, and the same
length where there are so many already: filling up costs more then than another block."""
LONG = 128
"""Prompts longer than this are attended to by PyTorch's kernel, which never holds all scores at
once: kept for the way back, those of 16 prompts of 500 tokens took 10 GB in 30 layers. Plain
products are faster at any length (1.3 to 3 times, docs/log.md)."""


@dataclass(frozen=True)
class Block:
    """So many prompts side by side, each of so many places."""

    count: int
    width: int
    bias: Tensor
    """What is added to scores: (width, prefix + width), -inf where a place may not look."""


@dataclass(frozen=True)
class Laid:
    """A row: its prefix, then its blocks."""

    prefix: int
    own: Tensor
    """The bias of the prefix: (prefix, prefix)."""
    blocks: tuple[Block, ...]

    @property
    def sizes(self) -> list[int]:
        """Places of the prefix and of each block."""
        return [self.prefix, *(one.count * one.width for one in self.blocks)]


def laid(prefix: int, lengths: Sequence[int], device: torch.device | str) -> Laid:
    """Blocks of prompts of these lengths, the longest first, behind a prefix."""
    groups: list[list[int]] = []
    for length in lengths:
        block = groups[-1] if groups else []
        most = block[0] if block else 0
        if not block or length < (most if len(block) >= MANY else FULL * most):
            groups.append([])
        groups[-1].append(length)
    found = (Block(len(one), one[0], _bias(prefix, one[0], device)) for one in groups)
    return Laid(prefix, _bias(0, prefix, device), tuple(found))


def install(body: Any) -> None:
    """From now on this decoder attends by blocks where a pass says so, and otherwise as before.

    Left as it is where its layers attend to a window, or in a way that is not plain.
    """
    config = body.config
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if config._attn_implementation == "sdpa" and window is None and not kinds:
        config._attn_implementation = NAME


def installed(body: Any) -> bool:
    """Whether passes of this decoder may be laid out in blocks."""
    return body.config._attn_implementation == NAME


@contextmanager
def attending(rows: Sequence[Laid]) -> Iterator[None]:
    """Passes of this thread are laid out so within it; those of others are not touched."""
    token = _rows.set(tuple(rows))
    try:
        yield
    finally:
        _rows.reset(token)


_rows: ContextVar[tuple[Laid, ...]] = ContextVar("rows", default=())


def _bias(prefix: int, width: int, device: torch.device | str) -> Tensor:
    later = torch.ones(width, prefix + width, dtype=torch.bool, device=device).triu(prefix + 1)
    return torch.zeros(later.shape, device=device).masked_fill_(later, -torch.inf)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **other: Any
) -> tuple[Tensor, None]:
    """In transformers' form, the mask not looked at by blocks: queries (R, heads, T, D), keys and
    values of as many heads or of fewer that several share. (R, T, heads, D), 0 where filled up."""
    rows = _rows.get()
    if not rows:
        return sdpa_attention_forward(module, query, key, value, mask, **other)
    given = {name: other.get(name) for name in ("softcap", "s_aux", "position_bias")}
    odd = [name for name, one in given.items() if one is not None]
    odd += ["dropout"] if other.get("dropout") else []
    if odd:
        raise ModelError(
            f"attention by blocks knows no {odd[0]}",
            hint="use another model, and tell us of this one",
        )
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        narrow = torch.get_autocast_dtype(kind)
        query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
    scale = other.get("scaling")
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    found = [
        _row(queries, keys, values, row)
        for queries, keys, values, row in zip(query, key, value, rows, strict=True)
    ]
    return torch.stack(found).transpose(1, 2), None


def _row(query: Tensor, key: Tensor, value: Tensor, row: Laid) -> Tensor:
    """Of one row: (heads, T, D)."""
    sizes = row.sizes
    rest = query.shape[1] - sum(sizes)
    queries, keys, values = (one.split([*sizes, rest], dim=1) for one in (query, key, value))
    found: list[Tensor] = []
    if row.prefix:
        shape, nothing = (1, row.prefix, row.own), (key[:, :0], value[:, :0])
        found.append(_block(queries[0], nothing, (keys[0], values[0]), shape))
    for one, asked, seen, said in zip(
        row.blocks, queries[1:-1], keys[1:-1], values[1:-1], strict=True
    ):
        shape = one.count, one.width, one.bias
        found.append(_block(asked, (keys[0], values[0]), (seen, said), shape))
    return torch.cat([*found, torch.zeros_like(queries[-1], dtype=value.dtype)], dim=1)


def _block(
    query: Tensor, before: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor],
    shape: tuple[int, int, Tensor],
) -> Tensor:  # fmt: skip
    """Of one block: (heads, count * width, D); heads that share keys ask them side by side."""
    count, width, bias = shape
    heads, shared, size = len(query), len(own[0]), query.shape[-1]
    each = heads // shared
    asked = query.view(shared, each, count, width, size).permute(2, 0, 1, 3, 4)
    asked = asked.reshape(count * shared, each * width, size)
    keys, values = (
        torch.cat(
            [
                first.expand(count, *first.shape),
                one.view(shared, count, width, size).transpose(0, 1),
            ],
            dim=2,
        ).flatten(0, 1)  # (count * shared, prefix + width, D)
        for first, one in zip(before, own, strict=True)
    )
    if width > LONG:
        wide = bias.to(asked.dtype).repeat(each, 1)
        found = functional.scaled_dot_product_attention(asked, keys, values, wide, scale=1.0)
    else:
        scores = (asked @ keys.transpose(1, 2)).view(len(asked), each, *bias.shape)
        chances = (scores + bias).softmax(-1).to(values.dtype)  # the bias is float32 at least
        found = chances.view(len(asked), each * width, -1) @ values
    found = found.view(count, shared, each, width, size).permute(1, 2, 0, 3, 4)
    return found.reshape(heads, count * width, size)


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
