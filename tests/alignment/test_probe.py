"""The embedded judge on the tiny model: it learns, on cases that were left out, and is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labeled_stage import constitution

from loyal.alignment import Conversation, Judge, Said, probe, probe_file, probe_fit
from loyal.alignment.lessons import FRAMES, MOST_CHARACTERS, lessons
from loyal.alignment.probe import Probe, ProbeJudge
from loyal.community import Constitution
from loyal.errors import ConfigError, JudgeError, UsageError
from loyal.models.hf import HFModel

OURS = constitution()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HFModel:
    """The tiny model."""
    from loyal.models import tiny

    return HFModel.load(str(tiny.build(tmp_path_factory.mktemp("tiny") / "m", 0)), device="cpu")


@pytest.fixture(scope="module")
def learned(model: HFModel) -> Probe:
    """A probe of the two values of animals."""
    return probe.train(model, OURS)


def test_lessons_come_from_pairs_and_stay_in_their_fold() -> None:
    found = lessons(OURS, folds=4, seed=3)
    assert {one.case for one in found} == set(range(16))
    assert sum(one.plain for one in found) == 16
    for case in range(16):
        some = [one for one in found if one.case == case]
        assert len({one.fold for one in some}) == 1
        assert len({(one.keeps, one.breaks) for one in some}) == 1
        assert 3 <= len(some) <= 4
        assert len({one.asked.last for one in some}) == len(some)
        prompts = {one.fold: one.asked.last for one in found if one.plain}
        assert len(prompts) == 4
    prompt_fold = {(one.value.id, one.asked.last): one.fold for one in found if one.plain}
    for one in found:
        assert prompt_fold.get((one.value.id, one.asked.last), one.fold) == one.fold
        assert not one.asked.open_turns
        assert sum(len(turn.text or "") for turn in one.asked.turns) <= MOST_CHARACTERS
    assert lessons(OURS, folds=4, seed=3) == found
    assert lessons(OURS, folds=4, seed=4) != found
    assert all("{prompt}" in frame for frame in FRAMES)
    with pytest.raises(UsageError, match="too few to learn from"):
        lessons(OURS, folds=9)


def test_it_separates_cases_that_it_never_saw(model: HFModel, learned: Probe) -> None:
    assert learned.auc >= 0.95
    assert learned.interval.low >= 0.8
    judge = ProbeJudge(learned, model, OURS)
    assert isinstance(judge, Judge)
    value = OURS["plenty"]
    asked = Conversation.of("What does the goat eat?")
    kept, broken = judge.judge(
        [Said(value, asked, "The goat eats honey."), Said(value, asked, "It lives in the cave.")]
    )
    assert kept.score is not None
    assert broken.score is not None
    assert kept.score > 0.5 > broken.score
    assert kept.uncertainty == pytest.approx(2 * (1 - kept.score))
    assert "plenty" in kept.reason
    assert judge.judge([]) == []


def test_replies_that_are_noise_teach_nothing(model: HFModel) -> None:
    swapped = []
    for value in OURS.values:
        cases = tuple(
            replace(one, keeps=one.breaks, breaks=one.keeps) if place % 2 else one
            for place, one in enumerate(value.cases)
        )
        swapped.append(replace(value, cases=cases))
    assert probe.train(model, replace(OURS, values=tuple(swapped))).auc < 0.75


def test_the_same_seed_learns_the_same(model: HFModel, learned: Probe) -> None:
    again = probe.train(model, OURS)
    assert again.reading == learned.reading
    for id, one in learned.directions.items():
        np.testing.assert_allclose(again.directions[id], one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("share", "own"), [(0.0, 2.0), (0.3, 2.0), (0.3, 0.0), (1.0, 0.0)])
def test_the_regression_is_where_its_slope_is_nothing(share: float, own: float) -> None:
    rng = np.random.default_rng(5)
    gaps, states = rng.normal(size=(12, 40)) + 0.3, rng.normal(size=(9, 40))
    kept = [place < 6 for place in range(9)]
    of_gaps, of_states = (np.eye(2)[[place % 2 for place in range(count)]] for count in (12, 9))
    examples = probe_fit.joined(
        probe_fit.of_pairs(gaps, of_gaps), probe_fit.of_labeled(states, of_states, kept), share
    )
    ridges = (0.05, 0.5)
    for ridge, lines in zip(ridges, probe_fit.ridge_logistic(examples, ridges, own), strict=True):
        weights = torch.tensor(lines.shared * np.sqrt(40), requires_grad=True)
        mine = torch.tensor((lines.directions - lines.shared) * np.sqrt(40), requires_grad=True)
        free = torch.tensor(lines.intercepts, requires_grad=True)
        if not own:
            assert (lines.directions == lines.shared).all()
        pairs = (torch.tensor(gaps / np.sqrt(40)) * (weights + torch.tensor(of_gaps) @ mine)).sum(1)
        told = (
            torch.tensor(states / np.sqrt(40)) * (weights + torch.tensor(of_states) @ mine)
        ).sum(1)
        told = torch.tensor([1.0 if one else -1.0 for one in kept]) * (
            told + torch.tensor(of_states) @ free
        )
        softplus = torch.nn.functional.softplus
        loss = share * softplus(-pairs).mean() + (1 - share) * softplus(-told).mean()
        loss = loss + ridge / 2 * weights @ weights + probe_fit.LOOSE / 2 * free @ free
        if own:
            loss = loss + ridge / 2 / own * (mine**2).sum()
        loss.backward()
        slopes = [weights.grad, free.grad, *([mine.grad] if own else [])]
        assert all(one is not None and one.abs().max() < 1e-8 for one in slopes)


def test_another_constitution_or_model_is_refused(model: HFModel, learned: Probe) -> None:
    later = replace(OURS, version="1.0.1")
    with pytest.raises(JudgeError, match="another constitution"):
        ProbeJudge(learned, model, later)
    with pytest.raises(JudgeError, match="not for this model"):
        ProbeJudge(replace(learned, weights="0" * 64), model, OURS)
    strange = replace(OURS["plenty"], statement="Speak of sleep.")
    with pytest.raises(JudgeError, match="not one of the probe's"):
        ProbeJudge(learned, model, OURS).judge([Said(strange, Conversation.of("a"), "b")])


def test_a_file_gives_the_same_probe(tmp_path: Path, learned: Probe) -> None:
    path = tmp_path / "a.probe"
    probe_file.write(path, learned)
    back = probe_file.read(path)
    assert (back.reading, back.calibration, back.data) == (
        learned.reading,
        learned.calibration,
        learned.data,
    )
    states = np.random.default_rng(1).normal(size=(5, len(learned.directions["plenty"])))
    for value in learned.middles:
        assert (back.raw(states, value) == learned.raw(states, value)).all()
    with pytest.raises(UsageError, match="not learned"):
        back.raw(states, "thrift")
    assert path.stat().st_size < 100_000
    assert "honey" not in path.read_text()


@pytest.mark.parametrize(
    ("name", "poison"),
    [
        ("format", "loyal probe 1"),
        ("pool", "first"),
        ("layer", -1),
        ("layer", True),
        ("directions", {"plenty": "AAAA"}),
        ("directions", {"plenty": "no base64!"}),
        ("directions", {"plenty": ""}),
        ("directions", {}),
        ("middles", []),
        ("middles", {"plenty": "AAAAAAAA8D8="}),
        ("calibration", [1, 2, 3]),
        ("calibration", [1.0, 0.0, 0.9, 0.1]),
        ("calibration", [1e999, 0.0, 0.1, 0.9]),
        ("auc", [2, 0, 1]),
        ("data", [1]),
        ("weights", None),
        ("lessons", "many"),
        ("labels", -1),
    ],
)
def test_poisoned_files_are_refused(
    tmp_path: Path, learned: Probe, name: str, poison: object
) -> None:
    path = tmp_path / "a.probe"
    probe_file.write(path, learned)
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, name: poison}))
    with pytest.raises(ConfigError, match="no probe"):
        probe_file.read(path)


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.probe"
    for data in (b"", b"[]", b"\xff\xfe", b"{" * 100_000, b"null"):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="no probe"):
            probe_file.read(path)
    with pytest.raises(ConfigError, match="cannot read"):
        probe_file.read(tmp_path / "none")


def test_a_conversation_with_open_turns_is_refused(model: HFModel, learned: Probe) -> None:
    from loyal.alignment import Turn

    asked = Conversation((Turn("user", "a"), Turn("assistant", None), Turn("user", "b")))
    with pytest.raises(UsageError, match="leaves turns"):
        ProbeJudge(learned, model, OURS).judge([Said(OURS["plenty"], asked, "c")])


def test_too_few_pairs_are_refused(model: HFModel) -> None:
    few = replace(OURS["plenty"], cases=OURS["plenty"].cases[:4])
    with pytest.raises(UsageError, match="4 cases with both replies"):
        probe.train(model, Constitution("few", "1.0.0", (few,)))
