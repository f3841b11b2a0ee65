"""Signed notes: text, a blank line, and one line for each signature (c2sp.org/signed-note).

Two kinds of signature are made and verified: Ed25519 over the text (0x01, the log's) and the
timestamped witness cosignature (0x04, c2sp.org/tlog-cosignature). Lines of other kinds or of
unknown keys are carried along and believed never.

Stricter than the standard where it leaves a choice: one line a key, base64 only as it is written
here, key hashes in lower case; so a note that is read is written back byte for byte. Left out on
purpose: ECDSA and ML-DSA, and key files in that format (secret keys live in a vault).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NoReturn

from loyal.errors import LedgerError, UsageError
from loyal.signing import SIGNATURE_BYTES, PublicKey, SigningKey, holds, sign_text

MAX_NOTE_BYTES = 262_144
"""A longer note is refused unread. Room for the 16 post-quantum lines that c2sp.org/signed-note
says must be accepted, about 7 kB each."""
MAX_SIGNATURES = 100
"""As in golang.org/x/mod/sumdb/note."""
MAX_TIME_SECONDS = MAX_SIZE = 2**63 - 1
"""The largest timestamp of c2sp.org/tlog-cosignature, and the largest tree read here."""
KEY_ID_BYTES = 4

_TIME_BYTES = 8
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_HINT_NOTE = "Get the note again from the log, unchanged to the byte."
_HINT_KEY = "Copy the key again: a name, 8 hexadecimal digits and base64, joined by plus signs."


class KeyKind(IntEnum):
    """The signature type byte of c2sp.org/signed-note; only what is verified here."""

    ED25519 = 0x01
    """Ed25519 over the note's text: a log."""
    COSIGNATURE = 0x04
    """Ed25519 over a time and the note's text (c2sp.org/tlog-cosignature): a witness."""


@dataclass(frozen=True)
class NoteSignature:
    """One signature line, not verified (c2sp.org/signed-note, Signatures)."""

    name: str
    """The key's name: not empty, no spaces, no plus."""
    key_id: bytes
    """4 bytes that say which key of that name."""
    signature: bytes
    """What the kind of key defines: 64 bytes, or 8 bytes of time and 64."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if len(self.key_id) != KEY_ID_BYTES or not self.signature:
            malformed("a signature line has no key ID or no signature")

    def line(self) -> str:
        """The line with its newline."""
        return f"\u2014 {self.name} {to_base64(self.key_id + self.signature)}\n"

    @classmethod
    def from_line(cls, line: str) -> "NoteSignature":
        """Of a line without its newline; LedgerError for any other text."""
        match line.split(" "):
            case ["\u2014", name, text]:
                data = from_base64(text)
                return cls(name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])
        malformed("a signature line is none")

    @property
    def time_seconds(self) -> int:
        """When a cosignature says that it was made; LedgerError if this is no cosignature."""
        time = int.from_bytes(self.signature[:_TIME_BYTES], "big")
        if len(self.signature) != _TIME_BYTES + SIGNATURE_BYTES or time > MAX_TIME_SECONDS:
            malformed("a cosignature is not a time and 64 bytes")
        return time


@dataclass(frozen=True)
class VerifierKey:
    """Whom a note's signatures are checked against (c2sp.org/signed-note, Verifier keys)."""

    name: str
    """Such as `example.com/log`: not empty, no spaces, no plus."""
    public: PublicKey
    kind: KeyKind = KeyKind.ED25519

    def __post_init__(self) -> None:
        check_name(self.name)

    @classmethod
    def from_text(cls, text: str) -> "VerifierKey":
        """Of `name+hash+base64`; LedgerError for any other text, and for a hash that is not its."""
        name, _, rest = text.partition("+")
        hashed, _, encoded = rest.partition("+")
        data = from_base64(encoded, hint=_HINT_KEY)
        if not data or data[0] not in list(KeyKind) or len(data) != 33:
            malformed("this is not an Ed25519 verifier key", hint=_HINT_KEY)
        key = cls(name, PublicKey(data[1:]), KeyKind(data[0]))
        if hashed != key.key_id.hex():
            malformed("a verifier key has the hash of another", hint=_HINT_KEY)
        return key

    def __str__(self) -> str:
        """Law: `VerifierKey.from_text(str(key)) == key`."""
        encoded = to_base64(bytes([self.kind]) + self.public.data)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @cached_property
    def key_id(self) -> bytes:
        """SHA-256(name || newline || kind || public key), its first 4 bytes."""
        data = self.name.encode() + b"\n" + bytes([self.kind]) + self.public.data
        return hashlib.sha256(data).digest()[:KEY_ID_BYTES]

    def made(self, signature: NoteSignature) -> bool:
        """Whether the line claims to be this key's; what it signs is not looked at."""
        return signature.name == self.name and signature.key_id == self.key_id

    def verifies(self, text: str, signature: NoteSignature) -> bool:
        """Whether the line is this key's signature over a note's text."""
        data, message = signature.signature, text.encode()
        if self.kind is KeyKind.COSIGNATURE:
            if len(data) != _TIME_BYTES + SIGNATURE_BYTES:
                return False
            time, data = int.from_bytes(data[:_TIME_BYTES], "big"), data[_TIME_BYTES:]
            if time > MAX_TIME_SECONDS:
                return False
            message = cosigned_message(text, time)
        return self.made(signature) and holds(self.public, message, data)


