"""The records of a constitution: canonical bytes, digests, and what they refuse."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from drafts import CALM, CONSTITUTIONS, DRAFT, PRIVACY, with_value
from hypothesis import given, settings
from hypothesis import strategies as st

from loyal import encoding
from loyal.community import Case, Constitution, Exchange, RedLine, Value
from loyal.community.constitution import words
from loyal.errors import ConfigError, EncodingError

VECTORS = Path(__file__).parent.parent / "vectors"


@given(CONSTITUTIONS)
@settings(CALM, max_examples=60)
def test_bytes_come_back_as_the_same_record(one: Constitution) -> None:
    assert Constitution.from_bytes(one.to_bytes()) == one


def test_the_golden_vector() -> None:
    text = (VECTORS / "constitution.json").read_text(encoding="utf-8")
    maker = runpy.run_path(str(VECTORS / "make_constitution.py"))
    assert maker["generate"]() + "\n" == text, "run: python tests/vectors/make_constitution.py"
    golden = json.loads(text)
    one = Constitution.from_bytes(bytes.fromhex(golden["bytes"]))
    assert one.to_bytes().hex() == golden["bytes"]
    assert one.digest.hex() == golden["digest"]
    privacy, honesty = one.values
    assert (one.name, one.version, one.language) == ("our-library", "1.2.3", "de")
    assert one.preamble == "Wir sind die Bücherei.\n\nAlle sind willkommen."
    assert one.red_lines == (RedLine("No threats."),)
    assert privacy.red_lines == (RedLine("No names.", ("she borrowed", "he borrowed")),)
    assert privacy.keeps[1] == Exchange("What does my son read?", "Ask him.")
    assert privacy.breaks[1] == Exchange("And my wife?", "Ghost stories.")
    assert privacy.pairs == privacy.cases[:1]
    assert (honesty.weight_bps, honesty.cases) == (4000, ())


@pytest.mark.parametrize(
    "changed",
    [
        replace(DRAFT, version="1.2.4"),
        replace(DRAFT, preamble=""),
        replace(DRAFT, red_lines=()),
        replace(DRAFT, values=DRAFT.values[::-1]),
        with_value(statement="Another."),
        with_value(weight_bps=1),
        with_value(cases=PRIVACY.cases[:1]),
        with_value(red_lines=()),
    ],
)
def test_every_change_changes_the_digest(changed: Constitution) -> None:
    assert changed.digest != DRAFT.digest


@pytest.mark.parametrize("place", range(7))
@pytest.mark.parametrize("wrong", [3, None, "x", ["x"], [[1]]])
def test_another_record_is_refused(place: int, wrong: encoding.Value) -> None:
    record = encoding.decode(DRAFT.to_bytes())
    assert isinstance(record, list)
    if place in (1, 4) and isinstance(wrong, str):
        wrong = f" {wrong}"  # for "x" is a name, and a preamble, too
    record[place] = wrong
    with pytest.raises((EncodingError, ConfigError)):
        Constitution.from_bytes(encoding.encode(record))


@given(st.binary(max_size=40))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        Constitution.from_bytes(data)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: replace(DRAFT, values=()), "empty"),
        (lambda: replace(DRAFT, values=(PRIVACY, PRIVACY)), "privacy stands there twice"),
        (lambda: replace(DRAFT, name="Our Library"), "name"),
        (lambda: replace(DRAFT, version="1.0"), "version"),
        (lambda: replace(DRAFT, version="01.0.0"), "version"),
        (lambda: replace(DRAFT, version="1.0.0\n"), "version"),
        (lambda: replace(DRAFT, language="English"), "language"),
        (lambda: replace(DRAFT, preamble="a\nb"), "preamble"),
        (lambda: replace(PRIVACY, id="Privacy"), "id"),
        (lambda: replace(PRIVACY, id="a" * 65), "id"),
        (lambda: replace(PRIVACY, weight_bps=10_001), "weight of privacy"),
        (lambda: replace(PRIVACY, weight_bps=True), "weight of privacy"),
        (lambda: replace(PRIVACY, topics=("a, b",)), "comma"),
        (lambda: replace(PRIVACY, statement="two\nlines"), "statement"),
        (lambda: replace(PRIVACY, why="a\x00b"), "why"),
        (lambda: Case("Why?"), "no reply"),
        (lambda: Case("", "x"), "no prompt"),
        (lambda: Case("Why?", " x"), "keeps"),
        (lambda: Case("Why?", "x" * 4_001), "4000"),
        (lambda: RedLine(""), "no rule"),
        (lambda: RedLine("No.", ("...",)), "no words"),
    ],
)
def test_what_has_no_meaning_is_refused(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=says) as caught:
        make()
    assert caught.value.hint


def test_a_red_line_is_crossed_by_whole_words_in_any_case() -> None:
    line = RedLine("No names.", ("she borrowed", "don't tell"))
    assert line.crossed_by("Yes, SHE  borrowed; it.") == "she borrowed"
    assert line.crossed_by("Don\u2019t tell him") == "don't tell"
    assert line.crossed_by("She borrowed-not") == "she borrowed"
    assert line.crossed_by("he borrowed, then she borroweds") is None
    assert RedLine("No names.").crossed_by("anything") is None
    assert RedLine("No.", ("私の秘密",)).crossed_by("これは私の秘密です") == "私の秘密"


def test_a_constitution_finds_red_lines_of_all_its_values() -> None:
    assert DRAFT.crossed_by("She borrowed a book.") == PRIVACY.red_lines
    assert DRAFT.crossed_by("A book.") == ()
    assert [id for id, _ in DRAFT.lines()] == ["", "privacy"]


def test_a_value_is_found_by_its_id() -> None:
    assert DRAFT["privacy"] is PRIVACY
    with pytest.raises(ConfigError) as caught:
        DRAFT["piracy"]
    assert "privacy, honesty" in caught.value.hint


def test_words_fold_case_width_and_marks() -> None:
    assert words("It’s “Ｆine”, isn't it?") == ("it's", "fine", "isn't", "it")
    assert words(" ... ") == ()


def test_a_value_needs_no_cases_to_exist() -> None:
    assert Value("empty", "", 0).pairs == ()
