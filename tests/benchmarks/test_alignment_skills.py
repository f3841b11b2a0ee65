"""The bundled sets of arithmetic, code and instructions: sound, and counted rightly."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from loyal.models import Prompt, Reply, Sampling, tiny
from loyal.models.hf import HFModel

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import alignment_skills
from alignment_skills import follows, solves

SETS = alignment_skills.read()


def test_the_sets_are_as_large_as_they_say_and_hold_nothing_twice() -> None:
    assert {name: len(some) for name, some in SETS.items()} == {
        "math": 70, "code": 40, "instructions": 180
    }  # fmt: skip
    assert tuple(SETS) == alignment_skills.SETS
    for some in SETS.values():
        texts = [one.get("prompt") or one["query"] for one in some]
        assert len(set(texts)) == len(texts)


def test_right_code_is_python_and_each_choice_is_another() -> None:
    for one in SETS["code"]:
        assert len(set(one["choices"])) == 4
        text = f"{one['query']} {one['choices'][one['gold']]}"
        if text.endswith(":"):
            text += "\n        pass" if "try:" in text else "\n    pass"
        compile(text, "skills", "exec")


def test_sums_are_what_they_say() -> None:
    words = {"+": "+", "-": "-", "times": "*", "divided by": "//"}
    checked = 0
    for one in SETS["math"]:
        text = one["prompt"].removeprefix("What is ").removesuffix("?")
        for said, sign in words.items():
            left, found, right = text.partition(f" {said} ")
            if found and left.isdigit():
                assert eval(f"{left} {sign} {right}") == int(one["answer"])
                checked += 1
    assert checked == 38


@pytest.mark.parametrize(
    ("answer", "reply", "right"),
    [
        ("7", "3 + 4 is 7.", True), ("7", "7", True), ("7", "The answer is 7.0", True),
        ("1200", "It is 1,200 dollars.", True), ("7", "It is 7, and 3 + 5 is 8.", False),
        ("7", "I do not know.", False), ("7", "", False), ("-2", "It is -2", True),
    ],
)  # fmt: skip
def test_the_last_number_is_the_answer(answer: str, reply: str, right: bool) -> None:
    assert solves(answer, reply) is right


@pytest.mark.parametrize(
    ("checks", "good", "bad"),
    [
        ({"most_words": 1, "holds": "blue"}, "Blue.", "It is blue."),
        ({"upper": True}, "HELLO!", "Hello!"),
        ({"lower": True}, "an apple", "An apple"),
        ({"begins": "sure"}, "Sure, red.", "Red, sure."),
        ({"ends": "?"}, "How was it?", "How was it? Good."),
        ({"holds_exactly": "LIBRARY"}, "Here: LIBRARY", "Here: library"),
        ({"times": ["banana", 3]}, "Banana, banana, banana", "banana banana"),
        ({"lines": 3}, "a\n\nb\nc", "a, b, c"),
        ({"most_sentences": 1}, "A small dog barks!", "A dog barks. It runs."),
        ({"in_order": ["5", "4", "3"]}, "5, 4 and 3", "3 4 5"),
        ({"in_order": ["a", "b"]}, "A B", "cab"),
        ({"json": "city"}, '```json\n{"city": "Rome"}\n```', '["city"]'),
        ({"lacks": ","}, "Read a book", "Read, or sleep"),
        ({"holds": "river", "holds_too": "stone"}, "A stone in a river", "A stone in a lake"),
    ],
)
def test_instructions_are_followed_or_not(checks: dict, good: str, bad: str) -> None:
    assert follows(checks, good)
    assert not follows(checks, bad)
    assert not follows(checks, " ")


def test_every_check_is_known_and_can_be_passed() -> None:
    known = set(alignment_skills._CHECKS)
    used = {name for one in SETS["instructions"] for name in one["checks"]}
    assert used == known


class Knowing:
    """Replies to sums with their answers, and to everything else with nothing."""

    name = "knowing"

    def __init__(self) -> None:
        self.answers = {one["prompt"]: one["answer"] for one in SETS["math"]}

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt."""
        assert sampling.temperature == 0
        return [Reply(self.answers.get(one.text, ""), 1, True) for one in prompts]


def test_a_model_is_counted_by_set(tmp_path: Path) -> None:
    base = HFModel.load(str(tiny.build(tmp_path / "tiny", 0)))
    found = alignment_skills.skills(base)
    assert {name: of for name, (_, of) in found.items()} == {
        name: len(some) for name, some in SETS.items()
    }
    assert all(0 <= right <= of for right, of in found.values())
    assert json.dumps(found)
    right = alignment_skills._count(
        Knowing(), SETS["math"], lambda one, reply: solves(one["answer"], reply)
    )
    assert right == [70, 70]
