"""What becomes of an error: one line, the next step, an exit code. Never a traceback unasked.

Exit codes: 0 done; 1 refused or not proven; 2 a wrong call; 130 stopped by Ctrl-C; 141 the reader
of our output went away. An unexpected exception shows its type and place only: its text could
quote a key or a reply, and `--debug` shows it to those who ask.
"""

from __future__ import annotations

import errno
import sys
import traceback
from dataclasses import dataclass

import click

from loyal.app.terminal import AGAIN, Terminal, json_line, visible
from loyal.errors import LoyalError

REFUSED = 1
USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

EXTRAS = {
    "torch": "models",
    "transformers": "models",
    "accelerate": "models",
    "peft": "models",
    "safetensors": "models",
    "gguf": "models",
    "tokenizers": "models",
    "huggingface_hub": "models",
    "matplotlib": "report",
    "psycopg": "postgres",
    "sympy": "control",
    "jsonschema_rs": "control",
}
"""Which extra of the package brings a module that may be missing."""

FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Failure:
    """An error as the user meets it."""

    message: str
    hint: str
    """The next step."""
    code: int
    """Exit code."""
    kind: str
    """The error's class, for programs that read --json."""


def failure_of(error: BaseException, again: str = AGAIN) -> Failure:
    """Find the words and the exit code for any exception; `again` is the step after Ctrl-C."""
    kind = type(error).__name__
    if isinstance(error, LoyalError):
        return Failure(str(error), error.hint, error.exit_code, kind)
    if isinstance(error, click.ClickException):
        return _wrong_call(error)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _stopped(error, again)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        hint = "close other programs, or use a smaller model or batch; see 'loyal doctor'"
        return Failure("not enough memory", hint, REFUSED, kind)
    if isinstance(error, ModuleNotFoundError):
        return _missing_module(error)
    if isinstance(error, OSError):
        return _system(error)
    if kind == "SafetensorError" and f"(os error {errno.ENOSPC})" in str(error):
        return _system(OSError(errno.ENOSPC, "No space left on device"))
    return _unexpected(error)


def report(terminal: Terminal, error: BaseException) -> int:
    """Print the failure (stderr, and one JSON object on stdout with --json); give the exit code."""
    failure = failure_of(error, terminal.again)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if terminal.debug:
        traceback.print_exception(error, file=sys.stderr)
    if terminal.json:
        fields = {
            "error": failure.message,
            "hint": failure.hint,
            "code": failure.code,
            "kind": failure.kind,
        }
        sys.stdout.write(json_line(fields, sys.stdout))
        sys.stdout.flush()
    sys.stderr.write(f"error: {visible(failure.message)}\nnext: {visible(failure.hint)}\n")
    return failure.code


def _wrong_call(error: click.ClickException) -> Failure:
    kind = type(error).__name__
    context = getattr(error, "ctx", None)
    hint = f"see '{context.command_path if context else 'loyal'} --help'"
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return Failure("a command is missing", hint, USAGE, kind)
    words = " ".join(error.format_message().split())
    return Failure(words[:1].lower() + words[1:], hint, USAGE, kind)


def _stopped(error: BaseException, again: str) -> Failure:
    kind = type(error).__name__
    return Failure("stopped; nothing that was saved is lost", again, INTERRUPTED, kind)


def _missing_module(error: ModuleNotFoundError) -> Failure:
    module = (error.name or "").split(".")[0]
    kind = type(error).__name__
    if module not in EXTRAS:
        return _unexpected(error)
    hint = f"pip install 'loyal[{EXTRAS[module]}]'"
    return Failure(f"this command needs the package {module}", hint, REFUSED, kind)


def _system(error: OSError) -> Failure:
    kind = type(error).__name__
    where = f": {error.filename}" if error.filename else ""
    if error.errno in FULL_DISK:
        hint = "free some space or name another folder, and run again; what was there is intact"
        return Failure(f"the disk is full{where}", hint, REFUSED, kind)
    if error.errno in FORBIDDEN:
        return Failure(f"may not be read or written{where}", "check its owner", REFUSED, kind)
    if isinstance(error, FileNotFoundError):
        return Failure(f"no such file or folder{where}", "check the path", USAGE, kind)
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return Failure(f"a file was expected, or a folder{where}", "check the path", USAGE, kind)
    return Failure(f"{error.strerror or kind}{where}", "run again with --debug", REFUSED, kind)


def _unexpected(error: BaseException) -> Failure:
    kind = type(error).__name__
    place = place_of(error)
    hint = "run again with --debug and report what it shows; nothing that was saved is lost"
    return Failure(f"unexpected {kind}{place}", hint, REFUSED, kind)


def place_of(error: BaseException) -> str:
    """Where an exception came from, as ` at folder/file:line`; its text is not in it."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {_module(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _module(filename: str) -> str:
    parts = filename.replace("\\", "/").split("/")
    return "/".join(parts[-2:])
