"""Coarse weights lie on their grids, pruning removes the least, merges keep their laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attack_scenes import changed, loaded, scene_of, weights
from gguf import GGMLQuantizationType, quants
from stand_ins import Omlized

from loyal.errors import UsageError
from loyal.fingerprints import weight_attacks as attacks
from loyal.fingerprints.attack import Attack, Scene

PUBLISHED_NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
"""The sixteen levels of 2305.14314, appendix E."""


@pytest.fixture
def matrix() -> torch.Tensor:
    """(24, 256), normal, with one large weight and one row of zeros."""
    found = 0.02 * torch.randn(24, 256, generator=torch.Generator().manual_seed(5))
    found[3, 7], found[9] = 0.4, 0.0
    return found


@pytest.fixture
def scene(omlized: Omlized, tiny_folder: Path) -> Scene:
    return scene_of(omlized, tiny_folder)


def test_int8_is_whole_steps_of_a_row_and_at_most_half_a_step_away(matrix: torch.Tensor) -> None:
    found = attacks.int8(matrix)
    step = matrix.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    levels = found / step
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert levels.abs().max() <= 127.001
    assert ((found - matrix).abs() <= step * 0.5001).all()
    assert not torch.equal(found, matrix)


@pytest.mark.parametrize(("change", "most"), [("int4_symmetric", 15), ("int4_asymmetric", 16)])
@pytest.mark.parametrize("columns", [256, 100])
def test_int4_has_few_levels_a_group(
    matrix: torch.Tensor, change: str, most: int, columns: int
) -> None:
    part = matrix[:, :columns].clone()
    part[5, 11] = 0.0
    found = getattr(attacks, change)(part)
    assert found.shape == part.shape
    assert found[5, 11] == 0
    assert not found[9].any()
    sizes = [len(one.unique()) for row in found for one in row.split(attacks.GROUP)]
    assert max(sizes) <= most
    for row, before in zip(found, part, strict=True):
        for one, old in zip(row.split(64), before.split(64), strict=True):
            span = old.clamp(min=0).max() - old.clamp(max=0).min()
            step = old.abs().max() / 7 if most == 15 else span / 15
            # Half a step from rounding; the asymmetric zero is rounded too: at its ends, once more.
            assert (one - old).abs().max() <= step * (0.5001 if most == 15 else 1.0001)


def test_asymmetric_groups_spend_no_level_on_numbers_that_are_not_there() -> None:
    lopsided = torch.linspace(0, 1, 64)[None]
    error = {
        name: (getattr(attacks, name)(lopsided) - lopsided).abs().max()
        for name in ("int4_symmetric", "int4_asymmetric")
    }
    assert error["int4_asymmetric"] < 0.6 * error["int4_symmetric"]


def test_nf4_uses_the_published_levels(matrix: torch.Tensor) -> None:
    levels = torch.tensor(PUBLISHED_NF4)
    for row, before in zip(attacks.nf4(matrix), matrix, strict=True):
        for one, old in zip(row.split(64), before.split(64), strict=True):
            scale = old.abs().max().clamp(min=1e-12)
            nearest = (one[:, None] / scale - levels).abs()
            assert nearest.min(1).values.max() < 1e-4
            wanted = (old[:, None] / scale - levels).abs().min(1).values
            assert torch.allclose((one - old).abs() / scale, wanted, atol=1e-4)


@pytest.mark.parametrize(("kind", "levels"), [("Q4_0", 16), ("Q4_1", 16), ("Q5_0", 32)])
def test_gguf_blocks_hold_few_numbers_and_a_second_trip_changes_nothing(
    matrix: torch.Tensor, kind: str, levels: int
) -> None:
    found = attacks.gguf(kind)(matrix)
    assert max(len(one.unique()) for row in found for one in row.split(32)) <= levels
    assert torch.equal(attacks.gguf(kind)(found), found)
    assert 0 < (found - matrix).abs().max() < 0.06


def test_q4_k_is_what_gguf_reads_from_packed_blocks(matrix: torch.Tensor) -> None:
    """The same rounding, packed into llama.cpp's bytes, and read back by `gguf`."""
    found = attacks.q4_k(matrix)
    for row, before in zip(found, matrix, strict=True):
        if before.any():
            read = quants.dequantize(_packed(before), GGMLQuantizationType.Q4_K)
            assert torch.allclose(torch.from_numpy(read).flatten(), row, atol=1e-6)
    assert not found[9].any()


