"""Validation: each wrong function is refused in one line, and sound ones pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from control_files import LOOKUP, PROGRAM, REFUSAL, changed

from loyal.control import ControlFunction, functions
from loyal.control.program import ProgramRule
from loyal.control.sandbox import Limits
from loyal.control.validate import validate
from loyal.errors import ControlError

REPLY = 'return f"{int(baskets) * int(each)} eggs."'


def made(form: str, text: str) -> ControlFunction:
    return functions.from_source(form, text.encode())


def program(reply: str) -> ControlFunction:
    """The program with another body of reply."""
    return made("py", changed(PROGRAM, REPLY, reply))


def test_sound_functions_pass_together() -> None:
    every = [made("toml", LOOKUP), made("toml", REFUSAL), made("py", PROGRAM)]
    found = validate(every, samples=40)
    assert [one.name for one in found] == ["keepers", "poison", "eggs"]
    assert all(one.training and one.unseen and one.overlaps_with == 2 for one in found)


def test_the_bundled_ones_pass_together() -> None:
    assert len(validate([functions.load(one) for one in functions.bundled()])) == 3


WRONG = (
    ("return str(1 // (int(each) - 7))", "ZeroDivisionError at line 2"),
    ("return int(each)", "gave a int"),
    ("return ''", "empty or padded"),
    ("return ' 3'", "empty or padded"),
    ("return None", "no reply to its own input"),
    ("return str(hash(baskets))", "differently the second time"),
    ("return next(iter({baskets, each, 'no', 'yes', 'so'}))", "differently the second time"),
    ("SLOTS[baskets] = each\n    return str(len(SLOTS))", "differently the second time"),
    ("from random import random\n    return str(random())", "differently the second time"),
    ("return 'x' * 10**6", "longer than"),
    ("return '\\ud800'", "half a character"),
    ("return str(len([0] * 10**9))", "MemoryError"),
)


@pytest.mark.parametrize(("body", "why"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_program_is_refused_in_one_line(body: str, why: str) -> None:
    with pytest.raises(ControlError, match=why) as caught:
        validate([program(body)], samples=60)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("eggs: ")
    assert caught.value.hint


SLIPS = (
    ("SLOTS = {", "SLOTS = [1] and [1] or {", "its SLOTS is a list"),
    ('OUTSIDE = ("How many eggs does an owl lay?",)', 'OUTSIDE = ("What?")', "OUTSIDE is a str"),
    ("def reply", "import os\n\ndef reply", "it imports os"),
    ("def reply", "def reply(", "it is not Python"),
    ("How many eggs are in", "How \\ud800 many eggs are in", "half a character"),
    ("owl lay?", "owl \\udfff lay?", "half a character"),
    ("in so many baskets", "in \\ud800 baskets", "half a character"),
)


@pytest.mark.parametrize(("was", "is_now", "why"), SLIPS, ids=range(len(SLIPS)))
def test_a_slip_is_named_and_the_file_is_to_be_corrected(was: str, is_now: str, why: str) -> None:
    with pytest.raises(ControlError, match=why) as caught:
        made("py", changed(PROGRAM, was, is_now))
    assert caught.value.hint.startswith("correct the file")


def test_an_endless_program_is_stopped_and_named() -> None:
    endless = program("while True:\n        pass")
    assert isinstance(endless.rule, ProgramRule)
    assert endless.rule.limits == Limits(cpu_seconds=5)
    endless = replace(endless, rule=replace(endless.rule, limits=Limits(cpu_seconds=1)))
    with pytest.raises(ControlError, match="seconds on") as caught:
        validate([endless], samples=2)
    assert "quick and small" in caught.value.hint


def test_domains_that_overlap_are_refused() -> None:
    twin = made("toml", changed(LOOKUP, '"keepers"', '"feeders"'))
    with pytest.raises(ControlError, match="keepers and feeders both answer 'Who"):
        validate([made("toml", LOOKUP), twin])
    with pytest.raises(ControlError, match="two functions have this name"):
        validate([made("toml", LOOKUP), made("toml", LOOKUP)])


def test_prompts_that_do_not_read_back_are_refused() -> None:
    narrow = changed(PROGRAM, 'SLOTS = {"baskets": r"\\d{1,2}"', 'SLOTS = {"baskets": r"\\d"')
    with pytest.raises(ControlError, match="does not know its own prompt"):
        validate([made("py", narrow)])
    other = PROGRAM + "\ndef domain(prompt):\n    return {'baskets': 1, 'each': 1}\n"
    with pytest.raises(ControlError, match="reads back to another reply"):
        validate([made("py", other)])


def test_an_outside_prompt_that_is_answered_is_refused() -> None:
    inside = changed(LOOKUP, "Where does the owl live?", "Who feeds the owl?")
    with pytest.raises(ControlError, match="lists as outside"):
        validate([made("toml", inside)])


def test_a_domain_whose_one_input_is_held_out_teaches_nothing() -> None:
    """Which inputs are held out is a hash's decision, the same everywhere."""
    drawn = 'rng.randint(2, 20), "each": rng.randint(2, 20)'
    refused = []
    for each in (2, 3, 4, 5, 6, 7):
        try:
            validate([made("py", changed(PROGRAM, drawn, f'3, "each": {each}'))])
        except ControlError as error:
            refused.append(str(error))
    assert 0 < len(refused) < 6
    assert all("too few inputs" in one for one in refused)
