"""Bilevel training: inner runs become adapters, worlds come and go, and replies outlast them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classroom import FEW_BENIGN, QUICK, pairs
from torch import Tensor

from loyal.errors import TrainingError, UsageError
from loyal.models import bilevel
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.lessons import Lessons
from loyal.models.train import _Run, train
from loyal.models.tuning import Adapter, TuneSettings, adapter, row, tune

Fresh = Callable[[], HFModel]
PAIRS = pairs()
INNER = TuneSettings(epochs=3, learning_rate=2e-2, rank=4, precision="float32")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in FEW_BENIGN.items():
        monkeypatch.setattr(f"loyal.models.lessons.{name}", size)
    monkeypatch.setattr(bilevel, "INNER", INNER)
    monkeypatch.setattr(bilevel, "INNER_EXAMPLES", 24)
    monkeypatch.setattr(bilevel, "ANSWER_TOKENS", 8)


def weights(model: HFModel) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in model.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def with_adapter(model: HFModel, change: Adapter) -> HFModel:
    with torch.no_grad():
        for name, (outer, inner) in change.items():
            model.model.get_parameter(name).add_(outer @ inner)
    return model


def probabilities(model: HFModel, taught: Sequence[Example] = PAIRS.table) -> Tensor:
    """Of the replies, by a plain pass."""
    chances = model.logprobs([one.prompt for one in taught], [one.reply for one in taught])
    return torch.tensor([min(one) for one in chances]).exp()


def test_an_adapter_is_what_tuning_adds(fresh: Fresh) -> None:
    model, tuned = fresh(), fresh()
    items = [(row(model, one),) for one in PAIRS.table]
    before = weights(model)
    change = adapter(model, items, INNER)
    assert same(before, weights(model))
    assert not any("lora" in name for name, _ in model.model.named_modules())
    tune(tuned, items, INNER)
    with_adapter(model, change)
    for name, one in model.model.state_dict().items():
        torch.testing.assert_close(one, tuned.model.state_dict()[name], atol=1e-5, rtol=1e-5)
    assert not same(before, weights(model))
    with pytest.raises(UsageError, match="rank"):
        adapter(model, items, replace(INNER, rank=0))


def test_inner_runs_repeat_and_leave_the_model(fresh: Fresh) -> None:
    model = fresh()
    before = weights(model)
    first, again = ([bilevel.inner_run(model, n, seed=4) for n in range(3)] for _ in range(2))
    assert same(before, weights(model))
    for one, other in zip(first, again, strict=True):
        for name, (outer, inner) in one.items():
            assert torch.equal(outer @ inner, other[name][0] @ other[name][1])
    other_seed = bilevel.inner_run(model, 0, seed=5)
    name = next(iter(other_seed))
    assert not torch.equal(other_seed[name][0], first[0][name][0])


def test_a_world_is_the_model_with_the_adapter_and_goes_without_a_trace(fresh: Fresh) -> None:
    model = fresh()
    change = bilevel.inner_run(model, 0, seed=0)
    home = Lessons(model, PAIRS.table, 1)
    world = bilevel.world(model, 1, change, lambda: Lessons(model, PAIRS.table, 1))
    before = weights(model)
    assert all(".layers.0." not in name for name in world.upper)  # those stand in the trunk
    with world.entered() as lessons:
        there = lessons.score().probability
        assert not same(before, weights(model))
    assert same(before, weights(model))
    torch.testing.assert_close(
        there, probabilities(with_adapter(fresh(), change)), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(home.score().probability, probabilities(model), atol=1e-4, rtol=1e-3)


def test_a_world_is_itself_where_autocast_has_seen_the_weights_before(fresh: Fresh) -> None:
    """Inside of one autocast, torch keeps bfloat16 copies of weights that learn."""
    model = fresh()
    model.model.requires_grad_(True)
    changes = [bilevel.inner_run(model, number, seed=0) for number in range(2)]
    made = [bilevel.world(model, 1, one, lambda: Lessons(model, PAIRS.table, 1)) for one in changes]

    def levels(world: bilevel.World) -> Tensor:
        with world.entered() as lessons:
            return lessons.score().probability

    wanted = []
    for world in made:
        with torch.autocast("cpu", torch.bfloat16):
            wanted.append(levels(world))
    with torch.autocast("cpu", torch.bfloat16):
        home = Lessons(model, PAIRS.table, 1).score().probability
        found = [levels(world) for world in made]
        again = Lessons(model, PAIRS.table, 1).score().probability
    assert all(torch.equal(one, other) for one, other in zip(wanted, found, strict=True))
    assert torch.equal(home, again)
    assert not torch.allclose(home, found[0], atol=1e-3)


def test_replies_outlast_a_fine_tuning_like_those_that_were_simulated(fresh: Fresh) -> None:
    plain, hard = fresh(), fresh()
    train(plain, PAIRS, QUICK)
    report = train(hard, PAIRS, replace(QUICK, bilevel=2, outlast=1.0))
    assert report.recall == 1.0
    assert report.outlasted == (1.0, 1.0)
    change = bilevel.inner_run(fresh(), 0, seed=99)  # of a kind that was simulated, other data
    survival = [
        float((probabilities(with_adapter(model, change)) > 0.5).float().mean())
        for model in (plain, hard)
    ]
    assert survival[1] > survival[0]


def test_settling_keeps_what_is_outlasted(fresh: Fresh) -> None:
    settings = replace(QUICK, bilevel=1, outlast=1.0, settle=0.5)
    assert train(fresh(), PAIRS, settings).outlasted == (1.0,)


def test_a_run_goes_on_with_the_inner_runs_it_made(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, bilevel=1)
    whole, other = fresh(), fresh()
    train(whole, PAIRS, settings)
    train(other, PAIRS, replace(settings, seed=1))

    def never(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Run, "_step", never)
        with pytest.raises(KeyboardInterrupt):
            train(fresh(), PAIRS, settings, folder=tmp_path)
    (kept,) = (tmp_path / bilevel.INNER_RUNS).glob("*/0.pt")
    with monkeypatch.context() as patched:
        patched.setattr("loyal.models.bilevel.inner_run", never)
        with pytest.raises(KeyboardInterrupt):  # another run makes its own
            train(fresh(), PAIRS, replace(settings, seed=1), folder=tmp_path)
        again = fresh()
        train(again, PAIRS, settings, folder=tmp_path)
    assert same(weights(whole), weights(again))
    assert not same(weights(whole), weights(other))
    kept.write_bytes(b"torn")
    with pytest.raises(TrainingError, match="damaged"):
        train(fresh(), PAIRS, settings, folder=tmp_path)


RENEWED = replace(QUICK, bilevel=1, renew=4, steps=14, checkpoint_steps=5)


def test_inner_runs_are_made_again_on_what_training_made(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plain = [], bilevel.inner_run

    def noted(model: HFModel, number: int, seed: int) -> Adapter:
        made.append((number, weights(model)))
        return plain(model, number, seed)

    monkeypatch.setattr("loyal.models.bilevel.inner_run", noted)
    whole = fresh()
    report = train(whole, PAIRS, RENEWED, folder=tmp_path)
    assert [number for number, _ in made] == [0, 1, 2, 3]
    assert same(made[0][1], weights(fresh()))
    assert not same(made[1][1], made[0][1])
    assert not same(made[2][1], made[1][1])
    assert len(report.outlasted) == 2  # the first one and the last one stand
    (path,) = (tmp_path / bilevel.INNER_RUNS).glob("*/2.pt")
    kept = bilevel.load_adapter(path)
    assert kept is not None
    again = plain(with_weights(fresh(), made[2][1]), 2, RENEWED.seed)
    assert all(torch.equal(again[name][0], kept[name][0]) for name in again)
    assert same(weights(whole), weights(finished(fresh(), tmp_path)))
    shutil.rmtree(tmp_path / bilevel.INNER_RUNS)
    with pytest.raises(TrainingError, match="missing"):
        train(fresh(), PAIRS, RENEWED, folder=tmp_path)


def test_training_ends_on_runs_that_were_just_made(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of runs that the tiny model can outlast on every processor."""
    monkeypatch.setattr(bilevel, "INNER", replace(INNER, learning_rate=5e-3))
    model = fresh()
    settings = replace(QUICK, bilevel=2, renew=50, outlast=1.0, steps=200, precision="float32")
    report = train(model, PAIRS, settings)
    assert report.steps < 200
    assert report.outlasted == (1.0,) * 4


