"""A witness as a pure function (c2sp.org/tlog-witness): state and request in, cosignature out.

For each log that it watches, a witness keeps the last checkpoint that it cosigned, and cosigns only
what provably grew out of that: never a smaller tree, never another tree of the same size. Whoever
keeps the state must make it durable before it gives the cosignature away, and must let one request
an origin in at a time. Left out on purpose: HTTP, storage, the clock (`now`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from loyal.errors import LedgerError, UsageError
from loyal.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from loyal.protocol.checkpoint import (
    Checkpoint,
    Cosignature,
    SignedCheckpoint,
    cosign_note,
    cosignatures,
    open_checkpoint,
)
from loyal.protocol.evidence import ForkEvidence, fork_shown_by
from loyal.protocol.note import (
    MAX_NOTE_BYTES,
    MAX_SIZE,
    KeyKind,
    NoteSigner,
    SignedNote,
    VerifierKey,
    from_base64,
    from_decimal,
    malformed,
    to_base64,
)

MAX_PROOF_LINES = 63
"""Of an add-checkpoint request (c2sp.org/tlog-witness)."""
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 4_096

Reason: TypeAlias = Literal[
    "origin", "signature", "size", "rewind", "stale", "fork", "consistency", "clock"
]
"""Why a witness refuses, with the HTTP status that c2sp.org/tlog-witness gives it:

origin (404): it does not watch that log. signature (403): the log's is missing or does not hold.
size (400): the old size is above the checkpoint's. rewind (409): the checkpoint is smaller than the
last. stale (409): the old size is not the last one's. fork (409 for the last size, 422 for a larger
one): there is evidence. consistency (422): the proof does not hold. clock (not in the standard):
`now` is before the last cosignature, whose tree would then be the largest later than a larger one.
"""


@dataclass(frozen=True)
class AddCheckpoint:
    """What a log asks of a witness (c2sp.org/tlog-witness, add-checkpoint)."""

    old_size: int
    """The size that the log believes the witness cosigned last, 0 for none."""
    proof: tuple[bytes, ...]
    """RFC 6962 consistency proof from the old size, at most 63 hashes."""
    note: SignedNote
    """The new checkpoint."""

    def __post_init__(self) -> None:
        if not 0 <= self.old_size <= MAX_SIZE or len(self.proof) > MAX_PROOF_LINES:
            malformed("an old size is out of range, or a proof has more than 63 lines")
        if any(len(one) != HASH_BYTES for one in self.proof):
            malformed("a line of the proof is not a hash of 32 bytes")
        Checkpoint.from_text(self.note.text)

    def to_bytes(self) -> bytes:
        """The body of the request; law: `from_bytes(one.to_bytes()) == one`, and the other way."""
        lines = [f"old {self.old_size}", *map(to_base64, self.proof), "", ""]
        return "\n".join(lines).encode() + self.note.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "AddCheckpoint":
        """Raises LedgerError (reason malformed), and nothing else, for any other bytes."""
        if len(data) > MAX_REQUEST_BYTES:
            malformed(f"the request is longer than {MAX_REQUEST_BYTES:,} bytes")
        head, _, note = data.partition(b"\n\n")
        if not head.isascii():
            malformed("the request has no old size and proof before its checkpoint")
        first, *lines = head.decode("ascii").split("\n")
        if not first.startswith("old "):
            malformed("the request does not begin with an old size")
        old_size = from_decimal(first.removeprefix("old "))
        return cls(old_size, tuple(map(from_base64, lines)), SignedNote.from_bytes(note))


@dataclass(frozen=True)
class WatchedLog:
    """One log that a witness watches."""

    key: VerifierKey
    latest: SignedCheckpoint | None = None
    """The last checkpoint that the witness cosigned, signed by the log; None before the first."""
    time_seconds: int = 0
    """When it did, POSIX seconds."""

    @property
    def size(self) -> int:
        """The size that the witness cosigned last."""
        return self.latest.checkpoint.size if self.latest else 0


@dataclass(frozen=True)
class WitnessState:
    """All that a witness remembers."""

    logs: Mapping[str, WatchedLog] = field(default_factory=dict)
    """By origin; never changed in place."""

    def watch(self, key: VerifierKey, origin: str | None = None) -> "WitnessState":
        """The state that watches one log more; by default its origin is the key's name."""
        origin = key.name if origin is None else origin
        if origin in self.logs:
            raise UsageError(
                f"the witness watches {origin} already", hint="Watch an origin once, with one key."
            )
        return WitnessState({**self.logs, origin: WatchedLog(key)})


