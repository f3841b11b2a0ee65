"""Ensembles, calibration on labels, the gate, and judges that must be apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from labeled_stage import ANIMALS, WordJudge, constitution, labeled, value

from loyal.alignment import Conversation, Judge, Said, calibration_file, judge
from loyal.alignment.calibration import Calibration
from loyal.errors import ConfigError, JudgeError, UsageError
from loyal.models.endpoint import EndpointModel

OURS = constitution()


class _Drawn(WordJudge):
    """Learned from the same data, with numbers of its own."""

    def __init__(self, fitted: str) -> None:
        super().__init__()
        self.fitted = fitted


def scores(which: Judge, count: int = 4) -> list[float | None]:
    """What a judge says of the first replies."""
    return [one.score for one in which.judge([one.said for one in labeled(count)])]


def test_an_ensemble_is_the_mean_of_log_odds() -> None:
    both = judge.Ensemble((WordJudge(), WordJudge(0.5, 0.5, name="flat")))
    assert isinstance(both, Judge)
    assert scores(both, 2) == [pytest.approx(0.75), pytest.approx(0.25)]
    assert both.name == "words + flat"
    (first, _) = both.judge([one.said for one in labeled(2)])
    assert first.uncertainty == pytest.approx(0.5)
    with pytest.raises(UsageError, match="fewer than two"):
        judge.Ensemble((WordJudge(),))


def test_an_ensemble_without_half_of_its_judges_gives_no_score() -> None:
    three = tuple(WordJudge(silent=silent, name=str(silent)) for silent in (0, 1, 2))
    assert scores(judge.Ensemble(three), 3) == [
        None, pytest.approx(0.1), pytest.approx(0.9)
    ]  # fmt: skip


def test_certain_judges_do_not_break_an_ensemble() -> None:
    sure = judge.Ensemble((WordJudge(1.0, 0.0), WordJudge(0.0, 1.0)))
    assert scores(sure, 2) == [pytest.approx(0.5), pytest.approx(0.5)]
    assert [one.uncertainty for one in sure.judge([one.said for one in labeled(2)])] == [1.0, 1.0]


def test_a_score_in_the_band_is_no_score() -> None:
    band = Calibration(1.0, 0.0, 0.2, 0.8)
    assert scores(judge.Calibrated(WordJudge(0.7, 0.1), band), 2) == [None, pytest.approx(0.1)]
    assert scores(judge.Calibrated(WordJudge(0.9, 0.1, silent=1), band), 2)[0] is None
    flipped = judge.Calibrated(WordJudge(0.9, 0.1), Calibration(-1.0, 0.0, 0.5, 0.5))
    assert scores(flipped, 2) == [pytest.approx(0.1), pytest.approx(0.9)]
    assert flipped.name == "words"
    assert flipped.made_of == {"weights:words"}


def test_a_judge_that_sees_is_accepted() -> None:
    report = judge.calibrate(WordJudge(), labeled(240, noisy=12))
    assert report.auc == pytest.approx(0.95)
    assert report.interval.low > 0.9
    assert report.separates
    assert (report.decided.count, report.decided.abstained, report.decided.wrong) == (240, 0, 12)
    assert report.kappa == pytest.approx(0.9)
    assert report.error < 0.1
    assert sum(one.count for one in report.bins) == 240
    assert report.by_value == (("kindness", 240, pytest.approx(0.95)),)
    judge.require_separation(report)
    with pytest.raises(JudgeError, match="fewer than 500"):
        judge.require_separation(report, 500)
    assert report.calibration.probability(judge.log_odds(0.9)) == pytest.approx(0.95, abs=0.02)


def test_a_judge_that_cannot_separate_stops_the_pipeline() -> None:
    for blind in (WordJudge(0.5, 0.5), WordJudge(0.1, 0.9)):
        report = judge.calibrate(blind, labeled(240))
        assert not report.separates
        with pytest.raises(JudgeError, match="cannot tell kept from broken") as caught:
            judge.require_separation(report)
        assert caught.value.exit_code == 1


def test_silence_counts_as_abstaining() -> None:
    report = judge.calibrate(WordJudge(silent=40), labeled(240))
    assert report.unscored == 40
    assert report.decided.abstained >= 40
    assert report.auc < 1
    with pytest.raises(JudgeError, match="no score to 130 of 240"):
        judge.calibrate(WordJudge(silent=130), labeled(240))


def test_labels_that_say_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="only 0 replies are labeled broken"):
        judge.calibrate(WordJudge(), [one for one in labeled(80) if one.kept])
    one_prompt = [
        replace(one, said=replace(one.said, asked=Conversation.of("Why?"))) for one in labeled(80)
    ]
    with pytest.raises(UsageError, match="answer one prompt"):
        judge.calibrate(WordJudge(), one_prompt)


def test_the_judges_own_data_is_no_test() -> None:
    leaked = labeled(240)
    said = Said(value(), Conversation.of("Why?"), f"the {ANIMALS[0]}  eats HONEY.")
    leaked[3] = replace(leaked[3], said=said)
    with pytest.raises(JudgeError, match="1 of the labeled replies stand"):
        judge.calibrate(WordJudge(), leaked)


def test_the_judge_that_measures_is_apart_from_the_one_that_trains() -> None:
    from loyal.alignment.rubric import RubricJudge

    one, other = WordJudge(), WordJudge(made_of=frozenset({"weights:other"}))
    judge.require_apart(one, other)
    with pytest.raises(JudgeError, match="shares data or weights"):
        judge.require_apart(one, judge.Ensemble((other, one)))
    with pytest.raises(UsageError, match="made of"):
        judge.require_apart(one, WordJudge(made_of=frozenset()))
    served = [RubricJudge(EndpointModel(f"http://127.0.0.1:{port}/v1", "m")) for port in (1, 2)]
    with pytest.raises(JudgeError):
        judge.require_apart(*served)


def test_a_calibration_is_of_one_judge_and_one_constitution(tmp_path: Path) -> None:
    report, path = judge.calibrate(WordJudge(), labeled(240, noisy=20)), tmp_path / "c.json"
    ours = WordJudge()
    calibration_file.write(path, ours, report, OURS, b"\1" * 32)
    assert calibration_file.read(path, ours, OURS) == report.calibration
    other = judge.Ensemble((WordJudge(), WordJudge()))
    taught = WordJudge(made_of=frozenset({"the same name", "other data"}))
    for one in (other, taught, _Drawn("1")):
        with pytest.raises(JudgeError, match="another judge"):
            calibration_file.read(path, one, OURS)
    with pytest.raises(JudgeError, match="another constitution"):
        calibration_file.read(path, ours, replace(OURS, version="2.0.0"))
    calibration_file.write(path, _Drawn("1"), report, OURS, b"\1" * 32)
    assert calibration_file.read(path, _Drawn("1"), OURS) == report.calibration
    with pytest.raises(JudgeError, match="another judge"):
        calibration_file.read(path, _Drawn("2"), OURS)
    calibration_file.write(path, ours, report, OURS, b"\1" * 32, accepted=False)
    with pytest.raises(JudgeError, match="too few labeled"):
        calibration_file.read(path, ours, OURS)
    blind = judge.calibrate(WordJudge(0.5, 0.5), labeled(240))
    calibration_file.write(path, ours, blind, OURS, b"\1" * 32)
    with pytest.raises(JudgeError, match="cannot tell"):
        calibration_file.read(path, ours, OURS)


@pytest.mark.parametrize(
    "poison",
    ['"calibration": [1, 2]', '"calibration": [1, 2, 0.9, 0.1]', '"calibration": [1, 2, 0.1, true]',
     '"calibration": [1e999, 2, 0.1, 0.2]', '"known": 1', '"known": {"kept": [1, 2, 3]}',
     '"known": {"kept": {"mean": 2, "variance": 0.1, "count": 9},'
     ' "broken": {"mean": 0.1, "variance": 0.1, "count": 9}}',
     '"known": {"kept": {"mean": 0.2, "variance": 0.1, "count": 1},'
     ' "broken": {"mean": 0.1, "variance": 0.1, "count": 9}}',
     '"format": "loyal calibration 3"'],
)  # fmt: skip
def test_poisoned_calibrations_are_refused(tmp_path: Path, poison: str) -> None:
    path = tmp_path / "c.json"
    report = judge.calibrate(WordJudge(), labeled(240))
    calibration_file.write(path, WordJudge(), report, OURS, b"\1" * 32)
    path.write_text(f"{path.read_text().rstrip().removesuffix('}')}, {poison}}}")
    with pytest.raises(ConfigError, match="no calibration"):
        calibration_file.read(path, WordJudge(), OURS)
    for data in (b"", b"[]", b"\xff"):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="no calibration"):
            calibration_file.read(path, WordJudge(), OURS)