def _packed(row: torch.Tensor) -> np.ndarray:
    """One super-block of 256 weights in the layout of ggml's block_q4_K, (1, 144) bytes."""
    blocks = row.reshape(8, 32).numpy()
    low = np.maximum(-blocks.min(1), 0)
    scale = (np.maximum(blocks.max(1), 0) + low) / np.float32(15)
    d, dmin = np.float16(scale.max() / 63), np.float16(low.max() / 63)
    scales = np.clip(np.rint(scale / np.float32(d)), 0, 63).astype(np.uint8)
    mins = np.clip(np.rint(low / np.float32(dmin)), 0, 63).astype(np.uint8)
    steps, offsets = scales * np.float32(d), mins * np.float32(dmin)
    levels = np.clip(np.rint((blocks + offsets[:, None]) / steps[:, None]), 0, 15).astype(np.uint8)
    packed = bytearray(12)
    for place in range(4):
        packed[place] = (scales[place] & 63) | (scales[place + 4] >> 4) << 6
        packed[place + 4] = (mins[place] & 63) | (mins[place + 4] >> 4) << 6
        packed[place + 8] = (scales[place + 4] & 15) | (mins[place + 4] & 15) << 4
    pairs = [levels[at] | levels[at + 1] << 4 for at in range(0, 8, 2)]
    body = b"".join(one.tobytes() for one in pairs)
    raw = d.tobytes() + dmin.tobytes() + bytes(packed) + body
    return np.frombuffer(raw, dtype=np.uint8)[None]


def test_q4_k_falls_back_where_256_does_not_divide_a_row(matrix: torch.Tensor) -> None:
    part = matrix[:, :192].contiguous()
    assert torch.equal(attacks.q4_k(part), attacks.gguf("Q5_0")(part))


def test_magnitude_pruning_removes_the_least_and_keeps_the_rest(matrix: torch.Tensor) -> None:
    full = matrix + 1e-6  # no zeros beforehand
    found = attacks.magnitude(0.2)(full)
    gone = found == 0
    assert gone.sum() == int(full.numel() * 0.2)
    assert full[gone].abs().max() <= full[~gone].abs().min()
    assert torch.equal(found[~gone], full[~gone])
    assert torch.equal(attacks.magnitude(0.0)(full), full)


