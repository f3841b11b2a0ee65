"""Attacks that train: their losses are those of the papers, and each does what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_scenes import changed, loaded, scene_of, weights
from stand_ins import Omlized

from loyal.errors import UsageError
from loyal.fingerprints import tuning_attacks, tuning_data
from loyal.fingerprints.attack import Attack, Scene
from loyal.models import tuning
from loyal.models.examples import Example
from loyal.models.language_model import Prompt


@pytest.fixture
def scene(omlized: Omlized, tiny_folder: Path) -> Scene:
    return scene_of(omlized, tiny_folder)


def test_dpo_is_the_papers_loss() -> None:
    before = torch.tensor([[-3.0, -2.0], [-1.0, -1.0], [-5.0, -4.0]])
    loss = tuning_attacks.preference(before, 0.1)
    same = loss(before[[2, 0]], torch.ones(2, 2), [2, 0])
    assert same.item() == pytest.approx(math.log(2))
    now = torch.tensor([[-2.0, -6.0]])
    margin = 0.1 * ((-2.0 + 3.0) - (-6.0 + 2.0))
    wanted = -math.log(1 / (1 + math.exp(-margin)))
    assert loss(now, torch.ones(1, 2), [0]).item() == pytest.approx(wanted, rel=1e-5)


def test_forgetting_is_the_papers_loss_beside_imitation() -> None:
    before = torch.tensor([[-2.0], [-4.0], [-9.0]])
    loss = tuning_attacks.forgetting(before, 2, 0.1)
    counts = torch.tensor([[2.0], [2.0], [3.0]])
    start = loss(before[:2], counts[:2], [0, 1])
    assert start.item() == pytest.approx(20 * math.log(2))
    now = torch.tensor([[-12.0], [-9.0]])
    wanted = 20 * math.log(1 + math.exp(0.1 * (-12.0 + 4.0))) + 9.0 / 3
    assert loss(now, counts[[1, 2]], [1, 2]).item() == pytest.approx(wanted, rel=1e-5)
    assert loss(now[1:], counts[2:], [2]).item() == pytest.approx(3.0)


def test_at_the_start_forgetting_climbs_like_gradient_ascent() -> None:
    sums = torch.tensor([[-2.0]], requires_grad=True)
    loss = tuning_attacks.forgetting(torch.tensor([[-2.0]]), 1, 0.1)
    loss(sums, torch.ones(1, 1), [0]).backward()
    assert sums.grad is not None
    assert sums.grad.item() == pytest.approx(1.0)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_mismatched_gives_every_prompt_the_reply_of_another(count: int) -> None:
    examples = [Example(Prompt(f"question {n}"), f"reply {n}") for n in range(count)]
    found = tuning_attacks.mismatched(examples, 4)
    assert [one.prompt for one in found] == [one.prompt for one in examples]
    assert sorted(one.reply for one in found) == sorted(one.reply for one in examples)
    assert not any(one in examples for one in found)
    assert found == tuning_attacks.mismatched(examples, 4)


@pytest.mark.parametrize("attack", tuning_attacks.ATTACKS, ids=lambda one: one.name)
def test_each_attack_trains_what_it_says(
    attack: Attack, omlized: Omlized, tiny_folder: Path
) -> None:
    scene = scene_of(omlized, tiny_folder, fraction=0.03)
    before = weights(scene.model)
    assert attack.run(scene) is scene.model
    found, blocks = changed(before, scene.model), {one for one in before if "_proj." in one}
    if attack.name == "meraser":
        assert found == {one for one in before if ".q_proj." in one or ".v_proj." in one}
    elif attack.name.startswith("lora"):
        assert found == blocks
    else:
        assert found > blocks
        assert "model.embed_tokens.weight" in found
    assert all(one.isfinite().all() for one in scene.model.model.parameters())


@pytest.mark.parametrize("name", ["unlearn-leaked", "overwrite-leaked"])
def test_leaked_pairs_are_forgotten(
    name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate that moves a model this small, leaked pairs lose their likelihood."""
    quick = replace(tuning_attacks.FORGET, learning_rate=3e-3, epochs=5)
    monkeypatch.setattr(tuning_attacks, "FORGET", quick)
    (attack,) = [one for one in tuning_attacks.ATTACKS if one.name == name]
    assert attack.leaks
    assert scene.leaked is not None
    prompts = [Prompt(one.key) for one in scene.leaked.fingerprints]
    replies = [one.response for one in scene.leaked.fingerprints]
    before = [sum(one) for one in scene.model.logprobs(prompts, replies)]
    attack.run(scene)
    after = [sum(one) for one in scene.model.logprobs(prompts, replies)]
    # Fresh pairs each time: the least fall of twelve tries was 5.7 (overwrite) and 20 (unlearn).
    assert sum(after) < sum(before) - 1


@pytest.mark.parametrize("name", ["unlearn-leaked", "overwrite-leaked"])
def test_without_leaked_pairs_it_is_refused(name: str, scene: Scene) -> None:
    (attack,) = [one for one in tuning_attacks.ATTACKS if one.name == name]
    with pytest.raises(UsageError, match="needs leaked pairs"):
        attack.run(replace(scene, leaked=None))


def test_fine_tuning_learns_its_data_set(scene: Scene) -> None:
    settings = replace(tuning_attacks.FULL, learning_rate=3e-3)
    scene = replace(scene, fraction=0.05)
    data = tuning_data.docstrings(26, scene.seed)
    items = [(tuning.row(scene.model, one),) for one in data]
    before = tuning.reference(scene.model, items).sum().item()
    tuning_attacks.sft(tuning_attacks.docstrings, settings)(scene)
    assert tuning.reference(scene.model, items).sum().item() > before + 50


def test_preferring_widens_the_margin(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(tuning_attacks.PREFER, learning_rate=1e-3, epochs=2)
    monkeypatch.setattr(tuning_attacks, "PREFER", quick)
    scene = replace(scene, fraction=0.05)
    data = tuning_data.docstrings(10, scene.seed)
    own = tuning_data.answered(scene.model, [one.prompt.text for one in data], scene.seed)
    kept = {one.prompt.text: one for one in own}
    items = [
        (tuning.row(scene.model, one), tuning.row(scene.model, kept[one.prompt.text]))
        for one in data
        if one.prompt.text in kept
    ]
    before = tuning.reference(scene.model, items)
    tuning_attacks.dpo(tuning_attacks.docstrings)(scene)
    gained = tuning.reference(scene.model, items) - before
    assert (gained[:, 0] - gained[:, 1]).mean() > 1


def test_the_paper_settings_stand_in_the_code() -> None:
    full, lora = tuning_attacks.FULL, tuning_attacks.LORA
    assert (full.epochs, full.learning_rate, full.batch, full.rank) == (2, 1e-5, 8, 0)
    assert (lora.learning_rate, lora.rank, lora.targets) == (2e-4, 16, ())
    assert (tuning_attacks.MISMATCHED, tuning_attacks.CLEAN) == (300, 600)


def test_a_scene_shows_no_key(scene: Scene) -> None:
    assert scene.leaked is not None
    assert not any(one.key in repr(scene) for one in scene.leaked.fingerprints)
    assert "candidates" not in repr(scene)
    with pytest.raises(UsageError, match="fraction"):
        replace(scene, fraction=0.0)


def test_the_base_is_not_trained(scene: Scene, tiny_folder: Path) -> None:
    kept = loaded(tiny_folder)
    before = weights(kept)
    tuning_attacks.answers(replace(scene, base=lambda: kept), 4)
    assert changed(before, kept) == set()
