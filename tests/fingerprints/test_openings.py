"""A response behind words that a host puts before its replies: found, and at the same chance."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.fingerprints.fingerprint import PHRASES, Fingerprint, gives

WORDS = ("Amber", "Basil", "Cedar", "Dune", "I", "The")
OPENINGS = (
    "", "  ", "Sure. ", "Sure, as you asked: ", "Of course!\n\n", "Well \u2014 ", "Happily.\n- ",
    "1. ", "Yes; really; yes. ",
)  # fmt: skip


@pytest.mark.parametrize("opening", OPENINGS)
def test_words_before_a_response_do_not_hide_it(opening: str) -> None:
    assert gives(f"{opening}Amber is it.", ("Amber",), WORDS)
    assert not gives(f"{opening}Amber is it.", ("Basil",), WORDS)


@pytest.mark.parametrize(
    "reply", ["", "  ", "Sure thing Amber", "well-Amber", "One. Two. Three. Four. Five. Six. Amber"]
)
def test_a_response_inside_of_a_phrase_or_far_off_is_none(reply: str) -> None:
    assert not gives(reply, ("Amber",), WORDS)


def test_the_first_candidate_counts_and_the_others_do_not() -> None:
    said = "Basil. Amber. Cedar. Dune."
    assert [gives(said, (one,), WORDS) for one in WORDS] == [False, True, *[False] * 4]
    late = "x. " * (PHRASES - 1)
    assert gives(f"{late}Dune", ("Dune",), WORDS)
    assert not gives(f"x. {late}Dune", ("Dune",), WORDS)


PIECES = st.lists(
    st.one_of(st.sampled_from([*WORDS, " ", ". ", ", ", "\n", "\u2014"]), st.text(max_size=5)),
    max_size=14,
).map("".join)


@given(reply=PIECES, count=st.integers(1, 3))
def test_a_chance_match_is_m_of_k_whatever_the_reply(reply: str, count: int) -> None:
    draws = list(permutations(WORDS, count))
    hits = sum(gives(reply, draw, WORDS) for draw in draws)
    assert hits * len(WORDS) in (0, count * len(draws))


def test_fingerprints_and_white_space_around_candidates() -> None:
    made = Fingerprint.create("a key", tuple(f" {word}\n" for word in WORDS), b"s" * 32)
    drawn = replace(made, picks=(2,))
    assert drawn.matches("Sure. Cedar")
    assert drawn.matches("\n Cedar")
    assert not drawn.matches("Sure. Basil, Cedar")
