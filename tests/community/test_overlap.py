"""Texts that are alike: the quick search against comparing all with all."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loyal.community.overlap import Near, likeness, near_pairs, shingles

TEXTS = st.lists(
    st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join), min_size=2, max_size=12
)


@given(TEXTS, st.sampled_from([0.2, 1 / 3, 0.5, 0.6, 0.8, 1.0]))
@settings(max_examples=200)
def test_the_same_pairs_as_all_with_all(texts: list[str], least: float) -> None:
    slow = {
        Near(a, b, found)
        for a, b in combinations(range(len(texts)), 2)
        if (found := likeness(shingles(texts[a]), shingles(texts[b]))) >= least
    }
    quick = list(near_pairs(texts, least))
    assert len(quick) == len(set(quick))
    assert set(quick) == slow


def test_likeness_by_hand() -> None:
    assert likeness(shingles("a b c d"), shingles("A b, c e")) == pytest.approx(2 / 4)
    assert likeness(shingles("one"), shingles("One!")) == 1
    assert likeness(shingles("one two"), shingles("one")) == 0
