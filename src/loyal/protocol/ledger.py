"""The ledger: an append-only log of entries as a value, with its RFC 6962 roots and proofs.

Order is the index in the log, never a clock. An entry is opaque bytes: records are encoded and
signed elsewhere. Left out on purpose: storage, signing, and who may append.
"""

from collections.abc import Iterable

from loyal.errors import UsageError
from loyal.merkle import Frontier, Tree
from loyal.protocol.checkpoint import Checkpoint

MAX_ENTRY_BYTES = 65_535
"""What an entry bundle of c2sp.org/tlog-tiles can hold: 16 bits of length."""


class Ledger:
    """The first `len(ledger)` entries of a log; `append` gives the longer ledger, and this one
    stays as it was.

    Ledgers that grew out of one another share their entries and hashes, so appending to the longest
    costs O(log n) at most. Appending to a shorter one starts a branch with copies of its own. One
    thread at a time appends.
    """

    __slots__ = ("_entries", "_size", "_tree", "origin")

    origin: str
    """The log's name, the first line of its checkpoints."""

    def __init__(self, origin: str, entries: Iterable[bytes] = ()) -> None:
        self.origin = origin
        self._tree = Tree()
        self._entries: list[bytes] = []
        self._size = 0
        self._extend(entries)

    def append(self, *entries: bytes) -> "Ledger":
        """The ledger with these entries after its own; the first gets index `len(self)`.

        Raises UsageError for what is not bytes, or longer than MAX_ENTRY_BYTES.
        """
        if self._size == len(self._entries):
            longer = Ledger.__new__(Ledger)
            longer.origin = self.origin
            longer._tree, longer._entries, longer._size = self._tree, self._entries, self._size
        else:
            longer = Ledger(self.origin, self._entries[: self._size])
        longer._extend(entries)
        return longer

    def _extend(self, entries: Iterable[bytes]) -> None:
        checked = list(entries)
        for entry in checked:
            if not isinstance(entry, bytes) or len(entry) > MAX_ENTRY_BYTES:
                raise UsageError(
                    f"an entry is not bytes, or longer than {MAX_ENTRY_BYTES:,}",
                    hint="Log the digest of what is longer.",
                )
        for entry in checked:
            self._tree.append(entry)
            self._entries.append(entry)
        self._size += len(checked)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> bytes:
        """The entry with this index, counted from 0; UsageError if there is none."""
        if not 0 <= index < self._size:
            raise UsageError(
                f"there is no entry {index} among {self._size}", hint="Entries count from 0."
            )
        return self._entries[index]

    def root(self, size: int | None = None) -> bytes:
        """The root at a size that the ledger has had (now, by default), in O(log n)."""
        return self._tree.root(self._had(size))

    def frontier(self, size: int | None = None) -> Frontier:
        """What is needed to go on appending without the entries: O(log n) hashes."""
        return self._tree.frontier(self._had(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """That entry `index` is in the tree of that size (RFC 6962, 2.1.1)."""
        return tuple(self._tree.inclusion_proof(index, self._had(size)))

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """That the tree of `old_size` begins the tree of that size (RFC 6962, 2.1.2)."""
        return tuple(self._tree.consistency_proof(old_size, self._had(size)))

    def checkpoint(self, size: int | None = None) -> Checkpoint:
        """The head at a size that the ledger has had, unsigned.

        A log signs only checkpoints of one ledger that it never shortens: then any two of them are
        consistent, as c2sp.org/tlog-checkpoint demands.
        """
        size = self._had(size)
        return Checkpoint(self.origin, size, self.root(size))

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint is this log's at a size that the ledger has had."""
        return (
            checkpoint.origin == self.origin
            and checkpoint.size <= self._size
            and checkpoint.root == self.root(checkpoint.size)
        )

    def _had(self, size: int | None) -> int:
        if size is None:
            return self._size
        if not 0 <= size <= self._size:
            raise UsageError(
                f"the ledger has {self._size} entries, not {size}",
                hint="Ask for a size it has had.",
            )
        return size

    def __repr__(self) -> str:
        return f"Ledger({self.origin!r}, {self._size} entries, root {self.root().hex()})"
