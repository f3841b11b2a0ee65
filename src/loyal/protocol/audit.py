"""Reading the log without trusting whoever writes it: every entry is one that the rules wrote.

    auditor = Auditor(State(platform))
    for entry in entries:
        auditor.read(entry)
    auditor.finish()
    assert auditor.root == checkpoint.root

`State.record` folds whatever stands in the log; an auditor re-runs the rules. A command's entry is
followed by exactly the events that `enact` decides at that place, from that root and second; a
batch of permissions by exactly the fees that its counts cost, for licenses that gave permissions
then. Anything else is a LedgerError that names the place: with the checkpoint over it, it proves
what the platform did.

What an auditor cannot see: whether money that the platform credits (S1) came in, whether seconds
are the world's (witnesses' cosignatures bound them), and what was kept out of the log.
"""

from __future__ import annotations

from collections import deque

from loyal.errors import LedgerError, ProtocolError
from loyal.merkle import Frontier
from loyal.protocol import events as e
from loyal.protocol.commands import SignedCommand, enact
from loyal.protocol.permits import charge
from loyal.protocol.state import Moment, State

MOST_FEES = 1 << 20
"""Moves of money before one batch."""


class Auditor:
    """Follows one log from its first entry."""

    def __init__(self, state: State) -> None:
        """From an empty state with the platform's key and the community's parameters."""
        self.state = state
        self._frontier = Frontier()
        self._due: deque[e.Event] = deque()
        """What has to stand next."""
        self._fees: list[e.Event] = []
        """Moves that the next batch has to account for."""
        self._before = (0, b"")
        """Where those moves began: the place, and the root before it."""

    @property
    def root(self) -> bytes:
        """RFC 6962 root over all entries that were read, 32 bytes."""
        return self._frontier.root()

    @property
    def length(self) -> int:
        """Entries that were read."""
        return self._frontier.size

    def read(self, entry: bytes) -> None:
        """Take the next entry; LedgerError (reason: rules) for one that the rules did not write."""
        try:
            self._read(e.decode_event(entry))
        except ProtocolError as error:
            raise self._refused(str(error)) from error
        self._frontier = self._frontier.append(entry)

    def finish(self) -> None:
        """LedgerError where the log ends in the middle of what a command or a batch led to."""
        if self._due or self._fees:
            raise self._refused("the log ends before what was begun")

    def _read(self, event: e.Event) -> None:
        if self._due:
            if event != self._due.popleft():
                raise self._refused("another event follows from the command")
            self.state.record(self.length, event)
        elif isinstance(event, e.CommandTaken) and not self._fees:
            self._take(event)
        elif isinstance(event, e.Moved) and len(self._fees) < MOST_FEES:
            if not self._fees:
                self._before = self.length, self.root
            self._fees.append(event)
        elif isinstance(event, e.BatchIssued):
            self._batch(event)
        else:
            raise self._refused(f"{type(event).__name__} follows from no command")

    def _take(self, event: e.CommandTaken) -> None:
        signed = SignedCommand.from_bytes(event.signed)
        at = Moment(event.seconds, self.length, self.root)
        expected = enact(self.state, signed, at)
        if expected[0] != event:
            raise self._refused("the command is not the one that is named")
        self._due.extend(expected[1:])
        self.state.record(self.length, event)

    def _batch(self, event: e.BatchIssued) -> None:
        place, root = self._before if self._fees else (self.length, self.root)
        expected = charge(self.state, event.usage, Moment(event.seconds, place, root))
        if expected != self._fees:
            raise self._refused("the fees are not what these permissions cost")
        if event.count != sum(count for _, _, count in event.usage) or len(event.root) != 32:
            raise self._refused("the batch does not count its permissions")
        for one in (*self._fees, event):
            self.state.record(self.state.length, one)
        self._fees = []

    def _refused(self, why: str) -> LedgerError:
        return LedgerError(
            f"entry {self.length} of the log is not one that the rules wrote: {why}",
            hint="keep the log and its checkpoint: together they show what the platform did",
            reason="rules",
        )
