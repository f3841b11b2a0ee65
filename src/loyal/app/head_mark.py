"""The newest checkpoint once more, in a small file beside the database.

A write-ahead log that loses its end takes the newest checkpoints with it, and what is left looks
whole. This file does not shrink with it: the platform reads it at start and refuses a log that is
shorter than what stands here.

It is written after each commit, never before, so it is never ahead of what is durable. Two slots
are written in turn, each with its digest, so a torn write costs the newer one alone. Handing it to
the kernel survives the death of the process; flushing it costs as much as the commit itself, so
that happens once a second (`FLUSH_SECONDS`): after a power loss it may be that old. Who needs more
keeps the checkpoints of a witness.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loyal.errors import StorageError

SLOT_BYTES = 4096
FLUSH_SECONDS = 1.0
_DIGEST_BYTES = 32
_HEAD_BYTES = _DIGEST_BYTES + 10
"""Digest, 8 bytes of size, 2 bytes of the note's length."""


class HeadMark:
    """One such file. Several processes may write it: the largest size stays."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; StorageError where that is not allowed."""
        self.path = path
        self._lock = threading.Lock()
        self._flushed = time.monotonic()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(path, error) from error

    def read(self) -> bytes | None:
        """The newest note; None for an empty file. StorageError where both slots are damaged."""
        try:
            with self._lock, self._locked(fcntl.LOCK_SH):  # a slot that is being written is torn
                found = [one for one in map(self._slot, (0, 1)) if one is not None]
                empty = not os.fstat(self._file).st_size
        except OSError as error:
            raise _refused(self.path, error) from error
        if not found and not empty:
            raise StorageError(
                f"{self.path} is damaged",
                hint="check the log against a witness's checkpoint, then move this file away",
            )
        return max(found)[1] if found else None

    def write(self, size: int, note: bytes) -> None:
        """Note a checkpoint of `size` entries over the smaller of the two that stand here."""
        if len(note) > SLOT_BYTES - _HEAD_BYTES:
            raise StorageError("a checkpoint is too long", hint="choose a shorter log name")
        rest = size.to_bytes(8, "big") + len(note).to_bytes(2, "big") + note
        data = hashlib.sha256(rest).digest() + rest
        with self._lock:
            try:
                with self._locked(fcntl.LOCK_EX):
                    sizes = [one[0] if one else -1 for one in map(self._slot, (0, 1))]
                    os.pwrite(self._file, data, sizes.index(min(sizes)) * SLOT_BYTES)
                if time.monotonic() - self._flushed > FLUSH_SECONDS:
                    self.flush()
            except OSError as error:
                raise _refused(self.path, error) from error

    def flush(self) -> None:
        """Down to the disk."""
        os.fsync(self._file)
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close."""
        with self._lock:
            self.flush()
            os.close(self._file)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        """Hold the file against other processes; `_lock` holds it against our own threads."""
        fcntl.flock(self._file, kind)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _slot(self, number: int) -> tuple[int, bytes] | None:
        """Size and note of a slot; None where it is empty or torn."""
        data = os.pread(self._file, SLOT_BYTES, number * SLOT_BYTES)
        if len(data) < _HEAD_BYTES:
            return None
        stop = _HEAD_BYTES + int.from_bytes(data[_HEAD_BYTES - 2 : _HEAD_BYTES], "big")
        rest = data[_DIGEST_BYTES:stop]
        if hashlib.sha256(rest).digest() != data[:_DIGEST_BYTES]:
            return None
        return int.from_bytes(rest[:8], "big"), rest[10:]


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}", hint="check its folder, owner and disk"
    )
