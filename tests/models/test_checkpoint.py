"""A run that was cut off goes on to the same weights; checkpoints that do not fit are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classroom import FEW_BENIGN, QUICK, frozen_steps, pairs
from killed_runs import killed

from loyal.errors import StorageError, TrainingError
from loyal.models.checkpoint import CHECKPOINT
from loyal.models.examples import Example, Pairs
from loyal.models.hf import HFModel
from loyal.models.train import train
from loyal.models.training import TrainProgress, TrainReport, TrainSettings

PAIRS = pairs()
SETTINGS = frozen_steps(checkpoint_steps=1, batch=5, mixing=1.0, mixing_places=8)
Fresh = Callable[[], HFModel]


pytestmark = pytest.mark.usefixtures("few_benign")


@pytest.fixture(scope="module")
def whole(tiny: HFModel) -> tuple[HFModel, TrainReport]:
    """The model after a run of SETTINGS that nothing cut off."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in FEW_BENIGN.items():
            patch.setattr(f"loyal.models.lessons.{name}", size)
        return uninterrupted(tiny, SETTINGS)


def uninterrupted(tiny: HFModel, settings: TrainSettings) -> tuple[HFModel, TrainReport]:
    from copy import deepcopy

    model = replace(tiny, model=deepcopy(tiny.model))
    return model, train(model, PAIRS, settings)


def same_weights(one: HFModel, other: HFModel) -> bool:
    theirs = other.model.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in one.model.state_dict().items())


def cut_off(model: HFModel, settings: TrainSettings, folder: Path, step: int) -> None:
    """Train until an epoch begins at `step` or later, then fail like a pulled plug."""

    def stop(at: TrainProgress) -> None:
        if at.step >= step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, PAIRS, settings, folder=folder, progress=stop)


CHILD = """
import io, os, signal, sys
from pathlib import Path
import torch
from classroom import FEW_BENIGN
from loyal.models import lessons
from loyal.models.hf import HFModel
from loyal.models.train import train
from test_checkpoint import PAIRS, SETTINGS

for name, size in FEW_BENIGN.items():
    setattr(lessons, name, size)
torch.set_num_threads(int(sys.argv[3]))
save, calls = torch.save, []

def slow_save(content, file):
    calls.append(content)
    if len(calls) < 5:
        return save(content, file)
    whole = io.BytesIO()
    save(content, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = slow_save
train(HFModel.load(sys.argv[1], device="cpu"), PAIRS, SETTINGS, folder=Path(sys.argv[2]))
"""


