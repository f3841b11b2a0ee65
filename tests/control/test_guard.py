"""The guard: outlines never lose a prompt of a domain, evidence that was changed is refused."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace

import pytest
from control_files import LOOKUP, PROGRAM, REFUSAL

from loyal.control import functions
from loyal.control.functions import ControlFunction, from_source
from loyal.control.guard import START, Exact, Guard, Mismatch, Outline, folded, line_digest, read
from loyal.control.guard import written as line_of
from loyal.errors import EncodingError, SignatureError, UsageError
from loyal.protocol.answers import message_digest
from loyal.signing import SigningKey

COMMUNITY, HOST = SigningKey.generate(), SigningKey.generate()
OWN_DOMAIN = PROGRAM.replace("def sample", "def domain(prompt):\n    return None\n\n\ndef sample")


def signed(source: str, form: str = "toml") -> ControlFunction:
    """A function of the community."""
    return functions.opened(functions.sign(from_source(form, source.encode()), COMMUNITY))


@pytest.fixture(scope="module")
def keepers() -> ControlFunction:
    return signed(LOOKUP)


@pytest.fixture(scope="module")
def eggs() -> ControlFunction:
    return signed(PROGRAM, "py")


@pytest.mark.parametrize("form", ["toml", "py"])
def test_an_outline_passes_every_prompt_that_the_function_reads(
    form: str, keepers: ControlFunction, eggs: ControlFunction
) -> None:
    function = keepers if form == "toml" else eggs
    outline, rng = Outline(function), random.Random(5)
    prompts = [one.prompt for one in function.cases("training", 40, rng)]
    changed = [
        change(one)
        for one in prompts
        for change in (
            str, str.upper, str.lower, lambda text: f"  {text.rstrip('?.')} !?\n",
            lambda text: text.replace(" ", "\n \t"), lambda text: text.replace("i", "\u0130"),
            lambda text: text.replace("s", "\u017f"),
        )
    ]  # fmt: skip
    said = function.expected_all(changed)
    assert sum(one is not None for one in said) > len(prompts) * 4
    for text, reply in zip(changed, said, strict=True):
        assert reply is None or outline.may_read(folded(text)), text


def test_an_outline_refuses_what_has_other_words(keepers: ControlFunction) -> None:
    outline = Outline(keepers)
    for text in (
        "Who wrote it?",
        "Who feeds",
        "Now: who feeds the fox?",
        "",
        "?",
        "x" * 100_000,
    ):
        assert not outline.may_read(folded(text)), text


def test_a_program_with_a_domain_of_its_own_is_always_asked() -> None:
    assert Outline(signed(OWN_DOMAIN, "py")).may_read("anything")
    assert not Outline(signed(PROGRAM + "\n# the domain\n", "py")).may_read("anything")


def test_outside_of_all_outlines_no_process_is_started(
    eggs: ControlFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard([eggs])
    inside = "Count the eggs: 3 baskets, 4 in each."
    assert guard.exact(inside) == Exact(eggs, "12 eggs.")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert guard.exact("What is an egg?") is None
    assert guard.exact(inside) == Exact(eggs, "12 eggs.")  # kept
    with pytest.raises(AssertionError):
        guard.exact("Count the eggs: 3 baskets, 5 in each.")


def test_a_failing_function_is_an_answer_that_is_not_kept() -> None:
    fails = "{0 // (int(baskets) - 7) + int(baskets)"
    failing = signed(PROGRAM.replace("{int(baskets)", fails), "py")
    guard = Guard([failing])
    for _ in range(2):
        found = guard.exact("Count the eggs: 7 baskets, 4 in each.")
        assert found is not None
        assert found.reply is None
        assert "ZeroDivisionError" in found.why


def test_a_guard_needs_signed_functions(keepers: ControlFunction) -> None:
    Guard([keepers])
    for wrong in ([], [keepers, from_source("toml", REFUSAL.encode())]):
        with pytest.raises(UsageError):
            Guard(wrong)


def chain(function: ControlFunction, *replies: str) -> list[bytes]:
    """Lines about one prompt."""
    before, lines = START, []
    for place, reply in enumerate(replies):
        one = Mismatch.of(Exact(function, "Mara."), "Who feeds the fox?", reply, "replaced", place)
        lines.append(line_of(one, before, HOST))
        before = line_digest(lines[-1])
    return lines


def test_evidence_is_read_and_names_function_and_prompt(keepers: ControlFunction) -> None:
    lines = chain(keepers, "Oskar.", "Nobody.", "Lena.")
    found = read(lines, HOST.public)
    assert [one.mismatch.at for one in found] == [0, 1, 2]
    first = found[0].mismatch
    assert (first.function, first.reply) == (keepers.digest, message_digest("Oskar."))
    assert first.names(keepers, "Who feeds the fox?")
    assert first.repeats(keepers, "Who feeds the fox?")
    assert not first.names(keepers, "Who feeds the owl?")
    assert not replace(first, exact=bytes(32)).repeats(keepers, "Who feeds the fox?")
    assert read([]) == []


def test_changed_evidence_is_refused(keepers: ControlFunction) -> None:
    lines = chain(keepers, "Oskar.", "Nobody.", "Lena.")
    for wrong in (lines[1:], [lines[0], lines[2]], [lines[1], lines[0]], [*lines, lines[0]]):
        with pytest.raises(SignatureError, match="does not follow"):
            read(wrong)
    with pytest.raises(SignatureError, match="somebody else"):
        read(lines, COMMUNITY.public)
    for place in (10, len(lines[1]) // 2, len(lines[1]) - 3):
        digit = b"0" if lines[1][place : place + 1] != b"0" else b"1"
        changed = lines[1][:place] + digit + lines[1][place + 1 :]
        with pytest.raises((SignatureError, EncodingError)):
            read([lines[0], changed, lines[2]])
    for broken in (b"", b"zz", b"\xff", lines[0][:-2]):
        with pytest.raises(EncodingError, match="line 1 is no record"):
            read([broken])
