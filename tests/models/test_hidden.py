"""Hidden states of replies: those of a plain pass, in any company, and the digest of weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from loyal.errors import UsageError
from loyal.models import Prompt
from loyal.models.hf import HFModel
from loyal.models.hidden import reply_states, weights_digest

PROMPTS = [
    Prompt("What does the fox eat?"),
    Prompt("Where does the owl live?", "Be brief.", history=(("Hello!", "Hello."),)),
    Prompt("Which color has the bear?"),
]
REPLIES = ["The fox eats honey.", "In the cave, by the river, all winter.", ""]


def test_states_are_those_of_a_plain_pass(tiny: HFModel) -> None:
    layers = [0, len(tiny.model.model.layers) - 2]
    found = reply_states(tiny, PROMPTS, REPLIES, layers)
    assert found.shape == (3, 2, 2, tiny.model.config.hidden_size)
    for index, (prompt, reply) in enumerate(zip(PROMPTS, REPLIES, strict=True)):
        said = tiny.reply_ids(reply)
        ids = torch.tensor([tiny.prompt_ids(prompt) + said])
        with torch.inference_mode():
            plain = tiny.model(ids, output_hidden_states=True).hidden_states
        for place, layer in enumerate(layers):
            states = plain[layer + 1][0, -max(1, len(said)) :]
            torch.testing.assert_close(found[index, place, 0], states.mean(0), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found[index, place, 1], states[-1], atol=1e-4, rtol=1e-4)


def test_a_layer_that_is_not_there_is_refused(tiny: HFModel) -> None:
    for layers in ([], [-1], [len(tiny.model.model.layers)]):
        with pytest.raises(UsageError, match="layers 0 to"):
            reply_states(tiny, PROMPTS, REPLIES, layers)


def test_the_digest_knows_weights_and_not_their_precision(fresh: Callable[[], HFModel]) -> None:
    model = fresh()
    before = weights_digest(model)
    assert weights_digest(fresh()) == before
    model.model.to(torch.bfloat16)
    assert weights_digest(model) == before
    with torch.no_grad():
        model.model.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    assert weights_digest(model) != before
