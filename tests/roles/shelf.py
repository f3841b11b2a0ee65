"""A store in memory that keeps every promise, and breaks one when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from parties import key_of

from loyal.errors import StorageError
from loyal.protocol import NoteSigner
from loyal.roles import Change, GivenReceipt, Heads, Name, Platform, PlatformKeys

KEYS = PlatformKeys(key_of("platform"), NoteSigner("example.com/log", key_of("log")))


def full_disk() -> StorageError:
    """What a store raises when it cannot write."""
    return StorageError("the disk is full", hint="free some space")


@dataclass
class Shelf:
    """A `loyal.roles.Store`."""

    log: list[bytes] = field(default_factory=list)
    kept: dict[Name, GivenReceipt] = field(default_factory=dict)
    notes: list[bytes] = field(default_factory=list)
    outside: bytes | None = None
    before: Callable[[], None] = lambda: None
    """Called in `commit` before anything is written; may raise."""
    after: Callable[[], None] = lambda: None
    """Called when all is written, before it is said so; may raise."""
    commits: list[int] = field(default_factory=list)
    """Receipts in each."""

    def heads(self) -> Heads:
        return Heads(len(self.log), self.notes[-1] if self.notes else None, self.outside)

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        return iter(self.log[start:stop])

    def find(self, names: Iterable[Name]) -> list[GivenReceipt]:
        return [self.kept[name] for name in set(names) if name in self.kept]

    def commit(self, change: Change) -> bool:
        self.before()
        if change.first != len(self.log):
            return False
        self.log += change.entries
        self.notes.append(change.note)
        self.kept.update(((one[0], one[1]), one) for one in change.receipts)
        self.commits.append(len(change.receipts))
        self.after()
        return True


@dataclass
class Gate:
    """Holds a commit until it is opened."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(20)


def fail_once(shelf: Shelf, moment: str) -> None:
    """The next commit raises StorageError, `before` or `after` it has written."""

    def hook() -> None:
        setattr(shelf, moment, lambda: None)
        raise full_disk()

    setattr(shelf, moment, hook)


def reopened(shelf: Shelf) -> Platform:
    """The platform as it is after a restart."""
    return Platform(shelf, KEYS)
