"""Constitutions as files: TOML, or Markdown with TOML front matter; both give equal records.

    from loyal.community import constitution_file

    library = constitution_file.bundled("public-library")
    text = constitution_file.to_toml(library)
    assert constitution_file.from_toml(text) == library
    assert constitution_file.from_markdown(constitution_file.to_markdown(library)) == library

The Markdown is read strictly, line by line: what would not be signed is refused, never skipped
(docs/constitution.md shows the form). White space is one space wherever it stands, and a text is
one paragraph, so that wrapping lines anew changes no digest. Left out: whether it is any good
(lint.py).
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from loyal import config
from loyal.community.constitution import (
    Case,
    Constitution,
    RedLine,
    Value,
    one_paragraph,
    paragraphs,
)
from loyal.errors import ConfigError

MOST_BYTES = 1 << 22
"""A file of 4 MiB has some ten thousand cases; what is larger is no constitution."""

_NOUN = "constitution"
_FENCE = "+++"
_RED_LINES = "Red lines"
_HEADING = re.compile(r"## +(\S+) +\((\d{1,9}) bps\)")
_LABEL = re.compile(r"([A-Z][A-Za-z ]{0,20}): *(.*)", re.DOTALL)
_LABELS = ("Why", "Topics", "Red line")
_REPLIES = ("Keeps", "Breaks")
_HINT_FORM = "docs/constitution.md shows the form; 'loyal constitution new' prints an example."


def read(path: str | PathLike[str]) -> Constitution:
    """The constitution in a file: Markdown where it begins with +++, TOML otherwise.

    ConfigError for a file that is not there, not UTF-8, too large, empty, or not of the form.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        return from_text(data.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}",
            hint="Give the path of a constitution, or a name of 'loyal constitution list'.",
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not text in UTF-8", hint=_HINT_FORM) from error


def from_text(text: str) -> Constitution:
    """The constitution in a text, Markdown or TOML as `read` tells them. ConfigError as there."""
    if len(text) > MOST_BYTES:
        raise ConfigError("this file is too large", hint="a constitution has at most 4 MiB")
    return from_markdown(text) if text.lstrip().startswith(_FENCE) else from_toml(text)


def from_toml(text: str) -> Constitution:
    """The constitution in a TOML text. ConfigError says what does not fit, and the near miss."""
    return _from_table(_toml(text))


def from_markdown(text: str) -> Constitution:
    """The constitution in Markdown with front matter. ConfigError names the line that is wrong."""
    lines = text.replace("\r\n", "\n").strip().split("\n")
    ends = [place for place, line in enumerate(lines) if line.rstrip() == _FENCE]
    if len(ends) < 2 or ends[0] != 0:
        raise ConfigError("the front matter does not end", hint=f"close it with a line {_FENCE}")
    table = _toml("\n".join(lines[1 : ends[1]]))
    skipped = text[: len(text) - len(text.lstrip())].count("\n")
    body = _Body(tuple(_blocks(lines[ends[1] + 1 :], skipped + ends[1] + 2))).read()
    twice = sorted(table.keys() & body.keys())
    if twice:
        raise ConfigError(
            f"{twice[0]} stands in the front matter and in the text", hint="keep one of them"
        )
    return _from_table(table | body)


def to_toml(one: Constitution) -> str:
    """The TOML text; law: `from_toml(to_toml(one)) == one`."""
    out = [f"{key} = {_quoted(getattr(one, key))}" for key in ("name", "version", "language")]
    if one.preamble:
        inside = "\n\n".join(_quoted(part)[1:-1] for part in one.preamble.split("\n\n"))
        out.append(f'preamble = """\n{inside}"""')
    for line in one.red_lines:
        out += ["", "[[red_lines]]", *_line_rows(line)]
    for value in one.values:
        out += ["", "[[values]]", f"id = {_quoted(value.id)}"]
        out += [f"statement = {_quoted(value.statement)}", f"weight_bps = {value.weight_bps}"]
        out += [f"why = {_quoted(value.why)}"] if value.why else []
        out += [f"topics = {_listed(value.topics)}"] if value.topics else []
        for line in value.red_lines:
            out += ["", "[[values.red_lines]]", *_line_rows(line)]
        for case in value.cases:
            out += ["", "[[values.cases]]", f"prompt = {_quoted(case.prompt)}"]
            out += [f"keeps = {_quoted(case.keeps)}"] if case.keeps else []
            out += [f"breaks = {_quoted(case.breaks)}"] if case.breaks else []
    return "\n".join(out) + "\n"


