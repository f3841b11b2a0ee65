"""A log as its reader keeps it: signed by its key, and each entry one that the rules wrote.

Provers and verifiers take what they act on from here, not from what a platform says about itself:

1. a checkpoint is signed by the log's key;
2. the entries up to its size have its root;
3. the rules wrote each of them, from commands that their authors signed (`protocol.audit`);
4. it is no smaller than what was read before, so a log that is taken back is refused.

Left out: fetching (`app.platform_api`), and whether others see the same log, which witnesses say.
"""

from __future__ import annotations

from collections.abc import Sequence

from loyal.errors import LedgerError
from loyal.merkle import Frontier
from loyal.protocol import Checkpoint, Parameters, SignedNote, State, VerifierKey
from loyal.protocol.audit import Auditor
from loyal.protocol.checkpoint import open_checkpoint
from loyal.protocol.events import ModelDelivered, ModelPublished, UsageCommitted, decode_event

MOST_ROOTS = 4_096
"""Roots after a set that are kept as beacons, where its model is long in coming."""
MOST_LINEAGE_ROOTS = 256
"""The same for a lineage set. Each is one more that a challenger could have chosen from, and costs
its evidence as much."""
_HINT = "stop: do not act on this log; keep its checkpoints, and ask a witness for its own"


class Mirror:
    """One reader's copy of one log."""

    def __init__(self, platform: bytes, log: VerifierKey, parameters: Parameters) -> None:
        self._auditor = Auditor(State(platform, parameters))
        self._frontier = Frontier()
        self._log = log
        self._waiting: set[bytes] = set()
        self._between: dict[bytes, set[bytes]] = {}
        self._lineage: dict[bytes, list[bytes]] = {}
        """Root of a lineage set -> the log's roots from the entry on that first named it."""
        self._first: dict[bytes, int] = {}
        self._growing: set[bytes] = set()

    @property
    def state(self) -> State:
        """What the log says; read it, and change it through `take` alone."""
        return self._auditor.state

    @property
    def size(self) -> int:
        """Entries that were read and checked."""
        return self._frontier.size

    def opened(self, note: bytes) -> Checkpoint:
        """Obligations 1 and 4: the head that a note signs. LedgerError for any other."""
        head = open_checkpoint(SignedNote.from_bytes(note), self._log).checkpoint
        if head.size < self.size or (head.size == self.size and head.root != self._frontier.root()):
            raise LedgerError(
                f"the log shows {head.size} entries, but {self.size} others were read before",
                hint=_HINT,
                reason="size" if head.size < self.size else "root",
            )
        return head

    def take(self, head: Checkpoint, entries: Sequence[bytes]) -> None:
        """Obligations 2 and 3: all entries from `size` to the head's.

        LedgerError: reason root, and nothing is taken in, where they do not have the head's root;
        reason rules, and this copy is of no more use, where one is not what the rules wrote.
        """
        frontier = self._frontier.extend(entries)
        if frontier.size != head.size or frontier.root() != head.root:
            raise LedgerError(
                "the log's entries are not the ones that its checkpoint signs",
                hint=_HINT,
                reason="root",
            )
        for one in entries:
            self._read(one)
        self._auditor.finish()
        self._frontier = frontier

    def drew_between(self, license: bytes, beacon: bytes) -> bool:
        """Whether a beacon is a root of this log after the license's set was committed and before
        its model was delivered (one of the first 4,096): nobody could have known it when the set
        was made."""
        return beacon in self._between.get(license, set())

    def lineage_beacons(self, root: bytes, before: int) -> frozenset[bytes]:
        """The log's first 256 roots after a model was published with this lineage set, of those
        before the entry at `before`: nobody could have known them when the set was made."""
        since = before - self._first.get(root, before)
        return frozenset(self._lineage.get(root, ())[: max(0, since)])

    def _read(self, entry: bytes) -> None:
        self._auditor.read(entry)
        event = decode_event(entry)
        if isinstance(event, ModelDelivered):
            self._waiting.discard(event.license)
        elif isinstance(event, UsageCommitted):
            self._waiting.add(event.license)
        elif isinstance(event, ModelPublished) and any(event.fingerprint_root):
            place = self._auditor.length - 1
            if self._first.setdefault(event.fingerprint_root, place) == place:
                self._growing.add(event.fingerprint_root)
        for root in tuple(self._growing):
            known = self._lineage.setdefault(root, [])
            known.append(self._auditor.root)
            if len(known) >= MOST_LINEAGE_ROOTS:
                self._growing.discard(root)
        for license in tuple(self._waiting):
            roots = self._between.setdefault(license, set())
            roots.add(self._auditor.root)
            if len(roots) >= MOST_ROOTS:
                self._waiting.discard(license)
