"""Weights to shares: the sums, the ratios inside, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.alignment import Conversation, Demonstration, Mixture, Preference, Provenance, Record
from loyal.alignment.mixture import part, weighted
from loyal.alignment.preference import WHOLE_PPM, Kind
from loyal.errors import UsageError


def record(kind: Kind, number: int, weight_ppm: int = WHOLE_PPM) -> Record:
    asked = Conversation.of(f"Question {number}")
    return Record(Demonstration(asked, "A reply.", weight_ppm=weight_ppm), Provenance(kind))


def test_each_part_has_its_share_and_the_mean_is_one() -> None:
    records = [record("plain", 1), record("adversarial", 2, 3 * WHOLE_PPM), record("general", 3)]
    records += [record("safety", number) for number in range(4, 9)]
    mixed = Mixture(600_000, 300_000, 100_000).applied(records)
    sums: Counter[str] = Counter()
    for one in mixed:
        sums[part(one)] += one.content.weight_ppm
    assert sums == {"value": 4_800_000, "general": 2_400_000, "safety": 800_000}
    first, second = mixed[0].content.weight_ppm, mixed[1].content.weight_ppm
    assert second == 3 * first
    assert [one.content.asked for one in mixed] == [one.content.asked for one in records]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5_000_000)), min_size=1, max_size=30),
    st.lists(st.integers(1, 50), min_size=3, max_size=3),
)
def test_sums_are_shares_up_to_rounding(rows: list[tuple[str, int]], parts: list[int]) -> None:
    groups = dict(zip("abc", parts, strict=True))
    shares = {name: share for name, share in groups.items() if name in dict(rows)}
    records = [
        Record(Preference(Conversation.of(f"{at}"), "y", "n", value, weight_ppm))
        for at, (value, weight_ppm) in enumerate(rows)
    ]
    found = weighted(records, shares, lambda one: one.content.value)
    for name, share in shares.items():
        mine = [one.content.weight_ppm for one in found if one.content.value == name]
        wanted = len(records) * WHOLE_PPM * share / sum(shares.values())
        assert abs(sum(mine) - wanted) <= len(mine)


def test_a_part_without_share_is_left_out_and_a_share_without_part_refused() -> None:
    records = [record("plain", 1), record("general", 2)]
    assert [part(one) for one in Mixture(WHOLE_PPM, 0, 0).applied(records)] == ["value"]
    with pytest.raises(UsageError, match="safety is to have weight"):
        Mixture().applied(records)


@pytest.mark.parametrize("shares", [(1, 1, 1), (WHOLE_PPM + 1, -1, 0)])
def test_shares_are_a_million(shares: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="million"):
        Mixture(*shares)


def test_without_provenance_a_value_decides() -> None:
    asked = Conversation.of("May I?")
    assert part(Record(Preference(asked, "y", "n", "privacy"))) == "value"
    assert part(Record(Demonstration(asked, "y"))) == "general"
