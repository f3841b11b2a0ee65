"""Ed25519 signatures (RFC 8032, through PyNaCl) over canonical records, each for one purpose.

What is signed is the purpose, framed by its length, and then the record's canonical bytes; so a
signature made for one purpose is none for another, and no record can be read as a longer purpose.
`Signed` carries the bytes that were signed, and `verify` decodes exactly those.

Left out on purpose: who may sign what (protocol's), key files (the vault's), and any other scheme.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import nacl.bindings
import nacl.exceptions
import nacl.signing

from loyal.encoding import Encodable, Value, decode, encode, frame
from loyal.errors import SignatureError

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

T = TypeVar("T", bound=Value)
_HINT_KEY = "Copy the key again; it is 64 hexadecimal digits."
_HINT_FORGED = "Get the record again from whom it claims to come; do not act on it."


@dataclass(frozen=True)
class PublicKey:
    """Whom a signature is checked against."""

    data: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        _require_bytes("a public key", self.data, PUBLIC_KEY_BYTES)

    @classmethod
    def from_hex(cls, text: str) -> "PublicKey":
        """Of 64 hexadecimal digits; SignatureError for anything else."""
        try:
            return cls(bytes.fromhex(text))
        except (ValueError, TypeError) as error:
            raise SignatureError("a public key is not hexadecimal", hint=_HINT_KEY) from error

    def hex(self) -> str:
        """64 hexadecimal digits."""
        return self.data.hex()

    def __repr__(self) -> str:
        return f"PublicKey({self.hex()})"


class SigningKey:
    """A secret key. Neither repr nor str nor pickle gives it away; `seed` does, for the vault."""

    __slots__ = ("_key", "public")

    public: PublicKey
    """Whom others check the signatures against."""

    def __init__(self, key: nacl.signing.SigningKey) -> None:
        self._key = key
        self.public = PublicKey(bytes(key.verify_key))

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key from the system's randomness."""
        return cls(nacl.signing.SigningKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> "SigningKey":
        """The key of 32 secret bytes; SignatureError for another length."""
        _require_bytes("a seed", seed, SEED_BYTES)
        return cls(nacl.signing.SigningKey(seed))

    def seed(self) -> bytes:
        """The 32 secret bytes, to be kept encrypted."""
        return bytes(self._key)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"

    def __reduce__(self) -> tuple[object, ...]:
        raise SignatureError(
            "a signing key is not pickled", hint="Keep its seed in a vault, and pass the vault."
        )


@dataclass(frozen=True)
class Signed(Generic[T]):
    """A record, what it was signed for, by whom, and the signature. Unverified until `verify`."""

    record: bytes
    """The canonical bytes of the record, whose type is T."""
    purpose: str
    """What the signature is for, such as `loyal license 1`."""
    public: PublicKey
    """Who claims to have signed."""
    signature: bytes
    """64 bytes."""

    def to_bytes(self) -> bytes:
        """The canonical bytes of the whole, which `from_bytes` takes."""
        return encode([self.record, self.purpose, self.public.data, self.signature])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Signed[T]":
        """EncodingError for bytes that are not canonical, SignatureError for another content."""
        match decode(data):
            case [bytes(record), str(purpose), bytes(public), bytes(signature)]:
                return cls(record, purpose, PublicKey(public), signature)
        raise SignatureError("these bytes are not a signed record", hint=_HINT_FORGED)


def sign(key: SigningKey, record: Encodable, purpose: str) -> Signed[Value]:
    """Sign the canonical bytes of `record` for `purpose` (1 to 65,535 bytes; EncodingError)."""
    data = encode(record)
    signature = key._key.sign(frame(purpose) + data).signature
    return Signed(data, purpose, key.public, signature)


def verify(signed: Signed[T], purpose: str) -> T:
    """The record, if `signed.public` signed it for `purpose`; whether that is the right key, the
    caller decides.

    1. The purpose is the one asked for. 2. The signature has its length. 3. It holds. 4. The record
    is canonical. Raises SignatureError for 1 to 3, EncodingError for 4.
    """
    if signed.purpose != purpose:  # 1
        raise SignatureError("this was signed for another purpose", hint=_HINT_FORGED)
    _require_bytes("a signature", signed.signature, SIGNATURE_BYTES)  # 2
    if not holds(signed.public, frame(purpose) + signed.record, signed.signature):  # 3
        raise SignatureError("the signature does not hold", hint=_HINT_FORGED)
    return cast(T, decode(signed.record))  # 4


def sign_text(key: SigningKey, message: bytes) -> bytes:
    """The bare signature (64 bytes) over a message whose form a standard fixes, such as a note.

    Such a message is text, and text begins with no null byte; a framed purpose of up to 255 bytes
    does. So neither passes for the other; SignatureError for a message that would.
    """
    if not message or message[0] == 0:
        raise SignatureError(
            "this message could be read as a record", hint="Sign records for a purpose instead."
        )
    return key._key.sign(message).signature


def holds(public: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether `public` signed exactly these bytes; anything malformed is False."""
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        # VerifyKey.verify without making a VerifyKey: a receipt's check is mostly this line.
        nacl.bindings.crypto_sign_open(signature + message, public.data)
    except nacl.exceptions.CryptoError:
        return False
    return True


def _require_bytes(name: str, data: object, length: int) -> None:
    if not isinstance(data, bytes) or len(data) != length:
        raise SignatureError(f"{name} is not {length} bytes long", hint=_HINT_KEY)
