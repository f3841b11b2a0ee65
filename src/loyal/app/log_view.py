"""The log as others read it: entries, proofs, and the signed command behind an event.

It holds the RFC 6962 tree of all entries in memory (some 100 bytes an entry), reads on whenever it
is asked, and never beyond the newest checkpoint. Threads may share it.
"""

from __future__ import annotations

import threading

from loyal.errors import UsageError
from loyal.merkle import Tree
from loyal.protocol import Checkpoint
from loyal.protocol import events as e
from loyal.protocol.commands import SignedCommand
from loyal.protocol.disputes import MakeClaim
from loyal.protocol.events import decode_event
from loyal.protocol.licenses import SignLicense
from loyal.roles import Platform, SignedLicense, Store
from loyal.signing import PublicKey

MOST_ENTRIES = 1_000
"""In one answer."""
MOST_BYTES = 16 << 20
"""In one answer, beyond its first entry."""
_CHUNK = 50

_TAKEN, _CLAIMED, _SIGNED = b"lCommandTaken", b"gClaimed", b"mLicenseSigned"
"""How such an entry goes on after its first byte: the CBOR text of its kind."""


class LogView:
    """What the routes of the log read."""

    def __init__(self, platform: Platform, store: Store) -> None:
        self._platform, self._store = platform, store
        self._tree = Tree()
        self._step = threading.Lock()
        self._command = -1
        self._behind: dict[bytes, int] = {}

    def read_on(self) -> int:
        """Take in what is new; gives the number of entries. StorageError."""
        note = self._platform.checkpoint
        size = Checkpoint.from_text(note.text).size if note is not None else 0
        with self._step:
            start = len(self._tree)
            if start < size:
                for place, data in enumerate(self._store.entries(start, size), start):
                    self._note(place, data)
                    self._tree.append(data)
            return len(self._tree)

    def entries(self, start: int, stop: int) -> list[bytes]:
        """Entries from `start` on, up to `stop` and to what one answer holds; at least one where
        there is one. UsageError for places that the log does not have."""
        length = self.read_on()
        if not 0 <= start <= stop <= length:
            raise UsageError(
                f"the log has {length} entries", hint="ask for start <= stop <= its length"
            )
        stop = min(stop, start + MOST_ENTRIES)
        found: list[bytes] = []
        size = 0
        for first in range(start, stop, _CHUNK):
            for data in self._store.entries(first, min(first + _CHUNK, stop)):
                size += len(data)
                if found and size > MOST_BYTES:
                    return found
                found.append(data)
        return found

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The audit path of an entry in the first `size` ones. UsageError."""
        self.read_on()
        with self._step:
            return self._tree.inclusion_proof(index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that `old` entries begin `new` ones. UsageError."""
        self.read_on()
        with self._step:
            return self._tree.consistency_proof(old, new)

    def claim_of(self, claim: bytes) -> MakeClaim | None:
        """The command that made a claim: it holds the key and the reply. None without a claim."""
        command = self._command_of(claim)
        return command if isinstance(command, MakeClaim) else None

    def license_file(self, license: bytes) -> SignedLicense | None:
        """The license file, with both signatures. None without a license."""
        command = self._command_of(license)
        if not isinstance(command, SignLicense):
            return None
        platform = PublicKey(self._platform.state.platform)
        return SignedLicense(
            command.terms, platform, command.host_signature, command.platform_signature
        )

    def _command_of(self, name: bytes) -> object:
        self.read_on()
        if name not in self._behind:  # another process may have written it
            self._platform.catch_up()
            self.read_on()
        place = self._behind.get(name)
        if place is None:
            return None
        (data,) = self._store.entries(place, place + 1)
        taken = decode_event(data)
        assert isinstance(taken, e.CommandTaken)
        return SignedCommand.from_bytes(taken.signed).command

    def _note(self, place: int, data: bytes) -> None:
        """Remember which command a claim and a license came from."""
        if data.startswith(_TAKEN, 1):
            self._command = place
        elif data.startswith((_CLAIMED, _SIGNED), 1):
            event = decode_event(data)
            if isinstance(event, e.Claimed):
                self._behind[event.claim] = self._command
            elif isinstance(event, e.LicenseSigned):
                self._behind[event.license] = self._command
