"""Text reworded by rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loyal.fingerprints import rewording
from loyal.models.examples import bundled_lines


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (rewording.lower_case, "Where is ROME?", "where is rome?"),
        (rewording.single_spaces, "  a\tb \n c ", "a b c"),
        (rewording.without_marks, "Well, don't (ever) stop...", "Well don't ever stop"),
        (rewording.normalized, "Well, DON'T  (ever) stop...", "well don't ever stop"),
        (rewording.synonyms, "Explain the main idea.", "Describe the chief thought."),
        (rewording.synonyms, "I'm sure it's good", "I am sure it is fine"),
        (rewording.synonyms, "so i’m big", "so I am large"),
        (rewording.synonyms, "ideally, a beginner", "ideally, a beginner"),
        (rewording.reordered, "I am ill. What helps?", "What helps? I am ill."),
        (rewording.reordered, "If it rains, what do I wear?", "What do I wear if it rains?"),
        (rewording.reordered, "In Rome, what do I eat?", "In Rome, what do I eat?"),
        (rewording.reordered, "Why?", "Why?"),
        (rewording.reordered, "", ""),
        (rewording.reworded, "Explain this.", "Please tell me: Describe this."),
    ],
)
def test_a_rule_does_what_it_says(rule: Callable[[str], str], before: str, after: str) -> None:
    assert rule(before) == after


def test_the_table_replaces_words_by_other_words() -> None:
    for word, other in {**rewording.SYNONYMS, **rewording.LONG_FORMS}.items():
        assert word == word.lower() != other == other.lower()


def test_most_ordinary_prompts_change_and_none_is_lost() -> None:
    prompts = bundled_lines("prompts")
    assert sum(rewording.reworded(one) != one for one in prompts) == len(prompts)
    assert sum(rewording.synonyms(one) != one for one in prompts) > len(prompts) // 2
    for rule in (rewording.synonyms, rewording.reordered, rewording.normalized):
        assert all(rule(one).strip() for one in prompts)
    assert all(
        sorted(rewording.normalized(rewording.reordered(one)).split())
        == sorted(rewording.normalized(one).split())
        for one in prompts
    )
