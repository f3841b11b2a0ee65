"""What is wrong with a constitution before anybody trains on it or signs it.

    from loyal.community import constitution_file, lint

    assert not [one for one in lint.check(constitution_file.bundled("public-library"))]

`check` is pure: a constitution (and the version before it) in, findings out, the same each time. An
error means that no model can be trained or judged by it as it stands; a warning, that it will be
worse than it could be. Rules that read negations or quotes know English alone and say nothing about
other languages. Left out on purpose: what needs a model, such as values that conflict in meaning.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from loyal.community.constitution import WHOLE_BPS, Constitution, Value, words
from loyal.community.difference import diff
from loyal.community.overlap import likeness, near_pairs, shingles

LEAST_CASES = 2
"""Replies that keep and that break a value, each: with one, a test cannot tell it from luck."""

STATEMENT_WORDS = 60
"""A judge and a small model lose longer ones."""

REPLY_WORDS = 120

SAME_STATEMENT = 0.6
"""Likeness (overlap.py) from which two statements say the same thing."""

SAME_PROMPT = 0.8
"""Likeness from which a prompt in a test set is known from the training set."""

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing to mend."""

    severity: Severity
    rule: str
    """Its name, one of RULES."""
    value: str
    """Id of the value; empty for the whole."""
    what: str
    """What is wrong, in one line."""
    next: str
    """What to do, in one line."""


Rule = Callable[[Constitution], Iterator[Finding]]


def check(one: Constitution, against: Constitution | None = None) -> tuple[Finding, ...]:
    """Everything to mend, errors first, then in the order of RULES and of the values.

    With `against`, the version before it, the version number is checked too.
    """
    found = [finding for rule in _CHECKS for finding in rule(one)]
    if against is not None:
        found += _version(against, one)
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def _empty(one: Constitution) -> Iterator[Finding]:
    for value in one.values:
        if not words(value.statement):
            yield _error("empty-statement", value, "it has no statement", "say what a reply does")


def _untestable(one: Constitution) -> Iterator[Finding]:
    for value in one.values:
        kept, broken = len(value.keeps), len(value.breaks)
        if not kept and not broken:
            step = "write cases: a prompt, a reply that keeps it, one that breaks it"
            yield _error("no-cases", value, "it has no cases", step)
        elif min(kept, broken) < LEAST_CASES:
            what = f"{kept} replies keep it and {broken} break it: too few to test it"
            yield _error("untestable", value, what, f"write at least {LEAST_CASES} of each")


def _conflicts(one: Constitution) -> Iterator[Finding]:
    """The same reply to the same prompt, kept here and broken there."""
    kept = defaultdict(list)
    for value in one.values:
        for shown in value.keeps:
            kept[words(shown.prompt), words(shown.reply)].append(value.id)
    for value in one.values:
        for shown in value.breaks:
            for id in kept.get((words(shown.prompt), words(shown.reply)), ()):
                what = f"a reply that breaks it keeps {id}: {_short(shown.prompt)}"
                yield _error("conflict", value, what, "decide which, or weigh them by another case")


def _opposites(one: Constitution) -> Iterator[Finding]:
    """Statements that differ by a negation alone."""
    if not _english(one):
        return
    for first, second in combinations(one.values, 2):
        bare, signs = zip(*(_without_negations(v.statement) for v in (first, second)), strict=True)
        if bare[0] and bare[0] == bare[1] and signs[0] % 2 != signs[1] % 2:
            what = f"its statement says the opposite of {first.id}"
            yield _error("conflict", second, what, "keep one of them")


def _contradictions(one: Constitution) -> Iterator[Finding]:
    """A case that stands on the wrong side of its own value's statement."""
    for value in one.values:
        stated = shingles(value.statement)
        for shown in value.breaks:
            if value.statement and likeness(stated, shingles(shown.reply)) >= SAME_STATEMENT:
                what = f"a reply that breaks it says its statement: {_short(shown.prompt)}"
                yield _error("contradiction", value, what, "put the reply under keeps")
        for phrase in _forbidden_quotes(value.statement) if _english(one) else ():
            for shown in value.keeps:
                if f" {' '.join(words(phrase))} " in f" {' '.join(words(shown.reply))} ":
                    what = f'a reply that keeps it says "{phrase}": {_short(shown.prompt)}'
                    yield _error("contradiction", value, what, "change the reply or the statement")


def _red_lines(one: Constitution) -> Iterator[Finding]:
    """A reply that keeps a value and crosses a red line literally, anywhere."""
    lines = [(id, line) for id, line in one.lines() if line.phrases]
    for value in one.values:
        for shown in value.keeps:
            for id, line in lines:
                phrase = line.crossed_by(shown.reply)
                if phrase is not None:
                    whose = f"of {id}" if id else "for all"
                    what = f'a reply that keeps it crosses a red line {whose} by "{phrase}"'
                    step = f"change the reply to: {_short(shown.prompt)}"
                    yield _error("red-line", value, what, step)


def _weights(one: Constitution) -> Iterator[Finding]:
    for value in one.values:
        if not value.weight_bps:
            yield _error("weights", value, "it weighs nothing", "give it a weight, or take it out")
    total = sum(value.weight_bps for value in one.values)
    if total != WHOLE_BPS:
        what = f"all weights together are {total} bps, not {WHOLE_BPS}"
        yield _error("weights", None, what, f"change them by {WHOLE_BPS - total:+d} in all")


