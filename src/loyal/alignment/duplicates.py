"""Texts that are nearly one another's copies, and training texts that give held-out ones away.

A text is the set of its word pairs (`community.overlap`); two are near where the Jaccard index of
their sets reaches a threshold. MinHash (Broder 1997) finds candidates in constant time a text, in
bands of rows (Leskovec et al., "Mining of Massive Datasets", 3.4), and the sets themselves decide:
no pair below the threshold is ever found, and one at it is missed with a chance of at most
`MOST_MISS` for hashes that behave as drawn. Equal sets are always found.

Decontamination is by word n-grams, as Tulu 3 does it (Lambert et al., arXiv 2411.15124, section
3.2: 8-grams, half of the held-out text). Left out: texts reworded so that no pair of words stays.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from loyal.community.constitution import words
from loyal.community.overlap import shingles
from loyal.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

MOST_MISS = 1e-6
"""Chance that a pair exactly at the threshold is missed; above it, less."""

_ROWS = range(1, 17)
_MOST_HASHES = 512


@dataclass(frozen=True)
class Bands:
    """How signatures are cut: two texts are candidates where all rows of one band are equal."""

    count: int
    rows: int

    @property
    def hashes(self) -> int:
        """Length of a signature."""
        return self.count * self.rows

    def chance(self, likeness: float) -> float:
        """Chance that two texts of this likeness, 0 to 1, become candidates."""
        return 1 - (1 - likeness**self.rows) ** self.count

    @classmethod
    def at(cls, threshold: float) -> Bands:
        """As many rows as `_MOST_HASHES` allow with a miss of at most `MOST_MISS` there.

        More rows make fewer false candidates, which cost time alone. UsageError for a threshold
        under 0.2 (every text would be a candidate) or over 1.
        """
        if not 0.2 <= threshold <= 1:
            raise UsageError(f"a likeness of {threshold}", hint="give 0.2 to 1")
        if threshold == 1:
            return cls(1, 16)
        best = cls(1, 1)
        for rows in _ROWS:
            count = math.ceil(math.log(MOST_MISS) / math.log1p(-(threshold**rows)))
            if count * rows <= _MOST_HASHES:
                best = cls(count, rows)
        return best


class Index:
    """Texts as they come, and for each the earlier one that it nearly copies.

    Some 100 bytes a band and text, for instance 6 kB at a threshold of 0.8.
    """

    def __init__(self, threshold: float, seed: int = 0) -> None:
        """`threshold` is a Jaccard index, 0.2 to 1; `seed` draws the hashes.

        Who knows the seed can write near copies that are missed: draw one where strangers write.
        """
        self.threshold, self.bands = threshold, Bands.at(threshold)
        self._salts = _salts(self.bands.hashes, seed)
        self._sets: list[Hashes] = []
        self._buckets: dict[bytes, list[int]] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def find(self, text: str) -> int | None:
        """The nearest of the kept texts, as its place among them from 0; None where none is near.

        The first of equally near ones.
        """
        mine = _hashes(text)
        return self._nearest(mine, self._keys(mine))

    def add(self, text: str) -> int | None:
        """As `find`; and where no kept text is near, this one is kept."""
        mine = _hashes(text)
        keys = self._keys(mine)
        found = self._nearest(mine, keys)
        if found is None:
            for key in keys:
                self._buckets.setdefault(key, []).append(len(self._sets))
            self._sets.append(mine)
        return found

    def _nearest(self, mine: Hashes, keys: Sequence[bytes]) -> int | None:
        best: tuple[float, int] | None = None
        for place in {place for key in keys for place in self._buckets.get(key, ())}:
            alike = _likeness(self._sets[place], mine)
            if alike >= self.threshold and (best is None or (alike, -place) > best):
                best = alike, -place
        return None if best is None else -best[1]

    def _keys(self, mine: Hashes) -> list[bytes]:
        """A digest of each band of the signature and its number."""
        signature = _signature(mine, self._salts).reshape(self.bands.count, self.bands.rows)
        return [
            hashlib.blake2b(row.tobytes(), digest_size=8, key=number.to_bytes(2, "big")).digest()
            for number, row in enumerate(signature)
        ]


def _salts(count: int, seed: int) -> Hashes:
    import numpy as np

    # The standard generator's bits, not the machine's: the same seed, the same pairs, anywhere.
    raw = hashlib.shake_256(f"loyal/duplicates/{seed}".encode()).digest(8 * count)
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)


def _hashes(text: str) -> Hashes:
    """The word pairs of a text as sorted hashes of 64 bits: (n,); n is at least 1."""
    import numpy as np

    raw = b"".join(_shingle_hash(one) for one in shingles(text))
    return np.unique(np.frombuffer(raw, dtype="<u8").astype(np.uint64))


def _likeness(one: Hashes, other: Hashes) -> float:
    import numpy as np

    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def _signature(mine: Hashes, salts: Hashes) -> Hashes:
    """The least of each hash over the set: (hashes,)."""
    import numpy as np

    least = np.full(len(salts), np.iinfo(np.uint64).max, dtype=np.uint64)
    for at in range(0, len(mine), 256):  # bounded memory for long texts
        mixed = mine[at : at + 256, None] ^ salts[None]  # (up to 256, hashes)
        # The finalizer of SplitMix64 (Steele et al. 2014): every bit of it hangs on every bit.
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        np.minimum(least, (mixed ^ (mixed >> np.uint64(31))).min(axis=0), out=least)
    return least


@lru_cache(maxsize=1 << 16)
def _shingle_hash(one: tuple[str, ...]) -> bytes:
    return hashlib.blake2b("\0".join(one).encode(), digest_size=8).digest()


@dataclass(frozen=True)
class Leak:
    """A held-out text that a training text gives away."""

    place: int
    """Of the held-out text in the list."""
    share: float
    """Of its words, 0 to 1, that stand in runs which the training text has too."""


class HeldOut:
    """Held-out texts, to be kept out of training.

    A text of fewer words than `run` leaks where all its words stand in one run of the training
    text; one of fewer than `LEAST_WORDS`, only where it is the training text.
    """

    LEAST_WORDS = 4

    def __init__(self, texts: Iterable[str], run: int = 8, share: float = 0.5) -> None:
        """`run` is words of an n-gram; `share` of a held-out text's words, 0 to 1, is a leak."""
        if run < 2 or not 0 < share <= 1:
            raise UsageError("a run under 2 words, or a share of none", hint="take 8 and 0.5")
        self.run, self.share = run, share
        self._lengths: list[int] = []
        self._whole: dict[tuple[str, ...], int] = {}
        self._grams: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        self._sizes: set[int] = set()
        for place, text in enumerate(texts):
            self._add(place, words(text))

    def _add(self, place: int, said: tuple[str, ...]) -> None:
        self._lengths.append(len(said))
        if not said:
            return
        self._whole.setdefault(said, place)
        size = min(self.run, len(said))
        if size < self.LEAST_WORDS:
            return
        self._sizes.add(size)
        for at in range(len(said) - size + 1):
            self._grams[said[at : at + size]].append((place, at))

    def leak(self, text: str) -> Leak | None:
        """The held-out text that this one gives away most of; None where it gives none away."""
        said = words(text)
        if said in self._whole:
            return Leak(self._whole[said], 1.0)
        covered: dict[int, set[int]] = defaultdict(set)
        for size in self._sizes:
            for gram in {said[at : at + size] for at in range(len(said) - size + 1)}:
                for place, at in self._grams.get(gram, ()):
                    covered[place].update(range(at, at + size))
        found = [Leak(place, len(at) / self._lengths[place]) for place, at in covered.items()]
        worst = max(found, key=lambda one: (one.share, -one.place), default=None)
        return worst if worst is not None and worst.share >= self.share else None
