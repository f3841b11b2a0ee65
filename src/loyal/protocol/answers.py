"""The answer that a host signs: what it was asked, what it replied, under which permission, when.

The license obliges a host to sign each answer. It covers the plain digest of every user message as
received (the asker knows them), of the reply, the receipt, and the salts that open the receipt's
digests, so that whoever asked can check that the permission is for this very query. A host that
signs nothing can be asked in the log (`disputes`, C5); one that signs a receipt which does not fit,
or bytes that are none, has signed its own claim.

Its time is what an expiry is compared with, so an old answer stays as good as it was, and a
permission is not used again once it has expired (C14). Whoever asked compares it with its own clock
(`Answer.timely`): a host that dates its answers falsely has, for that asker, signed none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import cast

from loyal import encoding, signing
from loyal.encoding import Value
from loyal.errors import EncodingError, PermissionRefused, ProtocolError, SignatureError
from loyal.protocol.permission import SKEW_SECONDS, Receipt
from loyal.signing import PublicKey, Signed, SigningKey

PURPOSE = "loyal answer 2"
_TEXT = encoding.frame("loyal plain message 1")


def message_digest(text: str) -> bytes:
    """SHA-256 of a message or a reply, byte for byte; 32 bytes. For those who know the text."""
    return hashlib.sha256(_TEXT + text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Answer:
    """What a host says that it did."""

    license: bytes
    messages: tuple[bytes, ...]
    """`message_digest` of each user message, in order."""
    reply: bytes
    """`message_digest` of the reply."""
    receipt: Receipt | None
    """The permission; None where it has none."""
    salts: tuple[bytes, ...]
    """Of the receipt's message digests, in order."""
    token: int | None = None
    """The allowance token that it went on, where the platform could not be reached (T2)."""
    time: int = field(kw_only=True)
    """When the host began to answer, by its own clock; Unix seconds."""

    def timely(self, asked: int, heard: int) -> bool:
        """Whether its time fits an asker that asked and heard at these Unix seconds of its own
        clock. Where it does not, the answer counts as unsigned (C5)."""
        return asked - SKEW_SECONDS <= self.time <= heard + SKEW_SECONDS

    def sign(self, key: SigningKey) -> SignedAnswer:
        """The host signs it."""
        receipt = self.receipt.to_bytes() if self.receipt is not None else None
        record: list[encoding.Encodable] = [
            self.license, self.messages, self.reply, receipt, self.salts, self.token, self.time
        ]  # fmt: skip
        return SignedAnswer(signing.sign(key, record, PURPOSE))


@dataclass(frozen=True)
class SignedAnswer:
    """An answer under its host's signature; unverified until `verify`."""

    signed: Signed[Value]

    def verify(self, host: bytes) -> Answer:
        """The answer, if this host signed it; ProtocolError if not."""
        try:
            if self.signed.public != PublicKey(host):
                raise SignatureError("another host signed", hint="")
            record = signing.verify(self.signed, PURPOSE)
        except (SignatureError, EncodingError) as error:
            raise ProtocolError(
                "the host did not sign this answer", hint="demand it in the log", rule="C5"
            ) from error
        match record:
            case [bytes(license), list(messages), bytes(reply), receipt, list(salts), token, time]:
                given = [one for one in (*messages, *salts) if isinstance(one, bytes)]
                whole = len(given) == len(messages) + len(salts)
                sound = (token is None or type(token) is int) and type(time) is int
                sound = sound and 0 <= cast(int, time) < 2**63
                if whole and sound and (receipt is None or isinstance(receipt, bytes)):
                    count = len(messages)
                    return Answer(
                        license,
                        tuple(given[:count]),
                        reply,
                        _receipt(receipt),
                        tuple(given[count:]),
                        cast(int | None, token),
                        time=cast(int, time),
                    )
        raise ProtocolError(
            "a signed answer does not have the form of one", hint="demand it in the log", rule="C5"
        )


def _receipt(data: bytes | None) -> Receipt | None:
    """What the host showed; None where that is no receipt at all."""
    try:
        return Receipt.from_bytes(data) if data is not None else None
    except PermissionRefused:
        return None
