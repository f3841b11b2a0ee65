"""A witness of one log, with a memory on disk: what it cosigned last is durable before it says so.

The file holds the log's key and the last checkpoint; beside it stand the cosigned note (`.note`)
and, where the log forked, evidence that anybody can verify with the log's key (`.fork-OLD-NEW`).
One witness at a time uses a file: two that remember the same would sign two heads. Left out: what
may be cosigned (loyal.protocol.witness).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loyal import encoding
from loyal.errors import EncodingError, LedgerError, StorageError
from loyal.protocol import (
    AddCheckpoint,
    Checkpoint,
    Cosigned,
    ForkEvidence,
    Ledger,
    NoteSigner,
    Refusal,
    SignedNote,
    VerifierKey,
    WatchedLog,
    WitnessState,
    evidence,
    witness,
)
from loyal.protocol.checkpoint import open_checkpoint

VERSION = 1
_HINT = "stop, and compare with other witnesses; keep the file and what stands beside it"


class Log(Protocol):
    """A log that can be asked; EndpointError where it cannot."""

    async def checkpoint(self) -> bytes | None:
        """The newest signed checkpoint; None for an empty log."""
        ...

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The RFC 6962 proof between two sizes."""
        ...

    async def entries(self, start: int, stop: int) -> list[bytes]:
        """Entries [start, stop)."""
        ...


@dataclass(frozen=True)
class Seen:
    """What one look at a log came to."""

    size: int
    """Entries in the tree that is cosigned, 0 for an empty log."""
    new: bool
    """Whether it is larger than what was cosigned before."""


class WitnessFile:
    """The memory of one witness of one log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep everybody else from this file meanwhile; may be nested. StorageError where another
        one, in this process or in any, holds it: nobody waits. The lock file stays for good, and
        the system lets go of it when its holder ends, however it ends."""
        if self._lock is not None:
            yield
            return
        self._lock = _locked(self.path)
        try:
            yield
        finally:
            os.close(self._lock)
            self._lock = None

    @property
    def note_path(self) -> Path:
        """Where the newest cosigned note stands."""
        return self.path.with_name(f"{self.path.name}.note")

    def load(self) -> WitnessState | None:
        """What it remembers; None before the first time. StorageError for a damaged file, which
        must not be taken for no file: the witness would cosign a rewind."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"cannot read {self.path}: {error.strerror}", hint="check its owner"
            ) from error
        try:
            match encoding.decode(data):
                case [1, str(origin), str(key), bytes(note), int(seconds)]:
                    log = VerifierKey.from_text(key)
                    opened = None
                    if note:
                        opened = open_checkpoint(SignedNote.from_bytes(note), log, origin)
                    return WitnessState({origin: WatchedLog(log, opened, seconds)})
        except (EncodingError, LedgerError):
            pass
        raise StorageError(
            "the witness's file cannot be read",
            hint="bring back its newest copy; a new file would forget what was cosigned",
        )

    def save(self, state: WitnessState) -> None:
        """Durable when it returns, or StorageError."""
        ((origin, one),) = state.logs.items()
        note = one.latest.note.to_bytes() if one.latest is not None else b""
        encoding.atomic_write(
            self.path, encoding.encode([VERSION, origin, str(one.key), note, one.time_seconds])
        )

    def keep_evidence(self, found: ForkEvidence) -> Path:
        """Write evidence beside the file, never over another one; gives where."""
        sizes = [Checkpoint.from_text(one.text).size for one in (found.older, found.newer)]
        path = self.path.with_name(f"{self.path.name}.fork-{sizes[0]}-{sizes[1]}")
        if not path.exists():
            encoding.atomic_write(path, found.to_bytes())
        return path


@dataclass(frozen=True, repr=False)
class Watcher:
    """A witness at work: `look` as often as you like, one at a time."""

    signer: NoteSigner
    """Its cosignature key."""
    log: Log
    file: WitnessFile
    find_key: Callable[[], Awaitable[VerifierKey]]
    """The log's key, asked for when there is no file yet; from then on the file's is believed."""

    async def look(self, now: int) -> Seen:
        """Cosign the newest checkpoint at Unix seconds `now`, if it only grew.

        LedgerError: reason root for a fork (evidence is kept where there is any), size for a
        rewind, or what is wrong with the note. EndpointError; StorageError, also where another
        witness uses the file.
        """
        with self.file.held():
            return await self._look(now)

    async def _look(self, now: int) -> Seen:
        state = self.file.load()
        if state is None:
            state = WitnessState().watch(await self.find_key())
        ((origin, known),) = state.logs.items()
        data = await self.log.checkpoint()
        if data is None:
            if known.size:
                raise _rewound(0, known.size)
            return Seen(0, False)
        note = SignedNote.from_bytes(data)
        head = open_checkpoint(note, known.key, origin).checkpoint
        if known.latest is not None and head == known.latest.checkpoint:
            return Seen(head.size, False)
        proof: tuple[bytes, ...] = ()
        if 0 < known.size < head.size:
            proof = await self.log.consistency(known.size, head.size)
        answer = witness.cosign(self.signer, state, AddCheckpoint(known.size, proof, note), now)
        if isinstance(answer, Cosigned):
            self.file.save(answer.state)
            cosigned = note.with_signatures([answer.cosignature.line])
            encoding.atomic_write(self.file.note_path, cosigned.to_bytes())
            return Seen(head.size, True)
        raise await self._refused(answer, known, note, origin)

    async def _refused(
        self, refusal: Refusal, known: WatchedLog, note: SignedNote, origin: str
    ) -> LedgerError:
        """The error of a refusal; evidence is written where there is any to be had."""
        newer = open_checkpoint(note, known.key, origin)
        if refusal.reason in ("rewind", "size"):
            return _rewound(newer.checkpoint.size, known.size)
        if refusal.reason not in ("fork", "consistency"):
            return LedgerError(
                f"the witness does not cosign this checkpoint: {refusal.reason}",
                hint="check the witness's clock and the log's key",
                reason="root",
            )
        found = refusal.evidence
        if found is None and known.latest is not None:  # the proof alone may not tell
            ledger = Ledger(origin, await self.log.entries(0, newer.checkpoint.size))
            if ledger.holds(newer.checkpoint):
                found = evidence.prove_fork(known.latest, newer, ledger)
        if found is None:
            return LedgerError(
                "the log does not show that it grew out of what was cosigned", hint=_HINT,
                reason="root",
            )  # fmt: skip
        evidence.verify_evidence(found, known.key)
        path = self.file.keep_evidence(found)
        return LedgerError(f"the log forked; the evidence is {path}", hint=_HINT, reason="root")


def _locked(path: Path) -> int:
    """The descriptor of the lock file beside a file (beside its target, where it is a link)."""
    try:
        target = Path(os.path.realpath(path))
        lock = target.with_name(f"{target.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"cannot lock {path}: {error.strerror}", hint="choose a folder that you may write to"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise StorageError(
                f"cannot lock {path}: {error.strerror}", hint="keep it on a local disk"
            ) from None
        raise StorageError(
            f"another witness uses {path}", hint="stop it, or give this one a file of its own"
        ) from None
    return descriptor


def _rewound(size: int, known: int) -> LedgerError:
    return LedgerError(
        f"the log shows {size} entries, but {known} were cosigned", hint=_HINT, reason="size"
    )
