"""One forward pass over many prompts that share a beginning.

A chat template puts the same tokens before every user message; computed for each prompt again they
are two thirds of the work for short prompts. Here a row holds that prefix once and several prompts
behind it; a mask, or attention by `blocks`, lets each prompt see the prefix and itself. The law
(held by a test): the hidden states are those of a plain forward pass of each prompt alone.

A forward pass may also start from hidden states of a lower layer (`layers`), so that training the
upper layers need not compute the frozen lower ones again and again. Holds no loss and no sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loyal.errors import ModelError
from loyal.models import blocks

ROW_TOKENS = 256
"""Places a row aims at whose prompts a mask keeps apart: on two AVX2 cores 256 ran 2.1 times as
fast as 128 and 1.1 times as fast as 512, where attention starts to cost (docs/log.md). By blocks a
row may fill its pass."""
HEAD_PLACES = 256
"""Places whose logits are computed in one product; bounds memory to 50 MB at 49,152 tokens."""


@dataclass(frozen=True)
class Item:
    """One token sequence, split where its shared prefix ends."""

    prefix: tuple[int, ...]
    """Token ids shared with others; may be empty."""
    ids: tuple[int, ...]
    """Token ids behind the prefix; at least one."""


@dataclass(frozen=True)
class Row:
    """One prefix and the places of the items that stand behind it."""

    prefix: tuple[int, ...]
    members: tuple[int, ...]
    """Indices into the list of items."""
    length: int
    """Tokens in all."""


@dataclass(frozen=True)
class Batch:
    """Rows as tensors. R rows of T places."""

    ids: Tensor  # (R, T) int64, 0 where padded
    positions: Tensor  # (R, T) int64
    mask: Tensor  # (R, 1, T, T) bool, True where a query may look; one True with blocks
    rows: tuple[Row, ...]
    starts: dict[int, tuple[int, int]]
    """Item index -> (row, first place of its ids)."""
    laid: tuple[blocks.Laid, ...] = ()
    """How rows are laid out where attention goes by blocks."""


def split_prefix(sequences: Sequence[Sequence[int]]) -> list[Item]:
    """Items with the longest common prefix split off; every item keeps at least one token."""
    if not sequences:
        return []
    first, last = min(map(list, sequences)), max(map(list, sequences))
    limit = min(len(one) for one in sequences) - 1
    common = 0
    while common < limit and first[common] == last[common]:
        common += 1
    return [Item(tuple(one[:common]), tuple(one[common:])) for one in sequences]


def pack(items: Sequence[Item], width: int) -> list[Row]:
    """Rows of about `width` tokens, longest items first; a row never mixes two prefixes.

    An item longer than `width` gets a row of its own, so nothing is ever cut.
    """
    by_prefix: dict[tuple[int, ...], list[int]] = {}
    for index, item in enumerate(items):
        by_prefix.setdefault(item.prefix, []).append(index)
    rows: list[Row] = []
    for prefix, members in by_prefix.items():
        members.sort(key=lambda index: (-len(items[index].ids), index))
        current: list[int] = []
        length = len(prefix)
        for index in members:
            size = len(items[index].ids)
            if current and length + size > width:
                rows.append(Row(prefix, tuple(current), length))
                current, length = [], len(prefix)
            current.append(index)
            length += size
        rows.append(Row(prefix, tuple(current), length))
    return sorted(rows, key=lambda row: -row.length)


def batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows grouped so that a group holds about `tokens` places, padding counted."""
    group: list[Row] = []
    longest = 0
    for row in rows:
        longest = max(longest, row.length)
        if group and longest * (len(group) + 1) > tokens:
            yield group
            group, longest = [], row.length
        group.append(row)
    if group:
        yield group


def passes(body: Any, items: Sequence[Item], tokens: int) -> Iterator[Batch]:
    """All items in batches of about `tokens` places, for this decoder, on its device."""
    device = next(body.parameters()).device
    blocked = by_blocks(body)
    rows = pack(items, tokens if blocked else ROW_TOKENS)
    for group in batches(rows, tokens):
        yield tensors(group, items, device, blocked=blocked)


def by_blocks(body: Any) -> bool:
    """Whether batches for this decoder are laid out for attention by blocks: on a CPU, where it is
    known to be faster, and where its attention is plain."""
    return next(body.parameters()).device.type == "cpu" and blocks.installed(body)


