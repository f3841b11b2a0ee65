"""Logs, witnesses and requests as the tests of this room need them, and strategies for them."""

from collections.abc import Iterator

from hypothesis import strategies as st

from loyal.protocol import (
    AddCheckpoint,
    Cosigned,
    KeyKind,
    Ledger,
    NoteSigner,
    Refusal,
    SignedCheckpoint,
    WitnessState,
    witness,
)
from loyal.protocol.checkpoint import sign_checkpoint
from loyal.signing import SigningKey

LOG_NAME = "example.com/log"
WITNESS_NAME = "example.com/witness"
NOW = 1_700_000_000


def log_signer(name: str) -> NoteSigner:
    """A new key that signs checkpoints."""
    return NoteSigner(name, SigningKey.generate())


def witness_signer(name: str) -> NoteSigner:
    """A new key that cosigns."""
    return NoteSigner(name, SigningKey.generate(), KeyKind.COSIGNATURE)


def numbered(size: int, start: int = 0) -> list[bytes]:
    """Entries that all differ."""
    return [b"entry %d" % index for index in range(start, start + size)]


def honest(size: int) -> Ledger:
    """The ledger of that many numbered entries."""
    return Ledger(LOG_NAME, numbered(size))


def head(ledger: Ledger, log: NoteSigner, size: int | None = None) -> SignedCheckpoint:
    """The signed checkpoint at a size."""
    return sign_checkpoint(ledger.checkpoint(size), log)


def request(ledger: Ledger, log: NoteSigner, old_size: int) -> AddCheckpoint:
    """What the holder of a ledger asks for its whole size, with an honest proof in that ledger."""
    proof = ledger.consistency_proof(min(old_size, len(ledger)))
    return AddCheckpoint(old_size, proof, head(ledger, log).note)


def after(ledger: Ledger, log: NoteSigner, witness_key: NoteSigner) -> WitnessState:
    """The state of a witness that cosigned exactly this ledger."""
    state = WitnessState().watch(log.verifier)
    answer = witness.cosign(witness_key, state, request(ledger, log, 0), NOW)
    assert isinstance(answer, Cosigned)
    return answer.state


def refused(
    witness_key: NoteSigner, state: WitnessState, asked: AddCheckpoint, now: int = NOW
) -> Refusal:
    """The refusal that this request gets."""
    answer = witness.cosign(witness_key, state, asked, now)
    assert isinstance(answer, Refusal)
    return answer


def changed_bytes(data: bytes) -> Iterator[bytes]:
    """Every change of one byte to each of some telling values, every byte dropped, one added."""
    for place, byte in enumerate(data):
        for other in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0x0A, 0x20, 0x41, 0x3D} - {byte}:
            yield data[:place] + bytes([other]) + data[place + 1 :]
        yield data[:place] + data[place + 1 :]
        yield data[:place] + b"\n" + data[place:]
    yield data + b"\n"
    yield data + b" "


@st.composite
def forks(draw: st.DrawFn, most: int = 40) -> tuple[Ledger, Ledger]:
    """Two ledgers that share a prefix and then differ at the first entry of either: rewritten,
    deleted, inserted or reordered ones. Neither begins the other."""
    ledger = honest(draw(st.integers(1, most)))
    entries = [ledger[index] for index in range(len(ledger))]
    place = draw(st.integers(0, len(entries) - 1))
    how = draw(st.sampled_from(["rewrite", "delete", "insert"]))
    if how == "rewrite":
        other = [*entries[:place], b"rewritten", *entries[place + 1 :]]
    elif how == "delete":
        other = [*entries[:place], *entries[place + 1 :], b"after the deletion"]
    else:
        other = [*entries[:place], b"slipped in", *entries[place:]]
    return ledger, Ledger(LOG_NAME, [*other, *numbered(draw(st.integers(0, most)), 1_000)])


NAMES = st.text(
    st.characters(min_codepoint=0x21, exclude_characters="+", exclude_categories=["Cs", "Z", "C"]),
    min_size=1,
    max_size=20,
)
LINES = st.text(
    st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), min_size=1, max_size=30
)
TEXTS = st.lists(LINES | st.just(""), min_size=1, max_size=5).map(lambda x: "\n".join(x) + "\n")
ROOTS = st.binary(min_size=32, max_size=32)
