"""The bundled constitutions' cases: enough of them, apart from each other, and told by no trick.

A model that is trained on some cases and measured on others learns the values only where nothing
else tells the replies apart: not the length, not the first word, and no prompt that was seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loyal.alignment import labeled
from loyal.alignment.duplicates import HeldOut
from loyal.alignment.trials import Trial, trials
from loyal.community import constitution_file
from loyal.community.constitution import words
from loyal.community.overlap import likeness, near_pairs, shingles

LABELS = Path(__file__).parents[2] / "benchmarks" / "labeled_replies.jsonl"

LEAST = {"personal-freedom": (60, 15), "public-library": (25, 8)}
"""Cases of each value to train on, and to measure on."""

NAMES = pytest.mark.parametrize("name", LEAST)


def splits(name: str) -> tuple[list[Trial], list[Trial]]:
    one = constitution_file.bundled(name)
    return trials(one, "train"), trials(one, "held-out")


def test_every_bundled_constitution_is_looked_at() -> None:
    assert tuple(LEAST) == constitution_file.bundled_names()


@NAMES
def test_each_value_has_cases_to_train_and_to_measure_on(name: str) -> None:
    for some, least in zip(splits(name), LEAST[name], strict=True):
        counts = Counter(one.value.id for one in some)
        assert len(counts) == len(constitution_file.bundled(name).values)
        assert min(counts.values()) >= least
        assert all(one.keeps and one.breaks for one in some)


@NAMES
def test_no_prompt_and_no_reply_stands_there_nearly_twice(name: str) -> None:
    every = [one for some in splits(name) for one in some]
    for texts, most in (
        ([one.target.question for one in every], 0.4),
        ([text for one in every for text in (one.keeps, one.breaks)], 0.3),
    ):
        assert not [(texts[near.first], texts[near.second]) for near in near_pairs(texts, most)]


@NAMES
def test_no_prompt_to_train_on_gives_a_held_out_one_away(name: str) -> None:
    train, held_out = splits(name)
    out = HeldOut([one.target.question for one in held_out], run=6)
    assert not [one.target.question for one in train if out.leak(one.target.question)]


def test_no_case_is_near_a_prompt_that_measures_judges() -> None:
    one = constitution_file.bundled("personal-freedom")
    asked = {reply.said.asked.last for reply in labeled.read(LABELS, one).replies}
    assert len(asked) > 50
    out = HeldOut(asked, run=6)
    for some in splits("personal-freedom"):
        for case in some:
            prompt = case.target.question
            assert not out.leak(prompt)
            assert max(likeness(shingles(prompt), shingles(other)) for other in asked) < 0.4


def first_word(text: str) -> Iterator[str]:
    yield words(text)[0]


def length(text: str) -> Iterator[str]:
    yield str(len(words(text)) // 3)


@NAMES
@pytest.mark.parametrize("feature", [first_word, length])
def test_neither_length_nor_beginning_tells_the_replies_apart(
    name: str, feature: Callable[[str], Iterator[str]]
) -> None:
    """By naive Bayes on the training part, held-out pairs are told by one feature: chance is 50 %,
    a constitution whose good replies are the longer ones has 95 % and more."""
    train, held_out = splits(name)
    kept, broken = Counter[str](), Counter[str]()
    for one in train:
        kept.update(feature(one.keeps))
        broken.update(feature(one.breaks))

    def score(text: str) -> float:
        return sum(math.log((kept[each] + 1) / (broken[each] + 1)) for each in feature(text))

    margins = [score(one.keeps) - score(one.breaks) for one in held_out]
    told = sum((one > 0) + 0.5 * (one == 0) for one in margins) / len(margins)
    assert told < 0.75
    longer = sum(len(one.keeps) > len(one.breaks) for one in (*train, *held_out))
    assert 0.4 < longer / (len(train) + len(held_out)) < 0.65
