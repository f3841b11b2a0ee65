"""Commit to a set, open single leaves of it, and check an opened leaf without any vault.

The leaves of a shared set are one piece of evidence: each shows the response of all, so a guard
admits one of them and no second.

What an opened leaf proves to somebody who has the root and the beacon from where they were
published: this key, its candidates and the number of its responses were fixed before the beacon was
known, and the beacon, not the owner, picked the responses. It says nothing about who learned the
key in between; that is answered by host-signed replies and several provers.

Left out on purpose: publishing the root and finding the beacon (the ledger's), and counting hits
(`check`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn, cast

from loyal import encoding, merkle
from loyal.errors import EncodingError, ProofError, UsageError
from loyal.fingerprints.fingerprint import (
    Beacon,
    BeaconSource,
    Fingerprint,
    FingerprintSet,
    SetKind,
    gives,
    root_of,
)

PROOF_VERSION = 1
"""Of a leaf with one response, whose pick is a number."""
SEVERAL_VERSION = 2
"""Of a leaf with several, whose picks are a list; the form is the same otherwise."""
SHARED_VERSION = 3
"""Of a leaf whose one response is that of its whole set; its form is that of version 1."""
MAX_PROOF_BYTES = 65_536
"""A longer proof is refused unread. One of 24,576 leaves with 16 one-token candidates is < 1 KB."""

_KEY_PURPOSE = "loyal spent key v1"
_SHARED_KEY_PURPOSE = "loyal spent shared draw v1"


def leaf_bytes(fingerprint: Fingerprint) -> bytes:
    """Canonical CBOR of what is committed, see `Fingerprint.leaf`."""
    return fingerprint.leaf()


def root(fingerprints: FingerprintSet) -> bytes:
    """What is published before the draw, 32 bytes: kind, size and Merkle root in one digest."""
    return fingerprints.root


@dataclass(frozen=True, repr=False)
class Proof:
    """One opened leaf and its way to the root. Handing it out makes its key public."""

    kind: SetKind
    size: int
    """Number of leaves in the set."""
    index: int
    path: tuple[bytes, ...]
    """RFC 6962 audit path, leaf to root, 32 bytes each."""
    fingerprint: Fingerprint
    """The leaf's salt, key, candidates and tag, and the picks that are claimed for it."""
    beacon: Beacon
    tree_root: bytes
    """The RFC 6962 root that, with kind and size, makes up the published root; 32 bytes."""

    def to_bytes(self) -> bytes:
        """Canonical CBOR; law: `from_bytes(proof.to_bytes()) == proof`."""
        one = self.fingerprint
        version = PROOF_VERSION if one.count == 1 else SEVERAL_VERSION
        version = SHARED_VERSION if one.shared else version
        picks: encoding.Encodable = one.picks
        if one.count == 1:
            picks = one.picks[0] if one.picks else None
        fields: list[encoding.Encodable] = [
            *(version, self.kind, self.size, self.index, self.tree_root, self.path),
            *(one.salt, one.key, one.candidates, one.tag, picks),
            *(self.beacon.value, self.beacon.source),
        ]
        return encoding.encode(fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Proof:
        """Raises ProofError (reason malformed), and nothing else, for any other bytes."""
        if len(data) > MAX_PROOF_BYTES:
            _malformed(f"the proof is longer than {MAX_PROOF_BYTES:,} bytes")
        try:
            fields = encoding.decode(data)
        except EncodingError:
            _malformed("the proof is not canonical CBOR")
        if not isinstance(fields, list) or not fields or type(fields[0]) is not int:
            _malformed("the proof does not have the form of one")
        if fields[0] not in (PROOF_VERSION, SEVERAL_VERSION, SHARED_VERSION):
            _malformed(f"the proof has version {fields[0]}, this loyal reads up to 3")
        if len(fields) != 13:
            _malformed("the proof does not have the form of one")
        if fields[0] != SEVERAL_VERSION:
            fields[10] = [fields[10]]
        elif not isinstance(fields[10], list) or len(fields[10]) < 2:
            _malformed("the proof has version 2 and not several picks")
        return cls._from_fields(fields[1:], fields[0] == SHARED_VERSION)

    @classmethod
    def _from_fields(cls, fields: list[encoding.Value], shared: bool) -> Proof:
        kind, size, index, tree_root, path, salt, key, candidates, tag, picks, value, source = (
            fields
        )
        numbers_fit = type(size) is int and type(index) is int and _all(picks, int)
        texts_fit = _all(candidates, str) and isinstance(key, str)
        bytes_fit = _all([tree_root, salt, tag, value], bytes) and _all(path, bytes)
        if not (numbers_fit and texts_fit and bytes_fit):
            _malformed("a field of the proof has the wrong type")
        if kind not in ("lineage", "usage", "tracing") or source not in ("external", "self"):
            _malformed("the proof names an unknown kind of set or beacon")
        try:
            opened = Fingerprint(
                cast(str, key),
                tuple(cast("list[str]", candidates)),
                cast(bytes, salt),
                cast(bytes, tag),
                tuple(cast("list[int]", picks)),
                len(cast("list[int]", picks)),
                shared,
            )
            beacon = Beacon(cast(bytes, value), cast(BeaconSource, source))
        except UsageError as error:
            _malformed(f"the proof's leaf is none: {error}")
        return cls(
            cast(SetKind, kind),
            cast(int, size),
            cast(int, index),
            tuple(cast("list[bytes]", path)),
            opened,
            beacon,
            cast(bytes, tree_root),
        )

    def __repr__(self) -> str:
        return f"Proof(leaf {self.index} of {self.size} {self.kind}, beacon {self.beacon.source})"


@dataclass(frozen=True, repr=False)
class VerifiedLeaf:
    """What a proof that holds has shown."""

    key: str
    responses: tuple[str, ...]
    """What a model that carries the set replies to the key: one of these."""
    candidates: tuple[str, ...]
    index: int
    size: int
    kind: SetKind
    """Only usage leaves are evidence of use."""
    draw_digest: bytes
    """Of a shared set: 32 bytes that stand for its one draw. Empty where each key has its own."""
    binding: bool
    """False: the beacon was self-drawn, or only the prover named it; the pick binds nobody."""

    @property
    def response(self) -> str:
        """The first of the responses."""
        return self.responses[0]

    @property
    def one_in(self) -> int:
        """k/m rounded down: a chance match is at most one in this."""
        return len(self.candidates) // len(self.responses)

    @property
    def shared(self) -> bool:
        """Whether all keys of the set have this response: hits of several leaves count once."""
        return bool(self.draw_digest)

    def matches(self, reply: str) -> bool:
        """Whether a reply gives one of the responses, as `Fingerprint.matches` has it."""
        return gives(reply, self.responses, self.candidates)

    @property
    def key_digest(self) -> bytes:
        """32 bytes that stand for the key, white space around it aside (see ReplayGuard); those of
        a shared set's leaves are the same for all."""
        if self.shared:
            return encoding.digest(self.draw_digest, _SHARED_KEY_PURPOSE)
        return encoding.digest(self.key.strip(), _KEY_PURPOSE)

    def __repr__(self) -> str:
        word = "binding" if self.binding else "binds nobody"
        return f"VerifiedLeaf({self.index} of {self.size} {self.kind}, {word})"


def prove(fingerprints: FingerprintSet, index: int) -> Proof:
    """Open leaf `index` of a drawn set. O(log n) after the set's first proof.

    Raises UsageError if there is no such leaf or the set is not drawn.
    """
    if fingerprints.beacon is None:
        raise UsageError("a set that is not drawn proves nothing", hint="draw it first")
    if not 0 <= index < len(fingerprints):
        raise UsageError(
            f"there is no leaf {index}", hint=f"choose one from 0 to {len(fingerprints) - 1}"
        )
    return Proof(
        fingerprints.kind,
        len(fingerprints),
        index,
        tuple(fingerprints.tree.inclusion_proof(index)),
        fingerprints.fingerprints[index],
        fingerprints.beacon,
        fingerprints.tree.root(),
    )


def verify_proof(proof: Proof | bytes, root: bytes, beacon: bytes | None) -> VerifiedLeaf:
    """Check an opened leaf against the `root` and `beacon` that the verifier brings.

    Bring both from where they were published, never from the prover. Without a beacon (None) the
    proof's own is taken, and the result binds nobody. Obligations, in this order; the first that
    fails raises ProofError with its reason:

    1. malformed: the bytes are a canonical proof; the leaf is a fingerprint (candidates not empty,
       none the beginning of another), so that a reply matches at most one candidate
    2. root, inclusion: its kind, size and tree (and its draw, where keys share one) make up this
       root, and the tree has its leaf at its index
    3. beacon: its beacon is the verifier's
    4. pick: the beacon picks the responses that it claims
    """
    # 1
    if isinstance(proof, bytes):
        proof = Proof.from_bytes(proof)
    # 2
    drawn_as = proof.fingerprint.draw_digest
    if root_of(proof.kind, proof.size, proof.tree_root, drawn_as) != root:
        _refuse("root", "the proof was made under another root", "Ask for a proof under yours.")
    leaf = proof.fingerprint.leaf()
    if not merkle.verify_inclusion(proof.tree_root, leaf, proof.index, proof.size, proof.path):
        _refuse("inclusion", "the leaf is not under this root", "Reject the claim.")
    # 3
    if beacon is not None and proof.beacon.value != beacon:
        _refuse("beacon", "the proof names another beacon", "Check where your beacon is from.")
    # 4
    opened = proof.fingerprint
    if not opened.picks or opened.picks != opened.picked_by(proof.beacon):
        _refuse("pick", "the beacon picks another response", "Reject the claim.")
    return VerifiedLeaf(
        opened.key,
        opened.responses,
        opened.candidates,
        proof.index,
        proof.size,
        proof.kind,
        drawn_as,
        binding=beacon is not None and proof.beacon.source == "external",
    )


class ReplayGuard:
    """Refuses a key that was shown before: a pair is evidence once, under whatever root, and the
    leaves of a shared set are one pair."""

    def __init__(self, seen: Iterable[bytes] = ()) -> None:
        self._seen = set(seen)

    @property
    def seen(self) -> frozenset[bytes]:
        """The digests so far, 32 bytes each; a later guard can start from them."""
        return frozenset(self._seen)

    def admit(self, leaf: VerifiedLeaf) -> None:
        """Remember the leaf; ProofError (reason replay) if its key was admitted before."""
        if leaf.key_digest in self._seen:
            _refuse("replay", "this key was shown before", "Ask for a proof of an unspent key.")
        self._seen.add(leaf.key_digest)


def _all(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _malformed(message: str) -> NoReturn:
    _refuse("malformed", message, "Get the proof again from whoever made it.")


def _refuse(reason: str, message: str, hint: str) -> NoReturn:
    raise ProofError(message, hint=hint, reason=reason) from None
