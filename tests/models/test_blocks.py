"""Attention by blocks is that of plain passes, and kept from models that it does not suit."""

from __future__ import annotations

import copy

import pytest
import torch

from loyal.errors import ModelError
from loyal.models import blocks, packing
from loyal.models.hf import HFModel

LENGTHS = [40, 39, 38, 30, *[9] * 20, 8, 8, 1]


def test_blocks_hold_prompts_of_about_one_length() -> None:
    row = blocks.laid(3, LENGTHS, "cpu")
    shapes = [(one.count, one.width) for one in row.blocks]
    assert shapes == [(3, 40), (1, 30), (20, 9), (2, 8), (1, 1)]
    assert row.sizes == [3, 120, 30, 180, 16, 1]


def test_a_block_sees_the_prefix_and_what_stands_before() -> None:
    (block,) = blocks.laid(2, [3], "cpu").blocks
    seen = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(block.bias == 0, seen)
    assert torch.isneginf(block.bias[~seen]).all()


@pytest.mark.parametrize("long", [8, 512])
@pytest.mark.parametrize("size", [0, 3])
def test_passes_by_blocks_are_plain_ones(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch, long: int, size: int
) -> None:
    """With and without a prefix, and with the kernel for long prompts."""
    monkeypatch.setattr(blocks, "LONG", long)
    body = tiny.model.model
    assert packing.by_blocks(body)
    prefix = tuple(range(3, 3 + size))
    items = [packing.Item(prefix, tuple(range(20, 20 + length))) for length in LENGTHS]
    with torch.no_grad():
        for batch in packing.passes(body, items, 200):
            assert batch.laid
            assert batch.mask.shape == (1, 1, 1, 1)
            hidden = packing.hidden_states(body, batch)
            for index, (row, at) in batch.starts.items():
                ids = torch.tensor([[*prefix, *items[index].ids]])
                wanted = body(input_ids=ids).last_hidden_state[0, size:]
                ours = hidden[row, at : at + len(items[index].ids)]
                torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert body.config._attn_implementation == "sdpa"


def test_blocks_are_for_plain_attention_of_one_config(fresh) -> None:
    body = fresh().model.model
    assert blocks.fits(body)
    body.layers[1].self_attn.config = copy.deepcopy(body.config)
    assert not blocks.fits(body)  # that layer would not take notice
    for name, value in (("sliding_window", 8), ("layer_types", ["linear_attention"] * 4)):
        other = fresh().model.model
        setattr(other.config, name, value)
        assert not blocks.fits(other)
    eager = fresh().model.model
    eager.config._attn_implementation = "eager"
    assert not blocks.fits(eager)


def test_a_bonus_on_scores_is_refused(tiny: HFModel) -> None:
    """Attention that is not plain would be silently wrong."""
    given = [torch.zeros(1, 4, 5, 16)] * 3
    with pytest.raises(ModelError, match="knows no softcap"):
        blocks._attend(tiny.model, *given, None, softcap=30.0)
    with pytest.raises(ModelError, match="knows no dropout"):
        blocks._attend(tiny.model, *given, None, dropout=0.1)
