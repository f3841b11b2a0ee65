"""Ownership as a pure state machine; so far its ledger: an append-only log that is witnessed.

    from loyal.protocol import AddCheckpoint, KeyKind, Ledger, LogProof, NoteSigner, WitnessState
    from loyal.protocol import checkpoint, evidence, log_proof, witness
    from loyal.signing import SigningKey

    log = NoteSigner("example.com/log", SigningKey.generate())
    watcher = NoteSigner("example.com/witness", SigningKey.generate(), KeyKind.COSIGNATURE)
    ledger = Ledger("example.com/log").append(b"a license", b"a permission")
    head = checkpoint.sign_checkpoint(ledger.checkpoint(), log)

    state = WitnessState().watch(log.verifier)
    answer = witness.cosign(watcher, state, AddCheckpoint(0, (), head.note), now=1_700_000_000)
    note = head.note.with_signatures([answer.cosignature.line])
    assert witness.witnessed(note, log.verifier, [watcher.verifier], 1).checkpoint.size == 2

    proof = LogProof(1, ledger.inclusion_proof(1), note)
    log_proof.check_log_proof(proof, b"a permission", log.verifier, [watcher.verifier], 1)

    other = Ledger("example.com/log").append(b"a license", b"no permission")
    forked = checkpoint.sign_checkpoint(other.checkpoint(), log)
    request = AddCheckpoint(2, (), forked.note)
    refused = witness.cosign(watcher, answer.state, request, now=1_700_000_001)
    assert evidence.verify_evidence(refused.evidence, log.verifier).newer == forked.checkpoint

Nouns are exported here; verbs are modules (`note`, `checkpoint`, `witness`, `evidence`,
`log_proof`). No clock, no I/O and no torch: `now` is an argument.
"""

from loyal.protocol.checkpoint import Checkpoint, Cosignature, SignedCheckpoint
from loyal.protocol.evidence import Fork, ForkEvidence
from loyal.protocol.ledger import Ledger
from loyal.protocol.log_proof import LogProof
from loyal.protocol.note import KeyKind, NoteSignature, NoteSigner, SignedNote, VerifierKey
from loyal.protocol.witness import (
    AddCheckpoint,
    Cosigned,
    Refusal,
    WatchedLog,
    Witnessed,
    WitnessState,
)

__all__ = [
    "AddCheckpoint",
    "Checkpoint",
    "Cosignature",
    "Cosigned",
    "Fork",
    "ForkEvidence",
    "KeyKind",
    "Ledger",
    "LogProof",
    "NoteSignature",
    "NoteSigner",
    "Refusal",
    "SignedCheckpoint",
    "SignedNote",
    "VerifierKey",
    "WatchedLog",
    "WitnessState",
    "Witnessed",
]
