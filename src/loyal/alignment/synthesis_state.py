"""The append-only file that lets `synthesize` go on where it was killed.

The first line names the task by its digest, each further one is a finished batch. A line is on the
disk before the next batch begins; one that a crash cut off is taken away. One process at a time.
Left out: what the batches mean (`synthesize`).
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Any, BinaryIO, cast

from loyal.alignment.conversation import Conversation, Role, Turn
from loyal.alignment.writers import Draft
from loyal.errors import LoyalError, StorageError, UsageError

FORMAT = "loyal synthesis 1"


@dataclass(frozen=True, repr=False)
class Batch:
    """Drafts of one batch, and what the judge said of them."""

    drafts: tuple[Draft, ...]
    scores: tuple[tuple[int | None, ...], ...]
    """One a reply in millionths, None where the judge abstains; none at all where nobody judges."""


class State:
    """Batches that were finished before, then those that are finished now.

    A context: the file is locked inside. Without a path nothing is kept. UsageError for a file of
    another task, for one that is no state, and for one that another process uses.
    """

    def __init__(self, path: str | PathLike[str] | None, identity: str) -> None:
        self.path, self.identity = path, identity
        self.done: list[Batch] = []
        self.taken = 0
        self.file: BinaryIO | None = None

    def __len__(self) -> int:
        """Batches taken or appended so far."""
        return self.taken

    def __enter__(self) -> State:
        if self.path is not None:
            try:
                self.file = open(self.path, "a+b")
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
            if not self.file.tell():
                self._put(self._header)
            self._put({"batch": self.taken, "drafts": _plain(batch)})
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError as error:
            raise _refused(self.path, error) from None

    @property
    def _header(self) -> dict[str, str]:
        return {"format": FORMAT, "identity": self.identity}

    def _put(self, fields: dict[str, Any]) -> None:
        assert self.file is not None
        self.file.write(f"{json.dumps(fields)}\n".encode())

    def _read(self) -> None:
        assert self.file is not None
        self.file.seek(0)
        whole = 0
        for number, line in enumerate(self.file):
            cut = not line.endswith(b"\n")
            if cut and (number or json.dumps(self._header).encode().startswith(line)):
                break  # what a killed run began to write; anything else is somebody's text
            whole += len(line)
            try:
                fields = json.loads(line)
                if number:
                    self.done.append(_batch(fields["drafts"]))
                elif cut or fields["format"] != FORMAT:
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError, LoyalError):
                raise UsageError(
                    f"line {number + 1} of {self.path} is not of a state file",
                    hint="delete it to begin anew, or name another",
                ) from None
            if not number and fields.get("identity") != self.identity:
                raise UsageError(
                    f"{self.path} is the state of another task, writer or judge",
                    hint="delete it to begin anew, or repeat the call that wrote it",
                )
        self.file.truncate(whole)
        self.file.seek(0, os.SEEK_END)

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


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
