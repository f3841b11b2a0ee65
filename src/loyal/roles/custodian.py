"""The vault's side of claims: which key a draw gives out, and the leaf that a claim opens.

A custodian holds the drawn usage sets, each under the license of the one host whose copy carries
it. Draw n of a license gives out the set's fingerprint n. The leaf is opened when a claim stands in
the log, never before, so no prover ever sees a response. Nothing here shows a key in a repr or an
error. Left out: when keys are drawn and leaves opened (the platform's loop), and the vault's file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from loyal.errors import UsageError
from loyal.fingerprints import FingerprintSet, commitment


class Custodian:
    """The drawn usage sets by license; reads only, so any thread may call it."""

    def __init__(self, sets: Mapping[bytes, FingerprintSet]) -> None:
        """License ids (32 bytes) to their sets. UsageError for a set that is not of kind usage, not
        drawn, or under two licenses."""
        for one in sets.values():
            if one.kind != "usage" or one.beacon is None:
                raise UsageError(
                    "a license's keys come from a drawn usage set",
                    hint="commit to a usage set, publish its root, and draw it with a beacon",
                )
        if len({one.root for one in sets.values()}) != len(sets):
            raise UsageError(
                "one usage set stands under two licenses", hint="make a set of its own a license"
            )
        self._sets = dict(sets)

    def __repr__(self) -> str:
        return f"Custodian({len(self._sets)} licenses)"

    def __contains__(self, license: object) -> bool:
        return license in self._sets

    @property
    def licenses(self) -> tuple[bytes, ...]:
        """The licenses that have a set here, sorted."""
        return tuple(sorted(self._sets))

    def root(self, license: bytes) -> bytes:
        """What `UsageCommitted` has to say of this license, 32 bytes. UsageError without a set."""
        return self._set(license).root

    def beacon(self, license: bytes) -> bytes:
        """The beacon that drew the set, 16 to 64 bytes. UsageError without a set."""
        beacon = self._set(license).beacon
        assert beacon is not None
        return beacon.value

    def keys_left(self, license: bytes, draws: int = 0) -> int:
        """Keys that were not given out after so many draws (`State.licenses[...].draws`)."""
        if license not in self._sets:
            return 0
        return max(0, len(self._sets[license]) - draws)

    def key(self, license: bytes, number: int) -> str:
        """The key of draw `number` (from 0). For the prover of that draw alone: a secret.

        UsageError without a set, or where the set has no more keys.
        """
        known = self._set(license)
        if not 0 <= number < len(known):
            raise UsageError(
                f"the set has {len(known)} keys, and none for draw {number}",
                hint="deliver a model with a new set",
            )
        return known.fingerprints[number].key

    def open(self, license: bytes, key: str) -> bytes:
        """The leaf of a claimed key as `Proof` bytes: for verifiers, after the claim.

        UsageError without a set, or for a text that is no key of it, byte for byte: the claim then
        lapses (C8).
        """
        known = self._set(license)
        index = known.positions.get(key.strip())
        if index is None or known.fingerprints[index].key != key:
            raise UsageError(
                "what was claimed is no key of the license's set", hint="let the claim lapse"
            )
        return commitment.prove(known, index).to_bytes()

    def _set(self, license: bytes) -> FingerprintSet:
        found = self._sets.get(license)
        if found is None:
            raise UsageError(
                "the vault has no set for this license", hint="add the set, or check the license"
            )
        return found


def evidence_digest(proof: bytes) -> bytes:
    """What `OpenLeaf` puts into the log: SHA-256 of the proof's bytes, 32 bytes (C8)."""
    return hashlib.sha256(proof).digest()
