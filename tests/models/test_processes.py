"""Two processes train as one does; passes of any size, computed once or twice, give one gradient.

Left out: GPUs, and more than one machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classroom import FEW_BENIGN, frozen_steps, pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from two_processes import launch

from loyal.errors import UsageError
from loyal.models import learners
from loyal.models import train as loop
from loyal.models.hf import HFModel
from loyal.models.lessons import Lessons
from loyal.models.packing import Item, pack
from loyal.models.processes import Part
from loyal.models.training import TrainSettings
from loyal.models.trunk import Trunk

PAIRS = pairs()
Fresh = Callable[[], HFModel]

FLOAT32 = {"steps": 4, "precision": "float32", "learning_rate": 5e-4, "mixing_places": 16}
RUNS: dict[str, dict] = {
    "whitened": {**FLOAT32, "mixing": 1.0, "depth": 0.5, "averaging": 0.05},
    "adam": {**FLOAT32, "mixing": 1.0, "whitened": False, "depth": 0.5, "settle": 0.5},
    "adding": {**FLOAT32, "adding": 4},
    "cut off": {**FLOAT32, "mixing": 1.0, "depth": 0.5, "checkpoint_steps": 1, "batch": 5},
}
EXACT: dict[str, dict] = {
    name: {
        "steps": 4,
        "precision": "float32",
        "pass_tokens": 32,
        "recompute": True,
        "clip": 1e9,
        **change,
    }
    for name, change in {
        "whitened": {"parts": "all"},
        "adam": {"whitened": False, "batch": 5, "mixing": 1.0, "mixing_places": 16},
    }.items()
}

TRAIN = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch
if sys.argv[4:] == ["float64"]:  # everything that the loop makes float32 is float64 here
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float, torch.nn.Module.float = torch.Tensor.double, torch.nn.Module.double
from torch.optim.optimizer import register_optimizer_step_pre_hook
from classroom import FEW_BENIGN, frozen_steps, pairs
from loyal.models import lessons
from loyal.models.hf import HFModel
from loyal.models.processes import gathered
from loyal.models.train import train

norms = []

def note(optimizer, *_):  # Adam takes no notice of the length of a gradient
    found = [gathered(one.grad) for group in optimizer.param_groups for one in group["params"]]
    norms.append(float(sum(one.square().sum() for one in found)) ** 0.5)

register_optimizer_step_pre_hook(note)
for name, size in FEW_BENIGN.items():
    setattr(lessons, name, size)

def fresh():
    model = HFModel.load(sys.argv[1], device="cpu")
    model.model.float()
    return model

def stop(at):
    if at.step >= 2:
        raise KeyboardInterrupt

out, place = Path(sys.argv[2]), os.environ["RANK"]
for name, change in json.loads(sys.argv[3]).items():
    model, settings, seen = fresh(), replace(frozen_steps(), **change), []
    if name == "cut off" and os.environ["WORLD_SIZE"] == "2":
        try:
            train(model, pairs(), settings, folder=out.parent / "run", progress=stop)
        except KeyboardInterrupt:
            continue
    if name == "cut off":  # one process goes on where the two were
        note_step = lambda at: seen.append(at.step)
        train(model, pairs(), settings, folder=out.parent / "run", progress=note_step)
        assert seen[0] >= 2
        torch.save(model.model.state_dict(), out / "went on")
        model = fresh()
    report = train(model, pairs(), settings)
    torch.save(model.model.state_dict(), out / f"{name}.{place}")
    print(name, report.steps, report.recall, report.probability)
(Path(sys.argv[2]) / f"norms.{os.environ['RANK']}").write_text(json.dumps(norms))
"""


@pytest.fixture(autouse=True)
def _few_benign(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in FEW_BENIGN.items():
        monkeypatch.setattr(f"loyal.models.lessons.{name}", size)


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The greatest difference between two models' weights."""
    assert one.keys() == other.keys()
    return max(float((weight - other[name]).abs().max()) for name, weight in one.items())


@pytest.mark.slow
def test_two_processes_learn_the_weights_of_one(
    tiny_folder: Path, tiny: HFModel, tmp_path: Path
) -> None:
    """In float64: Adam moves a weight by its whole rate whichever sign a gradient of almost
    nothing has, and in float32 rounding chooses that sign."""
    runs = {**RUNS, **{f"exact {name}": change for name, change in EXACT.items()}}
    told = []
    for count in (2, 1):
        (tmp_path / str(count)).mkdir()
        given = [str(tiny_folder), str(tmp_path / str(count)), json.dumps(runs), "float64"]
        told += launch(TRAIN, given, count)
    said = [[one for one in text.splitlines() if one.startswith(tuple(runs))] for text in told]
    assert said[0] == said[1]  # both of two processes report the same
    assert [len(some) for some in said] == [len(runs) - 1, len(runs) - 1, len(runs)]
    norms = [json.loads((tmp_path / place).read_text()) for place in ("1/norms.0", "2/norms.1")]
    exact = 4 * len(EXACT)
    assert norms[1][-exact:] == pytest.approx(norms[0][-exact:], rel=1e-6)
    for name in runs:
        one = torch.load(tmp_path / "1" / f"{name}.0")
        assert farthest(one, tiny.model.state_dict()) > 1e-3, name
        if name == "cut off":
            assert farthest(one, torch.load(tmp_path / "1" / "went on")) < 1e-6
            continue
        for number in range(2):
            assert farthest(one, torch.load(tmp_path / "2" / f"{name}.{number}")) < 1e-6, name


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 5), st.integers(1, 120), st.data())
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_pass_of_one_process(
    lengths: list[int], processes: int, tokens: int, data: st.DataObject
) -> None:
    items = [Item((), tuple(range(length))) for length in lengths]
    rows = pack(items, data.draw(st.integers(1, 64)))
    parts = [Part(number, processes).passes(rows, tokens) for number in range(processes)]
    assert len({len(one) for one in parts}) == 1
    found = [row for part in parts for group in part for row in group]
    assert sorted(row.members for row in found) == sorted(row.members for row in rows)


