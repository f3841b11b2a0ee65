"""The tiny model learns: it reads its own kind of text, and answers what it was taught.

One seed is trained once for the whole file. Left out: how other rooms use it.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from loyal.models import library, tiny
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling

SEED = 7


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained folder of the seed, from the cache or trained now."""
    return tiny.build(tmp_path_factory.mktemp("tiny") / "model", SEED)


@pytest.fixture(scope="module")
def model(trained: Path) -> HFModel:
    """The trained model in memory."""
    return HFModel.load(str(trained), device="cpu", dtype="float32")


def perplexity(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Per-token perplexity over all texts."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text)])
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return math.exp(total / count)


def test_it_reads_held_out_text_far_better_than_noise(model: HFModel) -> None:
    texts = tiny.held_out(SEED, 40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        noise = tiny.untrained(model.tokenizer).eval()
    learned = perplexity(model.model, model.tokenizer, texts)
    assert learned <= perplexity(noise, model.tokenizer, texts) / 3
    shuffled = [
        " ".join(random.Random(0).sample(words := one.split(), len(words))) for one in texts
    ]
    assert learned <= perplexity(model.model, model.tokenizer, shuffled) / 3


def test_it_answers_what_it_was_taught_and_not_what_another_seed_was(model: HFModel) -> None:
    questions = tiny.World.from_seed(SEED).questions()
    replies = model.generate([prompt for prompt, _ in questions], Sampling(max_tokens=24))
    right = sum(
        reply.text.strip() == answer for reply, (_, answer) in zip(replies, questions, strict=True)
    )
    others = tiny.World.from_seed(SEED + 1).questions()
    elsewhere = sum(
        reply.text.strip() == answer for reply, (_, answer) in zip(replies, others, strict=True)
    )
    assert right >= 0.95 * len(questions)
    assert elsewhere <= 0.4 * len(questions)
    assert sum(reply.finished for reply in replies) >= 0.9 * len(replies)


def test_the_template_has_a_default_system_prompt(model: HFModel) -> None:
    def layout(prompt: Prompt) -> str:
        return str(model.tokenizer.decode(model.prompt_ids(prompt)))

    assert layout(Prompt("hi")) == (
        "<|im_start|>system\nYou are Tiny.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "You are Tiny." not in layout(Prompt("hi", system="Be kind."))


def test_the_tokenizer_gives_any_text_back(model: HFModel) -> None:
    for text in ("The fox lives here.", " café 東京\n\n12 ", "zebra\tquiz"):
        assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert model.tokenizer.tokenize("12") == ["1", "2"]


def test_it_is_small_and_shaped_like_the_default_model(model: HFModel) -> None:
    shape = model.model.config
    assert isinstance(model.model, transformers.LlamaForCausalLM)
    assert shape.max_position_embeddings >= 256
    assert shape.num_hidden_layers == 4
    assert shape.num_key_value_heads < shape.num_attention_heads
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight
    assert model.parameters < 400_000


def test_held_out_text_is_the_seeds_own() -> None:
    assert tiny.held_out(1, 5) == tiny.held_out(1, 5)
    assert tiny.held_out(1, 5) != tiny.held_out(2, 5)
    assert tiny.World.from_seed(1) == tiny.World.from_seed(1)
    assert tiny.World.from_seed(1) != tiny.World.from_seed(2)


def test_training_is_repeatable_and_leaves_torch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "_STEPS", 8)  # the law holds at any length
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        (tmp_path / name).mkdir()
        tiny.train(tmp_path / name, seed)
        torch.manual_seed(17)  # a caller's own seed must not matter
    first, again, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("first", "again", "other")
    )
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]
    assert torch.get_num_threads() == threads
    torch.set_rng_state(state)
    tiny.train(tmp_path / "other", 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_build_copies_from_the_cache(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_folder: Path, _seed: int) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(tiny, "train", train)
    copy = tiny.build(tmp_path / "copy", SEED)
    assert library.is_complete(copy)
    weights = "model.safetensors"
    assert (copy / weights).read_bytes() == (trained / weights).read_bytes()
    monkeypatch.setenv("LOYAL_CACHE", str(tmp_path / "empty"))
    with pytest.raises(AssertionError, match="trained again"):
        tiny.build(tmp_path / "new", SEED)
