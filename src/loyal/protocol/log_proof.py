"""Proof that an entry is in a log, in one text that can be checked offline (c2sp.org/tlog-proof).

It carries the entry's index, its way to the root, and the checkpoint as the log and its witnesses
signed it. The entry itself is not in it: who checks brings it along.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loyal.errors import ProofError
from loyal.merkle import HASH_BYTES, verify_inclusion
from loyal.protocol.checkpoint import Checkpoint, open_checkpoint
from loyal.protocol.note import (
    MAX_NOTE_BYTES,
    MAX_SIZE,
    SignedNote,
    VerifierKey,
    from_base64,
    from_decimal,
    malformed,
    to_base64,
)
from loyal.protocol.witness import witnessed

HEADER = "c2sp.org/tlog-proof@v1"
MAX_PATH_LINES = 63
"""The longest way to the root of a tree of at most 2^63 - 1 entries."""
MAX_EXTRA_BYTES = 65_535
MAX_PROOF_BYTES = MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES + 4_096


@dataclass(frozen=True)
class LogProof:
    """An entry's place in a log (c2sp.org/tlog-proof, Format); a claim until checked."""

    index: int
    """The entry's, counted from 0."""
    path: tuple[bytes, ...]
    """RFC 6962 audit path, from the leaf's sibling up; 32 bytes each."""
    note: SignedNote
    """The checkpoint whose tree the path leads to."""
    extra: bytes = b""
    """Opaque, and signed by nobody."""

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_SIZE or len(self.path) > MAX_PATH_LINES:
            malformed("an index is out of range, or a path has more than 63 lines")
        if any(len(one) != HASH_BYTES for one in self.path):
            malformed("a line of the path is not a hash of 32 bytes")
        if len(self.extra) > MAX_EXTRA_BYTES:
            malformed(f"extra data is longer than {MAX_EXTRA_BYTES:,} bytes")
        Checkpoint.from_text(self.note.text)

    def to_bytes(self) -> bytes:
        """The text; law: `from_bytes(proof.to_bytes()) == proof`, and the other way round."""
        lines = [HEADER, *([f"extra {to_base64(self.extra)}"] if self.extra else [])]
        lines += [f"index {self.index}", *map(to_base64, self.path), "", ""]
        return "\n".join(lines).encode() + self.note.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "LogProof":
        """Raises LedgerError (reason malformed), and nothing else, for any other bytes."""
        if len(data) > MAX_PROOF_BYTES:
            malformed(f"the proof is longer than {MAX_PROOF_BYTES:,} bytes")
        head, _, note = data.partition(b"\n\n")
        if not head.isascii():
            malformed("the proof is not one of a log")
        header, *lines = head.decode("ascii").split("\n")
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = from_base64(lines.pop(0).removeprefix("extra "))
            if not extra:
                malformed("the proof has an empty line for extra data")
        if header != HEADER or not lines or not lines[0].startswith("index "):
            malformed("the proof is not one of a log, or has no index")
        index = from_decimal(lines.pop(0).removeprefix("index "))
        return cls(index, tuple(map(from_base64, lines)), SignedNote.from_bytes(note), extra)


def check_log_proof(
    proof: LogProof,
    entry: bytes,
    log: VerifierKey,
    witnesses: Sequence[VerifierKey] = (),
    quorum: int = 0,
) -> Checkpoint:
    """The checkpoint under which `entry` has the proof's index.

    1. The log signed the checkpoint. 2. With a quorum: so many distinct witnesses cosigned it.
    3. The path leads from the entry to its root. Raises LedgerError for 1 and 2, ProofError (reason
    inclusion) for 3. Without a quorum a log can show different trees to different people.
    """
    if quorum:
        checkpoint = witnessed(proof.note, log, witnesses, quorum).checkpoint  # 1, 2
    else:
        checkpoint = open_checkpoint(proof.note, log).checkpoint
    if not verify_inclusion(  # 3
        checkpoint.root, entry, proof.index, checkpoint.size, proof.path
    ):
        raise ProofError(
            "the log does not hold this entry at this index",
            hint="Ask the log for the proof of this entry again.",
            reason="inclusion",
        )
    return checkpoint
