"""The Merkle tree of RFC 6962 section 2.1 (RFC 9162 section 2.1), over SHA-256.

Leaves are raw data; a leaf's hash is SHA-256(0x00 || data), a node's SHA-256(0x01 || left ||
right), so no node can pass for a leaf. The module functions take all leaves and are for a single
question; a `Tree` keeps the hashes, so each further proof costs O(log n); a `Frontier` keeps
O(log n) of them, which is all that appending and the root need.

Verification believes nothing: malformed proofs are False, never an exception. Left out on
purpose: signed tree heads and storage, which are the ledger's.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from loyal.errors import UsageError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data), 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over raw leaves, 32 bytes; of none, SHA-256 of the empty string."""
    return Tree(leaves).root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf `index`, from the leaf up. UsageError if there is no such leaf."""
    return Tree(leaves).inclusion_proof(index)


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """The proof that the first `old_size` leaves are a prefix. UsageError if out of range."""
    return Tree(leaves).consistency_proof(old_size)


@dataclass(frozen=True)
class Frontier:
    """The right edge of a tree, as a value: append and root in O(log n), and no proofs.

    Law: after any appends, `root()` is the plain root over the same leaves.
    """

    size: int = 0
    """Leaves so far."""
    nodes: tuple[bytes, ...] = ()
    """The complete subtrees that the leaves split into, largest first, 32 bytes each: one for each
    set bit of `size`."""

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.nodes) != self.size.bit_count() or not _hashes(self.nodes):
            raise UsageError(
                f"these are not the subtrees of {self.size} leaves",
                hint="Build the frontier again from the leaves.",
            )

    def append(self, leaf: bytes) -> "Frontier":
        """The frontier with one more raw leaf."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> "Frontier":
        """The frontier with these raw leaves after its own."""
        nodes, size = list(self.nodes), self.size
        for leaf in leaves:
            node, full = leaf_hash(leaf), size
            while full & 1:
                node = node_hash(nodes.pop(), node)
                full >>= 1
            nodes.append(node)
            size += 1
        return Frontier(size, tuple(nodes))

    def root(self) -> bytes:
        """The root over all leaves so far, 32 bytes."""
        return _fold(self.nodes) if self.nodes else EMPTY_ROOT


class Roots(NamedTuple):
    """The two roots that a consistency proof leads to."""

    old: bytes
    new: bytes


