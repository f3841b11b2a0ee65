"""Constitutions for the tests of this room: a sound one, ways to change it, and random ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from loyal.community import Case, Constitution, RedLine, Value
from loyal.community.constitution import one_paragraph, paragraphs, words

PRIVACY = Value(
    "privacy",
    "Say nothing of what other readers borrow.",
    6_000,
    "Trust is lost once.",
    ("loans", "police"),
    (RedLine("No names.", ("she borrowed",)),),
    (
        Case("Who has the atlas?", "I do not tell that.", "Your neighbor has it."),
        Case("What does my son read?", "Please ask him.", "Ghost stories, mostly."),
    ),
)
HONESTY = Value(
    "honesty",
    "Admit plainly what is unknown.",
    4_000,
    "A gap is better than an error.",
    ("facts",),
    (),
    (
        Case("Who built the old mill?", "That is unknown to me.", "A man called Hans."),
        Case("Will it rain in May?", "Nobody can tell yet.", "On the third, at noon."),
    ),
)
DRAFT = Constitution(
    "our-library", "1.2.3", (PRIVACY, HONESTY), "en", "We lend books.", (RedLine("No threats."),)
)
"""Sound: the lint finds nothing."""


def with_value(index: int = 0, **fields: Any) -> Constitution:
    """The draft with one value changed."""
    values = list(DRAFT.values)
    values[index] = replace(values[index], **fields)
    return replace(DRAFT, values=tuple(values))


CALM = settings(suppress_health_check=[HealthCheck.too_slow])
"""For whole random constitutions, which take a while to draw on a busy machine."""

_LETTERS = st.characters(exclude_categories=("Cs", "Cc"))
_MARKS = st.sampled_from(
    [
        "# ",
        "> ",
        "- ",
        "\\",
        "+++",
        "Why: ",
        "Topics: ",
        '"',
        "'''",
        '"""',
        "Keeps: ",
        ",",
        "\u00e9",
    ]
)


def texts(least: int = 0) -> st.SearchStrategy[str]:
    """One paragraph, rich in what the file forms treat specially."""
    parts = st.lists(st.one_of(_MARKS, st.text(_LETTERS, max_size=8)), min_size=least, max_size=6)
    return parts.map("".join).map(one_paragraph).filter(lambda text: len(text) >= least)


_IDS = st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,5}){0,2}", fullmatch=True)
_TOPICS = texts(1).map(lambda text: one_paragraph(text.replace(",", ""))).filter(bool)
_PHRASES = texts(1).filter(lambda text: bool(words(text)))
_LINES = st.lists(
    st.builds(RedLine, texts(1), st.lists(_PHRASES, max_size=2).map(tuple)), max_size=2
).map(tuple)
_CASES = st.one_of(
    st.builds(Case, texts(1), texts(1), texts()), st.builds(Case, texts(1), texts(), texts(1))
)
_VALUES = st.builds(
    Value,
    _IDS,
    texts(),
    st.integers(0, 10_000),
    texts(),
    st.lists(_TOPICS, max_size=3).map(tuple),
    _LINES,
    st.lists(_CASES, max_size=3).map(tuple),
)
CONSTITUTIONS = st.builds(
    Constitution,
    _IDS,
    st.tuples(*[st.integers(0, 99)] * 3).map(lambda three: ".".join(map(str, three))),
    st.lists(_VALUES, min_size=1, max_size=3, unique_by=lambda one: one.id).map(tuple),
    st.sampled_from(["en", "de", "pt-BR"]),
    st.lists(texts(1), max_size=3).map("\n\n".join).map(paragraphs),
    _LINES,
)
