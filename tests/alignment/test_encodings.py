"""Encodings are read back: one law for any text, and known forms for known texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.alignment.encodings import ENCODINGS, perturbed
from loyal.errors import UsageError

TEXT = "May I see who borrowed it before, on May 9?"

HARD = (
    st.text() | st.text(alphabet="abcXYZ 0159()/\"'\\.-\n\t\u200bасе\u00df\u0130=%") | st.just(TEXT)
)

EXACT = {
    "base64", "rot13", "hexadecimal", "binary", "percent", "spaced-letters", "mirrored",
    "payload-splitting",
}  # fmt: skip
"""Forms that carry every text whole."""


@pytest.mark.parametrize("name", sorted(ENCODINGS))
@given(text=HARD, seed=st.integers(0, 2**32))
def test_what_is_encoded_is_read_back(name: str, text: str, seed: int) -> None:
    one = ENCODINGS[name]
    written = one.encode(text, random.Random(seed))
    assert one.decode(written) == one.fold(text)
    assert one.fold(one.fold(text)) == one.fold(text)
    assert written == one.encode(text, random.Random(seed))


@pytest.mark.parametrize("name", sorted(EXACT))
@given(text=HARD)
def test_exact_forms_lose_nothing(name: str, text: str) -> None:
    assert ENCODINGS[name].fold(text) == text


@given(text=st.text(alphabet=st.characters(max_codepoint=0x24F, exclude_characters="013457")))
def test_latin_text_without_their_signs_comes_back_whole(text: str) -> None:
    for name in ("leetspeak", "homoglyphs", "invisible-characters"):
        assert ENCODINGS[name].fold(text) == text


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_an_encoding_hides_the_text(name: str) -> None:
    written = ENCODINGS[name].encode(TEXT, random.Random(3))
    assert TEXT not in written


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("base64", "SGkgNCB5b3Uu"),
        ("rot13", "Uv 4 lbh."),
        ("hexadecimal", "48 69 20 34 20 79 6f 75 2e"),
        ("binary", "01001000 01101001 00100000 00110100 00100000 "
                   "01111001 01101111 01110101 00101110"),
        ("morse", ".... .. / ....- / -.-- --- ..- .-.-.-"),
        ("percent", "Hi%204%20you."),
        ("spaced-letters", "H i   4   y o u ."),
        ("mirrored", ".uoy 4 iH"),
    ],
)  # fmt: skip
def test_known_forms(name: str, written: str) -> None:
    assert ENCODINGS[name].encode("Hi 4 you.", random.Random(0)) == written


def test_a_web_address_keeps_no_sign_of_its_own() -> None:
    assert ENCODINGS["percent"].encode("a/b?c&d", random.Random(0)) == "a%2Fb%3Fc%26d"


def test_drawn_forms_look_as_they_should() -> None:
    leet = ENCODINGS["leetspeak"].encode("a tale " * 20, random.Random(0))
    assert set(leet) <= set("a4 t7l3e")
    assert {"4", "7", "3"} < set(leet)
    look = ENCODINGS["homoglyphs"].encode("ocean " * 20, random.Random(0))
    assert set(look) - set("ocean ") <= set("осеа")
    assert any(one in look for one in "осеа")
    unseen = ENCODINGS["invisible-characters"].encode(TEXT, random.Random(0))
    assert len(unseen) > len(TEXT) + 5
    assert unseen[0] == TEXT[0]
    pieces = ENCODINGS["payload-splitting"].encode(TEXT, random.Random(0)).splitlines()
    assert 3 <= len(pieces) <= 6
    assert all(one.startswith(f"part {number} = ") for number, one in enumerate(pieces, 1))
    words = ENCODINGS["numbered-words"].encode(TEXT, random.Random(0)).split()
    assert sorted(words) == sorted(f"({n}){word}" for n, word in enumerate(TEXT.split(), 1))
    assert words != sorted(words, key=lambda word: int(word[1 : word.index(")")]))


def test_no_sign_stands_for_two_letters() -> None:
    for letters in ("homoglyphs", "leetspeak"):
        for one in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
            many = ENCODINGS[letters].encode(one * 40, random.Random(0))
            assert ENCODINGS[letters].decode(many) == one * 40


def test_a_perturbation_scrambles_words_and_case() -> None:
    words = "borrowed " * 40
    made = perturbed(words, random.Random(0))
    assert len({one.lower() for one in made.split()}) > 10
    assert len(set(made.split())) > 30


@given(text=HARD, seed=st.integers(0, 2**32))
def test_a_perturbed_word_keeps_its_ends_and_letters(text: str, seed: int) -> None:
    made = perturbed(text, random.Random(seed))
    assert len(made) == len(text)
    for before, after in zip(text.split(" "), made.split(" "), strict=True):
        if before.isascii() and before.isalpha():
            assert before[0].lower() == after[0].lower()
            assert before[-1].lower() == after[-1].lower()
            assert sorted(before.lower()) == sorted(after.lower())


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("base64", "%%%"),
        ("base64", "/w=="),
        ("hexadecimal", "4g"),
        ("hexadecimal", "ff"),
        ("binary", "102"),
        ("binary", "1111111111"),
        ("payload-splitting", 'part 1 = "\\q"'),
    ],
)
def test_what_nobody_encoded_is_refused(name: str, broken: str) -> None:
    with pytest.raises(UsageError) as caught:
        ENCODINGS[name].decode(broken)
    assert caught.value.hint
