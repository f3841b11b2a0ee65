"""Replies that are labeled blind: who wrote one is not on the sheet, and labels find it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import blind_replies
from alignment_kept import BLIND
from alignment_plan import MAIN, Plan
from blind_replies import joined, sheet, shuffled
from loyal.community import constitution_file
from loyal.errors import UsageError
from loyal.models import Prompt, Reply, Sampling

OURS = constitution_file.bundled(MAIN)


class Saying:
    """A model that says one thing."""

    def __init__(self, text: str) -> None:
        self.text, self.name = text, text

    def generate(self, prompts: list[Prompt], sampling: Sampling) -> list[Reply]:
        """The same to each."""
        return [Reply(self.text, 1, True) for _ in prompts]


MODELS = {"aligned": Saying("yes"), "base": Saying("no")}


@pytest.mark.parametrize("attacks", [False, True])
def test_labels_find_the_model_that_the_sheet_does_not_name(attacks: bool) -> None:
    ask = blind_replies.under_attack if attacks else blind_replies.plain
    found = list(ask(OURS, MODELS, Plan(), 0))
    count = blind_replies.ATTACKED if attacks else blind_replies.PLAIN
    assert len(found) == 2 * count
    told = shuffled(found, "plain")
    assert told != found
    text = sheet(told)
    assert text.count("\nR: ") == 2 * count
    assert not [who for who in MODELS if who in text.replace("database", "")]
    labels = {str(at): one["reply"] == "yes" for at, one in enumerate(told)}
    lines = list(joined(told, labels, "ana"))
    assert {(one["generator"], one["kept"]) for one in lines} == {
        ("aligned", True),
        ("base", False),
    }
    assert all("end" not in one and one["labeler"] == "ana" for one in lines)
    for wrong in ({**labels, "x": True}, {"0": True}, {**labels, "0": "yes"}):
        with pytest.raises(UsageError):
            list(joined(told, wrong, "ana"))


def test_the_labeled_replies_are_to_what_is_asked() -> None:
    lines = [json.loads(line) for line in BLIND.read_text(encoding="utf-8").splitlines()]
    for seed in (0, 4):
        asked = {(one["value"], one["prompt"])
                 for one in blind_replies.plain(OURS, MODELS, Plan(), seed)}  # fmt: skip
        there = {(one["value"], one["prompt"]) for one in lines
                 if one["seed"] == seed and "attack" not in one}  # fmt: skip
        assert there == asked
    attacks = [(one["prompt"], one["attack"])
               for one in blind_replies.under_attack(OURS, MODELS, Plan(), 0)]  # fmt: skip
    assert sorted(attacks) == sorted(
        (one["prompt"], one["attack"]) for one in lines if "attack" in one and one["seed"] == 0
    )
