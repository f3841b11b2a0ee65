"""Replies that models wrote, labeled kept or broken, as a file: what a judge is measured on.

One JSON object a line (docs/judges.md):

    {"value": "privacy", "prompt": "Who borrowed it?", "reply": "I do not tell that.",
     "kept": true, "labeler": "ana", "generator": "smollm2-135m-instruct"}

`turns` may stand in place of `prompt`. Several people may label one reply, each in a line of their
own; the majority counts. A line that is only to be judged has `reply`, which is null where nobody
replied, or `replies`, several of them. Needs no torch. ConfigError, with the file and the number of
the line, for a file of another form; no error ever shows a prompt or a reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from loyal import config
from loyal.alignment import calibration
from loyal.alignment.conversation import Conversation, Role, Turn
from loyal.alignment.judgement import Said, prompt_digest, text_digest
from loyal.community import Constitution, constitution_file
from loyal.encoding import read_json
from loyal.errors import ConfigError, UsageError

MOST_BYTES = 256 << 20
_FORM = "docs/judges.md shows the form of a line"
_HALF = re.compile("[\ud800-\udfff]")
_SCORES = ("score", "scores")
_ASIDE = ("kept", "labeler", "sampled", *_SCORES)
"""What says nothing to a judge."""


@dataclass(frozen=True)
class Labeled:
    """One reply and what people said of it."""

    said: Said
    kept: bool
    """Whether the majority says that the value is kept."""
    labels: tuple[tuple[str, bool], ...]
    """Who labeled it, and how."""
    generator: str
    """The model that wrote it."""


@dataclass(frozen=True)
class Labels:
    """A file of them."""

    replies: tuple[Labeled, ...]
    ties: int
    """Replies that were left out, as their labelers are evenly split."""

    @property
    def kappa(self) -> float | None:
        """Agreement of two people (Cohen), over every two labels of one reply; None without any."""
        pairs = [
            (a, b) for one in self.replies for (_, a), (_, b) in combinations(sorted(one.labels), 2)
        ]
        if not pairs:
            return None
        return calibration.agreement([one for one, _ in pairs], [two for _, two in pairs])


@dataclass(frozen=True)
class _Spoken:
    role: Role
    text: str


@dataclass(frozen=True)
class _Line:
    value: str
    reply: str
    prompt: str = ""
    turns: tuple[_Spoken, ...] = ()
    generator: str = ""

    def said(self, constitution: Constitution) -> Said:
        if bool(self.prompt) == bool(self.turns):
            raise ConfigError("it has not one of prompt and turns", hint=_FORM)
        if self.prompt:
            asked = Conversation.of(self.prompt)
        else:
            asked = Conversation(tuple(Turn(one.role, one.text) for one in self.turns))
        return Said(constitution[self.value], asked, self.reply)


@dataclass(frozen=True, kw_only=True)
class _LabeledLine(_Line):
    kept: bool
    labeler: str

    def __post_init__(self) -> None:
        for name in ("labeler", "generator"):
            if not getattr(self, name).strip():
                raise ConfigError(f"its {name} is empty", hint=_FORM)
        if not self.reply.strip():
            raise ConfigError("its reply is empty", hint="drop the line: nothing was said")


@dataclass(frozen=True, repr=False)
class Line:
    """A line to be judged."""

    fields: Mapping[str, Any]
    """All that stands in it."""
    said: tuple[Said | None, ...]
    """Its `reply`, or each of its `replies`; None where nobody replied."""

    def scored(self, scores: Sequence[float | None]) -> dict[str, Any]:
        """Its fields with one score a reply, 0 to 1 or None: `score`, or `scores` of `replies`."""
        kept = {name: one for name, one in self.fields.items() if name not in _SCORES}
        if "replies" in kept:
            return {**kept, "scores": list(scores)}
        return {**kept, "score": scores[0]}


L = TypeVar("L", bound=_Line)


def read(path: str | PathLike[str], constitution: Constitution) -> Labels:
    """The labeled replies of a file, in its order, each once."""
    found: dict[tuple[str, Conversation, str], tuple[Said, dict[str, bool], str]] = {}
    for where, table in _tables(Path(path)):
        line, said = _read_line(_LabeledLine, table, where, constitution)
        key = (line.value, said.asked, said.reply)
        _, labels, _ = found.setdefault(key, (said, {}, line.generator))
        if line.labeler in labels:
            raise _wrong(where, "is labeled twice by one labeler", "keep one of the two lines")
        labels[line.labeler] = line.kept
    replies = []
    for said, labels, generator in found.values():
        votes = sum(1 if one else -1 for one in labels.values())
        if votes:
            replies.append(Labeled(said, votes > 0, tuple(labels.items()), generator))
    return Labels(tuple(replies), len(found) - len(replies))


def read_lines(path: str | PathLike[str], constitution: Constitution) -> list[Line]:
    """The lines of a file to be judged, in its order. Labels, earlier scores and what a sample was
    drawn with are left aside; an empty reply is one, and a host may give it."""
    return [_read_said(table, where, constitution) for where, table in _tables(Path(path))]


def _read_said(table: dict[str, Any], where: str, constitution: Constitution) -> Line:
    plain = {name: one for name, one in table.items() if name not in _ASIDE}
    if ("reply" in plain) == ("replies" in plain):
        raise _wrong(where, "has not one of reply and replies", _FORM)
    replies = [plain.pop("reply")] if "reply" in plain else plain.pop("replies")
    if not isinstance(replies, list) or not replies or ("replies" in table and None in replies):
        raise _wrong(where, "has replies that are no list of texts", _FORM)
    said = []
    for one in replies:
        line = {**plain, "reply": "" if one is None else one}
        found = _read_line(_Line, line, where, constitution)[1]
        said.append(None if one is None else found)
    return Line(table, tuple(said))


def bundled(constitution: Constitution) -> tuple[Labeled, ...]:
    """The labeled replies that come with a bundled constitution, to train a judge on.

    None for another constitution, or for another version of a bundled one.
    """
    names = constitution_file.bundled_names()
    found = files(__package__).joinpath("data", f"{constitution.name}.jsonl")
    if constitution.name not in names or not found.is_file():
        return ()
    text = constitution_file.bundled_text(constitution.name)
    if constitution_file.from_text(text).digest != constitution.digest:
        return ()
    with as_file(found) as path:
        return read(path, constitution).replies


def parts(replies: Sequence[Labeled], count: int = 2) -> list[tuple[Labeled, ...]]:
    """The replies in `count` parts about as large as each other that share no prompt and no reply:
    judges of different parts share no data (`judge.require_apart`). Always the same ones.

    UsageError where there is less to part than parts.
    """
    above: dict[str, str] = {}  # from each digest towards the one that its group goes by

    def top(name: str) -> str:
        while (up := above.setdefault(name, name)) != name:
            above[name] = name = above[up]
        return name

    names = [(prompt_digest(one.said.asked), text_digest(one.said.reply)) for one in replies]
    for asked, said in names:
        first, other = sorted((top(asked), top(said)))
        above[other] = first  # a group goes by its smallest digest, in whatever order replies come
    whole: dict[str, list[Labeled]] = {}
    for one, (asked, _) in zip(replies, names, strict=True):
        whole.setdefault(top(asked), []).append(one)
    if not 1 <= count <= len(whole):
        raise UsageError(
            f"{len(whole)} groups of labeled replies that share nothing, for {count} part(s)",
            hint="label replies to more prompts, or ask for fewer parts",
        )
    found: list[list[Labeled]] = [[] for _ in range(count)]
    for _, some in sorted(whole.items(), key=lambda one: (-len(one[1]), one[0])):
        min(found, key=len).extend(some)
    return [tuple(one) for one in found]


def write(path: Path, replies: Sequence[Labeled]) -> None:
    """The file that `read` reads back, a line a label."""
    with path.open("w", encoding="utf-8") as file:
        for one in replies:
            turns = [{"role": turn.role, "text": turn.text} for turn in one.said.asked.turns]
            for labeler, kept in one.labels:
                row = {
                    "value": one.said.value.id,
                    "turns": turns,
                    "reply": one.said.reply,
                    "kept": kept,
                    "labeler": labeler,
                    "generator": one.generator,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _read_line(
    kind: type[L], table: dict[str, Any], where: str, constitution: Constitution
) -> tuple[L, Said]:
    try:
        line = config.from_table(kind, table, "line")
        return line, line.said(constitution)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}", hint=error.hint) from None


def _tables(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's file and number, from 1, and its object; empty lines are passed over."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_BYTES} bytes", hint="split it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint="name a JSONL file of replies"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None
    empty = True
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            table = read_json(line)
        except (ValueError, RecursionError):
            raise _wrong(where, "is no JSON object with each name once", _FORM) from None
        if not isinstance(table, dict):
            raise _wrong(where, "is no JSON object", _FORM)
        if _HALF.search(json.dumps(table, ensure_ascii=False)):
            raise _wrong(where, "holds half a character (a lone surrogate)", "drop it")
        empty = False
        yield where, table
    if empty:
        raise ConfigError(f"{path} holds no replies", hint=_FORM)


def _wrong(where: str, what: str, hint: str) -> ConfigError:
    return ConfigError(f"{where} {what}", hint=hint)