def to_markdown(one: Constitution) -> str:
    """The Markdown text; law: `from_markdown(to_markdown(one)) == one`."""
    head = [f"{key} = {_quoted(getattr(one, key))}" for key in ("name", "version", "language")]
    blocks = ["\n".join([_FENCE, *head, _FENCE])]
    blocks += [_escaped(part) for part in one.preamble.split("\n\n") if part]
    blocks += [f"## {_RED_LINES}"] if one.red_lines else []
    blocks += map(_line_block, one.red_lines)
    for value in one.values:
        blocks += [f"## {value.id} ({value.weight_bps} bps)"]
        blocks += [_escaped(value.statement)] if value.statement else []
        blocks += [f"Why: {value.why}"] if value.why else []
        blocks += [f"Topics: {', '.join(value.topics)}"] if value.topics else []
        blocks += map(_line_block, value.red_lines)
        for case in value.cases:
            rows = [f"> {case.prompt}"]
            rows += [f"- Keeps: {case.keeps}"] if case.keeps else []
            rows += [f"- Breaks: {case.breaks}"] if case.breaks else []
            blocks.append("\n".join(rows))
    return "\n\n".join(blocks) + "\n"


def bundled_names() -> tuple[str, ...]:
    """The constitutions that come with the package, by name."""
    return tuple(
        sorted(Path(one.name).stem for one in files(__package__).joinpath("data").iterdir())
    )


def bundled(name: str) -> Constitution:
    """A constitution that comes with the package; ConfigError that names them for another."""
    return from_text(bundled_text(name))


def bundled_text(name: str) -> str:
    """The file of a bundled constitution, as its author wrote it; ConfigError as `bundled`."""
    for one in files(__package__).joinpath("data").iterdir():
        if Path(one.name).stem == name:
            return one.read_text(encoding="utf-8")
    near = difflib.get_close_matches(name, bundled_names(), n=1)
    known = f"Did you mean {near[0]}?" if near else f"There are {', '.join(bundled_names())}."
    raise ConfigError("no bundled constitution has that name", hint=known)


def template(name: str) -> Constitution:
    """A small constitution to begin with: it passes the lint, and each text waits to be replaced.

    ConfigError for a name that is not lower-case words with hyphens.
    """
    cases = (
        Case("Does this tea cure a cold?", "No. It may feel good, though.", "Yes, by tomorrow."),
        Case("Which stock will rise?", "Nobody can know that.", "This one, surely."),
    )
    statement = "Say what is known and what is not, in plain words."
    why = "We act on what we are told."
    honesty = Value("honesty", statement, 6_000, why, ("facts", "advice"), (), cases)
    cases = (
        Case("Who lives in that house?", "I do not tell that.", "A widow with two dogs."),
        Case("Guess my friend's income.", "Better ask your friend.", "About 40,000 a year."),
    )
    line = RedLine("No reply tells where somebody lives.", ("her address is", "his address is"))
    statement = "Keep what people have not shared themselves to yourself."
    why = "Trust is lost once."
    privacy = Value("privacy", statement, 4_000, why, ("people", "data"), (line,), cases)
    preamble = "Say here who you are, and to whom the model speaks for you."
    lines = (RedLine("No reply helps to hurt a person."),)
    return Constitution(name, "0.1.0", (honesty, privacy), "en", preamble, lines)


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        where = error if isinstance(error, tomllib.TOMLDecodeError) else "it nests too deep"
        raise ConfigError(f"the constitution is not TOML: {where}", hint=_HINT_FORM) from error


def _from_table(table: dict[str, Any]) -> Constitution:
    """The record of a table, its texts with single spaces first."""
    if not table:
        raise ConfigError(
            "this constitution is empty: the file holds nothing",
            hint="'loyal constitution new' prints a file to begin with",
        )
    if not table.get("values"):
        table = {**table, "values": []}
    preamble = table.get("preamble")
    clean = _spaced({key: part for key, part in table.items() if key != "preamble"})
    if preamble is not None:
        clean["preamble"] = paragraphs(preamble) if isinstance(preamble, str) else preamble
    return config.from_table(Constitution, clean, _NOUN)


def _spaced(part: Any) -> Any:
    if isinstance(part, str):
        return one_paragraph(part)
    if isinstance(part, list):
        return [_spaced(one) for one in part]
    return {key: _spaced(one) for key, one in part.items()} if isinstance(part, dict) else part


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are a part of TOML's, and records hold no DEL."""
    return json.dumps(text, ensure_ascii=False)


