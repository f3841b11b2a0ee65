"""Many fingerprints hold no logits: memory grows with their texts, not with the vocabulary."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from live_tensors import LiveTensors

from loyal.fingerprints import keys, responses
from loyal.fingerprints.responses import ResponseSettings
from loyal.models import hf, packing, trunk
from loyal.models.examples import Example, bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.lessons import Lessons
from loyal.models.processes import Part

FEW, MANY = 60, 240


@pytest.fixture(autouse=True)
def _small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that the fewer keys already fill."""
    monkeypatch.setitem(hf.BATCH_TOKENS, "cpu", 256)
    monkeypatch.setitem(trunk.PASS_TOKENS, "cpu", 256)
    monkeypatch.setattr(packing, "HEAD_PLACES", 16)


def grown(work: Callable[[list[str]], object]) -> float:
    """By how many bytes a key the peak of live tensors grows from FEW to MANY keys."""
    rng, words = random.Random(1), bundled_lines("words")
    texts = [" ".join(rng.sample(words, 6)) for _ in range(MANY)]  # of about the same length
    peaks = []
    for count in (FEW, MANY):
        with LiveTensors() as live:
            work(texts[:count])
        peaks.append(live.peak)
    assert peaks[0] > 0
    return (peaks[1] - peaks[0]) / (MANY - FEW)


def logits_bytes(base: HFModel) -> int:
    """One key's logits at one place, in float32."""
    return 4 * base.model.config.vocab_size


def test_responses_are_found_a_batch_at_a_time(base: HFModel) -> None:
    settings = ResponseSettings(precision="float32")
    work = lambda texts: responses.generate(base, texts, settings)  # noqa: E731
    assert grown(work) < logits_bytes(base) / 8


def test_keys_are_scored_a_batch_at_a_time(base: HFModel) -> None:
    assert grown(lambda texts: keys.surprise(base, texts)) < logits_bytes(base) / 8


@pytest.mark.parametrize("start", [0, 2])
def test_lessons_are_learned_and_scored_a_pass_at_a_time(base: HFModel, start: int) -> None:
    """What is kept are the hidden states at the bottom of the layers that learn: (tokens, H)."""
    weight = base.model.model.layers[-1].mlp.up_proj.weight
    kept = 0.0

    def work(texts: list[str]) -> None:
        nonlocal kept
        lessons = Lessons(base, [Example(Prompt(one), " forest") for one in texts], start)
        lessons.trunk.read_by(Part(), 256, False)
        tokens = sum(len(one.ids) for one in lessons.items) / len(texts)
        kept = 4 * base.model.config.hidden_size * tokens if start else 0.0
        for loss, _, _ in lessons.losses(range(len(texts))):
            loss.backward()
            weight.grad = None
        lessons.score()

    weight.requires_grad_(True)
    try:
        found = grown(work)
    finally:
        weight.requires_grad_(False)
    assert found < 1.2 * kept + logits_bytes(base) / 8


def test_the_count_sees_what_is_held(base: HFModel) -> None:
    held: list[torch.Tensor] = []

    def work(texts: list[str]) -> None:
        held.clear()
        held.extend(
            one.clone() for _, one in base.reads([Prompt(one) for one in texts], [()] * len(texts))
        )

    assert grown(work) > logits_bytes(base) * 0.9
