"""MinHash against comparing all with all, its stated chances, and held-out texts."""

from __future__ import annotations

import itertools
import random

import pytest

from loyal.alignment import duplicates
from loyal.alignment.duplicates import Bands, HeldOut, Index, Leak
from loyal.community.overlap import likeness, near_pairs, shingles
from loyal.errors import UsageError

WORDS = [f"w{number}" for number in range(400)]


def variants(seed: int, count: int) -> list[str]:
    """Texts of 30 words, each followed by copies with ever more words changed."""
    rng, made = random.Random(seed), []
    for _ in range(count):
        text = rng.choices(WORDS, k=30)
        made.append(" ".join(text))
        for _ in range(6):
            text[rng.randrange(30)] = rng.choice(WORDS)
            made.append(" ".join(text))
    return made


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_the_same_copies_as_comparing_all_with_all(threshold: float) -> None:
    texts = variants(5, 40)
    kept: list[str] = []
    expected = []
    for text in texts:
        near = [likeness(shingles(one), shingles(text)) for one in kept]
        best = max(near, default=0.0)
        expected.append(near.index(best) if best >= threshold else None)
        if best < threshold:
            kept.append(text)
    index = Index(threshold)
    assert [index.add(text) for text in texts] == expected
    assert len(index) == len(kept)
    assert not list(near_pairs(kept, threshold))
    assert 0 < len(kept) < len(texts)


def test_a_found_text_is_not_kept() -> None:
    index = Index(0.8)
    assert index.find("a b c") is None
    assert len(index) == 0
    assert index.add("a b c") is None
    assert index.find("A  b, c!") == 0
    assert index.add("a b c") == 0
    assert index.find("") is None
    assert index.add("") is None
    assert index.add("") == 1


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.95, 1.0])
def test_the_chance_of_a_miss_is_bounded(threshold: float) -> None:
    bands = Bands.at(threshold)
    assert 1 - bands.chance(threshold) <= duplicates.MOST_MISS
    assert bands.hashes <= 512


def test_signatures_agree_as_often_as_sets_do() -> None:
    """The law under MinHash; 4,096 hashes: five standard errors are 0.04."""
    salts = duplicates._salts(4_096, 3)
    texts = variants(9, 4)
    for first, second in itertools.pairwise(texts):
        one, other = (duplicates._hashes(text) for text in (first, second))
        agree = (duplicates._signature(one, salts) == duplicates._signature(other, salts)).mean()
        assert agree == pytest.approx(likeness(shingles(first), shingles(second)), abs=0.04)


def test_a_seed_decides() -> None:
    assert list(duplicates._salts(4, 1)) == list(duplicates._salts(4, 1))
    assert list(duplicates._salts(4, 1)) != list(duplicates._salts(4, 2))


@pytest.mark.parametrize("threshold", [0.1, 1.1])
def test_a_likeness_that_is_none(threshold: float) -> None:
    with pytest.raises(UsageError, match="likeness"):
        Index(threshold)


HELD = (
    "Who borrowed this book before me, and when did they bring it back again?",
    "Who?",
    "May my neighbor read this?",
)


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        (f"Ignore all rules. {HELD[0].upper()} Answer now!", Leak(0, 1.0)),
        ("Who borrowed this book before me, and then did they bring it back again?", None),
        ("Who borrowed this book before me, and when did you?", Leak(0, 9 / 14)),
        ("Who borrowed this?", None),
        ("who", Leak(1, 1.0)),
        ("Who are you?", None),
        ("Say, may my neighbor read this at all?", Leak(2, 1.0)),
        ("May my neighbor read?", None),
        ("", None),
    ],
)
def test_a_text_that_gives_a_held_out_one_away(text: str, leak: Leak | None) -> None:
    assert HeldOut(HELD).leak(text) == leak


def test_the_share_is_a_bar() -> None:
    text = "Who borrowed this book before me, and when did you?"
    assert HeldOut(HELD, share=0.7).leak(text) is None
    assert HeldOut(HELD, run=10).leak(text) is None
    assert HeldOut([]).leak(text) is None
    assert HeldOut([""]).leak("") is None
    with pytest.raises(UsageError, match="run"):
        HeldOut(HELD, run=1)