@dataclass(frozen=True)
class NoteSigner:
    """A secret key with the name and kind that its lines carry. One secret, one name, one kind: a
    cosignature does not commit to its witness's name (c2sp.org/tlog-cosignature)."""

    name: str
    key: SigningKey
    kind: KeyKind = KeyKind.ED25519

    def __post_init__(self) -> None:
        check_name(self.name)

    @cached_property
    def verifier(self) -> VerifierKey:
        """What others check this signer's lines against."""
        return VerifierKey(self.name, self.key.public, self.kind)

    def sign(self, text: str, now: int | None = None) -> NoteSignature:
        """The line over a note's text. `now`, in POSIX seconds, is for a cosignature and only it.

        Raises UsageError for a time that is missing, not wanted, or out of range.
        """
        if (now is None) == (self.kind is KeyKind.COSIGNATURE):
            raise UsageError(
                "a cosignature has a time, another signature none",
                hint="Pass `now` for keys of the kind COSIGNATURE, and for no others.",
            )
        time, message = b"", text.encode()
        if now is not None:
            message = cosigned_message(text, now)
            time = now.to_bytes(_TIME_BYTES, "big")
        return NoteSignature(self.name, self.verifier.key_id, time + sign_text(self.key, message))


@dataclass(frozen=True)
class SignedNote:
    """A text and its signature lines, of which none is verified yet (c2sp.org/signed-note)."""

    text: str
    """Ends in a newline, which is signed with it."""
    signatures: tuple[NoteSignature, ...]
    """One or more, in their order; one a key."""

    def __post_init__(self) -> None:
        _check_text(self.text)
        keys = {(one.name, one.key_id) for one in self.signatures}
        if not 0 < len(self.signatures) <= MAX_SIGNATURES:
            malformed(f"a note has 1 to {MAX_SIGNATURES} signatures")
        if len(keys) != len(self.signatures):
            malformed("a note has two signatures of one key")

    @classmethod
    def from_bytes(cls, data: bytes) -> "SignedNote":
        """Raises LedgerError (reason malformed), and nothing else, for bytes that are no note."""
        if len(data) > MAX_NOTE_BYTES:
            malformed(f"the note is longer than {MAX_NOTE_BYTES:,} bytes")
        try:
            note = data.decode("utf-8")
        except UnicodeDecodeError:
            malformed("the note is not UTF-8")
        text, blank, lines = note.rpartition("\n\n")
        if not blank or not lines.endswith("\n"):
            malformed("the note has no signature lines after an empty line")
        signatures = lines[:-1].split("\n")
        if len(signatures) > MAX_SIGNATURES:
            malformed(f"the note has more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(map(NoteSignature.from_line, signatures)))

    def to_bytes(self) -> bytes:
        """Law: `SignedNote.from_bytes(note.to_bytes()) == note`, and the other way round."""
        return (self.text + "\n" + "".join(one.line() for one in self.signatures)).encode()

    def signature_of(self, key: VerifierKey) -> NoteSignature | None:
        """The verified line of `key`; None if there is none.

        A line that claims to be the key's and does not hold spoils the note: LedgerError (reason
        signature), as c2sp.org/signed-note recommends.
        """
        claimed = next((one for one in self.signatures if key.made(one)), None)
        if claimed is not None and not key.verifies(self.text, claimed):
            raise LedgerError(
                f"the signature of {key.name} does not hold",
                hint="Do not act on this note; get it again from the log.",
                reason="signature",
            )
        return claimed

    def with_signatures(self, lines: Iterable[NoteSignature]) -> "SignedNote":
        """The note with more lines; a line takes the place of an older one of the same key."""
        added = {(one.name, one.key_id): one for one in lines}
        kept = [one for one in self.signatures if (one.name, one.key_id) not in added]
        return SignedNote(self.text, (*kept, *added.values()))


def sign_note(text: str, signer: NoteSigner) -> SignedNote:
    """The note that `signer` makes of a text; LedgerError for a text that cannot be a note's."""
    _check_text(text)
    return SignedNote(text, (signer.sign(text),))


def cosigned_message(text: str, time_seconds: int) -> bytes:
    """What a witness signs (c2sp.org/tlog-cosignature, Ed25519 signed message)."""
    if not 0 <= time_seconds <= MAX_TIME_SECONDS:
        raise UsageError(
            "the time of a cosignature is out of range", hint="Pass POSIX seconds as `now`."
        )
    return f"cosignature/v1\ntime {time_seconds}\n{text}".encode()


def check_name(name: str) -> None:
    """Raise LedgerError for what cannot be a key's name."""
    spaced = any(letter.isspace() for letter in name)
    if not name or spaced or "+" in name or not is_plain(name):
        malformed("a key's name is empty, or has a space, a plus or a control character")


def is_plain(text: str) -> bool:
    """Whether the text is UTF-8 without control characters below a space, newlines aside."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return not _CONTROL.search(text)


def from_decimal(text: str) -> int:
    """A tree size or index: ASCII decimal, no leading zeros, at most MAX_SIZE."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        malformed("a number is not a decimal of at most 2^63 - 1 without leading zeros")
    return int(text)


def to_base64(data: bytes) -> str:
    """Standard base64 (RFC 4648, section 4), padded."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, *, hint: str = _HINT_NOTE) -> bytes:
    """The bytes that are written exactly so: no other alphabet, no missing or stray padding."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        malformed("a line is not base64", hint=hint)
    if to_base64(data) != text:
        malformed("a line is not base64", hint=hint)
    return data


def malformed(message: str, *, hint: str = _HINT_NOTE) -> NoReturn:
    """Raise LedgerError with the reason malformed."""
    raise LedgerError(message, hint=hint, reason="malformed")


def _check_text(text: str) -> None:
    if not text.endswith("\n") or not is_plain(text):
        malformed("a note's text has a control character, or does not end in a newline")
