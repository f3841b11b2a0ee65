"""Checkpoints of a log (c2sp.org/tlog-checkpoint), and cosignatures (c2sp.org/tlog-cosignature).

A checkpoint says: the log with this origin has this many entries under this root. The log signs it
as a note; witnesses add timestamped lines to the same note. `open_checkpoint` believes nothing but
the log's key; who else signed is `cosignatures`, and how many must, is the witness file's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from loyal.errors import LedgerError
from loyal.merkle import EMPTY_ROOT, HASH_BYTES
from loyal.protocol.note import (
    MAX_SIZE,
    KeyKind,
    NoteSignature,
    NoteSigner,
    SignedNote,
    VerifierKey,
    from_base64,
    from_decimal,
    is_plain,
    malformed,
    sign_note,
    to_base64,
)


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log at one size (c2sp.org/tlog-checkpoint, Note text)."""

    origin: str
    """Which log: one line, not empty, such as `example.com/log`."""
    size: int
    """Entries in the tree, 0 to 2^63 - 1."""
    root: bytes
    """The RFC 6962 root over them, 32 bytes."""
    extensions: tuple[str, ...] = ()
    """Further lines, opaque; the standard advises against any."""

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_BYTES:
            malformed("a checkpoint has a size up to 2^63 - 1 and a root of 32 bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            malformed("a checkpoint of an empty log has the root of another")
        for line in (self.origin, *self.extensions):
            if not line or "\n" in line or not is_plain(line):
                malformed("a line of a checkpoint is empty, more than one, or not plain text")

    @property
    def text(self) -> str:
        """The note text; law: `Checkpoint.from_text(one.text) == one`."""
        lines = (self.origin, str(self.size), to_base64(self.root), *self.extensions)
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str) -> "Checkpoint":
        """Raises LedgerError (reason malformed) for any other text."""
        match text.split("\n"):
            case [origin, size, root, *extensions, ""]:
                return cls(origin, from_decimal(size), from_base64(root), tuple(extensions))
        malformed("the note is not a checkpoint: fewer than three lines")


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint whose signature by the log was verified, and the note that carries it."""

    checkpoint: Checkpoint
    note: SignedNote


@dataclass(frozen=True)
class Cosignature:
    """A verified statement: at that time, this was the largest tree that the witness had seen."""

    witness: VerifierKey
    time_seconds: int
    """POSIX seconds, by the witness's clock."""
    line: NoteSignature
    """As it stands in the note."""


def sign_checkpoint(checkpoint: Checkpoint, log: NoteSigner) -> SignedCheckpoint:
    """Sign for the log. Whether it may sign this tree is the caller's to know (see Ledger)."""
    return SignedCheckpoint(checkpoint, sign_note(checkpoint.text, log))


def open_checkpoint(
    note: SignedNote, log: VerifierKey, origin: str | None = None
) -> SignedCheckpoint:
    """The checkpoint in a note, if `log` signed it.

    1. The text is a checkpoint. 2. Its origin is the one asked for; by default the key's name.
    3. The log's signature is there and holds. Raises LedgerError: malformed, origin, signature.
    """
    checkpoint = Checkpoint.from_text(note.text)  # 1
    if checkpoint.origin != (log.name if origin is None else origin):  # 2
        raise LedgerError(
            "the checkpoint is another log's",
            hint="Ask for the origin that stands in its first line.",
            reason="origin",
        )
    if note.signature_of(log) is None:  # 3
        raise LedgerError(
            f"the checkpoint is not signed by {log.name}",
            hint="Get the checkpoint from the log itself, or ask for its current key.",
            reason="signature",
        )
    return SignedCheckpoint(checkpoint, note)


def cosign_note(note: SignedNote, witness: NoteSigner, now: int) -> Cosignature:
    """Cosign a checkpoint's text at `now`. What may be cosigned is the witness file's to decide."""
    line = witness.sign(note.text, now)
    return Cosignature(witness.verifier, now, line)


def cosignatures(note: SignedNote, witnesses: Iterable[VerifierKey]) -> tuple[Cosignature, ...]:
    """The verified cosignatures of known witnesses, one for each public key.

    A key under two names is one witness. Keys of another kind are no witnesses. Raises LedgerError
    (reason signature) if a known witness's line does not hold.
    """
    found: dict[bytes, Cosignature] = {}
    for key in witnesses:
        if key.kind is not KeyKind.COSIGNATURE:
            continue
        line = note.signature_of(key)
        if line is not None:
            found.setdefault(key.public.data, Cosignature(key, line.time_seconds, line))
    return tuple(found.values())
