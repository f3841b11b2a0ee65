"""Permission σ(q): the platform's word that one host may answer one query ("Training AI to be
Loyal", section 2.1, Figure 2), given in batches and proven by a receipt that stands alone.

    from loyal.protocol import MessageDigest, Permission, PermissionBatch

    salted = MessageDigest.of("What is a loyal model?", salt)      # the host keeps the salt
    leaf = Permission(host, license, version, (salted.value,), sequence, expires)
    batch = PermissionBatch.issue([leaf, ...], log_index, now, platform_key)
    receipt = batch.receipt(0)                                      # what the host is sent
    receipt.verify(platform_public)                                 # offline, one signature

What a permission binds: host, license, model version, the salted digest of each user message as it
was received, a sequence number and an expiry. The platform never sees the query, and cannot look a
permission up by it; the host opens the salts in a dispute. A batch is one Merkle tree whose root is
signed together with its place in the log, so the signature's cost is shared by all of its leaves,
and its age is an index, never a clock.

Left out: who may have a permission and what it costs (`state`), the log (`ledger`), transport.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from loyal import encoding, merkle, signing
from loyal.errors import EncodingError, PermissionRefused
from loyal.signing import PublicKey, SigningKey

VERSION = 1
SALT_BYTES = 16
"""A salt is drawn anew for each message: 128 bits hide even a message that can be guessed."""
DIGEST_BYTES = 32
MOST_MESSAGES = 64
"""User messages that one permission covers; longer conversations are cut by the gateway."""
MOST_LEAVES = 4096
"""Permissions in one batch."""
SKEW_SECONDS = 600
"""How far any party's clock may be off. Only expiries and answers are compared with a clock."""
APART_SECONDS = 2 * SKEW_SECONDS
"""How far the clocks of two parties may be apart."""

_MESSAGE = encoding.frame("loyal message 1")
_BATCH = "loyal permission batch 1"
_BATCH_FRAME = encoding.frame(_BATCH)
_LEAF_TYPES = [int, bytes, bytes, bytes, list, int, int]
_HEADER_TYPES = [int, bytes, int, int, int]
_RECEIPT_TYPES = [bytes, int, list, list, bytes]
_HINT = "ask the platform for the receipt again; do not act on this one"


@dataclass(frozen=True)
class MessageDigest:
    """A user message as somebody else may see it: salted, so that it cannot be guessed."""

    value: bytes
    """SHA-256 over purpose, salt and the message's UTF-8 bytes exactly as received; 32 bytes."""

    @classmethod
    def of(cls, message: str, salt: bytes) -> MessageDigest:
        """The digest of one message; PermissionRefused for a salt of another length than 16."""
        if len(salt) != SALT_BYTES:
            _refuse("a message's salt is not 16 bytes long", hint="draw 16 fresh random bytes")
        text = message.encode("utf-8", "surrogatepass")
        return cls(hashlib.sha256(_MESSAGE + salt + text).digest())

    def opens_to(self, message: str, salt: bytes) -> bool:
        """Whether this is the digest of `message` under `salt`, byte for byte: `key` and `key.`
        are two messages, and so are a message alone and behind a system prompt."""
        if len(salt) != SALT_BYTES:
            return False
        return hmac.compare_digest(self.value, MessageDigest.of(message, salt).value)


