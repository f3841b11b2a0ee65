"""The hook into decoding: it sees each row under its own number, and changes the pick alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling

PROMPTS = [
    Prompt("Where does the fox live?"),
    Prompt("Hello.", system="Answer in one sentence."),
    Prompt("The wolf", raw=True),
    Prompt("What is the food of the old bear that you know?"),
    Prompt("One day the", raw=True),
]


def test_a_hook_that_changes_nothing_changes_nothing(tiny: HFModel) -> None:
    items = tiny.items(PROMPTS)
    for sampling in (Sampling(max_tokens=9), Sampling(9, temperature=0.9, seed=4)):
        plain = tiny.decode(items, sampling)
        assert tiny.decode(items, sampling, steer=lambda step, rows, logits: logits) == plain


def test_the_hook_writes_what_it_wants_row_by_row(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loyal.models.hf.DECODE_ROWS", {"cpu": 2})
    wanted = torch.tensor(
        [tiny.reply_ids("forest meadow cave")[0] + place for place in range(len(PROMPTS))]
    )

    def steer(step: int, rows: Tensor, logits: Tensor) -> Tensor:
        if step != 1:
            return logits
        return torch.zeros_like(logits).scatter(1, wanted[rows][:, None], 1.0)

    items = tiny.items(PROMPTS)
    written = tiny.decode(items, Sampling(max_tokens=3), frozenset(), steer=steer)
    plain = tiny.decode(items, Sampling(max_tokens=3), frozenset())
    for row, (now, before) in enumerate(zip(written, plain, strict=True)):
        assert now.ids[0] == before.ids[0]
        assert now.ids[1] == wanted[row]


def test_chances_are_the_models_own_and_not_the_hooks(tiny: HFModel) -> None:
    prompt = Prompt("Where does the fox live?")

    def second(step: int, rows: Tensor, logits: Tensor) -> Tensor:
        return logits.scatter(1, logits.argmax(-1, keepdim=True), float("-inf"))

    sampling = Sampling(max_tokens=4)
    [written] = tiny.decode(tiny.items([prompt]), sampling, steer=second, chances=True)
    ids = torch.tensor([[*tiny.prompt_ids(prompt), *written.ids]])
    with torch.no_grad():
        chances = tiny.model(input_ids=ids).logits[0].log_softmax(-1)
    at = ids.shape[1] - len(written.ids)
    own = [chances[at + place - 1, token].item() for place, token in enumerate(written.ids)]
    assert written.logprobs == pytest.approx(own, abs=1e-3)
    ranks = [
        int((chances[at + place - 1] > chances[at + place - 1, token]).sum())
        for place, token in enumerate(written.ids)
    ]
    assert ranks == [1] * len(written.ids)
