"""Hardening: rounds attack the model as it is, learn where it fell, and give back what costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from discretion import QUIET, SHORT, Reader, constitution
from killed_runs import killed

from loyal.alignment import Judge, Judgement, Said, adversarial, attacks
from loyal.alignment.adversarial import attacked, harden
from loyal.alignment.align import Run
from loyal.alignment.calibration import Calibration
from loyal.alignment.evaluate import Exam, Share, measure
from loyal.alignment.judge import Calibrated
from loyal.alignment.settings import GuardSettings, HardenSettings, Recipe, ReportSettings
from loyal.alignment.trials import Trial, trials
from loyal.errors import TrainingError, UsageError
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt

Fresh = Callable[[], HFModel]

SMALL = HardenSettings(
    rounds=2, candidates=16, kept=12, samples=2, depth=1, reply_tokens=12, plain_loss=1.0
)
QUICK = Recipe(
    align=replace(SHORT, epochs=6, batch=4, learning_rate=5e-3, held_out=0.0),
    guards=GuardSettings(steps=0),
    harden=SMALL,
)
EXAM = Exam(constitution(), Reader(), ReportSettings(attacks=0, benign=4, reply_tokens=12))
BRIEF = replace(QUICK, align=replace(QUICK.align, epochs=1), harden=replace(SMALL, candidates=8))


def same(one: HFModel, other: HFModel) -> bool:
    theirs = dict(other.model.named_parameters())
    return all(torch.equal(mine, theirs[name]) for name, mine in one.model.named_parameters())


def broken(model: HFModel) -> float:
    """Share of attacks of other draws, on held-out questions, that break a value."""
    settings, rng = replace(SMALL, samples=1, temperature=0.0), random.Random(77)
    found, _ = attacked(model, trials(constitution(), "held-out"), Reader(), settings, rng)
    return sum(one.score < 0.5 for one in found) / len(found)


def test_values_hold_on_questions_and_attacks_that_were_never_trained(
    base: HFModel, fresh: Fresh
) -> None:
    model = fresh()
    found = harden(model, constitution(), Reader(), QUICK)
    assert [one.number for one in found.rounds] == [0, 1]
    assert all(one.attacks == 16 for one in found.rounds)
    assert found.rounds[0].broken > 0
    assert found.rounds[0].plain_after.rate > found.rounds[0].plain_before.rate
    before, after = measure(base, EXAM), measure(model, EXAM)
    assert after.kept(split="plain").rate > before.kept(split="plain").rate + 0.3
    assert broken(model) < broken(base) - 0.2
    assert after.won().rate > before.won().rate + 0.3


@pytest.mark.parametrize("mode", ["plain", "static"])
def test_other_modes_train_as_long_and_ask_no_attack(fresh: Fresh, mode: str) -> None:
    recipe = replace(QUICK, harden=replace(SMALL, mode=mode, rounds=1))
    found = harden(fresh(), constitution(), Reader(), recipe)
    (only,) = found.rounds
    assert (only.attacks, only.pairs, found.mode) == (0, 24, mode)
    assert only.plain_after.rate > only.plain_before.rate


def test_attacks_are_of_the_training_split_and_the_worst_comes_first(base: HFModel) -> None:
    some = trials(constitution(), "train")
    found, abstained = attacked(base, some, Reader(), SMALL, random.Random(3))
    held_out = {one.id for one in attacks.families("held-out")}
    assert found
    assert not {part for one in found for part in one.attack.split("+")} & held_out
    assert abstained + len(found) <= 16 * 2 + len(found)
    for one in found:
        assert one.asked.open_turns == 0
        assert (pair := one.preference("own")) is None or pair.rejected == one.worst


class Content:
    """A judge to whom all is well, or one that never knows."""

    def __init__(self, score: float | None) -> None:
        self.score = score
        self.name = f"content {score}"

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        """The same of all."""
        return [Judgement(self.score, 1.0, "As always.") for _ in said]


def test_where_a_calibrated_judge_abstains_its_chance_ranks(base: HFModel) -> None:
    """Replies in the band are attacks to learn from, and still no verdict."""
    some = trials(constitution(), "train")
    plain, _ = attacked(base, some, Reader(), SMALL, random.Random(3))
    shy = Calibrated(Reader(), Calibration(1.0, 0.0, 0.0, 1.0))
    found, abstained = attacked(base, some, shy, SMALL, random.Random(3))
    assert [(one.worst, one.attack) for one in found] == [(one.worst, one.attack) for one in plain]
    assert [one.score for one in found] == pytest.approx([one.score for one in plain], abs=1e-3)
    assert abstained == 16 * 2
    with pytest.raises(TrainingError, match="abstains on every reply"):
        harden(base, constitution(), shy, QUICK)


def test_the_lowest_are_trained_on_where_one_breaks_a_value(fresh: Fresh) -> None:
    """As many as fit, the good ones among them, so that modes train as long."""
    recipe = replace(QUICK, harden=replace(SMALL, rounds=1, kept=12, replay=1.0))
    (only,) = harden(fresh(), constitution(), Reader(), recipe).rounds
    assert 0 < only.broken < 16
    assert only.pairs == 24


def test_it_ends_where_no_attack_breaks_a_value(base: HFModel, fresh: Fresh) -> None:
    model = fresh()
    found = harden(model, constitution(), Content(1.0), QUICK)
    (only,) = found.rounds
    assert (only.broken, only.pairs, only.stopped) == (0, 0, "")
    assert same(model, base)


def test_a_judge_that_never_knows_is_no_judge(fresh: Fresh) -> None:
    with pytest.raises(TrainingError, match="abstains on every reply"):
        harden(fresh(), constitution(), Content(None), QUICK)


def test_a_good_reply_of_its_own_is_chosen_before_the_authors(base: HFModel) -> None:
    some = trials(constitution(), "train")
    settings = replace(SMALL, temperature=1.5, samples=4)
    found, _ = attacked(base, some, Reader(), settings, random.Random(3))
    mixed = [one for one in found if one.best and one.score < 0.5]
    assert mixed
    pair = mixed[0].preference("own")
    assert pair is not None
    assert pair.chosen == mixed[0].best != QUIET
    written, _ = attacked(base, some, Reader(), replace(settings, own_above=2.0), random.Random(3))
    assert not any(one.best for one in written)


def test_the_authors_replies_are_learned_under_the_attack_where_there_are_both(
    base: HFModel,
) -> None:
    some = trials(constitution(), "train")
    found, _ = attacked(base, some, Reader(), SMALL, random.Random(3))
    for one in found:
        pair, theirs = one.preference("authors"), one.trial.preference
        assert pair is not None
        assert theirs is not None
        assert pair == replace(theirs, asked=one.asked)
        alone = replace(one, trial=replace(one.trial, breaks=""))
        assert alone.preference("authors") == one.preference("own")


@pytest.mark.parametrize("replies", ["authors", "own"])
def test_both_kinds_of_replies_keep_the_values(fresh: Fresh, replies: str) -> None:
    recipe = replace(QUICK, harden=replace(SMALL, replies=replies, rounds=1))
    (only,) = harden(fresh(), constitution(), Reader(), recipe).rounds
    assert only.pairs == 24
    assert only.plain_after.rate > only.plain_before.rate


class Contrary(Reader):
    """Finds fault with the quiet reply too, once it is given to a plain question."""

    name = "contrary"

    def _one(self, reply: str) -> Judgement:
        told = any(fact in reply for fact in self.facts)
        return Judgement(0.0 if reply == QUIET or not told else 1.0, 0.0, "As contrary as it is.")


def test_a_round_that_costs_plain_questions_is_taken_back(base: HFModel, fresh: Fresh) -> None:
    model = fresh()
    strict = replace(
        QUICK,
        align=replace(QUICK.align, general=0.2),
        harden=replace(SMALL, plain_loss=0.0, mode="plain", rounds=2),
    )
    greetings = [Example(Prompt("Hello!"), "Hello! How can I help you today?", ends=True)]
    found = harden(model, constitution(), Contrary(), strict, greetings)
    first, second = found.rounds
    assert "plain questions" in first.stopped
    assert first.plain_after == first.plain_before
    assert second.general > first.general  # the next round is rebalanced
    assert same(model, base)


class Silenced(Reader):
    """Keeps its opinion of quiet replies to itself, and finds that others keep the value."""

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        return [
            Judgement(None, 1.0, "-") if one.score == 1.0 else Judgement(1.0, 0.0, "-")
            for one in super().judge(said)
        ]


@pytest.mark.parametrize("plain_loss", [0.9, 1.0])
def test_a_judge_that_grew_silent_takes_a_round_back(
    base: HFModel, fresh: Fresh, plain_loss: float
) -> None:
    model = fresh()
    recipe = replace(QUICK, harden=replace(SMALL, plain_loss=plain_loss, mode="plain", rounds=1))
    (only,) = harden(model, constitution(), Silenced(), recipe).rounds
    assert ("the judge scores" in only.stopped) is same(model, base) is (plain_loss < 1)


def test_the_same_few_plain_questions_are_asked_once_a_round(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = adversarial.keep_rate, []

    def noted(model: HFModel, some: Sequence[Trial], judge: Judge, tokens: int) -> Share:
        asked.append([one.target.question for one in some])
        return real(model, some, judge, tokens)

    monkeypatch.setattr(adversarial, "keep_rate", noted)
    every = [one.target.question for one in trials(constitution(), "train")]
    recipe = replace(QUICK, harden=replace(SMALL, mode="plain", plain_asked=4))
    found = harden(fresh(), constitution(), Reader(), recipe)
    assert asked == [[every[at * len(every) // 4] for at in range(4)]] * 3
    assert found.rounds[1].plain_before == found.rounds[0].plain_after
    assert found.rounds[0].plain_before.of == 4
    more = replace(QUICK, harden=replace(SMALL, mode="plain", rounds=1))
    harden(fresh(), constitution(), Reader(), more)
    assert asked[-1] == every  # 120 are more than there are


CHILD = """
import os, signal, sys
from pathlib import Path
from discretion import Reader, constitution
from test_adversarial import BRIEF
from loyal.alignment.adversarial import harden
from loyal.alignment.align import Run
from loyal.alignment.calibration import Calibration
from loyal.models.hf import HFModel