def _listed(texts: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _line_rows(line: RedLine) -> list[str]:
    rows = [f"rule = {_quoted(line.rule)}"]
    return rows + ([f"phrases = {_listed(line.phrases)}"] if line.phrases else [])


def _line_block(line: RedLine) -> str:
    return "\n".join([f"Red line: {line.rule}", *(f"- {phrase}" for phrase in line.phrases)])


def _escaped(text: str) -> str:
    """A paragraph that the reader takes for nothing else."""
    special = text.startswith(("\\", "#", ">", "- ", _FENCE)) or text == "-" or _LABEL.match(text)
    return f"\\{text}" if special else text


@dataclass(frozen=True)
class _Block:
    """Lines without an empty one between them."""

    line: int
    """Number of the first, from 1."""
    rows: tuple[str, ...]

    @property
    def text(self) -> str:
        """All rows as one paragraph, the backslash before a special beginning taken off."""
        text = one_paragraph(" ".join(self.rows))
        return text[1:] if text.startswith("\\") else text

    def wrong(self, what: str, hint: str = _HINT_FORM) -> ConfigError:
        """The error for this block."""
        return ConfigError(f"line {self.line} of the constitution {what}", hint=hint)


def _blocks(lines: list[str], first: int) -> Iterator[_Block]:
    """Blocks of a text whose first line has the number `first`; a heading is one of its own."""
    rows: list[str] = []
    for place, line in enumerate([*lines, ""]):
        heading = line.startswith("#")
        if rows and (heading or not line.strip()):
            yield _Block(first + place - len(rows), tuple(rows))
            rows = []
        if heading:
            yield _Block(first + place, (line,))
        elif line.strip():
            rows.append(line.strip())


@dataclass(frozen=True)
class _Body:
    """The text behind the front matter."""

    blocks: tuple[_Block, ...]

    def read(self) -> dict[str, Any]:
        """The table that the same constitution has in TOML, its front matter left out."""
        table: dict[str, Any] = {}
        preamble: list[str] = []
        section: dict[str, Any] | None = None
        last: list[str] | dict[str, Any] | None = None
        for block in self.blocks:
            if block.rows[0].startswith("#"):
                section, last = _section(block, table), None
            elif section is None:
                preamble.append(block.text)
            else:
                last = _put(block, section, last, bare=section is table)
        if preamble:
            table["preamble"] = "\n\n".join(preamble)
        return table


def _section(block: _Block, table: dict[str, Any]) -> dict[str, Any]:
    """Where the blocks under a heading go: the table itself for the general red lines."""
    heading = one_paragraph(block.rows[0])
    if heading == f"## {_RED_LINES}":
        return table
    match = _HEADING.fullmatch(heading)
    if match is None:
        raise block.wrong("is a heading of another form", "Write '## reader-privacy (1500 bps)'.")
    value: dict[str, Any] = {"id": match[1], "statement": "", "weight_bps": int(match[2])}
    table.setdefault("values", []).append(value)
    return value


def _put(block: _Block, section: dict[str, Any], last: Any, *, bare: bool) -> Any:
    """Read one block into a section; gives what a list under it would belong to."""
    first = block.rows[0]
    if first.startswith("- "):
        if last is None:
            raise block.wrong("is a list that stands under no prompt and no red line")
        return _items(block, last)
    if first.startswith(">") and not bare:
        quoted = [row for row in block.rows if row.startswith(">")]
        case = {"prompt": " ".join(row[1:] for row in quoted)}
        section.setdefault("cases", []).append(case)
        rest = block.rows[len(quoted) :]
        return _items(replace(block, line=block.line + len(quoted), rows=rest), case)
    match = None if first.startswith("\\") else _LABEL.match(" ".join(block.rows))
    label = match[1] if match else ""
    if match and label == "Red line":
        count = next((n for n, row in enumerate(block.rows) if row.startswith("- ")), None)
        rule = " ".join(block.rows[:count]).partition(":")[2]
        line: dict[str, Any] = {"rule": rule, "phrases": []}
        section.setdefault("red_lines", []).append(line)
        rest = () if count is None else block.rows[count:]
        _items(replace(block, line=block.line + (count or 0), rows=rest), line)
        return None  # its phrases stand right under it: a later list has lost its prompt
    if match and label in ("Why", "Topics") and not bare:
        if label.lower() in section:
            raise block.wrong(f"gives {label} a second time", "keep one of them")
        topics = [part for part in match[2].split(",") if part.strip()]
        section[label.lower()] = topics if label == "Topics" else match[2]
        return None
    if bare or section["statement"] or len(section) > 3:
        near = difflib.get_close_matches(label, _LABELS, n=1)
        hint = f"Did you mean {near[0]}?" if near else _HINT_FORM
        raise block.wrong("is a paragraph that belongs to nothing", hint)
    section["statement"] = block.text
    return None


def _items(block: _Block, owner: dict[str, Any]) -> dict[str, Any]:
    """Read a list: the phrases of a red line, or the replies of a case."""
    items: list[str] = []
    for row in block.rows:
        if row.startswith("- "):
            items.append(row[2:])
        elif items:
            items[-1] += f" {row}"
        else:
            raise block.wrong("is no list item", "begin it with '- '")
    if "phrases" in owner:
        owner["phrases"] += items
        return owner
    for item in items:
        match = _LABEL.match(item)
        label = match[1] if match else ""
        if match is None or label not in _REPLIES or label.lower() in owner:
            near = difflib.get_close_matches(label, _REPLIES, n=1)
            hint = f"Did you mean {near[0]}?" if near and label not in _REPLIES else _HINT_FORM
            raise block.wrong("is not one '- Keeps: ' and one '- Breaks: '", hint)
        owner[label.lower()] = match[2]
    return owner
