"""What changed, what it needs, and laws that any two versions keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drafts import CALM, CONSTITUTIONS, DRAFT, HONESTY, PRIVACY, with_value
from hypothesis import given, settings

from loyal.community import Case, Constitution, RedLine, Value
from loyal.community.difference import diff

NEW = Value("thrift", "Name the cheapest way first.", 500)
LINE = RedLine("No ads.")


@pytest.mark.parametrize(
    ("later", "needs"),
    [
        (DRAFT, "none"),
        (replace(DRAFT, values=DRAFT.values[::-1]), "none"),
        (replace(DRAFT, preamble="Hello."), "patch"),
        (with_value(why="Because."), "patch"),
        (with_value(topics=PRIVACY.topics[::-1]), "patch"),
        (with_value(cases=PRIVACY.cases[::-1]), "patch"),
        (with_value(weight_bps=6_500), "minor"),
        (with_value(topics=("loans",)), "minor"),
        (with_value(cases=(*PRIVACY.cases, Case("A map?", "Here."))), "minor"),
        (replace(DRAFT, values=(*DRAFT.values, NEW)), "minor"),
        (replace(DRAFT, values=(*DRAFT.values, replace(NEW, red_lines=(LINE,)))), "major"),
        (replace(DRAFT, values=(PRIVACY,)), "major"),
        (with_value(statement="Say less."), "major"),
        (with_value(red_lines=()), "major"),
        (replace(DRAFT, red_lines=(*DRAFT.red_lines, LINE)), "major"),
        (replace(DRAFT, language="de"), "major"),
        (replace(DRAFT, name="other"), "major"),
        (
            replace(
                DRAFT,
                values=(replace(PRIVACY, weight_bps=4_000), replace(HONESTY, weight_bps=6_000)),
            ),
            "major",
        ),
    ],
)
def test_what_a_change_needs(later: Constitution, needs: str) -> None:
    assert diff(DRAFT, later).needs == needs


def test_values_that_become_equal_in_weight_did_not_change_places() -> None:
    assert not diff(DRAFT, with_value(weight_bps=4_000)).reordered
    assert diff(DRAFT, with_value(weight_bps=3_999)).reordered


def test_the_changes_are_named() -> None:
    later = replace(
        DRAFT,
        version="2.0.0",
        preamble="We lend more.",
        values=(
            replace(PRIVACY, weight_bps=9_000, topics=("loans", "family")),
            replace(NEW, weight_bps=1_000),
        ),
    )
    change = diff(DRAFT, later)
    assert change
    (head,) = change.head
    assert (head.field, head.before, head.after) == ("preamble", "We lend books.", "We lend more.")
    privacy, honesty, thrift = change.values
    assert (privacy.id, privacy.kind, privacy.bump) == ("privacy", "changed", "minor")
    assert (privacy.weight_before, privacy.weight_after) == (6_000, 9_000)
    fields = {one.field: (one.before, one.after) for one in privacy.fields}
    assert fields == {"weight_bps": ("6000", "9000"), "topics": ("police", "family")}
    assert (honesty.id, honesty.kind, honesty.weight_after) == ("honesty", "removed", 0)
    assert (thrift.id, thrift.kind, thrift.weight_before) == ("thrift", "added", 0)


@pytest.mark.parametrize(
    ("old", "new", "has"),
    [
        ("1.2.3", "1.2.3", "none"),
        ("1.2.3", "1.2.9", "patch"),
        ("1.2.3", "1.3.0", "minor"),
        ("1.2.3", "2.0.0", "major"),
        ("1.2.10", "1.2.9", "back"),
        ("2.0.0", "1.9.9", "back"),
    ],
)
def test_the_step_that_was_made(old: str, new: str, has: str) -> None:
    assert diff(replace(DRAFT, version=old), replace(DRAFT, version=new)).has == has


def test_before_the_first_release_a_minor_step_is_enough() -> None:
    early = replace(DRAFT, version="0.3.1")
    change = diff(early, replace(with_value(statement="Say less."), version="0.4.0"))
    assert (change.needs, change.fits) == ("minor", True)
    assert not diff(early, replace(with_value(statement="Say less."), version="0.3.2")).fits


@given(CONSTITUTIONS, CONSTITUTIONS)
@settings(CALM, max_examples=80)
def test_laws_of_differences(one: Constitution, other: Constitution) -> None:
    assert not diff(one, one)
    there, back = diff(one, other), diff(other, one)
    assert there.reordered == back.reordered
    before = {value.id: value.weight_bps for value in one.values}
    after = {value.id: value.weight_bps for value in other.values}
    kept = before.keys() & after.keys()
    swapped = any(before[a] < before[b] and after[a] > after[b] for a in kept for b in kept)
    assert there.reordered == swapped
    if not there and one.digest != other.digest:
        assert sorted(v.id for v in one.values) == sorted(v.id for v in other.values)
