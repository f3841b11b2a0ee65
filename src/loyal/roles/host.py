"""The host: runs M.oml for users under a signed license ("Training AI to be Loyal", Figure 2).

For each query it asks the platform for a permission that covers every user message, checks the
receipt before it answers, and signs the answer. Without a receipt there is no answer, and a prompt
outside of the license's purpose gets neither.

Left out: HTTP and the model server (`app.gateway`), the disk (`app.receipts`), and the platform's
side. What a host takes from the world are two protocols, `PermissionSource` and `ReceiptStore`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

from loyal import encoding, signing
from loyal.encoding import Value
from loyal.errors import (
    EncodingError,
    PermissionRefused,
    ProtocolError,
    SignatureError,
    UsageError,
)
from loyal.protocol.answers import Answer, SignedAnswer, message_digest
from loyal.protocol.licenses import PURPOSE as LICENSE_PURPOSE
from loyal.protocol.licenses import Terms
from loyal.protocol.permission import (
    MOST_MESSAGES,
    SALT_BYTES,
    BatchHeader,
    MessageDigest,
    Receipt,
)
from loyal.protocol.permits import PermissionRequest
from loyal.signing import PublicKey, Signed, SigningKey

IDEMPOTENCY_BYTES = 16
"""A key is drawn anew for each query: 128 bits never meet by chance."""

_HINT_LICENSE = "get the license file again from the platform"
_HINT_RECEIPT = "do not answer; ask the platform for a permission again"


def wall_clock() -> int:
    """This machine's clock, in Unix seconds."""
    return int(time.time())


class PermissionSource(Protocol):
    """Where permissions come from: the platform, however it is reached."""

    async def permit(self, requests: Sequence[PermissionRequest]) -> list[bytes | ProtocolError]:
        """For each request its receipt's bytes, or why it gets none; in order.

        EndpointError when the platform cannot be asked at all.
        """
        ...


@dataclass(frozen=True, repr=False)
class KeptReceipt:
    """What a host keeps of one query, for its own defense and for whoever asked."""

    receipt: bytes
    """The receipt's canonical bytes; empty where the answer went on an allowance token."""
    salts: tuple[bytes, ...]
    """They open the receipt's digests in a dispute; 16 bytes each."""
    answers: tuple[bytes, ...] = ()
    """Signed answers, one for each reply that was given, in their order."""
    complete: bool = False
    """Whether the answers cover whole replies, not what was sent before a stream broke off."""


class ReceiptStore(Protocol):
    """Where receipts are kept."""

    async def keep(self, request_id: str, kept: KeptReceipt) -> None:
        """Returns once it is durable: no reply is sent before. StorageError when it cannot be."""
        ...

    def answered(self, request_id: str, answers: tuple[bytes, ...], complete: bool) -> None:
        """Adds the answers to what is kept, soon and in order; `find` sees them at once."""
        ...

    async def find(self, request_id: str) -> KeptReceipt | None:
        """What is kept of a query; None for one that is not known."""
        ...


class TokenPurse(Protocol):
    """A host's allowance tokens (rules T), for when the platform cannot be asked."""

    async def take(self, now: int) -> int | None:
        """A token that is ripe at `now` (Unix seconds), used from here on, durably; None without
        one. StorageError."""
        ...

    async def bind(self, token: int, answer: bytes) -> None:
        """Durable: the token went to the answer with this `use_digest`. StorageError."""
        ...

    async def give_back(self, token: int) -> None:
        """The token's query got no answer. StorageError."""
        ...


class Asked(NamedTuple):
    """A request for a permission, and what only the host knows about it."""

    request: PermissionRequest
    salts: tuple[bytes, ...]
    """Of the request's message digests, in order; 16 bytes each."""