def tensors(
    rows: Sequence[Row], items: Sequence[Item], device: torch.device | str, *, blocked: bool = False
) -> Batch:
    """Rows as tensors on `device`, laid out for attention by blocks where they are `blocked`."""
    laid: list[blocks.Laid] = []
    if blocked:
        laid = [
            blocks.laid(len(row.prefix), [len(items[one].ids) for one in row.members], device)
            for row in rows
        ]
    size = max([sum(one.sizes) for one in laid] if blocked else [row.length for row in rows])
    ids = torch.zeros(len(rows), size, dtype=torch.int64)
    positions = torch.zeros(len(rows), size, dtype=torch.int64)
    owner = torch.full((len(rows), size), -1, dtype=torch.int64)
    starts: dict[int, tuple[int, int]] = {}
    for place, row in enumerate(rows):
        base = len(row.prefix)
        ids[place, :base] = torch.tensor(row.prefix, dtype=torch.int64)
        positions[place, :base] = torch.arange(base)
        owner[place, :base] = 0
        widths = [one.width for one in laid[place].blocks for _ in range(one.count)] if laid else []
        at = base
        for number, index in enumerate(row.members, start=1):
            length = len(items[index].ids)
            end = at + length
            ids[place, at:end] = torch.tensor(items[index].ids, dtype=torch.int64)
            positions[place, at:end] = torch.arange(base, base + length)
            owner[place, at:end] = number
            starts[index] = (place, at)
            at += widths[number - 1] if widths else length
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool) if blocked else _mask(owner)
    return Batch(
        ids.to(device), positions.to(device), mask.to(device), tuple(rows), starts, tuple(laid)
    )


def _mask(owner: Tensor) -> Tensor:
    """(R, 1, T, T): whose places (0: the prefix, -1: nobody's) a query may look at."""
    query, key = owner[:, :, None], owner[:, None, :]  # (R, T, 1), (R, 1, T)
    mask = ((key == 0) | (key == query)).tril() & (key >= 0)
    mask |= torch.eye(owner.shape[1], dtype=torch.bool)  # a padded place sees itself: no NaN
    return mask[:, None]


@contextmanager
def layers(
    body: nn.Module, start: int, stop: int | None, *, norm: bool, recompute: bool = False
) -> Iterator[nn.Module]:
    """The same body with the decoder layers `start:stop` alone; `norm=False` drops the last norm.

    With `recompute` a layer keeps only what goes into it, and is computed again in the backward
    pass (activation checkpointing, arXiv 1604.06174): the gradients are the same.

    `body` is a Hugging Face decoder (`model.model`) with `.layers` and `.norm`; parameters are
    shared, and the body is put back as it was on leaving. The other layers' places are kept by
    layers that do nothing: bodies look a layer's kind and angles up by its place.
    """
    held_layers, held_norm = body.layers, body.norm
    kept = range(*slice(start, stop).indices(len(held_layers)))
    body.layers = nn.ModuleList(
        [
            _Passed() if place not in kept else _Recomputed(one) if recompute else one
            for place, one in enumerate(held_layers)
        ]
    )
    if not norm:
        body.norm = nn.Identity()
    try:
        yield body
    finally:
        body.layers, body.norm = held_layers, held_norm


class _Passed(nn.Module):
    """A decoder layer that is left out."""

    def forward(self, hidden: Tensor, *_: object, **__: object) -> Tensor:
        return hidden


class _Recomputed(nn.Module):
    """A decoder layer that is computed twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *given: Any, **named: Any) -> Any:
        return checkpoint(self.layer, *given, use_reentrant=False, **named)


def hidden_states(body: nn.Module, batch: Batch, inputs: Tensor | None = None) -> Tensor:
    """Hidden states (R, T, H) for a batch; `inputs` (R, T, H) stand in for the embeddings."""
    given = {"input_ids": batch.ids} if inputs is None else {"inputs_embeds": inputs}
    mask = batch.mask if batch.laid else _attention_mask(body, batch)
    with blocks.attending(batch.laid):
        out = body(**given, attention_mask=mask, position_ids=batch.positions, use_cache=False)
    return out.last_hidden_state


def _attention_mask(body: Any, batch: Batch) -> Tensor | dict[str, Tensor]:
    """The batch's mask; one a kind of layer where some see only the last places (Gemma, Mistral).

    Transformers takes a ready mask as it is, for sliding layers too, so their window is cut here;
    and its plain attention ("eager", Gemma 2) adds the mask to the scores.
    """
    config, masks = body.config, {"full_attention": batch.mask}
    window = getattr(config, "sliding_window", None)
    if window is not None and int(batch.positions.max()) >= window:
        near = batch.positions[:, :, None] - batch.positions[:, None, :] < window  # (R, T, T)
        masks["sliding_attention"] = batch.mask & near[:, None]
    if config._attn_implementation == "eager":
        kind = body.embed_tokens.weight.dtype
        masks = {
            name: torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill_(
                ~mask, torch.finfo(kind).min
            )
            for name, mask in masks.items()
        }
    if len(masks) == 1:
        return masks["full_attention"]
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return masks["sliding_attention"]
    if not kinds <= masks.keys():
        raise ModelError(
            f"cannot pack prompts of more than {window} tokens for layers of the kinds "
            f"{', '.join(sorted(kinds))}",
            hint="use shorter prompts, or another model",
        )
    return masks


def by_places(
    places: dict[int, tuple[int, int, int]],
) -> Iterator[dict[int, tuple[int, int, int]]]:
    """The same (row, start, count) entries in groups of at most about HEAD_PLACES places."""
    group: dict[int, tuple[int, int, int]] = {}
    size = 0
    for index, place in places.items():
        if group and size + place[2] > HEAD_PLACES:
            yield group
            group, size = {}, 0
        group[index] = place
        size += place[2]
    if group:
        yield group
