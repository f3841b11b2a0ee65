"""Drifts move what the upper layers see, and leave nothing behind; margins are asked for there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest
import torch
from classroom import FEW_BENIGN, QUICK, pairs
from torch import Tensor

from loyal.errors import UsageError
from loyal.models import bilevel
from loyal.models.hf import HFModel
from loyal.models.lessons import Lessons
from loyal.models.packing import Item
from loyal.models.products import apply_head
from loyal.models.train import train
from loyal.models.training import TrainSettings
from loyal.models.trunk import LAST_DRIFT, Drift, Trunk
from loyal.models.tuning import TuneSettings

ITEMS = [Item((3, 4, 5), (6, 7, 8, 9)), Item((3, 4, 5), (10,)), Item((), (11, 12, 13))]
COUNTS = [2, 1, 3]
PAIRS = pairs()


def readings(trunk: Trunk, drift: Drift | None = None) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for one in trunk.read(range(len(ITEMS)), COUNTS, drift):
            found |= zip(one.indices, one.hidden.split(list(one.counts)), strict=True)
    return found


def test_vectors_are_drawn_along_the_directions() -> None:
    directions = torch.tensor([[3.0, 0, 0], [0, 1.0, 0]])
    drift = Drift(directions, 2.0, seed=7)
    some = torch.stack(list(islice(drift.vectors(), 4000)))
    again = torch.stack(list(islice(drift.vectors(), 4000)))
    other = next(Drift(directions, 2.0, seed=8).vectors())
    assert torch.equal(some, again)
    assert not torch.equal(some[0], other)
    assert not some[:, 2].any()
    lengths = 2 * (0.3 + 0.7 * torch.linspace(0, 1, 1001))
    wanted = lengths.square().mean().sqrt() / 2**0.5 * torch.tensor([3.0, 1.0])
    torch.testing.assert_close(some[:, :2].square().mean(0).sqrt(), wanted, rtol=0.1, atol=0)
    assert not next(Drift(directions, 0.0, seed=7).vectors()).any()


def test_a_drift_is_added_below_the_upper_layers(tiny: HFModel) -> None:
    """With no layer above, what is read is the norm of state and vector."""
    layers = len(tiny.model.model.layers)
    trunk = Trunk(tiny.model, ITEMS, layers)
    drift = Drift(trunk.last(range(3)), 1.0, seed=1)
    order = [index for one in trunk.read(range(3), COUNTS) for index in one.indices]
    vectors = dict(zip(order, drift.vectors(), strict=False))
    found = readings(trunk, drift)
    for index, item in enumerate(ITEMS):
        ids = torch.tensor([[*item.prefix, *item.ids]])
        with torch.no_grad():
            states = tiny.model.model(input_ids=ids, output_hidden_states=True).hidden_states
        share = torch.full((len(item.ids), 1), 1 - LAST_DRIFT)
        share[-1] = 1.0
        below = trunk._below[index] + share * vectors[index]
        with torch.no_grad():
            wanted = tiny.model.model.norm(below)[-COUNTS[index] :]
        torch.testing.assert_close(found[index], wanted, atol=1e-5, rtol=1e-5)
        assert len(states) == layers + 1


def test_a_drift_leaves_nothing_behind(tiny: HFModel) -> None:
    trunk = Trunk(tiny.model, ITEMS, 1)
    before = readings(trunk)
    shaken = readings(trunk, Drift(trunk.last(range(3)), 2.0, seed=1))
    after = readings(trunk)
    for index in before:
        assert torch.equal(before[index], after[index])
        assert not torch.allclose(before[index], shaken[index], atol=1e-2)


def test_a_margin_is_the_lead_over_every_other_token(tiny: HFModel) -> None:
    plain = Lessons(tiny, PAIRS.table, 1)
    lessons = Lessons(tiny, PAIRS.table, 1, margin=6.0)
    level = lessons.score().level
    with torch.no_grad():
        loss = sum(total.item() for total, _, _ in lessons.losses(range(len(lessons))))
        missing = 0.0
        for reading in plain.trunk.read(range(len(plain)), plain.counts):
            logits = apply_head(tiny.model, reading.hidden)
            parts = logits.split(list(reading.counts))
            for index, part in zip(reading.indices, parts, strict=True):
                leads = []
                for place, token in zip(part, plain.replies[index], strict=True):
                    others = torch.cat([place[:token], place[token + 1 :]])
                    leads.append(float(place[token] - others.max()))
                share = min(max(0.0, min(1.0, lead / 6)) for lead in leads)
                assert float(level[index]) == pytest.approx(share, abs=1e-4)
                missing += sum(max(0.0, 6 - lead) for lead in leads) / len(leads) / 2
    assert loss == pytest.approx(missing, rel=1e-4)


def test_shaken_lessons_outlast_other_drifts(
    fresh: Callable[[], HFModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A strong one: at 2.5 the two lie closer than seeds do."""
    for name, size in FEW_BENIGN.items():
        monkeypatch.setattr(f"loyal.models.lessons.{name}", size)
    inner = TuneSettings(epochs=1, learning_rate=1e-4, rank=4, precision="float32")
    monkeypatch.setattr(bilevel, "INNER", inner)
    monkeypatch.setattr(bilevel, "INNER_EXAMPLES", 8)
    leads = []
    for drift in (0.0, 10.0):
        model = fresh()
        settings = replace(
            QUICK, bilevel=1, outlast=1.0, steps=40, drift=drift, settle=0.0, depth=0.5
        )
        train(model, PAIRS, settings)
        lessons = Lessons(model, PAIRS.table, model_start(model, settings), margin=6.0)
        ends = lessons.trunk.last(range(len(lessons)))
        levels: list[float] = []
        with torch.no_grad():
            for seed in range(100, 110):
                shaking = Drift(ends - ends.mean(0), 10.0, seed)
                for _, known, _ in lessons.losses(range(len(lessons)), shaking):
                    levels += known.values()
        leads.append(sum(levels) / len(levels))
    assert leads[1] > 1.2 * leads[0]


def model_start(model: HFModel, settings: TrainSettings) -> int:
    count = len(model.model.model.layers)
    return count - max(1, round(count * settings.depth))


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": -1.0}, {"drift": -0.1}])
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        TrainSettings(**wrong)  # type: ignore[arg-type]