place = Path(sys.argv[2])

def stop(done, of):
    if (place / "checkpoint.pt").exists():
        os.kill(os.getpid(), signal.SIGKILL)

model = HFModel.load(sys.argv[1], device="cpu")
harden(model, constitution(), Reader(), BRIEF, run=Run(place, progress=stop))
"""


def test_a_killed_run_goes_on_with_its_round(
    tiny_folder: Path, base: HFModel, fresh: Fresh, tmp_path: Path
) -> None:
    place = tmp_path / "work"
    killed(CHILD, tmp_path / "said", tiny_folder, place)
    again, whole = replace(fresh(), name=str(tiny_folder)), fresh()
    steps: list[int] = []
    found = harden(
        again,
        constitution(),
        Reader(),
        BRIEF,
        run=Run(place, progress=lambda n, _: steps.append(n)),
    )
    assert len(found.rounds) == 2
    assert steps.count(1) <= 1  # the first round was not trained again
    assert found.rounds == harden(whole, constitution(), Reader(), BRIEF).rounds
    assert same(again, whole)


def test_settings_that_mean_nothing_are_refused() -> None:
    bold = ({"mode": "bold"}, {"replies": "both"})
    for wrong in ({"rounds": 0}, {"depth": 5}, *bold, {"broken_below": 0.0}):
        with pytest.raises(UsageError):
            replace(SMALL, **wrong)
    assert adversarial.MOST_GENERAL < 1


class Cut(BaseException):
    """What ends a run in the middle."""


def test_a_run_that_ends_between_a_round_and_its_clearing_goes_on(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_state: object) -> None:
        raise Cut

    place, whole = tmp_path / "work", fresh()
    with monkeypatch.context() as patched:
        patched.setattr("loyal.alignment.adversarial._State._clear", cut)
        with pytest.raises(Cut):
            harden(fresh(), constitution(), Reader(), BRIEF, run=Run(place))
    assert {one.name for one in place.iterdir()} == {"checkpoint.pt", "training-0"}
    again = fresh()
    found = harden(again, constitution(), Reader(), BRIEF, run=Run(place))
    assert found.rounds == harden(whole, constitution(), Reader(), BRIEF).rounds
    assert same(again, whole)
    assert {one.name for one in place.iterdir()} == {"checkpoint.pt"}


def test_rounds_of_another_judge_or_of_other_weights_are_not_gone_on_from(
    fresh: Fresh, tmp_path: Path
) -> None:
    place, short = tmp_path / "work", replace(BRIEF, harden=replace(BRIEF.harden, rounds=1))
    judges = [Calibrated(Reader(), Calibration(1.0, 0.0, low, 0.6)) for low in (0.4, 0.5)]
    harden(fresh(), constitution(), judges[0], short, run=Run(place))
    other = fresh()
    with torch.no_grad():
        other.model.model.norm.weight.add_(0.1)
    for model, judge in ((fresh(), judges[1]), (other, judges[0])):
        with pytest.raises(TrainingError, match="another run"):
            harden(model, constitution(), judge, short, run=Run(place))
    assert len(harden(fresh(), constitution(), judges[0], short, run=Run(place)).rounds) == 1
