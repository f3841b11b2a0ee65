"""Packed passes give the hidden states of plain ones, and bodies come back whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loyal.models import packing
from loyal.models.hf import HFModel
from loyal.models.packing import Item

TOKENS = st.integers(0, 900)
PREFIXES = ((), (5,), (7, 8, 9, 10, 11, 12))
ITEMS = st.lists(
    st.builds(
        lambda prefix, ids: Item(prefix, tuple(ids)),
        st.sampled_from(PREFIXES),
        st.lists(TOKENS, min_size=1, max_size=14),
    ),
    min_size=1,
    max_size=9,
)


def plain(tiny: HFModel, item: Item) -> torch.Tensor:
    """Hidden states (len(ids), H) of one item alone."""
    ids = torch.tensor([[*item.prefix, *item.ids]])
    with torch.no_grad():
        return tiny.model.model(input_ids=ids).last_hidden_state[0, len(item.prefix) :]


@settings(max_examples=25)
@given(items=ITEMS, width=st.integers(1, 60), tokens=st.integers(1, 200))
def test_packed_hidden_states_are_those_of_plain_passes(
    tiny: HFModel, items: list[Item], width: int, tokens: int
) -> None:
    seen = set()
    for group in packing.batches(packing.pack(items, width), tokens):
        batch = packing.tensors(group, items, "cpu")
        with torch.no_grad():
            hidden = packing.hidden_states(tiny.model.model, batch)
        assert torch.isfinite(hidden).all()
        for index, (row, at) in batch.starts.items():
            seen.add(index)
            ours = hidden[row, at : at + len(items[index].ids)]
            torch.testing.assert_close(ours, plain(tiny, items[index]), atol=1e-5, rtol=1e-5)
    assert seen == set(range(len(items)))


def test_without_the_block_mask_neighbors_are_seen(tiny: HFModel) -> None:
    items = [Item((5, 6), (7, 8, 9)), Item((5, 6), (10, 11))]
    batch = packing.tensors(packing.pack(items, 60), items, "cpu")
    causal = torch.ones_like(batch.mask).tril()
    leaking = packing.Batch(batch.ids, batch.positions, causal, batch.rows, batch.starts)
    with torch.no_grad():
        hidden = packing.hidden_states(tiny.model.model, leaking)
    row, at = batch.starts[1]
    assert not torch.allclose(hidden[row, at : at + 2], plain(tiny, items[1]), atol=1e-2)


@settings(max_examples=40)
@given(items=ITEMS, width=st.integers(1, 60))
def test_rows_hold_every_item_once_under_its_own_prefix(items: list[Item], width: int) -> None:
    rows = packing.pack(items, width)
    assert sorted(index for row in rows for index in row.members) == list(range(len(items)))
    for row in rows:
        assert {items[index].prefix for index in row.members} == {row.prefix}
        assert row.length == len(row.prefix) + sum(len(items[i].ids) for i in row.members)
        assert row.length <= width or len(row.members) == 1


@settings(max_examples=40)
@given(items=ITEMS, width=st.integers(1, 60), tokens=st.integers(1, 200))
def test_groups_stay_within_the_places_asked_for(
    items: list[Item], width: int, tokens: int
) -> None:
    rows = packing.pack(items, width)
    groups = list(packing.batches(rows, tokens))
    assert [row for group in groups for row in group] == rows
    for group in groups:
        assert max(row.length for row in group) * len(group) <= tokens or len(group) == 1


@settings(max_examples=40)
@given(
    common=st.lists(TOKENS, max_size=6),
    tails=st.lists(st.lists(TOKENS, min_size=1, max_size=5), min_size=1, max_size=6),
)
def test_the_longest_common_prefix_is_split_off(common: list[int], tails: list[list[int]]) -> None:
    sequences = [[*common, *tail] for tail in tails]
    items = packing.split_prefix(sequences)
    assert [[*one.prefix, *one.ids] for one in items] == sequences
    assert len({one.prefix for one in items}) == 1
    assert all(one.ids for one in items)
    assert len(items[0].prefix) >= len(common)
    one_more = len(items[0].prefix) + 1
    shared = {tuple(sequence[:one_more]) for sequence in sequences}
    assert len(shared) > 1 or min(map(len, sequences)) == one_more


def test_nothing_has_no_prefix() -> None:
    assert packing.split_prefix([]) == []


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 400), max_size=30))
def test_places_are_grouped_in_order_and_in_bounded_size(sizes: list[int]) -> None:
    places = {index: (0, 0, size) for index, size in enumerate(sizes)}
    groups = list(packing.by_places(places))
    assert [index for group in groups for index in group] == list(places)
    for group in groups:
        held = sum(count for _, _, count in group.values())
        assert held <= packing.HEAD_PLACES or len(group) == 1


def test_layers_are_put_back(tiny: HFModel) -> None:
    body = tiny.model.model
    held, norm = body.layers, body.norm
    with packing.layers(body, 1, 3, norm=False) as part:
        assert list(part.layers)[1:3] == list(held)[1:3]
        assert set(part.layers) & set(held) == set(held[1:3])
        assert isinstance(part.norm, torch.nn.Identity)
    assert body.layers is held
    assert body.norm is norm


def test_layers_are_put_back_after_an_exception(tiny: HFModel) -> None:
    body = tiny.model.model
    held, norm = body.layers, body.norm

    def fail() -> None:
        with packing.layers(body, 0, 2, norm=False):
            assert body.layers is not held
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert body.layers is held
    assert body.norm is norm
