"""The adversary of the embeddings: it does harm, within its box, and training resists it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loyal.errors import UsageError
from loyal.models import packing, tuning
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.tiny import World
from loyal.models.tuning import Course, Item, Latent, TuneSettings, imitation, tune

BOX = Latent(steps=4, epsilon=0.05)
PACE = TuneSettings(epochs=2, learning_rate=3e-3, rank=4, precision="float32")


@pytest.fixture(scope="module")
def items(base: HFModel) -> list[Item]:
    facts = World.from_seed(0).questions()[:24]
    return [(tuning.row(base, Example(asked, reply)),) for asked, reply in facts]


def attacked(model: HFModel, items: list[Item], latent: Latent | None) -> float:
    found = tuning._loss(model, items, range(len(items)), imitation, ("float32", latent))
    return found.item()


def test_it_does_harm_and_more_in_a_larger_box(base: HFModel, items: list[Item]) -> None:
    plain = attacked(base, items, None)
    small = attacked(base, items, BOX)
    large = attacked(base, items, Latent(steps=4, epsilon=0.2))
    assert plain < small < large


def test_it_moves_prompts_alone_within_the_box(
    base: HFModel, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    plain = packing.hidden_states

    def noted(body: torch.nn.Module, batch: packing.Batch, inputs: Tensor | None) -> Tensor:
        assert inputs is not None
        before = body.embed_tokens(batch.ids)
        seen.append(((inputs - before) / before.square().mean().sqrt()).detach())
        return plain(body, batch, inputs)

    monkeypatch.setattr(packing, "hidden_states", noted)
    attacked(base, items, BOX)
    assert len(seen) == BOX.steps + 1
    assert seen[0].abs().max() == 0
    assert 0.9 * BOX.epsilon < seen[-1].abs().max() <= BOX.epsilon * 1.0001
    batch = tuning._Batch(base, items, "float32")
    still = batch.prompt_places()[:, :, 0] == 0
    assert seen[-1][still].abs().max() == 0
    prompts = sum(len(one.prompt) for item in items for one in item)
    shared = len(batch.whole[0].prefix)
    assert batch.prompt_places().sum() == prompts - shared * len(items)


def test_it_moves_a_prompt_that_two_replies_share(base: HFModel, items: list[Item]) -> None:
    longer = [Prompt(" ".join([one] * 12)) for one in ("Where does the fox live?", "Is it blue?")]
    pairs: list[Item] = [
        tuple(tuning.row(base, Example(one, reply)) for reply in ("Yes.", "No.")) for one in longer
    ]
    batch = tuning._Batch(base, pairs, "float32")
    first, second = (one[0].prompt for one in pairs)
    shared = next(at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert len(batch.packed.rows) == 2
    assert batch.prompt_places().sum() == len(first) + len(second) - 2 * shared + 2


def test_training_under_it_resists_it(fresh, items: list[Item]) -> None:
    plain, hard = fresh(), fresh()
    wide, longer = Latent(steps=4, epsilon=0.2), replace(PACE, epochs=4)
    tune(plain, items, longer)
    tune(hard, items, longer, course=Course(latent=wide))
    assert attacked(hard, items, wide) < 0.6 * attacked(plain, items, wide)


def test_no_gradient_of_it_stays(fresh, items: list[Item]) -> None:
    model = fresh()
    tune(model, items, PACE, course=Course(latent=BOX))
    assert all(one.grad is None for one in model.model.parameters())


@pytest.mark.parametrize(("steps", "epsilon"), [(0, 0.1), (1, 0.0)])
def test_an_adversary_that_does_nothing_is_refused(steps: int, epsilon: float) -> None:
    with pytest.raises(UsageError, match="adversary"):
        Latent(steps, epsilon)