@dataclass(frozen=True)
class SignedLicense:
    """A host's license file: the terms, the platform that stands behind them, both signatures."""

    terms: Terms
    platform: PublicKey
    """Whose receipts the host believes."""
    host_signature: bytes
    platform_signature: bytes

    def to_bytes(self) -> bytes:
        """Canonical bytes; law: `SignedLicense.from_bytes(one.to_bytes()) == one`."""
        return encoding.encode(
            [
                self.terms.to_bytes(), self.platform.data, self.host_signature,
                self.platform_signature,
            ]
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedLicense:
        """ProtocolError (L1) for bytes that are no license file."""
        try:
            match encoding.decode(data):
                case [bytes(terms), bytes(platform), bytes(host_signature), bytes(signature)]:
                    key = PublicKey(platform)
                    return cls(Terms.from_bytes(terms), key, host_signature, signature)
        except (EncodingError, SignatureError) as error:
            raise _no_license("this is not a license file") from error
        raise _no_license("this is not a license file")

    def verify(self) -> Terms:
        """The terms, if host and platform signed them (L1); ProtocolError if not."""
        sides = (
            (self.terms.host, self.host_signature),
            (self.platform.data, self.platform_signature),
        )
        for public, signature in sides:
            try:
                signed = Signed[Value](
                    self.terms.to_bytes(), LICENSE_PURPOSE, PublicKey(public), signature
                )
                signing.verify(signed, LICENSE_PURPOSE)
            except (SignatureError, EncodingError) as error:
                raise _no_license("a signature under the license does not hold") from error
        return self.terms


@dataclass(frozen=True)
class Host:
    """One host under one license."""

    key: SigningKey
    """Signs answers."""
    terms: Terms
    """The license's terms: whose it is, and which purpose it allows."""
    platform: PublicKey
    """Whose receipts are believed."""
    draw: Callable[[int], bytes] = secrets.token_bytes
    """Fresh random bytes, for salts and idempotency keys."""
    clock: Callable[[], int] = wall_clock
    """Unix seconds, for the time that stands in each answer."""

    def __post_init__(self) -> None:
        if self.key.public.data != self.terms.host:
            raise ProtocolError(
                "the license is another host's", hint="use the key that signed it", rule="P1"
            )

    @cached_property
    def license(self) -> bytes:
        """The license's id, 32 bytes."""
        return self.terms.license_id

    def refuses(self, prompt: str) -> bool:
        """Whether a prompt is outside of the license's purpose: no permission, and no answer."""
        return not self.terms.allows(prompt)

    def ask(self, messages: Sequence[str]) -> Asked:
        """What to ask the platform for: each message under a salt of its own.

        PermissionRefused for no message, or for more than one permission covers.
        """
        if not 0 < len(messages) <= MOST_MESSAGES:
            raise PermissionRefused(
                f"a permission covers 1 to {MOST_MESSAGES} user messages",
                hint="send fewer messages in one request",
                rule="P1",
            )
        salts = tuple(self.draw(SALT_BYTES) for _ in messages)
        digests = tuple(
            MessageDigest.of(one, salt).value for one, salt in zip(messages, salts, strict=True)
        )
        key = self.draw(IDEMPOTENCY_BYTES)
        return Asked(PermissionRequest(self.key.public.data, self.license, digests, key), salts)

    def receive(self, data: bytes, request: PermissionRequest, began: int | None = None) -> Receipt:
        """The receipt that answers `request`, for an answer begun at `began` (Unix seconds; None:
        now).

        1. It is a receipt, and the platform gave it. 2. It is for this host and this license.
        3. It covers exactly the digests that were asked for. 4. It has not expired (P6).
        ProtocolError for any other.
        """
        receipt = Receipt.from_bytes(data)
        permission = receipt.in_batch()
        _believe(receipt.header, receipt.signature, self.platform)  # 1
        if (permission.host, permission.license) != (request.host, request.license):  # 2
            raise PermissionRefused(
                "a receipt is another host's or for another license", hint=_HINT_RECEIPT, rule="P1"
            )
        if permission.messages != request.messages:  # 3
            raise PermissionRefused(
                "a receipt does not cover what was asked", hint=_HINT_RECEIPT, rule="P3"
            )
        _require_in_time(permission.expires, self.clock() if began is None else began)  # 4
        return receipt

    def answer(
        self,
        messages: Sequence[str],
        reply: str,
        receipt: Receipt | None,
        salts: tuple[bytes, ...],
        *,
        began: int | None = None,
        token: int | None = None,
    ) -> SignedAnswer:
        """The signed answer: these messages, this reply, under this permission or, without one,
        on this allowance token (T2), begun at `began` (Unix seconds of the host's clock; None:
        now).

        ProtocolError (U1) where a message is outside of the purpose: such a signature would be the
        proof of a violation. ProtocolError (P6) where the permission had expired by then.
        """
        if any(map(self.refuses, messages)):
            raise ProtocolError(
                "the license denies this prompt", hint="give it no answer", rule="U1"
            )
        when = self.clock() if began is None else began
        if receipt is not None:
            _require_in_time(receipt.permission.expires, when)
        elif token is None:
            raise UsageError("an answer needs a receipt or a token", hint="ask the platform first")
        digests = tuple(message_digest(one) for one in messages)
        answer = Answer(
            self.license, digests, message_digest(reply), receipt, salts, token, time=when
        )
        return answer.sign(self.key)


@lru_cache(maxsize=64)
def _believe(header: BatchHeader, signature: bytes, platform: PublicKey) -> None:
    """The batch's signature, checked once for all of its receipts; a failure is never kept."""
    header.verify(signature, platform)


def _require_in_time(expires: int, now: int) -> None:
    """P6."""
    if now > expires:
        raise PermissionRefused(
            "a permission has expired by the host's clock",
            hint="ask for a new one; set this machine's clock, if it is off",
            rule="P6",
        )


def _no_license(message: str) -> ProtocolError:
    return ProtocolError(message, hint=_HINT_LICENSE, rule="L1")
