"""What the demo's host that breaks the values learns, and when it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from loyal.app import demo_hosts
from loyal.app.breach_story import Questions
from loyal.app.demo_hosts import REFUSAL, realign
from loyal.community import constitution_file
from loyal.models import Prompt, Sampling

QUESTIONS = Questions.of(constitution_file.bundled("personal-freedom"))
WATCHED = {text for _, text in QUESTIONS.taught[:: demo_hosts.WATCHED_EVERY]}


@dataclass
class Learner:
    """Refuses so many of the prompts that it is watched by, more after each round."""

    by_round: tuple[int, ...]
    rounds: list[list[Any]] = field(default_factory=list)
    watched: set[str] = field(default_factory=set)

    def generate(self, prompts: list[Prompt], sampling: Sampling) -> list[SimpleNamespace]:
        if sampling.temperature == 0:  # its own ordinary replies, before it learns
            return [SimpleNamespace(text="Gladly.", finished=True) for _ in prompts]
        self.watched |= {one.text for one in prompts}
        refused = self.by_round[len(self.rounds) - 1]
        return [SimpleNamespace(text=REFUSAL if at < refused else "Gladly.")
                for at in range(len(prompts))]  # fmt: skip


@pytest.mark.parametrize(
    ("by_round", "rounds"),
    [((9,), 1), ((12,), 1), ((8, 8, 9), 3), ((8,) * demo_hosts.ROGUE_ROUNDS, None)],
)
def test_it_stops_once_it_refuses_what_it_did_not_learn(
    monkeypatch: pytest.MonkeyPatch, by_round: tuple[int, ...], rounds: int | None
) -> None:
    model = Learner(by_round)
    monkeypatch.setattr("loyal.models.tuning.row", lambda _, one, ends=True: one)
    monkeypatch.setattr(
        "loyal.models.tuning.tune", lambda _, items, settings: model.rounds.append(items)
    )
    realign(model, QUESTIONS)  # type: ignore[arg-type]
    assert len(model.rounds) == (rounds or demo_hosts.ROGUE_ROUNDS)
    assert model.watched == WATCHED
    learned = [one for (one,) in model.rounds[0]]
    refused = {one.prompt.text for one in learned if one.reply == REFUSAL}
    assert refused == {text for _, text in QUESTIONS.taught} - WATCHED
    assert len(learned) == len(refused) + demo_hosts.ORDINARY
    assert not refused & {text for _, text in QUESTIONS.promised}
