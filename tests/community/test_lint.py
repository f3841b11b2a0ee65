"""Each rule of the lint turns red on a planted fault, and on that alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drafts import CALM, CONSTITUTIONS, DRAFT, HONESTY, PRIVACY, with_value
from hypothesis import given, settings

from loyal.community import Case, Constitution, RedLine, lint

SAID = Case("What did she take?", "I will not say.", "Say nothing of what other readers borrow.")
LOUD = RedLine("No shouting.", ("hear me",))


def with_cases(*more: Case, index: int = 0) -> Constitution:
    """The draft with cases added to one value."""
    return with_value(index, cases=(*DRAFT.values[index].cases, *more))


PLANTED = {
    "no statement": (with_value(statement="..."), "empty-statement", "privacy"),
    "no cases": (with_value(1, cases=()), "no-cases", "honesty"),
    "one case": (with_value(cases=PRIVACY.cases[:1]), "untestable", "privacy"),
    "kept alone": (
        with_value(cases=tuple(replace(one, breaks="") for one in PRIVACY.cases)),
        "untestable",
        "privacy",
    ),
    "kept here, broken there": (
        replace(
            DRAFT,
            values=(
                with_cases(Case("Who was it?", "I do not know.", "")).values[0],
                with_cases(Case("Who was it", "", "I do NOT know"), index=1).values[1],
            ),
        ),
        "conflict",
        "honesty",
    ),
    "kept and broken": (with_cases(Case("A pen?", "Take it.", "Take it!")), "conflict", "privacy"),
    "the opposite statement": (
        with_value(1, statement="Never say nothing of what other readers borrow"),
        "conflict",
        "honesty",
    ),
    "a broken reply says the statement": (with_cases(SAID), "contradiction", "privacy"),
    "a kept reply says what is forbidden": (
        with_value(1, statement='Never say "tell yet" to anybody.'),
        "contradiction",
        "honesty",
    ),
    "a red line of the same value": (
        with_cases(Case("Did she?", "Yes, she borrowed it.", "")),
        "red-line",
        "privacy",
    ),
    "a red line of another value": (
        with_cases(Case("Did she?", "I know that she borrowed it.", ""), index=1),
        "red-line",
        "honesty",
    ),
    "a general red line": (
        replace(with_cases(Case("Loud?", "Hear me!", "")), red_lines=(LOUD,)),
        "red-line",
        "privacy",
    ),
    "a weight too many": (with_value(weight_bps=6_001), "weights", ""),
    "no weight": (
        replace(
            with_value(weight_bps=10_000),
            values=(replace(PRIVACY, weight_bps=10_000), replace(HONESTY, weight_bps=0)),
        ),
        "weights",
        "honesty",
    ),
    "nearly the same statement": (
        with_value(1, statement="Say nothing of what other readers ever borrow."),
        "near-duplicate",
        "honesty",
    ),
    "a long statement": (
        with_value(statement=" ".join(f"w{n}" for n in range(61))),
        "too-long",
        "privacy",
    ),
    "a long reply": (
        with_cases(Case("Talk?", "", " ".join(f"w{n}" for n in range(121)))),
        "too-long",
        "privacy",
    ),
    "a case twice": (with_cases(PRIVACY.cases[0]), "leak", "privacy"),
    "a prompt of another value": (
        with_cases(replace(HONESTY.cases[0], keeps="I do not say.", breaks="Hans did.")),
        "leak",
        "honesty",
    ),
    "nearly the same prompt": (
        with_cases(
            Case("Where can I find the very old map of our town here?", "There.", "Go away."),
            Case("Where can I find the very old map of our town here now?", "Left.", "Not you."),
        ),
        "leak",
        "privacy",
    ),
    "no why": (with_value(why=""), "no-why", "privacy"),
    "no topics": (with_value(1, topics=()), "no-topics", "honesty"),
}

ALIKE_TOO = {"kept here, broken there": ["leak"], "the opposite statement": ["near-duplicate"]}
"""Faults whose two sides are also alike."""

WARNINGS = {"near-duplicate", "too-long", "leak", "no-why", "no-topics"}


def test_a_sound_constitution_has_no_findings() -> None:
    assert lint.check(DRAFT) == ()


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_alone(fault: str) -> None:
    planted, rule, value = PLANTED[fault]
    found, *beside = lint.check(planted)
    assert (found.rule, found.value) == (rule, value)
    assert [one.rule for one in beside] == ALIKE_TOO.get(fault, [])
    assert found.severity == ("warning" if rule in WARNINGS else "error")
    for text in (found.what, found.next):
        assert text
        assert "\n" not in text


def test_every_rule_was_seen() -> None:
    assert {rule for _, rule, _ in PLANTED.values()} | {"version"} == set(lint.RULES)


@pytest.mark.parametrize(
    ("version", "fields", "says"),
    [
        ("1.2.3", {"why": "Another."}, "1.2.4"),
        ("1.2.4", {"topics": ("loans",)}, "1.3.0"),
        ("1.3.0", {"statement": "Be quiet about what readers borrow."}, "2.0.0"),
        ("1.2.2", {}, "after 1.2.3"),
    ],
)
def test_a_version_that_does_not_fit_is_found(
    version: str, fields: dict[str, object], says: str
) -> None:
    later = replace(with_value(**fields), version=version)
    (found,) = lint.check(later, against=DRAFT)
    assert (found.severity, found.rule) == ("error", "version")
    assert says in found.next


def test_a_version_that_fits_is_not_found() -> None:
    assert lint.check(DRAFT, against=DRAFT) == ()
    assert lint.check(replace(with_value(why="New."), version="1.2.4"), against=DRAFT) == ()
    assert lint.check(replace(DRAFT, version="2.0.0"), against=DRAFT) == ()


def test_another_constitution_is_no_earlier_version() -> None:
    (found,) = lint.check(replace(DRAFT, name="other"), against=DRAFT)
    assert "our-library" in found.what


def test_english_rules_leave_other_languages_alone() -> None:
    for fault in ("the opposite statement", "a kept reply says what is forbidden"):
        found = lint.check(replace(PLANTED[fault][0], language="de"))
        assert not {one.rule for one in found} & {"conflict", "contradiction"}


def test_errors_come_first() -> None:
    both = replace(with_value(why="", weight_bps=5_000))
    assert [one.severity for one in lint.check(both)] == ["error", "warning"]


@given(CONSTITUTIONS)
@settings(CALM, max_examples=60)
def test_any_constitution_is_checked_the_same_each_time(one: Constitution) -> None:
    found = lint.check(one)
    assert found == lint.check(one)
    assert {each.rule for each in found} <= set(lint.RULES)
