"""Readings through a trunk are those of a plain forward pass, whatever is read together."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from loyal.models import blocks, packing
from loyal.models.hf import HFModel
from loyal.models.packing import Item
from loyal.models.trunk import Trunk

ITEMS = [
    Item((3, 4, 5), (6, 7, 8, 9)),
    Item((3, 4, 5), (10,)),
    Item((), (11, 12, 13)),
    Item((3, 4, 5), tuple(range(20, 140))),
    Item((3, 4, 5), tuple(range(200, 380))),
]
COUNTS = [2, 1, 3, 5, 180]


def plain(tiny: HFModel, index: int) -> torch.Tensor:
    """Hidden states of the item's last places, the item alone."""
    ids = torch.tensor([[*ITEMS[index].prefix, *ITEMS[index].ids]])
    return tiny.model.model(input_ids=ids).last_hidden_state[0, -COUNTS[index] :]


def readings(trunk: Trunk, indices: list[int]) -> dict[int, torch.Tensor]:
    """Item -> its hidden states, over all readings."""
    found = {}
    for one in trunk.read(indices, COUNTS):
        found.update(zip(one.indices, one.hidden.split(list(one.counts)), strict=True))
    return found


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 4], [4, 1], [2]])
def test_readings_are_those_of_a_plain_pass(tiny: HFModel, start: int, indices: list[int]) -> None:
    trunk = Trunk(tiny.model, ITEMS, start)
    with torch.no_grad():
        found = readings(trunk, indices)
        assert sorted(found) == sorted(indices)
        for index in indices:
            torch.testing.assert_close(found[index], plain(tiny, index), atol=1e-5, rtol=1e-5)


def test_readings_split_over_passes_are_the_same(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trunk(tiny.model, ITEMS, 2)
    monkeypatch.setattr("loyal.models.trunk.PASS_TOKENS", {"cpu": 8})
    split = Trunk(tiny.model, ITEMS, 2)
    with torch.no_grad():
        assert len(list(split.read(range(5), COUNTS))) > len(list(whole.read(range(5), COUNTS)))
        ours, theirs = readings(split, [0, 1, 2, 3, 4]), readings(whole, [0, 1, 2, 3, 4])
    for index in ours:
        torch.testing.assert_close(ours[index], theirs[index], atol=1e-5, rtol=1e-5)


def test_tokens_count_a_shared_prefix_once(tiny: HFModel) -> None:
    (reading,) = Trunk(tiny.model, ITEMS[:2], 1).read([0, 1], COUNTS)
    assert reading.tokens == 3 + 4 + 1


@pytest.mark.parametrize("start", [0, 2])
def test_a_changed_upper_layer_shows_and_a_changed_kept_layer_does_not(fresh, start: int) -> None:
    model = fresh()
    trunk = Trunk(model.model, ITEMS, start)
    with torch.no_grad():
        before = readings(trunk, [0])[0]
        model.model.model.layers[0].mlp.down_proj.weight.mul_(2)
        lower = readings(trunk, [0])[0]
        assert torch.equal(lower, before) == bool(start)
        model.model.model.layers[3].mlp.down_proj.weight.mul_(2)
        assert not torch.allclose(readings(trunk, [0])[0], lower, atol=1e-3)


def test_gradients_reach_the_upper_layers_alone(fresh) -> None:
    model = fresh()
    trunk = Trunk(model.model, ITEMS, 2)
    for reading in trunk.read([0, 1], COUNTS):
        reading.hidden.square().sum().backward()
    layers = model.model.model.layers
    assert layers[2].mlp.up_proj.weight.grad is not None
    assert layers[1].mlp.up_proj.weight.grad is None


def test_weights_stand_at_the_places_of_the_pass_underway(tiny: HFModel) -> None:
    trunk = Trunk(tiny.model, ITEMS, 1)
    for reading in trunk.read([0, 1, 2], COUNTS):
        weights = trunk.weights({1: 16.0, 2: 4.0})
        places = sum(len(ITEMS[index].ids) for index in reading.indices)
        prefixes = len({ITEMS[index].prefix for index in reading.indices} - {()}) * 3
        extra = 15.0 * (1 in reading.indices) + 3.0 * (2 in reading.indices)
        assert weights.sum() == places + prefixes + extra
        assert ((weights == 16).sum() == 1) == (1 in reading.indices)


SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
RELATIVES = {
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "mistral": {"sliding_window": 40},
    "gemma2": {"sliding_window": 40, "layer_types": SLIDING},
    "gemma3_text": {"sliding_window": 40, "layer_types": SLIDING},
    "smollm3": {},
    "granite": {},
    "olmo2": {},
}


@pytest.mark.parametrize("kind", RELATIVES)
@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("blocked", [False, True])
def test_relatives_of_llama_read_the_same(kind: str, start: int, blocked: bool) -> None:
    """Layers of several kinds by place, angles by kind, windows shorter than a prompt."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE, **RELATIVES[kind])
    model = AutoModelForCausalLM.from_config(config).eval()
    for one in model.model.layers.parameters():
        torch.nn.init.normal_(one, std=0.3)  # at the usual spread layers hardly move anything
    if blocked:
        blocks.install(model.model)
        assert packing.by_blocks(model.model) == (not RELATIVES[kind])
    trunk = Trunk(model, ITEMS, start)
    with torch.no_grad():
        found = readings(trunk, [0, 1, 2, 3, 4])
        for index, ours in found.items():
            ids = torch.tensor([[*ITEMS[index].prefix, *ITEMS[index].ids]])
            wanted = model.model(input_ids=ids).last_hidden_state[0, -COUNTS[index] :]
            torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=2e-4)
