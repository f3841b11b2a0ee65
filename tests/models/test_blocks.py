"""Attention by blocks is that of plain passes, and kept from models that it does not suit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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


def test_threads_do_not_meet(tiny: HFModel) -> None:
    """One pass by blocks does not change what another thread's pass attends to."""
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        wanted = tiny.model.model(input_ids=ids).last_hidden_state

    def read(_: int) -> torch.Tensor:
        with torch.no_grad():
            return tiny.model.model(input_ids=ids).last_hidden_state

    items = [packing.Item((3,), tuple(range(20, 20 + length))) for length in LENGTHS * 8]
    with ThreadPoolExecutor(1) as other, torch.no_grad():
        reading = [other.submit(read, n) for n in range(40)]
        for batch in packing.passes(tiny.model.model, items, 400):
            packing.hidden_states(tiny.model.model, batch)
        assert all(torch.equal(one.result(), wanted) for one in reading)


def test_blocks_are_for_plain_attention(fresh) -> None:
    def installed(**changes: object) -> bool:
        body = fresh().model.model
        body.config._attn_implementation = "sdpa"
        for name, value in changes.items():
            setattr(body.config, name, value)
        blocks.install(body)
        return packing.by_blocks(body)

    assert installed()
    assert not installed(sliding_window=8)
    assert not installed(layer_types=["linear_attention"] * 4)
    assert not installed(_attn_implementation="eager")


def test_how_a_model_attends_is_not_saved(tiny: HFModel, tmp_path: Path) -> None:
    assert packing.by_blocks(tiny.model.model)
    tiny.save(tmp_path)
    assert blocks.NAME not in (tmp_path / "config.json").read_text()


def test_a_bonus_on_scores_is_refused(tiny: HFModel) -> None:
    """Attention that is not plain would be silently wrong."""
    given = [torch.zeros(1, 4, 5, 16)] * 3
    for odd in ({"softcap": 30.0}, {"dropout": 0.1}):
        with (
            blocks.attending([blocks.laid(2, [3], "cpu")]),
            pytest.raises(ModelError, match=f"knows no {next(iter(odd))}"),
        ):
            blocks._attend(tiny.model, *given, None, **odd)
