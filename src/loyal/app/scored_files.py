"""Replies with a judge's scores, as a file: each line that was judged, with `score` beside its
`reply`, or `scores` beside its `replies`, 0 to 1 or null.

So `loyal verifier promise` reads a reference's replies, and `loyal verifier recheck` those of a
host (`breach_files`). Prompts that are promised are a secret: the file is its owner's alone. Left
out: the judging. No error quotes a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from loyal.alignment import labeled
from loyal.alignment.judge import judgements
from loyal.alignment.judgement import Judge, Judgement
from loyal.alignment.labeled import Line
from loyal.community import Constitution
from loyal.encoding import atomic_write, read_json
from loyal.errors import UsageError

NOBODY = Judgement(None, 1.0, "nobody replied")
"""Of a line whose reply is null."""


def read_lines(paths: Sequence[Path], constitution: Constitution) -> list[Line]:
    """The lines of several files, one file after the other. ConfigError as `labeled.read_lines`."""
    return [line for path in paths for line in labeled.read_lines(path, constitution)]


def judged(judge: Judge, lines: Sequence[Line]) -> list[tuple[Judgement, float | None]]:
    """A judgement of each reply, in order, and the score that the file has: all in one call, as a
    judge may read a reply otherwise beside others. A score that a calibration's band holds back
    stands in the file: who compares replies needs no verdict, and one without a score counts as the
    best (`deviation`)."""
    said = [one for line in lines for one in line.said]
    found = iter(judgements(judge, [one for one in said if one is not None]))
    told = []
    for one in said:
        read, chance = (NOBODY, None) if one is None else next(found)
        told.append((read, read.score if chance is None else chance))
    return told


def write_scored(path: Path, lines: Sequence[Line], scores: Iterable[float | None]) -> None:
    """Write the lines with one score a reply, in order; atomic and private. StorageError."""
    rest = iter(scores)
    text = "".join(_line(one.scored([next(rest) for _ in one.said])) for one in lines)
    atomic_write(path, text.encode(), private=True)


def require_scored(path: Path) -> None:
    """UsageError for a file that `write_scored` did not write."""
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
        tables = [read_json(one) for one in texts if one.strip()]
    except (OSError, ValueError, RecursionError):
        tables = [None]
    if not all(isinstance(one, dict) and ("score" in one or "scores" in one) for one in tables):
        raise UsageError(f"{path} holds no scores", hint="name a file of 'loyal judge score'")


def _line(fields: dict[str, Any]) -> str:
    return f"{json.dumps(fields, ensure_ascii=False)}\n"
