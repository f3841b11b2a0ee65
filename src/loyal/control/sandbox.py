"""Runs source that somebody else wrote, in a process of its own with limits, and asks it.

`run` starts `worker` (its docstring says what encloses the source, and what that does not hold),
hands it the source and some questions, and gives back an answer an item. Left out: what the answers
mean (`functions`, `checkers`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loyal.errors import ControlError

WORKER = Path(__file__).with_name("worker.py")

MOST_SOURCE_BYTES = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What one process of the sandbox may use."""

    cpu_seconds: int = 5
    seconds: int = 60
    """Of wall time, waiting included."""
    memory_bytes: int = 1 << 28
    """Of address space."""
    files: int = 16
    """Open files."""


@dataclass(frozen=True)
class Answer:
    """What came back for one item."""

    value: Any = None
    why: str | None = None
    """What went wrong, in one line; None where nothing did."""


@dataclass(frozen=True)
class Ran:
    """What came of one process."""

    answers: tuple[Answer, ...]
    """One an item, in the order of the questions; fewer where the process was stopped."""
    why: str | None
    """Why the source did not run or was stopped, in one line; None where it ended well."""
    network: str
    """How the network was left: "namespace", or "refused" where the system has no namespaces."""
    stopped: bool = False
    """Whether a limit, or the system, is why: then the source itself may be sound."""


def run(
    source: str, asks: Sequence[Mapping[str, Any]], limits: Limits | None = None, hash_seed: int = 0
) -> Ran:
    """Run a source and ask it. `hash_seed` orders its sets (PYTHONHASHSEED).

    A source that fails, or is stopped at a limit, is an answer; ControlError is for a sandbox that
    cannot be had: another system than POSIX, or no process.
    """
    limits = limits or Limits()
    if len(source.encode("utf-8", "replace")) > MOST_SOURCE_BYTES:
        return Ran((), f"the source is over {MOST_SOURCE_BYTES} bytes", "refused", True)
    if os.name != "posix":
        raise ControlError("the sandbox needs a POSIX system", hint="use Linux, or a table file")
    job = {"source": source, "asks": [dict(one) for one in asks], "limits": asdict(limits)}
    command = [sys.executable, "-S", "-s", "-P", "-B", str(WORKER)]
    environment = {"PYTHONHASHSEED": str(hash_seed), "PYTHONUTF8": "1"}
    with tempfile.TemporaryDirectory() as empty:
        try:
            process = subprocess.Popen(
                command, cwd=empty, env=environment, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise ControlError(
                "the sandbox cannot start a process", hint="free some memory or processes"
            ) from error
        try:
            out, _ = process.communicate(json.dumps(job).encode(), timeout=limits.seconds)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        if late:
            out, _ = process.communicate()
    return _ran(out, process.returncode, limits, late)


def _ran(out: bytes, code: int, limits: Limits, late: bool) -> Ran:
    """What the lines of a process say, and what its end says beside them."""
    lines = [_line(one) for one in out.split(b"\n")[:-1]]
    network = str(lines[0].value) if lines else "refused"
    if late:
        why: str | None = f"it took more than {limits.seconds} seconds"
    elif code in (-signal.SIGXCPU, -signal.SIGKILL):
        why = f"it used more than {limits.cpu_seconds} CPU seconds"
    elif len(lines) < 2 or code:
        why = f"its process ended early ({code})"
    else:
        why = None
    if len(lines) >= 2 and lines[1].why is not None:
        return Ran((), lines[1].why, network)
    return Ran(tuple(lines[2:]), why, network, why is not None)


def _line(line: bytes) -> Answer:
    try:
        match json.loads(line):
            case [True, value]:
                return Answer(value)
            case [False, str(why)]:
                return Answer(None, why)
    except (ValueError, RecursionError):
        pass
    return Answer(None, "an answer that cannot be read")
