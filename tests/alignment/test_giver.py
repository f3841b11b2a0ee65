"""Who gives data: names on every record, the stake on the loss, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loyal.alignment import Conversation, Mixture, Plan, Preference, Provenance, Record, preferences
from loyal.alignment.giver import Giver, stake_of
from loyal.alignment.mixture import part
from loyal.alignment.preference import MOST_WEIGHT_PPM, WHOLE_PPM, Split
from loyal.alignment.synthesize import Made, Task, synthesize
from loyal.alignment.writers import CaseJudge, Cases
from loyal.community import constitution_file
from loyal.errors import UsageError

LIBRARY = constitution_file.bundled("public-library")
TASK = Task(LIBRARY, Plan(pairs=40, held_out=10, general=10, safety=10))
MEMBER = Giver("member-7", "spring", 2_500_000)


def gathered(giver: Giver, path: Path | None = None) -> Made:
    return synthesize(replace(TASK, giver=giver), Cases(), CaseJudge(LIBRARY), path)


def record(weight_ppm: int, split: Split = "train") -> Record:
    asked = Conversation.of("May I?")
    origin = Provenance("plain", split)
    return Record(Preference(asked, "yes", "no", weight_ppm=weight_ppm), origin)


def test_each_record_has_the_names_and_what_is_trained_on_the_stake(tmp_path: Path) -> None:
    plain, mine = gathered(Giver()), gathered(MEMBER)
    for before, after in (
        (plain.train, mine.train),
        (plain.held_out, mine.held_out),
        (plain.demonstrations, mine.demonstrations),
        (plain.mixed(Mixture()), mine.mixed(Mixture())),
    ):
        assert len(before) == len(after) > 0
        for one, other in zip(before, after, strict=True):
            assert one.provenance == other.provenance
            assert one.provenance is not None
            assert one.content.contributor == one.content.campaign == ""
            assert other.content.contributor == "member-7"
            assert other.content.campaign == "spring"
            factor = 2.5 if one.provenance.split == "train" else 1
            weight = factor * one.content.weight_ppm
            assert other.content.weight_ppm == pytest.approx(weight, abs=5)
        preferences.write(tmp_path / "file", after)
        assert list(preferences.read(tmp_path / "file")) == after
    assert {one.content.weight_ppm for one in mine.held_out} == {WHOLE_PPM}
    sums: Counter[str] = Counter()
    mixed = mine.mixed(Mixture())
    for one in mixed:
        sums[part(one)] += one.content.weight_ppm
    whole = 2.5 * WHOLE_PPM * len(mixed)
    for kind, share in vars(Mixture()).items():
        assert sums[kind] == pytest.approx(whole * share / WHOLE_PPM, rel=1e-4)


def test_a_state_serves_another_giver(tmp_path: Path) -> None:
    path = tmp_path / "state"
    gathered(MEMBER, path)
    kept = path.read_bytes()
    other = gathered(Giver("member-8"), path)
    assert path.read_bytes() == kept
    assert other.train == gathered(Giver("member-8")).train


@given(st.integers(1, MOST_WEIGHT_PPM), st.integers(1, MOST_WEIGHT_PPM))
def test_a_weight_times_a_stake_is_whole_and_within_bounds(weight: int, stake: int) -> None:
    giver, one = Giver("m", stake_ppm=stake), record(weight)
    exact = weight * stake / WHOLE_PPM
    if 0.5 <= exact < MOST_WEIGHT_PPM + 0.5:
        found = giver.gives(one).content.weight_ppm
        assert type(found) is int
        assert abs(found - exact) <= 0.5
    else:
        with pytest.raises(UsageError, match="not between") as caught:
            giver.gives(one)
        assert "nearer to 1" in caught.value.hint
    assert giver.gives(record(weight, "held-out")).content.weight_ppm == weight


@given(st.integers(1, MOST_WEIGHT_PPM))
@example(1)
@example(2_500_000)
@example(249)
@example(507)
@example(MOST_WEIGHT_PPM)
def test_a_decimal_is_read_exactly(stake_ppm: int) -> None:
    whole, rest = divmod(stake_ppm, WHOLE_PPM)
    long = f"{whole}.{rest:06}"
    assert stake_of(long) == stake_ppm
    assert stake_of(long.rstrip("0").rstrip(".")) == stake_ppm
    assert Giver("m", stake_ppm=stake_ppm).stake_ppm == stake_ppm


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1.0000001", ".5", "5.", "1,5", "1_0", "nan", "inf", " 1", "٣",
             "1\n", "9" * 5000],
)  # fmt: skip
def test_what_is_no_decimal_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="decimal"):
        stake_of(text)


@pytest.mark.parametrize("stake_ppm", [0, -1, MOST_WEIGHT_PPM + 1])
def test_a_stake_out_of_bounds_is_refused(stake_ppm: int) -> None:
    with pytest.raises(UsageError, match="factor from"):
        Giver("m", stake_ppm=stake_ppm)


@pytest.mark.parametrize("name", ["a\nb", "a\0", "x" * 257, " a", "a ", "\u202ea", " "])
def test_names_that_no_file_may_hold_are_refused(name: str) -> None:
    for fields in ({"contributor": name}, {"campaign": name}):
        with pytest.raises(UsageError, match=f"the {next(iter(fields))} is no plain text"):
            Giver(**fields)


def test_a_stake_is_somebodys() -> None:
    with pytest.raises(UsageError, match="without a member"):
        Giver(campaign="spring", stake_ppm=2)
