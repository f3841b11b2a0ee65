"""Replies with a judge's scores, as a file: each line that was judged, with `score` beside its
`reply`, or `scores` beside its `replies`, 0 to 1 or null.

So `loyal verifier promise` reads a reference's replies, and `loyal verifier recheck` those of a
host (`breach_files`). Prompts that are promised are a secret: the file is its owner's alone. Left
out: the judging. No error quotes a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from loyal.alignment import labeled
from loyal.alignment.judge import identity, judgements
from loyal.alignment.judgement import Judge, Judgement, Said
from loyal.alignment.labeled import Line
from loyal.alignment.table_file import TableForm
from loyal.community import Constitution
from loyal.encoding import Encodable, atomic_write, digest, read_json
from loyal.errors import UsageError

BLOCK = 64
"""Replies judged between two writes of what was judged so far."""
_STATE = TableForm("loyal scores state 1", "state of scores", "loyal judge score", 256 << 20)
_PURPOSE = "loyal/scores state/1"
Told = tuple[Judgement, float | None]
"""What a judge says of a reply, and the score that the file has."""

NOBODY = Judgement(None, 1.0, "nobody replied")
"""Of a line whose reply is null."""


def state_of(out: Path) -> Path:
    """Where what was judged is kept until `out` is written."""
    return out.with_name(f"{out.name}.state")


def read_lines(paths: Sequence[Path], constitution: Constitution) -> list[Line]:
    """The lines of several files, one file after the other. ConfigError as `labeled.read_lines`."""
    return [line for path in paths for line in labeled.read_lines(path, constitution)]


def judged(
    judge: Judge, lines: Sequence[Line], state: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[Told]:  # fmt: skip
    """A judgement of each reply, in order.

    A score that a calibration's band holds back stands in the file: who compares replies needs no
    verdict, and one without a score counts as the best (`deviation`). Replies are judged in blocks
    that each hold some of the whole, as a judge gives up where most of what it reads is of no use,
    and no lines beside one another are to decide that. What is judged is kept in the file `state`,
    and not judged again by the next call of the same judge and lines; remove it in the end. With
    one, judgements have no reason: a judge's words may quote what it read. ConfigError for a file
    of another form, StorageError where it cannot be written.
    """
    every = [one for line in lines for one in line.said]
    said = [one for one in every if one is not None]
    count = -(-len(said) // BLOCK)
    blocks = [said[at::count] for at in range(count)]
    kept = _State(state, judge, blocks)
    for block in blocks[len(kept.told) :]:
        told = judgements(judge, block)
        kept.add([(read, read.score if chance is None else chance) for read, chance in told])
        progress(sum(map(len, kept.told)), len(said))
    found = (kept.told[at % count][at // count] for at in range(len(said)))
    return [(NOBODY, None) if one is None else next(found) for one in every]


class _State:
    """What was judged so far: whole blocks, in order."""

    def __init__(self, path: Path | None, judge: Judge, blocks: Sequence[Sequence[Said]]) -> None:
        self.path = path
        self.told: list[list[Told]] = []
        if path is None:
            return
        record: Encodable = [
            identity(judge),
            [[_record(one) for one in block] for block in blocks],
        ]
        self.identity = digest(record, _PURPOSE).hex()
        if path.exists():
            table = _STATE.read(path)
            if table.get("identity") == self.identity:
                self.told = self._read(path, table, [len(one) for one in blocks])

    def add(self, told: list[Told]) -> None:
        """Keep one block more."""
        if self.path is not None:
            told = [(replace(read, reason=""), score) for read, score in told]
        self.told.append(told)
        if self.path is not None:
            table = {"format": _STATE.format, "identity": self.identity, "told": self.told}
            data = json.dumps(msgspec.to_builtins(table))
            atomic_write(self.path, f"{data}\n".encode(), private=True)

    @staticmethod
    def _read(path: Path, table: dict[str, Any], sizes: list[int]) -> list[list[Told]]:
        try:
            told = msgspec.convert(table.get("told"), list[list[Told]])
        except (msgspec.ValidationError, UsageError):
            raise _STATE.misfit(path) from None
        if len(told) > len(sizes) or [len(one) for one in told] != sizes[: len(told)]:
            raise _STATE.misfit(path)
        return told


def _record(said: Said) -> Encodable:
    turns = [[turn.role, turn.text or ""] for turn in said.asked.turns]
    return [said.value.id, turns, said.reply]


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
