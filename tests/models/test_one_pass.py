"""One pass over many lessons: the rate falls to its end, and nothing is looked at beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from classroom import QUICK, frozen_steps, pairs

from loyal.errors import UsageError
from loyal.models.hf import HFModel
from loyal.models.lessons import Lessons, Scores
from loyal.models.train import train
from loyal.models.whitening import WhitenedAdam

PAIRS = pairs()
Fresh = Callable[[], HFModel]


pytestmark = pytest.mark.usefixtures("few_benign")


def test_the_rate_falls_in_a_line_to_the_end() -> None:
    settings = replace(QUICK, steps=10, learning_rate=1.0, cooldown=0.5)
    rates = [settings.rate(step) for step in range(10)]
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert {replace(settings, cooldown=0.0).rate(step) for step in range(10)} == {1.0}
    for wrong in (-0.1, 1.1):
        with pytest.raises(UsageError, match="cooldown"):
            replace(QUICK, cooldown=wrong)


def test_steps_take_the_falling_rate(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    plain = WhitenedAdam.step

    def noted(self: WhitenedAdam) -> None:
        rates.append(self.param_groups[0]["lr"])
        plain(self)

    monkeypatch.setattr(WhitenedAdam, "step", noted)
    settings = frozen_steps(4, cooldown=1.0)
    train(fresh(), PAIRS, settings)
    assert rates == pytest.approx([settings.learning_rate * one for one in (1, 0.75, 0.5, 0.25)])


def test_lessons_that_are_not_looked_at_are_all_taught_once(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    plain = Lessons.score

    def noted(self: Lessons, chosen: Sequence[int] | None = None) -> Scores:
        looked.append(len(self) if chosen is None else len(chosen))
        return plain(self, chosen)

    monkeypatch.setattr(Lessons, "score", noted)
    model = fresh()
    known = train(model, PAIRS, replace(QUICK, look=3, steps=4, batch=2))
    assert looked == [3]
    assert (known.steps, known.epochs, known.lessons) == (4, 1, 8)
    looked.clear()
    train(fresh(), PAIRS, replace(QUICK, look=99, steps=4, batch=2))  # as many as there are
    assert looked == [8]
    with pytest.raises(UsageError, match="look"):
        replace(QUICK, look=-1)


def test_a_part_of_the_lessons_scores_as_in_the_whole(fresh: Fresh) -> None:
    lessons = Lessons(fresh(), PAIRS.table, 2)
    whole, part = lessons.score(), lessons.score([6, 1])
    assert torch.allclose(part.probability, whole.probability[[6, 1]], atol=1e-6)
    assert torch.equal(part.right, whole.right[[6, 1]])
