"""Evidence that a log forked: two checkpoints that it signed and that no one log can have.

Anybody who has the log's key can verify it, and needs neither the witness nor the log. Two sizes
need one thing more, the nodes of a consistency proof that lead from the newer root to another older
root than the signed one; the newer root binds the log to these nodes.

An old checkpoint shown again is no evidence: an honest log signed it too. Left out on purpose: what
a fork costs the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, cast

from loyal import encoding, merkle
from loyal.errors import EncodingError, LedgerError, ProofError, UsageError
from loyal.protocol.checkpoint import Checkpoint, SignedCheckpoint, open_checkpoint
from loyal.protocol.ledger import Ledger
from loyal.protocol.note import MAX_NOTE_BYTES, SignedNote, VerifierKey

EVIDENCE_VERSION = 1
MAX_EVIDENCE_BYTES = 2 * MAX_NOTE_BYTES + 4_096
"""A longer one is refused unread: two notes, and at most 64 nodes of 34 bytes."""


@dataclass(frozen=True)
class ForkEvidence:
    """Two signed checkpoints of one log that contradict each other; a claim until verified."""

    older: SignedNote
    """The checkpoint of the smaller size, or either one of two of the same size."""
    newer: SignedNote
    nodes: tuple[bytes, ...] = ()
    """For two sizes: the consistency proof in the newer tree with its first node written out (see
    `merkle.consistency_roots`). For one size: empty."""

    def to_bytes(self) -> bytes:
        """Canonical CBOR; law: `ForkEvidence.from_bytes(one.to_bytes()) == one`."""
        return encoding.encode(
            [EVIDENCE_VERSION, self.older.to_bytes(), self.newer.to_bytes(), self.nodes]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ForkEvidence":
        """Raises ProofError (reason malformed), and nothing else, for any other bytes."""
        if len(data) > MAX_EVIDENCE_BYTES:
            _refuse(f"the evidence is longer than {MAX_EVIDENCE_BYTES:,} bytes", "malformed")
        try:
            match encoding.decode(data):
                case [version, bytes(older), bytes(newer), list(nodes)] if (
                    type(version) is int
                    and version == EVIDENCE_VERSION
                    and all(isinstance(one, bytes) for one in nodes)
                ):
                    notes = SignedNote.from_bytes(older), SignedNote.from_bytes(newer)
                    return cls(*notes, tuple(cast("list[bytes]", nodes)))
        except (EncodingError, LedgerError) as error:
            _refuse(f"the evidence is not of two notes: {error}", "malformed")
        _refuse("the evidence does not have the form of one", "malformed")


@dataclass(frozen=True)
class Fork:
    """What verified evidence shows: the log signed both, and they contradict each other."""

    older: Checkpoint
    newer: Checkpoint


def verify_evidence(evidence: ForkEvidence, log: VerifierKey) -> Fork:
    """What the evidence proves against the holder of `log`.

    1. Both notes are checkpoints of one origin, signed by the key. 2. Of the same size: the roots
    differ. 3. Of two sizes: the nodes lead to the newer root, and to another root than the older.
    Raises LedgerError for 1 (its reason says which part), ProofError (reason fork) for 2 and 3.
    """
    origin = Checkpoint.from_text(evidence.older.text).origin
    older = open_checkpoint(evidence.older, log, origin).checkpoint  # 1
    newer = open_checkpoint(evidence.newer, log, origin).checkpoint
    if older.size == newer.size:  # 2
        if older.root == newer.root or evidence.nodes:
            _refuse("the two checkpoints agree", "fork")
        return Fork(older, newer)
    roots = merkle.consistency_roots(older.size, newer.size, evidence.nodes)  # 3
    if roots is None or roots.new != newer.root or roots.old == older.root:
        _refuse("the nodes do not show that the two checkpoints contradict each other", "fork")
    return Fork(older, newer)


def prove_fork(
    older: SignedCheckpoint, newer: SignedCheckpoint, ledger: Ledger
) -> ForkEvidence | None:
    """Evidence against the log that signed both; None if they agree.

    Where the sizes differ, `ledger` holds the entries behind the larger, of whichever branch: any
    reader of the log can rebuild it. UsageError if it does not.
    """
    if older.checkpoint.size > newer.checkpoint.size:
        older, newer = newer, older
    old, new = older.checkpoint, newer.checkpoint
    if old.origin != new.origin or (old.size < new.size and not ledger.holds(new)):
        raise UsageError(
            "this ledger is not the one behind the larger of two checkpoints of one log",
            hint="Pass the entries of the branch that the larger checkpoint was signed for.",
        )
    nodes: tuple[bytes, ...] = ()
    if old.size < new.size:
        nodes = ledger.consistency_proof(old.size, new.size)
        if merkle.is_complete(old.size):
            nodes = (ledger.root(old.size), *nodes)
    return fork_shown_by(older, newer, nodes)


def fork_shown_by(
    older: SignedCheckpoint, newer: SignedCheckpoint, proof: Sequence[bytes]
) -> ForkEvidence | None:
    """Evidence from two roots of one size, or from a consistency proof that betrays the log.

    A failed proof shows a fork if it belongs to the newer tree. If it does not, anybody may have
    made it up; and where the older size is a power of two it leaves out the node that would tell.
    Then this is None, and `prove_fork` needs the newer tree.
    """
    old, new = older.checkpoint, newer.checkpoint
    if old.size == new.size:
        return ForkEvidence(older.note, newer.note) if old.root != new.root else None
    roots = merkle.consistency_roots(old.size, new.size, proof)
    if roots is None or roots.new != new.root or roots.old == old.root:
        return None
    return ForkEvidence(older.note, newer.note, tuple(proof))


def _refuse(message: str, reason: str) -> NoReturn:
    raise ProofError(message, hint="Do not accuse the log on this evidence.", reason=reason)