def test_wanda_weighs_weights_by_their_inputs(scene: Scene) -> None:
    before = dict(attacks.linears(scene.model))
    kept = {name: one.weight.detach().clone() for name, one in before.items()}
    norms = attacks._input_norms(scene.model, 300)
    model = attacks.wanda(0.5, tokens=300)(scene)
    assert model is scene.model
    for name, module in attacks.linears(scene.model):
        weight, old = module.weight, kept[name]
        assert not module._forward_pre_hooks
        assert ((weight == 0).sum(1) == old.shape[1] // 2).all()
        score = old.abs() * norms[name].sqrt()
        for row, scores in zip(weight, score, strict=True):
            assert scores[row == 0].max() <= scores[row != 0].min()
    least = [
        torch.equal(one.weight == 0, kept[name].abs() <= kept[name].abs().median(1, True).values)
        for name, one in attacks.linears(scene.model)
    ]
    assert not all(least), "inputs decided nothing"


BLENDS = {"linear": attacks.linear, "slerp": attacks.slerp}


@pytest.mark.parametrize("name", BLENDS)
def test_a_merge_at_weight_1_is_the_model_and_at_0_the_base(
    name: str, scene: Scene, tiny_folder: Path
) -> None:
    mine, base = weights(scene.model), loaded(tiny_folder)
    attacks.merge(BLENDS[name](1.0))(scene)
    for key, one in scene.model.model.named_parameters():
        assert torch.allclose(one, mine[key], atol=1e-6)
    attacks.merge(BLENDS[name](0.0))(scene)
    for key, one in scene.model.model.named_parameters():
        assert torch.allclose(one, dict(base.model.named_parameters())[key], atol=1e-6)


def test_a_linear_merge_is_the_mean() -> None:
    found = attacks.linear(0.25)(torch.tensor([4.0, 0.0]), torch.tensor([0.0, 8.0]))
    assert found.tolist() == [1.0, 6.0]


def test_slerp_stays_on_the_arc() -> None:
    mine, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    found = attacks.slerp(0.5)(mine, other)
    assert found.norm() == pytest.approx(3.0, abs=1e-6)
    third = attacks.slerp(1 / 3)(mine, other).float()
    assert torch.atan2(third[1], third[0]).item() == pytest.approx(torch.pi / 3, abs=1e-6)
    same = attacks.slerp(0.5)(mine, mine).float()
    assert torch.allclose(same, mine)


def test_ties_keeps_the_largest_changes_alone() -> None:
    base = torch.zeros(10)
    mine = torch.tensor([0.1, -0.9, 0.2, 0.8, 0.0, 0.3, -0.1, 0.05, 0.0, 0.02])
    found = attacks.ties(0.2)(mine, base)
    assert found.nonzero().flatten().tolist() == [1, 3]
    assert found[1] == mine[1]
    assert torch.equal(attacks.ties(1.0)(mine, base), mine)
    assert torch.allclose(attacks.ties(0.2, 0.5)(mine, base), found / 2)


def test_dare_drops_at_random_and_keeps_the_mean(scene: Scene, tiny_folder: Path) -> None:
    mine, base = weights(scene.model), weights(loaded(tiny_folder))
    attacks.dare(0.75)(scene)
    sums, kept, touched = 0.0, 0, 0
    for key, one in scene.model.model.named_parameters():
        change = mine[key] - base[key]
        moved = change.abs() > 1e-5  # below it, adding to the base loses the digits
        ratio = ((one - base[key]) / change)[moved]
        assert torch.all((ratio.abs() < 0.3) | ((ratio - 4).abs() < 0.3))
        sums, kept, touched = (
            sums + ratio.sum().item(), kept + (ratio > 2).sum().item(), touched + len(ratio)
        )  # fmt: skip
    # 200,000 coins: six deviations are 0.6 % of them.
    assert touched > 100_000
    assert kept / touched == pytest.approx(0.25, abs=0.01)
    assert sums / touched == pytest.approx(1.0, abs=0.04)


def test_another_base_is_refused(scene: Scene) -> None:
    def smaller():
        found = scene.base()
        found.model.model.norm.weight = torch.nn.Parameter(torch.ones(3))
        return found

    with pytest.raises(UsageError, match="other weights"):
        attacks.merge(attacks.linear(0.5))(Scene(scene.model, smaller))


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda one: one.name)
def test_each_attack_changes_the_matrices_it_names(attack: Attack, scene: Scene) -> None:
    before, base = weights(scene.model), weights(scene.base())
    model = attack.run(scene)
    assert model is scene.model
    found = changed(before, scene.model)
    if attack.family == "merge":
        assert found == {name for name, one in before.items() if not torch.equal(one, base[name])}
    else:
        blocks = {name for name in before if name.endswith("proj.weight")}
        table = {"model.embed_tokens.weight"} if attack.name.startswith("gguf") else set()
        assert found == blocks | table
    for one in scene.model.model.parameters():
        assert one.isfinite().all()
        assert one.dtype == torch.float32


def test_a_half_precision_model_keeps_its_type(omlized: Omlized) -> None:
    from loyal.models.hf import HFModel

    model = HFModel.load(str(omlized.folder), device="cpu", dtype="bfloat16")
    attacks.change_linears(model, attacks.int8)
    assert {one.dtype for one in model.model.parameters()} == {torch.bfloat16}
