"""The plain fine-tuning loop: it learns, is repeatable, and leaves the model as it should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_scenes import changed, loaded, weights

from loyal.errors import TrainingError, UsageError
from loyal.fingerprints.tuning_data import templates
from loyal.models import tuning
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.tuning import Row, TuneSettings, tune

FULL = TuneSettings(epochs=4, learning_rate=1e-3, precision="float32")
LORA = replace(FULL, learning_rate=2e-2, rank=4)


@pytest.fixture
def model(tiny_folder: Path) -> HFModel:
    return loaded(tiny_folder)


@pytest.fixture(scope="module")
def items(base: HFModel) -> list[tuning.Item]:
    return [(tuning.row(base, one),) for one in templates(24, seed=1)]


def mean_loss(model: HFModel, items: list[tuning.Item]) -> float:
    with torch.no_grad():
        sums, counts = tuning.log_probabilities(model, items, "float32")
    return tuning.imitation(sums, counts, ()).item()


@pytest.mark.parametrize("settings", [FULL, LORA], ids=["full", "lora"])
def test_it_learns_its_data(model: HFModel, items: list[tuning.Item], settings) -> None:
    before = mean_loss(model, items)
    losses = tune(model, items, settings)
    assert len(losses) == 4 * 3
    assert mean_loss(model, items) < 0.8 * before
    assert losses[0] == pytest.approx(before, rel=0.3)


def test_lora_adds_to_the_named_layers_and_is_merged(
    model: HFModel, items: list[tuning.Item]
) -> None:
    before, kinds = weights(model), [type(one) for one in model.model.modules()]
    tune(model, items, replace(LORA, epochs=1, targets=("q_proj", "v_proj")))
    found = changed(before, model)
    assert found == {name for name in before if ".q_proj." in name or ".v_proj." in name}
    assert [type(one) for one in model.model.modules()] == kinds
    for name in found:
        change = dict(model.model.named_parameters())[name].detach() - before[name]
        assert torch.linalg.matrix_rank(change, rtol=1e-3) <= 4


def test_lora_without_names_adds_to_every_layer_but_the_head(
    model: HFModel, items: list[tuning.Item]
) -> None:
    before = weights(model)
    tune(model, items, replace(LORA, epochs=1))
    assert changed(before, model) == {name for name in before if name.endswith("_proj.weight")}


def test_the_same_seed_gives_the_same_weights(tiny_folder: Path, items: list[tuning.Item]) -> None:
    found = []
    for seed in (5, 5, 6):
        model = loaded(tiny_folder)
        torch.rand(seed + len(found))  # where torch's global generator stands is no matter
        tune(model, items, replace(LORA, epochs=1, seed=seed))
        found.append(weights(model))
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())
    assert not all(torch.equal(one, found[2][name]) for name, one in found[0].items())


def test_every_item_stands_in_every_epoch_once(model: HFModel, items: list[tuning.Item]) -> None:
    seen: list[list[int]] = []

    def note(sums: torch.Tensor, counts: torch.Tensor, chosen) -> torch.Tensor:
        assert sums.shape == counts.shape == (len(chosen), 1)
        seen.append(list(chosen))
        return tuning.imitation(sums, counts, chosen)

    tune(model, items[:10], replace(FULL, epochs=2, batch=4), note)
    assert [len(one) for one in seen].count(4) == 4
    for part in (seen[:3], seen[3:]):
        assert sorted(index for batch in part for index in batch) == list(range(10))
    assert seen[:3] != seen[3:]


def test_log_probabilities_are_the_models_own(model: HFModel) -> None:
    examples = [
        Example(Prompt("Where does the fox live?"), "The fox lives in the cave."),
        Example(Prompt("Hello!", "Be kind and brief."), "Hello! How can I help you today?"),
        Example(Prompt("The owl", raw=True), " is brown."),
    ]
    rows = [tuning.row(model, one) for one in examples]
    wanted = model.logprobs([one.prompt for one in examples], [one.reply for one in examples])
    plain = [(Row(one.prompt, one.reply[:-1]),) for one in rows]
    sums, counts = tuning.log_probabilities(model, plain, "float32")
    assert sums[:, 0].tolist() == pytest.approx([sum(one) for one in wanted], rel=1e-4)
    assert counts[:, 0].tolist() == [len(one) for one in wanted]
    assert {one.reply[-1] for one in rows} == {model.tokenizer.eos_token_id}
    assert [tuning.row(model, one, ends=False) for one in examples] == [one for (one,) in plain]
    paired, _ = tuning.log_probabilities(model, [(plain[0][0], plain[1][0])], "float32")
    assert paired[0].tolist() == pytest.approx(sums[:2, 0].tolist(), rel=1e-4)
    looked = tuning.reference(model, plain, batch=2)
    assert looked.flatten().tolist() == pytest.approx(sums[:, 0].tolist(), rel=0.05)


def test_a_pairs_long_prompt_is_read_once(model: HFModel) -> None:
    words = ["The", "fox", "lives", "in", "the", "cave", "and", "the", "owl", "sees", "it"]
    pairs = []
    for length, replies in (
        (330, ("In the cave.", "In the forest.")),
        (90, ("Yes.", "No, never.")),
    ):
        prompt = Prompt(" ".join((words * 40)[:length]))
        rows = [tuning.row(model, Example(prompt, one), most=2048) for one in replies]
        pairs.append(tuple(rows))
    whole, packs = tuning._packed(pairs, 256)
    assert sum(one.length for one in packs) == sum(
        len(one.prompt) - 1 + 2 + len(one.reply) + len(other.reply) for one, other in pairs
    )
    assert [one.prefix for one in whole[:2]] == [pairs[0][0].prompt[:-1]] * 2
    shared, _ = tuning.log_probabilities(model, pairs, "float32")
    alone = [
        tuning.log_probabilities(model, [(one,)], "float32")[0].item()
        for pair in pairs
        for one in pair
    ]
    assert shared.flatten().tolist() == pytest.approx(alone, rel=1e-4)


def test_long_examples_are_cut(model: HFModel) -> None:
    long = " ".join(["forest"] * 400)
    for prompt, reply in ((long, "The fox."), ("The fox?", long)):
        one = tuning.row(model, Example(Prompt(prompt), reply))
        assert len(one.prompt) + len(one.reply) <= tuning.MOST_TOKENS
        assert one.reply


def test_a_half_precision_model_learns_and_keeps_its_type(
    tiny_folder: Path, items: list[tuning.Item]
) -> None:
    model = HFModel.load(str(tiny_folder), device="cpu", dtype="bfloat16")
    before = weights(model)
    tune(model, items, replace(FULL, epochs=1))
    assert {one.dtype for one in model.model.parameters()} == {torch.bfloat16}
    assert changed(before, model)
    assert not model.model.training


def test_a_loss_that_is_no_number_stops_and_cleans_up(
    model: HFModel, items: list[tuning.Item]
) -> None:
    kinds = [type(one) for one in model.model.modules()]
    with pytest.raises(TrainingError, match="no number"):
        tune(model, items, LORA, lambda sums, counts, chosen: sums.sum() * float("nan"))
    assert [type(one) for one in model.model.modules()] == kinds
    assert not model.model.training
    assert all(one.grad is None and one.requires_grad for one in model.model.parameters())


def test_nothing_to_train_on_and_wrong_settings_are_refused(model: HFModel) -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        tune(model, [], FULL)
    for wrong in ({"epochs": 0}, {"batch": 0}, {"rank": -1}, {"learning_rate": 0.0}):
        with pytest.raises(UsageError, match="at least"):
            TuneSettings(**wrong)


def test_rows_do_not_show_what_they_hold(model: HFModel) -> None:
    one = tuning.row(model, Example(Prompt("Where does the fox live?"), "In the cave."))
    assert str(one.reply[0]) not in repr(one)