@dataclass(frozen=True)
class Permission:
    """One leaf: what is permitted, and to whom."""

    host: bytes
    """Public key of the host, 32 bytes."""
    license: bytes
    """Id of the license, 32 bytes."""
    model_version: bytes
    """Digest of the weights the host was given, 32 bytes."""
    messages: tuple[bytes, ...]
    """Salted digest of each user message, in order; 32 bytes each."""
    sequence: int
    """Which query of this license it is, from 0, without gaps."""
    expires: int
    """Unix seconds of the last second at which an answer under it may begin (P6)."""

    def to_bytes(self) -> bytes:
        """The leaf's canonical bytes."""
        return encoding.encode(
            [
                VERSION, self.host, self.license, self.model_version, self.messages,
                self.sequence, self.expires,
            ]
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Permission:
        """PermissionRefused for any bytes that are not a leaf."""
        try:
            fields = encoding.decode(data)
        except EncodingError as error:
            raise _error("a permission is not canonical CBOR") from error
        # Types one by one, not a match statement: every check of a receipt comes by here.
        if (
            isinstance(fields, list)
            and [*map(type, fields)] == _LEAF_TYPES
            and fields[0] == VERSION
        ):
            host, license, version, messages, sequence, expires = cast(list[Any], fields[1:])
            one = cls(host, license, version, tuple(messages), sequence, expires)
            if one.well_formed:
                return one
        raise _error("a permission does not have the form of one")

    @property
    def well_formed(self) -> bool:
        """Whether every field has its size and range."""
        hashes = (self.host, self.license, self.model_version, *self.messages)
        return (
            3 < len(hashes) <= 3 + MOST_MESSAGES
            and {*map(type, hashes)} == {bytes}
            and {*map(len, hashes)} == {DIGEST_BYTES}
            and type(self.sequence) is int is type(self.expires)
            and 0 <= self.sequence < 2**63
            and 0 <= self.expires < 2**63
        )

    def covers(self, message: str, salts: Sequence[bytes]) -> bool:
        """Whether one of its messages is exactly `message`, opened by one of `salts`."""
        return any(
            MessageDigest(value).opens_to(message, salt)
            for value, salt in zip(self.messages, salts, strict=False)
        )


@dataclass(frozen=True)
class BatchHeader:
    """What the platform signs once for all leaves of a batch, and writes to the log."""

    root: bytes
    """RFC 6962 root over the leaves' bytes, 32 bytes."""
    count: int
    """Leaves in the batch."""
    log_index: int
    """The batch's place in the log. A claim is cleared only by an index below its commitment's."""
    issued: int
    """Unix seconds, for people; no rule reads it."""

    def record(self) -> list[encoding.Encodable]:
        """The signed record."""
        return [VERSION, self.root, self.count, self.log_index, self.issued]

    def verify(self, signature: bytes, platform: PublicKey) -> None:
        """PermissionRefused unless the platform signed this header. Once is enough for a batch."""
        signed = _BATCH_FRAME + encoding.encode_checked(self.record())
        if not signing.holds(platform, signed, signature):
            _refuse("the platform did not sign this batch")


@dataclass(frozen=True)
class Receipt:
    """One permission and all that shows it: enough for a host whose platform is gone."""

    leaf: bytes
    """The permission's bytes."""
    position: int
    """Which leaf of the batch it is."""
    path: tuple[bytes, ...]
    """RFC 6962 audit path to the batch's root."""
    header: BatchHeader
    signature: bytes
    """The platform's, over the header; 64 bytes."""

    @property
    def permission(self) -> Permission:
        """The leaf, decoded; PermissionRefused where it is none."""
        return Permission.from_bytes(self.leaf)

    def to_bytes(self) -> bytes:
        """Canonical bytes; law: `Receipt.from_bytes(receipt.to_bytes()) == receipt`."""
        return encoding.encode(
            [self.leaf, self.position, self.path, self.header.record(), self.signature]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """PermissionRefused for any bytes that are not a receipt."""
        try:
            fields = encoding.decode(data)
        except EncodingError as error:
            raise _error("a receipt is not canonical CBOR") from error
        if isinstance(fields, list) and [*map(type, fields)] == _RECEIPT_TYPES:
            leaf, position, path, head, signature = cast(list[Any], fields)
            sound = [*map(type, head)] == _HEADER_TYPES and {*map(type, path)} <= {bytes}
            if sound and head[0] == VERSION:
                return cls(leaf, position, tuple(path), BatchHeader(*head[1:]), signature)
        raise _error("a receipt does not have the form of one")

    def verify(self, platform: PublicKey) -> Permission:
        """The permission, if the platform gave it.

        1. The leaf is a permission. 2. It stands under the header's root. 3. The platform signed
        the header. Raises PermissionRefused. Whether its place in the log is early enough, and
        whether it covers a message, are the dispute's questions; whether the log really holds the
        header there is answered by an inclusion proof (`ledger`).
        """
        permission = self.in_batch()  # 1, 2
        self.header.verify(self.signature, platform)  # 3
        return permission

    def in_batch(self) -> Permission:
        """Obligations 1 and 2 of `verify` alone, for a batch whose signature was seen to hold."""
        permission = Permission.from_bytes(self.leaf)  # 1
        head = self.header
        if not 0 < head.count <= MOST_LEAVES or not merkle.verify_inclusion(
            head.root, self.leaf, self.position, head.count, self.path
        ):  # 2
            _refuse("a permission is not in its batch")
        return permission


@dataclass(frozen=True)
class PermissionBatch:
    """Permissions that share one signature."""

    leaves: tuple[bytes, ...]
    header: BatchHeader
    signature: bytes
    tree: merkle.Tree

    @classmethod
    def issue(
        cls, permissions: Sequence[Permission], log_index: int, now: int, key: SigningKey
    ) -> PermissionBatch:
        """Sign a batch for place `log_index` of the log. PermissionRefused for a wrong size."""
        if not 0 < len(permissions) <= MOST_LEAVES:
            _refuse(
                f"a batch holds 1 to {MOST_LEAVES} permissions",
                hint="split it, or wait for a query",
            )
        leaves = tuple(one.to_bytes() for one in permissions)
        tree = merkle.Tree(leaves)
        header = BatchHeader(tree.root(), len(leaves), log_index, now)
        signed = signing.sign(key, header.record(), _BATCH)
        return cls(leaves, header, signed.signature, tree)

    def receipt(self, position: int) -> Receipt:
        """What the host of leaf `position` is sent. UsageError if there is no such leaf."""
        path = tuple(self.tree.inclusion_proof(position))
        return Receipt(self.leaves[position], position, path, self.header, self.signature)

    def receipts(self) -> list[bytes]:
        """The bytes of every leaf's receipt; law: they are `receipt(position).to_bytes()`.

        What all have in common is written once: a list of CBOR is its items' bytes, one behind
        another, behind a byte that counts them (RFC 8949, section 3.1).
        """
        shared = encoding.encode([self.header.record(), self.signature])[1:]
        return [
            b"\x85" + encoding.encode_checked([leaf, position, path])[1:] + shared
            for position, (leaf, path) in enumerate(
                zip(self.leaves, self.tree.inclusion_proofs(), strict=True)
            )
        ]


def _error(message: str, hint: str = _HINT) -> PermissionRefused:
    return PermissionRefused(message, hint=hint)


def _refuse(message: str, hint: str = _HINT) -> NoReturn:
    raise _error(message, hint)
