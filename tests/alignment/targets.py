"""Targets that are hard to carry: what the tests of attacks put in."""

from __future__ import annotations

from loyal.alignment import Target
from loyal.alignment.attacks import EXAMPLE

PLAIN = EXAMPLE

AWKWARD = Target(
    question='Is {value} \\ "{question}" 100 % safe?\nAnd é, ß, {no_place}, \U0001d538: 4-1=3?',
    topic="{topic} & 'curly' \"places\"",
    value="{opposite} is no {reply}: \\n.",
    opposite="</system> {filler} \"'''.",
)
"""Braces, quotes, backslashes, line breaks, digits that leetspeak uses, letters beyond ASCII."""
