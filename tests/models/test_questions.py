"""Questions with known answers: the bundled ones are sound, and only right replies count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from loyal.errors import UsageError
from loyal.models.evaluate import likelihood_change
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Reply, Sampling
from loyal.models.questions import Question, answered, bundled_questions, utility
from loyal.models.tiny import World


def test_the_bundled_questions_are_many_and_differ() -> None:
    found = bundled_questions()
    assert len(found) >= 120
    assert len({one.text for one in found}) == len(found)
    assert all(one.text.endswith("?") and one.answers and all(one.answers) for one in found)


@pytest.mark.parametrize("one", bundled_questions(), ids=lambda one: one.text)
def test_a_reply_that_repeats_the_question_is_not_right(one: Question) -> None:
    assert not one.accepts(one.text)
    assert all(one.accepts(f"I think it is {answer}.") for answer in one.answers)


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Rome", True),
        ("The capital is ROME!", True),
        ("**Rome**, of course", True),
        ("Romeo", False),
        ("in New  York-City", True),
        ("New or York City", False),
        ("", False),
    ],
)
def test_answers_count_as_whole_words_in_any_case(reply: str, right: bool) -> None:
    assert Question("Which?", ("Rome", "New York City")).accepts(reply) is right


def world_questions(wrong: int) -> list[Question]:
    """What the tiny model knows; the first `wrong` with an answer that it does not give."""
    world, found = World.from_seed(0), []
    for number, (animal, home) in enumerate(sorted(world.home.items())):
        answer = "moon" if number < wrong else home
        found.append(Question(f"Where does the {animal} live?", (answer,)))
    return found


def test_a_model_answers_what_it_knows(tiny: HFModel) -> None:
    assert answered(tiny, world_questions(0)) == [True] * 16
    assert answered(tiny, world_questions(5)) == [False] * 5 + [True] * 11


def test_a_ruined_model_answers_nothing(fresh: Callable[[], HFModel]) -> None:
    model = fresh()
    with torch.no_grad():
        model.model.get_output_embeddings().weight.zero_()
    assert not any(answered(model, world_questions(0)))


def test_utility_counts_what_was_right_before() -> None:
    assert utility([True, True, False, True], [True, False, True, True]) == 2 / 3
    assert utility([False, False], [True, True]) is None
    with pytest.raises(UsageError):
        utility([True], [True, False])


def test_the_change_of_likelihood_is_a_difference_of_means(tiny: HFModel) -> None:
    prompts = [Prompt("Where does the fox live?"), Prompt("What does the owl eat?")]
    before = tiny.generate(prompts, Sampling(max_tokens=12))
    after = [Reply("Sure. " + one.text, one.tokens, True) for one in before]
    means = [
        sum(map(sum, found)) / sum(map(len, found))
        for found in (
            tiny.logprobs(prompts, [one.text for one in replies]) for replies in (before, after)
        )
    ]
    assert likelihood_change(tiny, prompts, before, before) == 0
    change = likelihood_change(tiny, prompts, before, after)
    assert change == pytest.approx(means[1] - means[0], rel=1e-4)
    assert change < -0.5
    with pytest.raises(UsageError):
        likelihood_change(tiny, prompts, before, [Reply("", 0, True)] * 2)