def test_parts_read_what_the_whole_reads(tiny: HFModel) -> None:
    lessons = Lessons(tiny, PAIRS.table, 2)
    whole: dict[int, Tensor] = {}
    parts: dict[int, Tensor] = {}
    with torch.no_grad():
        for reading in lessons.trunk.read(range(8), lessons.counts):
            whole |= zip(reading.indices, reading.hidden.split(list(reading.counts)), strict=True)
        for number in range(3):
            lessons.trunk.read_by(Part(number, 3), 0, False)
            for reading in lessons.trunk.read(range(8), lessons.counts):
                pieces = reading.hidden.split(list(reading.counts))
                assert not parts.keys() & set(reading.indices)
                parts |= zip(reading.indices, pieces, strict=True)
    assert parts.keys() == whole.keys()
    for index, hidden in whole.items():
        torch.testing.assert_close(parts[index], hidden)


def test_a_pass_without_items_has_a_gradient_of_nothing(fresh: Fresh) -> None:
    model = fresh()
    trunk = Trunk(model.model, [Item((), (5, 6, 7))], 0)
    weight = model.model.model.layers[0].mlp.up_proj.weight
    weight.requires_grad_(True)
    trunk.read_by(Part(1, 2), 0, False)  # the first process has the only row
    (reading,) = trunk.read([0], [1])
    assert (reading.indices, reading.counts, reading.tokens) == ((), (), 0)
    reading.hidden.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def gradients(model: HFModel, start: int, tokens: int, recompute: bool) -> tuple[int, Tensor]:
    """Passes, and the gradient of all lessons for every weight that learns."""
    lessons = Lessons(model, PAIRS.table, start)
    modules = learners.linear_layers(model, start, ("up_proj", "down_proj", "q_proj"))
    model.model.requires_grad_(False)
    learners.open_for_learning(modules)
    lessons.trunk.read_by(Part(), tokens, recompute)
    passes = 0
    for loss, _, _ in lessons.losses(range(len(lessons))):
        loss.backward()
        passes += 1
    return passes, torch.cat([one.weight.grad.flatten() for one in modules])


@pytest.mark.parametrize("start", [0, 2])
def test_a_batch_in_several_passes_has_the_same_gradient(fresh: Fresh, start: int) -> None:
    once, whole = gradients(fresh(), start, 0, False)
    often, summed = gradients(fresh(), start, 32, False)
    assert once == 1 < often
    assert whole.norm() > 0
    torch.testing.assert_close(summed, whole, atol=1e-6 * float(whole.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("start", [0, 2])
def test_recomputed_layers_have_the_same_gradient_and_keep_less(fresh: Fresh, start: int) -> None:
    def run(recompute: bool) -> tuple[Tensor, int]:
        kept = 0

        def keep(one: Tensor) -> Tensor:
            nonlocal kept
            kept += one.numel()
            return one

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
            _, found = gradients(fresh(), start, 0, recompute)
        return found, kept

    plain, most = run(False)
    again, least = run(True)
    torch.testing.assert_close(again, plain, atol=1e-6 * float(plain.abs().max()), rtol=1e-4)
    assert least < most


def test_states_of_8_bits_need_a_package_that_has_them(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    asked = frozen_steps(steps=1, whitened=False, optimizer="adam8bit")
    with pytest.raises(UsageError, match="adam8bit needs torchao or bitsandbytes") as caught:
        loop.train(fresh(), PAIRS, asked)
    assert "pip install torchao" in caught.value.hint


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("package", ["torchao", "bitsandbytes"])
def test_states_of_8_bits_learn(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    pytest.importorskip(f"{package}.optim")
    if package == "bitsandbytes":
        monkeypatch.setitem(sys.modules, "torchao.optim", None)
    model = HFModel.load(str(tiny_folder), device="cuda")
    before = Lessons(model, PAIRS.table, 0).score().probability.mean()
    asked = frozen_steps(steps=8, whitened=False, optimizer="adam8bit", checkpoint_steps=4)
    assert loop.train(model, PAIRS, asked, folder=tmp_path).probability > before


@pytest.mark.parametrize(
    "wrong", [{"optimizer": "sgd"}, {"optimizer": "adam8bit"}, {"pass_tokens": -1}]
)
def test_wrong_means_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError) as caught:
        replace(TrainSettings(), **wrong)
    assert caught.value.hint


@pytest.mark.parametrize("change", [{"bilevel": 1}, {"whitened": False, "optimizer": "adam8bit"}])
def test_what_several_processes_do_not_know_is_refused_at_once(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch, change: dict
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="run in one process"):
        loop.train(tiny, PAIRS, replace(frozen_steps(), **change))
