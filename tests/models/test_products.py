"""Products in the precision that is asked for, the head's by a copy that follows its weight."""

from __future__ import annotations

import random

import pytest
import torch

from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.products import apply_head, autocast, in_bfloat16, keep_freed

CPU = torch.device("cpu")
TEXTS = ["What does a fox eat?", "Where?", "Tell me all about the color of owls, please."]


def test_a_head_that_does_not_learn_is_narrowed_once_and_follows_its_weight(fresh) -> None:
    model = fresh().model
    model.requires_grad_(False)
    hidden = torch.randn(5, model.config.hidden_size)
    weight = model.get_output_embeddings().weight

    def wanted() -> torch.Tensor:
        return (hidden.bfloat16() @ weight.bfloat16().T).float()

    for _ in range(2):
        with torch.no_grad(), autocast("bfloat16", CPU):
            torch.testing.assert_close(apply_head(model, hidden), wanted())
        weight.mul_(1.5)
    assert torch.equal(apply_head(model, hidden), hidden @ weight.T)  # none outside


def test_a_head_that_learns_has_its_gradient(fresh) -> None:
    model = fresh().model.requires_grad_(True)
    with autocast("bfloat16", CPU):
        apply_head(model, torch.randn(5, model.config.hidden_size)).sum().backward()
    assert model.get_output_embeddings().weight.grad.abs().sum() > 0


def test_gradients_reach_what_a_narrowed_head_reads(fresh) -> None:
    model = fresh().model
    model.requires_grad_(False)
    hidden = torch.randn(5, model.config.hidden_size, requires_grad=True)
    with autocast("bfloat16", CPU):
        apply_head(model, hidden).sum().backward()
    weight = model.get_output_embeddings().weight
    torch.testing.assert_close(hidden.grad[0], weight.sum(0), atol=0.3, rtol=0.05)


def test_precision_is_as_asked() -> None:
    for precision, half in (("bfloat16", True), ("float32", False)):
        assert in_bfloat16(precision, CPU) == half
        with autocast(precision, CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (
                torch.bfloat16 if half else torch.float32
            )


def test_memory_may_be_kept_more_than_once() -> None:
    keep_freed()
    keep_freed()
    assert torch.ones(1 << 22).sum() == 1 << 22


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_token_is_what_more_would_begin_with(tiny: HFModel, temperature: float) -> None:
    """Without a cache and without filling up; greedily the very token, otherwise likely ones."""
    rng = random.Random(3)
    prompts = [Prompt(rng.choice(TEXTS)) for _ in range(12)]
    one = tiny.generate(prompts, Sampling(1, temperature, seed=5))
    assert all(it.tokens <= 1 for it in one)
    again = tiny.generate(prompts, Sampling(1, temperature, seed=5))
    assert one == again
    if temperature == 0:
        items = tiny.items(prompts)
        more = tiny.decode(items, Sampling(2, 0.0))
        few = tiny.decode(items, Sampling(1, 0.0))
        assert [it.ids for it in few] == [it.ids[:1] for it in more]


def test_one_token_that_ends_the_turn_is_no_text(tiny: HFModel) -> None:
    items = tiny.items([Prompt(TEXTS[0])])
    (first,) = tiny.decode(items, Sampling(1, 0.0))
    stop = frozenset(first.ids)
    (ended,) = tiny.decode(items, Sampling(1, 0.0), stop)
    assert (ended.ids, ended.finished) == ((), True)
    (kept,) = tiny.decode(items, Sampling(1, 0.0), frozenset(), stop)
    assert (kept.ids, kept.finished) == (first.ids, True)