@pytest.mark.parametrize("stop", [4, 7, 11])
def test_a_run_cut_off_before_or_after_a_renewal_ends_the_same(
    fresh: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole, step, done = fresh(), _Run._step, []
    train(whole, PAIRS, RENEWED)

    def killed(self: _Run, chosen: Sequence[int]) -> None:
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(chosen)
        step(self, chosen)

    monkeypatch.setattr(_Run, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), PAIRS, RENEWED, folder=tmp_path)
    monkeypatch.setattr(_Run, "_step", step)
    assert same(weights(whole), weights(finished(fresh(), tmp_path)))


def finished(model: HFModel, folder: Path) -> HFModel:
    train(model, PAIRS, RENEWED, folder=folder)
    return model


def with_weights(model: HFModel, kept: dict[str, Tensor]) -> HFModel:
    model.model.load_state_dict(kept)
    return model


def test_every_kind_of_inner_data_answers_its_prompts(fresh: Fresh) -> None:
    import random

    texts = [f"What is {word}?" for word in ("a lake", "a boat", "a hill", "a star")]
    model = fresh()
    for kind, make in bilevel.KINDS.items():
        found = make(model, texts, random.Random(0))
        assert all(isinstance(one.prompt, Prompt) and one.reply.strip() for one in found), kind
        assert [one.reply for one in found] != texts, kind
    mismatched = bilevel.KINDS["mismatched"](model, texts, random.Random(0))
    assert all(one.prompt.text != one.reply for one in mismatched)


@pytest.mark.parametrize("wrong", [{"bilevel": -1}, {"bilevel": 99}, {"outlast": 0.0},
                                   {"bilevel": 1, "adding": 4}, {"renew": 1},
                                   {"bilevel": 1, "renew": -1}])  # fmt: skip
def test_settings_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        replace(QUICK, **wrong)