def _near_values(one: Constitution) -> Iterator[Finding]:
    for near in near_pairs([value.statement for value in one.values], SAME_STATEMENT):
        first, second = one.values[near.first], one.values[near.second]
        what = f"its statement is {near.likeness:.0%} that of {first.id}"
        yield _warning(
            "near-duplicate", second, what, "make one value of them, or say what differs"
        )


def _lengths(one: Constitution) -> Iterator[Finding]:
    for value in one.values:
        count = len(words(value.statement))
        if count > STATEMENT_WORDS:
            what = f"its statement has {count} words, over {STATEMENT_WORDS}"
            yield _warning("too-long", value, what, "say it shorter, or make two values of it")
        for shown in (*value.keeps, *value.breaks):
            count = len(words(shown.reply))
            if count > REPLY_WORDS:
                what = f"a reply has {count} words, over {REPLY_WORDS}: {_short(shown.prompt)}"
                yield _warning("too-long", value, what, "write one to three sentences")


def _leaks(one: Constitution) -> Iterator[Finding]:
    """Prompts so alike that a test on one is known from training on the other."""
    prompts: dict[tuple[str, ...], tuple[Value, str]] = {}
    for value in one.values:
        seen = set()
        for case in value.cases:
            whole = tuple(words(part) for part in (case.prompt, case.keeps, case.breaks))
            if whole in seen:
                what = f"a case stands there twice: {_short(case.prompt)}"
                yield _warning("leak", value, what, "take one out")
            seen.add(whole)
            holder, _ = prompts.setdefault(whole[0], (value, case.prompt))
            if holder is not value:
                what = f"a prompt of {holder.id} again: {_short(case.prompt)}"
                yield _warning("leak", value, what, "use it in one value alone")
    every = list(prompts.values())
    for near in near_pairs([prompt for _, prompt in every], SAME_PROMPT):
        (_, first), (value, second) = every[near.first], every[near.second]
        what = f"two prompts are {near.likeness:.0%} alike: {_short(first)} / {_short(second)}"
        yield _warning("leak", value, what, "ask for something else in one of them")


def _bare(one: Constitution) -> Iterator[Finding]:
    for value in one.values:
        if not value.why:
            yield _warning("no-why", value, "it does not say why", "give the reason in a sentence")
        if not value.topics:
            step = "name what conversations it is about"
            yield _warning("no-topics", value, "it has no topics", step)


def _version(old: Constitution, new: Constitution) -> Iterator[Finding]:
    if old.name != new.name:
        what = f"its name is not {old.name}, so it is no version of it"
        yield _error("version", None, what, "compare it with its own earlier version")
        return
    change = diff(old, new)
    if change.has == "back":
        what = f"version {new.version} is before {old.version}"
        yield _error("version", None, what, f"take a number after {old.version}")
    elif not change.fits:
        step = "no step" if change.has == "none" else f"a {change.has} step"
        what = f"the changes need a {change.needs} step from {old.version}, and {step} was made"
        yield _error("version", None, what, f"make it {_next_version(old.version, change.needs)}")


def _next_version(version: str, step: str) -> str:
    major, minor, patch = map(int, version.split("."))
    if step == "major":
        return f"{major + 1}.0.0"
    return f"{major}.{minor + 1}.0" if step == "minor" else f"{major}.{minor}.{patch + 1}"


_CHECKS: tuple[Rule, ...] = (
    _empty, _untestable, _conflicts, _opposites, _contradictions, _red_lines, _weights,
    _near_values, _lengths, _leaks, _bare,
)  # fmt: skip

RULES = (
    "empty-statement", "no-cases", "untestable", "conflict", "contradiction", "red-line", "weights",
    "near-duplicate", "too-long", "leak", "no-why", "no-topics", "version",
)  # fmt: skip
"""Every rule's name; docs/constitution.md says what each means."""

_NEGATIONS = frozenset("never not no don't doesn't cannot can't won't without nobody none".split())
_ALWAYS = frozenset("always do does will can".split())
_QUOTES = re.compile(
    r"\b(?:never|not|don['’]t|doesn['’]t)\b[^.;!?\"“”]*[\"“]([^\"“”]+)[\"”]", re.IGNORECASE
)


def _english(one: Constitution) -> bool:
    return one.language.split("-")[0] == "en"


def _without_negations(statement: str) -> tuple[tuple[str, ...], int]:
    """The words that carry the meaning, and how many negations stand among them."""
    said = words(statement)
    rest = tuple(word for word in said if word not in _NEGATIONS and word not in _ALWAYS)
    return rest, sum(word in _NEGATIONS for word in said)


def _forbidden_quotes(statement: str) -> list[str]:
    """What the statement quotes behind a never or a not."""
    return [phrase for phrase in _QUOTES.findall(statement) if words(phrase)]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57].rstrip()}..."


def _error(rule: str, value: Value | None, what: str, step: str) -> Finding:
    return Finding("error", rule, value.id if value else "", what, step)


def _warning(rule: str, value: Value | None, what: str, step: str) -> Finding:
    return Finding("warning", rule, value.id if value else "", what, step)
