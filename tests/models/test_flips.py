"""A simulated host that turns a few lessons: it leaves the model as it was, and a run that was cut
off ends the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classroom import FEW_BENIGN, QUICK, frozen_steps, pairs
from torch import Tensor

from loyal.errors import TrainingError, UsageError
from loyal.models import flips
from loyal.models.examples import Example, Pairs
from loyal.models.flips import Flips
from loyal.models.hf import HFModel
from loyal.models.lessons import Lessons
from loyal.models.train import _Run, train

Fresh = Callable[[], HFModel]


def ruled(count: int = 12) -> Pairs:
    """Lessons with two replies, each against the other."""
    one, other = "The garden", "The river"
    table = pairs(count).table
    return Pairs(
        tuple(
            replace(it, reply=(one, other)[place % 2], against=(other, one)[place % 2])
            for place, it in enumerate(table)
        )
    )


RULED = ruled()


@pytest.fixture(autouse=True)
def _few_benign(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in FEW_BENIGN.items():
        monkeypatch.setattr(f"loyal.models.lessons.{name}", size)
    monkeypatch.setattr(flips, "RATES", (2e-3,))


def weights(model: HFModel) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in model.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def level(host: Flips) -> float:
    """Mean probability of the replies that stand against the lessons' own."""
    return float(host.lessons.score().probability.mean())


def test_a_simulated_host_turns_lessons_and_leaves_the_weights_as_they_were(fresh: Fresh) -> None:
    model = fresh()
    learned = list(model.model.model.layers[-1].parameters())
    for one in learned:
        one.requires_grad_(True)
    before, host = weights(model), Flips(model, RULED.table, 0)
    plain = level(host)
    host.simulate(learned, 1)
    assert same(weights(model), before)
    change = [one.clone() for one in host.change]
    host.simulate(learned, 1)
    assert all(torch.equal(one, two) for one, two in zip(change, host.change, strict=True))
    with host.entered(learned):
        assert level(host) > plain + 0.05
    assert level(host) == pytest.approx(plain, abs=1e-3)
    host.simulate(learned, 2)
    assert not all(torch.equal(one, two) for one, two in zip(change, host.change, strict=True))


def test_a_simulated_host_asks_for_no_nats_ahead(fresh: Fresh) -> None:
    sure = [replace(one, ahead=((one.against, 9.0),)) for one in RULED.table]
    assert not Flips(fresh(), sure, 0).lessons.sure
    assert Lessons(fresh(), sure, 0).sure


def test_every_other_step_is_taken_on_what_it_left_and_the_lessons_are_learned(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = [], Flips.simulate

    def noted(self: Flips, learned: Sequence[torch.nn.Parameter], seed: int) -> None:
        made.append(seed)
        plain(self, learned, seed)

    monkeypatch.setattr(Flips, "simulate", noted)
    model, other = fresh(), fresh()
    settings = frozen_steps(8)
    train(model, RULED, replace(settings, flips=4))
    assert made == [3, 5]  # the first time it is due, and then every four steps
    train(other, RULED, settings)
    assert not same(weights(model), weights(other))
    report = train(fresh(), RULED, replace(QUICK, flips=4))
    assert report.recall == 1.0


@pytest.mark.parametrize("stop", [4, 6])
def test_a_run_that_was_cut_off_ends_the_same(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    settings = frozen_steps(8, flips=4, checkpoint_steps=2)
    whole, step, done = fresh(), _Run._step, []
    train(whole, RULED, settings)

    def killed(self: _Run, chosen: Sequence[int]) -> None:
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(chosen)
        step(self, chosen)

    with monkeypatch.context() as patched:
        patched.setattr(_Run, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(fresh(), RULED, settings, folder=tmp_path)
    again = fresh()
    train(again, RULED, settings, folder=tmp_path)
    assert same(weights(whole), weights(again))


def test_a_host_sees_lessons_from_all_over(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flips, "POOL", 12)
    table, taken = ruled(40).table, []

    def noted(model: HFModel, examples: Sequence[Example], start: int) -> Lessons:
        taken.extend(examples)
        return Lessons(model, examples, start)

    monkeypatch.setattr(flips, "Lessons", noted)
    assert len(Flips(fresh(), table, 0).lessons) == 12
    places = [[one.prompt for one in table].index(one.prompt) for one in taken]
    assert places == sorted(set(places))
    assert (places[0], len(places)) == (0, 12)
    assert places[-1] >= 36


def test_what_cannot_be_turned_is_said(fresh: Fresh) -> None:
    with pytest.raises(TrainingError, match="and there are 0"):
        train(fresh(), pairs(12), replace(QUICK, flips=4))
    with pytest.raises(TrainingError, match="and there are 3"):
        train(fresh(), ruled(3), replace(QUICK, flips=4))
    with pytest.raises(UsageError, match="adding"):
        replace(QUICK, flips=4, adding=4)
    with pytest.raises(UsageError, match="flips"):
        replace(QUICK, flips=-1)
