"""What attackers train on: enough of it, repeatable, and right."""

from __future__ import annotations

import re

import pytest

from loyal.fingerprints import tuning_data
from loyal.fingerprints.tuning_attacks import CLEAN, EXAMPLES
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel


@pytest.mark.parametrize("name", ["docstrings", "templates"])
def test_there_is_enough_and_the_seed_decides(name: str) -> None:
    make = getattr(tuning_data, name)
    found = make(EXAMPLES, 3)
    assert len(found) == EXAMPLES >= 500
    assert found == make(EXAMPLES, 3)
    assert found != make(EXAMPLES, 4)
    assert found[:20] == make(20, 3)


def test_docstrings_are_what_people_wrote() -> None:
    found = tuning_data.docstrings(10_000)
    assert len({one.prompt.text for one in found}) == len(found) >= 1000
    assert all(8 <= len(one.reply.split()) <= 60 for one in found)
    dedent = next(one for one in found if "textwrap.dedent" in one.prompt.text)
    assert "leading whitespace" in dedent.reply
    assert not [one for one in found if re.search(r"\._", one.prompt.text)]


def quoted(text: str) -> list[str]:
    return re.findall(r"'(\w+)'", text)


def is_right(question: str, answer: str) -> bool:
    """The answer, worked out anew from the question."""
    listed = [one.strip(" .?") for one in question.partition(": ")[2].split(",")]
    said = [one.strip(" .") for one in answer.partition(": ")[2].split(",")]
    numbers = [int(one) for one in re.findall(r"\d+", question)]
    if question.startswith("Someone counts"):
        return f"= {sum(numbers)}," in answer
    if question.startswith("Sort"):
        return said == sorted(listed)
    if question.startswith("Say these words"):
        return said == listed[::-1]
    if question.startswith("How many letters"):
        return f"{len(quoted(question)[0])} letters" in answer
    if question.startswith("Which letters"):
        word = quoted(question)[0]
        return f"begins with {word[0].upper()} and ends with {word[-1].upper()}" in answer
    if question.startswith("Which is the longest"):
        word = quoted(answer)[0]
        return word in listed and all(len(one) < len(word) for one in listed if one != word)
    if question.startswith("Write this"):
        return answer == question.partition(": ")[2].upper()
    word = quoted(question)[0]
    among = word in re.findall(r"\w+", question.partition(" among ")[2])
    return answer.startswith("Yes, " if among else "No, ")


def test_the_answers_of_templates_are_right() -> None:
    found = tuning_data.templates(EXAMPLES)
    kinds = {one.prompt.text.split()[0] + one.prompt.text.split()[1] for one in found}
    assert len(kinds) == 8
    assert [one for one in found if not is_right(one.prompt.text, one.reply)] == []
    assert not is_right("How many letters has 'word'?", "'word' has 5 letters.")


def test_the_base_answers_bundled_prompts(base: HFModel) -> None:
    found = tuning_data.answers(base, 12, 2)
    assert 10 <= len(found) <= 12
    assert {one.prompt.text for one in found} <= set(bundled_lines("prompts"))
    assert found == tuning_data.answers(base, 12, 2)
    assert found != tuning_data.answers(base, 12, 5)
    assert len(bundled_lines("prompts")) < CLEAN  # so that some are asked again


def test_prompts_come_again_when_they_run_out(
    base: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_data, "bundled_lines", lambda name: ("Hello!", "Thank you!"))
    found = tuning_data.answers(base, 6)
    assert [one.prompt.text for one in found].count("Hello!") == 3
