"""What the platform keeps, and what it asks of whoever keeps it: the `Store` protocol.

A store is a shelf: it decides nothing and verifies no signature. It owes three things. `commit` is
all or nothing, and durable when it returns. A place in the log is given once, whoever else writes.
What was committed is never changed. Everything else (what is right, who signed) is the platform's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Name = tuple[bytes, bytes]
"""A license's id (32 bytes) and an idempotency key (1 to 64 bytes): what a receipt is found by."""


class GivenReceipt(NamedTuple):
    """A receipt that was given, as it is stored."""

    license: bytes
    """Id of the license, 32 bytes."""
    idempotency_key: bytes
    """1 to 64 bytes."""
    body: bytes
    """Digest of what was asked for, 32 bytes: the same key with another body is refused."""
    place: int
    """Where the batch stands in the log."""
    receipt: bytes
    """Canonical bytes of the receipt."""


@dataclass(frozen=True)
class Change:
    """What becomes durable in one step, whole or not at all."""

    first: int
    """The place that the first entry takes; the log has exactly that many entries before."""
    entries: tuple[bytes, ...]
    """One or more events in their canonical bytes."""
    receipts: tuple[GivenReceipt, ...]
    """Those that the entries' permissions are proven by."""
    note: bytes
    """The signed checkpoint of the log with these entries."""

    @property
    def size(self) -> int:
        """Entries in the log after it."""
        return self.first + len(self.entries)


@dataclass(frozen=True)
class Heads:
    """What a store says of the log's end, none of it believed."""

    length: int
    """Entries that it holds."""
    stored: bytes | None
    """The newest checkpoint, kept with the entries; None for an empty log."""
    outside: bytes | None
    """The newest checkpoint that was noted away from the entries, so that losing the end of both
    at once shows; None where there is no such place, or nothing yet."""


class Store(Protocol):
    """Where the log, the receipts and the checkpoints live. Errors are StorageError."""

    def heads(self) -> Heads:
        """The log's end as it stands; `length` and `stored` are of one moment."""
        ...

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Entries [start, stop) in order; StorageError where one is missing."""
        ...

    def find(self, names: Iterable[Name]) -> list[GivenReceipt]:
        """The receipts that were given under these names; none for a name that was not used."""
        ...

    def commit(self, change: Change) -> bool:
        """Write it all, and return when it is durable: True.

        False, and nothing is written, where the log's length is not `change.first`: somebody else
        wrote. On StorageError nothing was written that counts, or all of it was and `heads` shows
        it; the caller cannot know before it has asked.
        """
        ...