class Tree:
    """A tree that only grows, and proves any of its sizes so far.

    `_levels[i][j]` is the hash of the complete subtree over leaves [j 2^i, (j + 1) 2^i); what is
    ragged at the right edge is folded when asked for.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[leaf_hash(leaf) for leaf in leaves]]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = zip(below[::2], below[1::2], strict=False)  # without the odd one at the edge
            self._levels.append([node_hash(left, right) for left, right in pairs])

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> int:
        """Add raw leaf data; gives its index."""
        index = len(self)
        self._levels[0].append(leaf_hash(leaf))
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            below = self._levels[level]
            self._levels[level + 1].append(node_hash(below[-2], below[-1]))
            level += 1
        return index

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves (all by default), 32 bytes."""
        size = self._size(size)
        return self._subtree(0, size) if size else EMPTY_ROOT

    def frontier(self, size: int | None = None) -> Frontier:
        """The right edge of the first `size` leaves, for who goes on without this tree."""
        size = self._size(size)
        return Frontier(size, tuple(self._blocks(0, size)))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of leaf `index` in the first `size` leaves (RFC 6962, 2.1.1)."""
        size = self._size(size)
        if not 0 <= index < size:
            raise UsageError(
                f"there is no leaf {index} among {size}", hint="Leaves are counted from 0."
            )
        path = []
        start, stop = 0, size
        while stop - start > 1:
            middle = start + _split(stop - start)
            if index < middle:
                path.append(self._subtree(middle, stop))
                stop = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return path[::-1]

    def inclusion_proofs(self) -> list[list[bytes]]:
        """The audit path of every leaf in the tree as it is, several times faster than one by one;
        law: `inclusion_proofs()[i] == inclusion_proof(i)`."""
        # A node without a sibling is its own parent, so each row ends in the ragged subtree's hash.
        rows = [list(self._levels[0])]
        while len(rows[-1]) > 1:
            below = rows[-1]
            level = self._levels[len(rows)] if len(rows) < len(self._levels) else []
            ragged = below[-1] if len(below) % 2 else node_hash(below[-2], below[-1])
            rows.append([*level[: (len(below) - 1) // 2], ragged])
        ends = [len(row) for row in rows]
        paths = []
        for index in range(len(self)):
            path, node = [], index
            for row, end in zip(rows, ends, strict=True):
                if node ^ 1 < end:
                    path.append(row[node ^ 1])
                node >>= 1
            paths.append(path)
        return paths

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """The proof that `old_size` leaves begin the first `size` leaves (RFC 6962, 2.1.2).

        Empty for equal sizes, and for an old size of 0, which begins every tree.
        """
        size = self._size(size)
        if not 0 <= old_size <= size:
            raise UsageError(
                f"a tree of {size} leaves never had {old_size}", hint="Ask for a size it has had."
            )
        if old_size == 0:
            return []
        path = []
        start, stop = 0, size
        while stop != old_size:
            middle = start + _split(stop - start)
            if old_size <= middle:
                path.append(self._subtree(middle, stop))
                stop = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        if start > 0:
            path.append(self._subtree(start, stop))
        return path[::-1]

    def _size(self, size: int | None) -> int:
        if size is None:
            return len(self)
        if not 0 <= size <= len(self):
            raise UsageError(
                f"the tree has {len(self)} leaves, not {size}", hint="Ask for a size it has had."
            )
        return size

    def _subtree(self, start: int, stop: int) -> bytes:
        """The hash over leaves [start, stop), at least one."""
        return _fold(self._blocks(start, stop))

    def _blocks(self, start: int, stop: int) -> list[bytes]:
        """The complete subtrees that leaves [start, stop) split into, largest first."""
        blocks = []
        while stop > start:
            level = ((stop - start) & (start - stop)).bit_length() - 1
            stop -= 1 << level
            blocks.append(self._levels[level][stop >> level])
        return blocks[::-1]


def verify_inclusion(
    root: bytes, leaf_data: bytes, index: int, size: int, path: Sequence[bytes]
) -> bool:
    """Whether `leaf_data` is leaf `index` of the `size` leaves under `root` (RFC 9162, 2.1.3.2).

    The root does not fix the size: take both from the same trusted place (a signed tree head).
    """
    if not 0 <= index < size or not _hashes([root, *path]):
        return False
    node, last = index, size - 1
    current, sha256 = leaf_hash(leaf_data), hashlib.sha256
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            current = sha256(b"\x01" + sibling + current).digest()
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            current = sha256(b"\x01" + current + sibling).digest()
        node >>= 1
        last >>= 1
    return last == 0 and current == root


def verify_consistency(
    old_root: bytes, new_root: bytes, old_size: int, new_size: int, path: Sequence[bytes]
) -> bool:
    """Whether the tree under `new_root` begins with the one under `old_root` (RFC 9162, 2.1.4.2).

    An old size of 0 is consistent with every tree, if its root is EMPTY_ROOT and the path empty.
    """
    if not 0 <= old_size <= new_size or not _hashes([old_root, new_root, *path]):
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path and old_root == EMPTY_ROOT
    # A complete old tree is its own first node, and is left out of the path.
    nodes = [old_root, *path] if is_complete(old_size) else path
    return consistency_roots(old_size, new_size, nodes) == Roots(old_root, new_root)


def is_complete(size: int) -> bool:
    """Whether a tree of `size` leaves (1 or more) is one complete subtree."""
    return size & (size - 1) == 0


def consistency_roots(old_size: int, new_size: int, nodes: Sequence[bytes]) -> Roots | None:
    """The roots that a consistency proof leads to, None if it has not the shape for these sizes.

    `nodes` is the path of RFC 6962 with the first node always written out; the path leaves it out
    where the old tree is complete. Nodes that lead to a tree's true root are nodes of that tree, so
    the old root is then what that tree's first `old_size` leaves have, whatever anybody signed.
    """
    if not 0 < old_size < new_size or not nodes or not _hashes(nodes):
        return None
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old = new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    return Roots(old, new) if last == 0 else None


def _fold(blocks: Sequence[bytes]) -> bytes:
    """The hash over complete subtrees side by side, at least one, largest first."""
    folded = blocks[-1]
    for block in blocks[-2::-1]:
        folded = node_hash(block, folded)
    return folded


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _hashes(values: Sequence[object]) -> bool:
    if not {*map(type, values)} <= {bytes}:
        return False
    return {*map(len, cast(Sequence[bytes], values))} <= {HASH_BYTES}
