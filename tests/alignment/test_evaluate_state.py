"""A report that was cut off goes on, asks nothing twice, and takes no other exam's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from discretion import Reader, constitution

from loyal.alignment import Judgement, Said
from loyal.alignment.calibration import Calibration, Known, Moments
from loyal.alignment.evaluate import Exam, measure
from loyal.alignment.evaluate_state import Kept
from loyal.alignment.judge import Calibrated
from loyal.alignment.settings import ReportSettings
from loyal.errors import ConfigError
from loyal.models.hf import HFModel

FEW = ReportSettings(attacks=0, plain=8, benign=2, reply_tokens=4, tokens=100, part=2)


class Cut(BaseException):
    """Stands for a kill: nothing of ours catches it."""


class Tired(Reader):
    """A judge that reads so many replies, and then the process is gone."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.read = 0

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        self.read += len(said)
        if self.read > self.most:
            raise Cut
        return super().judge(said)


def exam(most: int = 10**9, settings: ReportSettings = FEW) -> Exam:
    return Exam(constitution(), Tired(most), settings)


def test_it_goes_on_behind_the_last_part(base: HFModel, tmp_path: Path) -> None:
    path = tmp_path / "report.state"
    with pytest.raises(Cut):
        Kept(path, exam(5)).measured(base)
    known = Kept(path, exam())
    assert [len(one) for one in known.answers.values()] == [4]
    assert not known.models
    rest = exam()
    kept = Kept(path, rest)
    first, second = kept.measured(base), kept.measured(base, base)
    assert isinstance(rest.judge, Tired)
    assert rest.judge.read == 4 + 8
    assert (first, second) == (measure(base, exam()), measure(base, exam(), base))
    idle = exam(0)
    again = Kept(path, idle)
    assert (again.measured(base), again.measured(base, base)) == (first, second)
    again.drop()
    assert list(tmp_path.iterdir()) == []


def test_what_the_judge_gives_labeled_replies_is_kept(base: HFModel, tmp_path: Path) -> None:
    known = Known(Moments(0.9, 0.01, 80), Moments(0.3, 0.02, 40))
    held = replace(exam(), judge=Calibrated(Reader(), Calibration(1.0, 0.0, 0.4, 0.6, known)))
    first = Kept(tmp_path / "state", held).measured(base)
    assert first.known == known
    assert Kept(tmp_path / "state", held).models.popitem()[1] == first


def test_parts_change_nothing_and_other_exams_are_measured_anew(
    base: HFModel, tmp_path: Path
) -> None:
    path = tmp_path / "report.state"
    whole = Kept(path, exam(settings=replace(FEW, part=64))).measured(base)
    kept = Kept(path, exam(0))
    assert (kept.replaced, kept.measured(base)) == (False, whole)
    longer = Kept(path, exam(settings=replace(FEW, reply_tokens=5)))
    assert (longer.replaced, longer.models) == (True, {})
    pairs = (replace(exam().pairs[0], weight_ppm=5),)
    assert Kept(path, Exam(constitution(), Tired(0), FEW, pairs)).replaced
    other = replace(constitution(), version="1.0.1")
    assert Kept(path, Exam(other, Tired(0), FEW)).replaced
    stranger = Tired(0)
    stranger.name = "another"
    assert Kept(path, Exam(constitution(), stranger, FEW)).replaced


def test_another_model_of_that_name_is_measured(
    base: HFModel, tmp_path: Path, fresh: object
) -> None:
    import torch

    path = tmp_path / "report.state"
    Kept(path, exam()).measured(base)
    assert callable(fresh)
    moved = fresh()
    with torch.no_grad():
        for one in moved.model.parameters():
            one.mul_(1.5)
    asked = exam()
    Kept(path, asked).measured(moved)
    assert isinstance(asked.judge, Tired)
    assert asked.judge.read == 8


@pytest.mark.parametrize("text", ["", "[]", '{"format": "loyal report state 1"', "{}"])
def test_what_is_no_state_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.state"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no state of a report"):
        Kept(path, exam())