def test_a_run_killed_while_it_writes_goes_on_to_the_same_weights(
    tiny_folder: Path, fresh: Fresh, whole: tuple[HFModel, TrainReport], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    killed(CHILD, tmp_path / "said", tiny_folder, work, torch.get_num_threads())
    assert sorted(one.name for one in work.iterdir()) == ["checkpoint.part", CHECKPOINT]
    assert torch.load(work / CHECKPOINT, weights_only=True)["state"]["step"] == 4

    model, seen = fresh(), []
    report = train(model, PAIRS, SETTINGS, folder=work, progress=seen.append)
    assert seen[0].step >= 4
    assert same_weights(model, whole[0])
    assert replace(report, seconds=0, peak_rss_bytes=0) == replace(
        whole[1], seconds=0, peak_rss_bytes=0
    )
    assert [one.name for one in work.iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (1, {}),
        (6, {"checkpoint_steps": 3}),
        (4, {"whitened": False, "averaging": 0.05}),
        (4, {"adding": 4}),
        (4, {"augmentation": 1, "depth": 0.5}),
    ],
)
def test_a_run_cut_off_at_any_step_goes_on_to_the_same_weights(
    tiny: HFModel, fresh: Fresh, tmp_path: Path, step: int, change: dict
) -> None:
    settings = replace(SETTINGS, **change)
    cut_off(fresh(), settings, tmp_path, step)
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state"]["step"]
    assert 0 < saved <= settings.steps
    model = fresh()
    train(model, PAIRS, settings, folder=tmp_path)
    other, _ = uninterrupted(tiny, settings)
    assert same_weights(model, other)
    assert not same_weights(model, tiny)
    assert [one.name for one in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_run_cut_off_before_its_first_checkpoint_starts_anew(
    fresh: Fresh, whole: tuple[HFModel, TrainReport], tmp_path: Path
) -> None:
    cut_off(fresh(), SETTINGS, tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    model = fresh()
    train(model, PAIRS, SETTINGS, folder=tmp_path / "made" / "by it")
    assert same_weights(model, whole[0])


def test_a_checkpoint_is_for_its_owner_alone(fresh: Fresh, tmp_path: Path) -> None:
    cut_off(fresh(), SETTINGS, tmp_path, 2)
    assert (tmp_path / CHECKPOINT).stat().st_mode & 0o777 == 0o600
    content = (tmp_path / CHECKPOINT).read_bytes()
    for one in PAIRS.table:
        assert one.prompt.text.encode() not in content
        assert one.reply.encode() not in content


def reweighted() -> Pairs:
    first, *rest = PAIRS.table
    return Pairs((Example(first.prompt, first.reply, 3.0), *rest))


def surer() -> Pairs:
    first, *rest = PAIRS.table
    return Pairs((replace(first, ahead=(("On a road", 3.0),)), *rest))


def after_turns() -> Pairs:
    first, *rest = PAIRS.table
    told = replace(first.prompt, history=(("Hello.", "Hello."),))
    return Pairs((replace(first, prompt=told), *rest))


@pytest.mark.parametrize(
    ("taught", "settings", "name"),
    [
        (pairs(seed=2), SETTINGS, None),
        (after_turns(), SETTINGS, None),
        (reweighted(), SETTINGS, None),
        (surer(), SETTINGS, None),
        (PAIRS, replace(SETTINGS, seed=1), None),
        (PAIRS, replace(SETTINGS, parts="all"), None),
        (PAIRS, replace(SETTINGS, adding=4), None),
        (PAIRS, SETTINGS, "another model"),
    ],
    ids=["pairs", "turns", "weights", "ahead", "seed", "parts", "adding", "model"],
)
def test_a_checkpoint_of_another_run_is_refused(
    fresh: Fresh, checkpoint: Path, taught: Pairs, settings: TrainSettings, name: str | None
) -> None:
    model, before = fresh(), checkpoint.read_bytes()
    model = replace(model, name=name or model.name)
    with pytest.raises(TrainingError, match="belongs to another run") as caught:
        train(model, taught, settings, folder=checkpoint.parent)
    assert "vault" not in caught.value.hint  # not every command has one
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_of_other_weights_under_the_same_name_is_refused(
    fresh: Fresh, checkpoint: Path
) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.model.norm.weight.add_(0.1)
    with pytest.raises(TrainingError, match="belongs to another run"):
        train(model, PAIRS, SETTINGS, folder=checkpoint.parent)


@pytest.fixture(scope="module")
def written(tiny: HFModel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a checkpoint of SETTINGS."""
    from copy import deepcopy

    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        for name, size in FEW_BENIGN.items():
            patch.setattr(f"loyal.models.lessons.{name}", size)
        cut_off(replace(tiny, model=deepcopy(tiny.model)), SETTINGS, folder, 2)
    return (folder / CHECKPOINT).read_bytes()


@pytest.fixture
def checkpoint(written: bytes, tmp_path: Path) -> Path:
    """A checkpoint of SETTINGS in a folder of its own."""
    path = tmp_path / CHECKPOINT
    path.write_bytes(written)
    return path


def flipped(data: bytes, share: float) -> bytes:
    at = int(len(data) * share)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a checkpoint",
        lambda data: data[: len(data) // 2],
        lambda data: flipped(data, 0.3),
        lambda data: flipped(data, 0.6),
    ],
    ids=["empty", "text", "half", "a bit of the weights", "a bit of the optimizer"],
)
def test_a_damaged_checkpoint_is_refused(
    tiny: HFModel, fresh: Fresh, checkpoint: Path, damage: Callable[[bytes], bytes]
) -> None:
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    model = fresh()
    with pytest.raises(TrainingError, match="is damaged") as caught:
        train(model, PAIRS, SETTINGS, folder=checkpoint.parent)
    assert "delete it" in caught.value.hint
    assert same_weights(model, tiny)


def test_a_checkpoint_with_foreign_fields_is_refused(fresh: Fresh, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state"]["unknown"] = 1
    torch.save(content, checkpoint)
    with pytest.raises(TrainingError, match="is damaged"):
        train(fresh(), PAIRS, SETTINGS, folder=checkpoint.parent)


def test_a_whole_checkpoint_is_taken_up(
    fresh: Fresh, checkpoint: Path, whole: tuple[HFModel, TrainReport]
) -> None:
    model = fresh()
    train(model, PAIRS, SETTINGS, folder=checkpoint.parent)
    assert same_weights(model, whole[0])


@pytest.mark.parametrize("change", [{}, {"adding": 4}])
def test_a_finished_run_takes_no_further_step(fresh: Fresh, tmp_path: Path, change: dict) -> None:
    """So a crash between the last step and the written model costs nothing."""
    settings = replace(SETTINGS, **change)
    first, again, seen = fresh(), fresh(), []
    report = train(first, PAIRS, settings, folder=tmp_path)
    same = train(again, PAIRS, settings, folder=tmp_path, progress=seen.append)
    assert {one.step for one in seen} == {report.steps} == {same.steps}
    assert same_weights(again, first)


def test_a_folder_that_cannot_be_written_is_said(fresh: Fresh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        train(fresh(), PAIRS, replace(QUICK, checkpoint_steps=1), folder=tmp_path / "file")
    assert caught.value.hint