@dataclass(frozen=True)
class Cosigned:
    """A request that was granted."""

    state: WitnessState
    """What the witness must make durable before it answers."""
    cosignature: Cosignature


@dataclass(frozen=True)
class Refusal:
    """A request that was not granted; the state stays as it was."""

    reason: Reason
    known_size: int
    """The size that the witness cosigned last for the origin, the answer to a stale request."""
    evidence: ForkEvidence | None = None
    """With the reason fork: what proves to anybody that the log forked."""


def cosign(
    witness: NoteSigner, state: WitnessState, request: AddCheckpoint, now: int
) -> Cosigned | Refusal:
    """Cosign the requested checkpoint at `now` (POSIX seconds), or say why not.

    1. The origin is watched. 2. The log signed the checkpoint. 3. It does not contradict the last
    one by its size and root alone. 4. The old size is at most its size. 5. It is not smaller than
    the last. 6. The old size is the last one's. 7. It provably grew out of the last; a proof that
    shows that it did not is evidence. 8. Time does not go back.
    """
    checkpoint = Checkpoint.from_text(request.note.text)
    log = state.logs.get(checkpoint.origin)
    if log is None:  # 1
        return Refusal("origin", 0)
    try:
        opened = open_checkpoint(request.note, log.key, checkpoint.origin)  # 2
    except LedgerError:
        return Refusal("signature", log.size)
    opened = _with_log_line_only(opened, log.key)
    last = log.latest.checkpoint if log.latest else Checkpoint(checkpoint.origin, 0, EMPTY_ROOT)
    if log.latest and last.size == checkpoint.size and last.root != checkpoint.root:  # 3
        return Refusal("fork", log.size, fork_shown_by(log.latest, opened, ()))
    if request.old_size > checkpoint.size:  # 4
        return Refusal("size", log.size)
    if checkpoint.size < last.size:  # 5
        return Refusal("rewind", log.size)
    if request.old_size != last.size:  # 6
        return Refusal("stale", log.size)
    if not verify_consistency(  # 7
        last.root, checkpoint.root, last.size, checkpoint.size, request.proof
    ):
        evidence = fork_shown_by(log.latest, opened, request.proof) if log.latest else None
        return Refusal("fork" if evidence else "consistency", log.size, evidence)
    if now < log.time_seconds:  # 8
        return Refusal("clock", log.size)
    cosignature = cosign_note(request.note, witness, now)
    seen = replace(log, latest=opened, time_seconds=now)
    return Cosigned(WitnessState({**state.logs, checkpoint.origin: seen}), cosignature)


@dataclass(frozen=True)
class Witnessed:
    """A checkpoint that enough witnesses cosigned."""

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]
    """One for each distinct witness, at least as many as were asked for."""


def witnessed(
    note: SignedNote,
    log: VerifierKey,
    witnesses: Sequence[VerifierKey],
    quorum: int,
    origin: str | None = None,
) -> Witnessed:
    """The checkpoint in a note, if the log and at least `quorum` distinct witnesses signed it.

    Witnesses are told apart by public key, not by name, and the log's own key is none. Raises
    LedgerError (its reason says which part; quorum for too few), and UsageError for a quorum that
    these witnesses cannot reach or that needs none.
    """
    independent = [key for key in witnesses if key.public != log.public]
    possible = {key.public for key in independent if key.kind is KeyKind.COSIGNATURE}
    if not 1 <= quorum <= len(possible):
        raise UsageError(
            f"a quorum of {quorum} is not to be had of {len(possible)} witnesses",
            hint="Ask for at least one, and name that many distinct witness keys.",
        )
    opened = open_checkpoint(note, log, origin)
    found = cosignatures(note, independent)
    if len(found) < quorum:
        raise LedgerError(
            f"{len(found)} of {quorum} witnesses cosigned the checkpoint",
            hint="Ask the log for a checkpoint with more cosignatures, or wait for it.",
            reason="quorum",
        )
    return Witnessed(opened.checkpoint, found)


def _with_log_line_only(opened: SignedCheckpoint, log: VerifierKey) -> SignedCheckpoint:
    """Without lines that others added, so that what is remembered stays small."""
    lines = tuple(one for one in opened.note.signatures if log.made(one))
    return replace(opened, note=SignedNote(opened.note.text, lines))
