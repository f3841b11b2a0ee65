"""The append-only file that lets `synthesize`, and others who gather replies, go on where they were
killed.

The first line names the task by its digest and is there as soon as the file is; each further one is
a finished batch, on the disk before the next one begins. One that a crash cut off is taken away.
One process at a time.
Left out: what the batches mean (`synthesize`).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Any, BinaryIO, cast

from loyal.alignment.conversation import Conversation, Role, Turn
from loyal.alignment.writers import Draft
from loyal.errors import LoyalError, StorageError, UsageError

FORMAT = "loyal synthesis 1"
_MOST_HEADER = 1 << 12
"""Bytes of a first line."""


@dataclass(frozen=True, repr=False)
class Batch:
    """Drafts of one batch, and what the judge said of them."""

    drafts: tuple[Draft, ...]
    scores: tuple[tuple[int | None, ...], ...]
    """One a reply in millionths, None where the judge abstains; none at all where nobody judges."""


class State:
    """Batches that were finished before, then those that are finished now.

    A context: the file is locked inside, and its owner's alone where it is `private`. Without a
    path nothing is kept. UsageError for a file of another task, for one that is no state, and for
    one that another process uses.
    """

    def __init__(
        self, path: str | PathLike[str] | None, identity: str, *, private: bool = False
    ) -> None:
        self.path, self.identity = path, identity
        self.mode = 0o600 if private else 0o666
        self.done: list[Batch] = []
        self.taken = 0
        self.file: BinaryIO | None = None

    def __len__(self) -> int:
        """Batches taken or appended so far."""
        return self.taken

    def __enter__(self) -> State:
        if self.path is not None:
            try:
                self._begin(os.path.realpath(self.path))
                self.file = open(self.path, "r+b")
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._read()
            except BlockingIOError:
                self._close()
                raise UsageError(
                    f"{self.path} is in use by another run", hint="wait for it, or name another"
                ) from None
            except (OSError, ValueError) as error:
                self._close()
                raise _refused(self.path, error) from None
            except LoyalError:
                self._close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.file is not None and self.path is not None and not (self.taken or self.done):
            os.unlink(self.path)  # nothing was finished: leave nothing behind
        self._close()

    def next(self) -> Batch | None:
        """The next batch of an earlier run; None where it ended."""
        if self.taken >= len(self.done):
            return None
        self.taken += 1
        return self.done[self.taken - 1]

    def append(self, batch: Batch) -> None:
        """Put a batch down to the disk. StorageError when the disk refuses."""
        self.taken += 1
        if self.file is None or self.path is None:
            return
        try:
            self._put({"batch": self.taken, "drafts": _plain(batch)})
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise _refused(self.path, error) from None

    def _begin(self, path: str) -> None:
        """Make the file where there is none: it has its first line before it has its name, so an
        empty one is somebody's, and two runs that begin at once do not make two."""
        if os.path.exists(path):
            return
        part = f"{path}.{secrets.token_hex(8)}.tmp"
        try:
            with open(part, "xb", opener=lambda name, how: os.open(name, how, self.mode)) as file:
                file.write(_line({"format": FORMAT, "identity": self.identity}))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, path)
            except FileExistsError:
                pass
            except OSError:  # a disk that has no hard links
                os.replace(part, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part)

    def _put(self, fields: dict[str, Any]) -> None:
        assert self.file is not None
        self.file.write(_line(fields))

    def _read(self) -> None:
        assert self.file is not None
        assert self.path is not None
        self.file.seek(0)
        whole = 0
        for number, line in enumerate(self.file):
            if number and not line.endswith(b"\n"):
                break  # what a killed run began to write
            whole += len(line)
            if not number:
                if _identity(self.path, line) != self.identity:
                    raise UsageError(
                        f"{self.path} is the state of another task, writer or judge",
                        hint="name another --state or --out, or repeat the call that wrote it",
                    )
                continue
            try:
                self.done.append(_batch(json.loads(line)["drafts"]))
            except (ValueError, KeyError, TypeError, RecursionError, LoyalError):
                raise _no_state(self.path, number + 1) from None
        if not whole:
            raise _no_state(self.path, 1)
        self.file.truncate(whole)
        self.file.seek(0, os.SEEK_END)

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def require_state(path: str | PathLike[str]) -> None:
    """UsageError for a file whose first line is of no state; StorageError where it is unreadable.

    For whoever wants to know before a model is loaded; which task it is of, `State` looks at.
    """
    try:
        with open(path, "rb") as file:
            _identity(path, file.readline(_MOST_HEADER))
    except OSError as error:
        raise _refused(path, error) from None


def _identity(path: str | PathLike[str], line: bytes) -> object:
    """What the first line of a state names; UsageError for any other line."""
    try:
        fields = json.loads(line)
        if not line.endswith(b"\n") or fields["format"] != FORMAT:
            raise ValueError
        return fields["identity"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _no_state(path, 1) from None


def _no_state(path: str | PathLike[str], number: int) -> UsageError:
    return UsageError(
        f"line {number} of {path} is not of a state file",
        hint="name another --state or --out, or move that file away",
    )


def _line(fields: dict[str, Any]) -> bytes:
    return f"{json.dumps(fields)}\n".encode()


def _plain(batch: Batch) -> list[Any]:
    return [
        [[[turn.role, turn.text] for turn in one.asked.turns], one.replies, scores]
        for one, scores in zip(batch.drafts, batch.scores, strict=True)
    ]


def _batch(plain: list[Any]) -> Batch:
    drafts, every = [], []
    for turns, replies, scores in plain:
        asked = Conversation(tuple(Turn(cast(Role, role), text) for role, text in turns))
        drafts.append(Draft(asked, tuple(replies)))
        every.append(tuple(scores))
    return Batch(tuple(drafts), tuple(every))


def _refused(path: str | PathLike[str], error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or "the path cannot name a file"
    return StorageError(f"cannot write {path}: {reason}", hint="check the path and the disk")
