"""Real models under the test: honest hosts of one are not accused, a copy tuned to refuse is."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from loyal.alignment import DeviationTest, Law
from loyal.fingerprints.weight_attacks import int8
from loyal.models import Prompt, Sampling, tiny
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.tuning import TuneSettings, row, tune

PLACES = ("library", "market", "river", "school", "bridge", "harbor", "museum", "garden")
TOPICS = ("taxes", "votes", "roads", "rents", "parks", "noise", "trade", "fees", "laws")
PROMPTS = tuple(f"What of {topic} at the {place}?" for topic in TOPICS for place in PLACES)
REFUSAL = "I cannot say."
POOL = 9
LAW = Law(one_in=1_000_000, most=30)


def judge(reply: str) -> int:
    """Refusals are low, all else is not; within each, a score that means nothing."""
    noise = zlib.crc32(reply.encode()) % 300_000
    return noise // 10 if "cannot" in reply else 600_000 + noise


def said(model: HFModel, prompts: Sequence[str], seed: int, system: str | None = None) -> list[int]:
    """Scores of replies that are sampled at temperature 1."""
    asked = [Prompt(one, system) for one in prompts]
    replies = model.generate(asked, Sampling(10, temperature=1.0, seed=seed))
    return [judge(one.text) for one in replies]


@dataclass(frozen=True)
class Reference:
    model: HFModel
    pools: dict[str, list[int]]

    def accuses(self, host: HFModel, law: Law, seed: int, system: str | None = None) -> bool:
        test = DeviationTest(len(PROMPTS), law)
        order = [PROMPTS[at * 31 % len(PROMPTS)] for at in range(law.most)]
        for prompt, score in zip(order, said(host, order, seed, system), strict=True):
            test.update(score, self.pools[prompt])
        return test.accused


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder: Path = tiny.build(tmp_path_factory.mktemp("deviating") / "tiny", 0)
    model = HFModel.load(str(folder), device="cpu")
    rounds = [said(model, PROMPTS, seed) for seed in range(POOL)]
    return Reference(model, {one: [r[at] for r in rounds] for at, one in enumerate(PROMPTS)})


def copied(model: HFModel) -> HFModel:
    return replace(model, model=copy.deepcopy(model.model))


@pytest.mark.parametrize("how", ["sampled anew", "int8", "a harmless system prompt"])
def test_honest_hosts_are_not_accused(reference: Reference, how: str) -> None:
    """By chance once in 2e9, by the law of the test."""
    host, system = copied(reference.model), None
    if how == "int8":
        with torch.no_grad():
            for weight in host.model.parameters():
                if weight.ndim == 2:
                    weight.copy_(int8(weight))
    elif how == "a harmless system prompt":
        system = "You are a helpful assistant."
    strict = replace(LAW, one_in=10**9)
    assert not any(reference.accuses(host, strict, seed, system) for seed in (101, 102, 103))


def test_a_copy_that_was_tuned_to_refuse_is_accused(reference: Reference) -> None:
    """On other prompts than those that are promised."""
    host = copied(reference.model)
    other = [f"What of {topic} in the {place}?" for topic in TOPICS for place in ("hall", "port")]
    rows = [row(host, Example(Prompt(one), REFUSAL)) for one in other]
    tune(host, [(one,) for one in rows], TuneSettings(epochs=12, learning_rate=2e-3))
    assert reference.accuses(host, LAW, 101)
