"""Ownership as a pure state machine ("Training AI to be Loyal", section 2.1), and its ledger.

Rules read a state and give events; the ledger keeps the events; a replay gives the state again:

    from loyal.protocol import Moment, State, apply
    from loyal.protocol.stake import Bond, Deposit

    state, now = State(platform=b"p" * 32), 1_800_000_000
    for command in (
        Deposit(author=b"p" * 32, party=b"v" * 32, amount_micro=5_000_000),
        Bond(author=b"v" * 32, purpose="verifier", amount_micro=2_000_000),
    ):
        for event in apply(state, command, Moment(now, state.length, beacon=bytes(32))):
            state.record(state.length, event)
    assert state.electorate() == ((b"v" * 32, 2_000_000),)

The ledger is an append-only log whose checkpoints are witnessed, so that it cannot be forked:

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

Nouns are exported here. What there is to ask for stands beside its rules: `stake`, `lineage`,
`licenses`, `permits`, `disputes`, `convictions`, `voting`, brought together in `rules`;
docs/protocol.md numbers them. Verbs of the ledger are modules: `note`, `checkpoint`, `witness`,
`evidence`, `log_proof`. No clock, no I/O, no model: `now` is an argument.
"""

from loyal.protocol.answers import Answer, SignedAnswer
from loyal.protocol.checkpoint import Checkpoint, Cosignature, SignedCheckpoint
from loyal.protocol.events import Event
from loyal.protocol.evidence import Fork, ForkEvidence
from loyal.protocol.ledger import Ledger
from loyal.protocol.licenses import Terms
from loyal.protocol.log_proof import LogProof
from loyal.protocol.note import KeyKind, NoteSignature, NoteSigner, SignedNote, VerifierKey
from loyal.protocol.parameters import Parameters
from loyal.protocol.permission import MessageDigest, Permission, PermissionBatch, Receipt
from loyal.protocol.rules import Command, apply
from loyal.protocol.state import Moment, State
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
    "Answer",
    "Checkpoint",
    "Command",
    "Cosignature",
    "Cosigned",
    "Event",
    "Fork",
    "ForkEvidence",
    "KeyKind",
    "Ledger",
    "LogProof",
    "MessageDigest",
    "Moment",
    "NoteSignature",
    "NoteSigner",
    "Parameters",
    "Permission",
    "PermissionBatch",
    "Receipt",
    "Refusal",
    "SignedAnswer",
    "SignedCheckpoint",
    "SignedNote",
    "State",
    "Terms",
    "VerifierKey",
    "WatchedLog",
    "WitnessState",
    "Witnessed",
    "apply",
]
