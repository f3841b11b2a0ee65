"""`loyal control guard show | verify`: what a host's guard has noted, and whether it holds.

`loyal host serve --control ...` writes the file. Left out: what a record is (loyal.control.guard).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from loyal.app.key_files import FILE, hex_id
from loyal.app.report import Table
from loyal.app.terminal import Decorator, Terminal, command
from loyal.control import functions
from loyal.control.functions import ControlFunction
from loyal.control.guard import Line, read
from loyal.errors import SignatureError, UsageError
from loyal.signing import PublicKey

_EVIDENCE: Decorator = click.argument("evidence", type=FILE, metavar="EVIDENCE")
_FILES: Decorator = click.argument("files", nargs=-1, metavar="FILES...")


@command("show", _EVIDENCE, _FILES)
def show(terminal: Terminal, evidence: Path, files: tuple[str, ...]) -> int:
    """Show the evidence of a host's guard, line by line.

    EVIDENCE is the file of 'loyal host serve --control-evidence'. FILES are control functions: they
    give lines their names. Texts stand in no record, only their digests.
    """
    lines = read(_lines(evidence))
    names = {one.digest: one.name for one in map(functions.load, files)}
    records = [_record(one, names) for one in lines]
    columns = ("time", "name", "sent", "function", "prompt", "exact", "reply")
    rows = tuple(tuple(one[column] for column in columns) for one in records)
    terminal.result({"records": records}, [Table("", columns, rows, f"{len(rows)} records")])
    return 0


@command(
    "verify",
    _EVIDENCE,
    _FILES,
    click.option("--host", metavar="HEX", help="The host's public key, which signed every line."),
    click.option("--prompt", metavar="TEXT", help="Run FILES on it, and find lines about it."),
    click.option("--last", metavar="HEX", help="The digest of a line that must still be there."),
)
def verify(terminal: Terminal, evidence: Path, files: tuple[str, ...], **options: Any) -> int:
    """Check the evidence: signatures, order, and a prompt.

    Every line holds the digest of the line before, and one key signed all. With --prompt and FILES
    the functions run again: a line about that prompt must have the reply's digest. Exit code 0 when
    everything holds, 1 when not, or when no line is about the prompt.
    """
    prompt, last = options["prompt"], options["last"]
    if (prompt is None) != (not files):
        raise UsageError("a prompt is checked with functions", hint="give both, or neither")
    host = options["host"]
    lines = read(_lines(evidence), None if host is None else PublicKey(hex_id(host, "--host")))
    if last is not None and hex_id(last, "--last") not in [one.digest for one in lines]:
        raise SignatureError("the line of --last is not there", hint="the file was cut off")
    about = _about(lines, [functions.load(one) for one in files], prompt or "")
    fields = {
        "holds": True,
        "records": len(lines),
        "host": lines[0].host.hex() if lines else None,
        "last": lines[-1].digest.hex() if lines else None,
        "about_prompt": len(about) if files else None,
    }
    terminal.result(fields)
    return 0 if about or not files else 1


def _about(lines: Sequence[Line], found: Sequence[ControlFunction], prompt: str) -> list[Line]:
    """The lines about a prompt. SignatureError for one whose exact reply is another."""
    about = []
    for function in found:
        for one in lines:
            if one.mismatch.names(function, prompt):
                if not one.mismatch.repeats(function, prompt):
                    raise SignatureError(
                        f"a line has another reply than {function.name}",
                        hint="the host did not run the function as it is",
                    )
                about.append(one)
    return about


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="check the path") from error


def _time(at: int) -> str:
    """For people; a host signs what it likes, times beyond all calendars too."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat()
    except (OSError, OverflowError, ValueError):
        return f"{at} s"


def _record(line: Line, names: dict[bytes, str]) -> dict[str, Any]:
    one = line.mismatch
    return {
        "time": _time(one.at),
        "name": names.get(one.function, "-"),
        "sent": one.sent,
        "function": one.function.hex(),
        "prompt": one.prompt.hex(),
        "exact": one.exact.hex(),
        "reply": one.reply.hex(),
        "digest": line.digest.hex(),
    }
