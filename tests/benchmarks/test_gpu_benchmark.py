"""The GPU benchmark's code at a tiny size on the CPU, and its rows where there is no GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu  # noqa: E402
from loyal.models.lessons import Lessons  # noqa: E402

TINY = gpu.SHAPES["tiny"]


def test_both_parts_run_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loyal.models.lessons.BENIGN_PROMPTS", 8)
    monkeypatch.setattr("loyal.models.lessons.BENIGN_TEXTS", 4)
    found = gpu.run(TINY, "cpu")
    assert found.epochs_per_second > 0
    assert found.generating_seconds > 0
    assert found.pairs == 24
    assert (found.mfu, found.peak_bytes) == (None, None)


def test_items_have_twenty_tokens() -> None:
    model = gpu.build(TINY, "cpu")
    taught = gpu.items(model, 5)
    lessons = Lessons(model, taught.table, 0)
    assert {len(one.prefix) + len(one.ids) for one in lessons.items} == {gpu.ITEM_TOKENS}


def test_flops_are_counted_by_hand() -> None:
    model = gpu.build(TINY, "cpu")
    attention = 64 * 64 * 2 + 2 * 64 * 32
    mlp, head = 3 * 64 * 128, 64 * 2000
    counted = gpu.training_flops(model, gpu.TrainSettings(depth=0.5), tokens=10, places=3)
    assert counted == 10 * 2 * (4 * attention + 6 * mlp) + 3 * 4 * head


def test_the_large_shape_has_eight_billion_weights() -> None:
    shape = gpu.SHAPES["8b"]
    with torch.device("meta"):
        model = gpu.transformers.AutoModelForCausalLM.from_config(gpu.config_of(shape))
    assert sum(one.numel() for one in model.parameters()) == 8_030_261_248  # Llama 3 8B


def test_rows_without_a_gpu_have_no_value_and_say_why() -> None:
    rows = gpu.table(None, "no GPU at hand")
    assert [one.id for one in rows] == ["gpu-epochs", "gpu-mfu", "gpu-memory", "gpu-generate"]
    assert all(one.value is None and one.holds is None for one in rows)
    assert all("no GPU at hand" in one.how for one in rows)
    measured = gpu.table(gpu.Measured(301.0, 0.4, 119_000_000_000, 240.0, 24_576), "a card")
    assert [one.holds for one in measured] == [True, None, True, True]
