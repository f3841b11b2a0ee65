"""Log proofs: their text, what they prove, and every way to spoil one."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_stage import LOG_NAME, NOW, ROOTS, changed_bytes, head, honest, log_signer, witness_signer

from loyal.errors import LedgerError, LoyalError, ProofError
from loyal.protocol import LogProof, NoteSigner
from loyal.protocol.checkpoint import cosign_note
from loyal.protocol.log_proof import HEADER, check_log_proof
from loyal.protocol.note import MAX_SIZE, to_base64


@given(size=st.integers(1, 60), index=st.integers(0, 59), other=st.integers(0, 59))
def test_an_entry_is_proven_at_its_index_alone(
    log: NoteSigner, size: int, index: int, other: int
) -> None:
    index, other = index % size, other % size
    ledger = honest(size)
    proof = LogProof(index, ledger.inclusion_proof(index), head(ledger, log).note)
    again = LogProof.from_bytes(proof.to_bytes())
    assert check_log_proof(again, ledger[index], log.verifier) == ledger.checkpoint()
    with pytest.raises(ProofError) as caught:
        check_log_proof(proof, b"another", log.verifier)
    assert caught.value.reason == "inclusion"
    if other != index:
        with pytest.raises(ProofError):
            check_log_proof(replace(proof, index=other), ledger[index], log.verifier)
        with pytest.raises(ProofError):
            check_log_proof(proof, ledger[other], log.verifier)


@given(st.integers(0, MAX_SIZE), st.lists(ROOTS, max_size=63), st.binary(max_size=80))
def test_proofs_round_trip(index: int, path: list[bytes], extra: bytes) -> None:
    note = head(honest(2), log_signer(LOG_NAME)).note
    proof = LogProof(index, tuple(path), note, extra)
    assert LogProof.from_bytes(proof.to_bytes()) == proof


def test_the_text_is_as_the_standard_has_it(log: NoteSigner) -> None:
    ledger = honest(3)
    note = head(ledger, log).note
    lines = "".join(to_base64(one) + "\n" for one in ledger.inclusion_proof(0))
    text = f"c2sp.org/tlog-proof@v1\nextra AAE=\nindex 0\n{lines}\n".encode() + note.to_bytes()
    assert LogProof(0, ledger.inclusion_proof(0), note, b"\x00\x01").to_bytes() == text
    alone = LogProof(0, (), head(honest(1), log).note)
    assert alone.to_bytes().startswith(f"{HEADER}\nindex 0\n\n{LOG_NAME}\n1\n".encode())


def test_a_quorum_of_witnesses(log: NoteSigner) -> None:
    ledger, one, two = honest(3), witness_signer("example.com/one"), witness_signer("a/two")
    note = head(ledger, log).note
    note = note.with_signatures([cosign_note(note, one, NOW).line])
    proof = LogProof(1, ledger.inclusion_proof(1), note)
    keys = [one.verifier, two.verifier]
    assert check_log_proof(proof, ledger[1], log.verifier, keys, 1).size == 3
    with pytest.raises(LedgerError) as caught:
        check_log_proof(proof, ledger[1], log.verifier, keys, 2)
    assert caught.value.reason == "quorum"


def test_no_changed_byte_of_a_proof_holds(log: NoteSigner) -> None:
    ledger = honest(6)
    data = LogProof(4, ledger.inclusion_proof(4), head(ledger, log).note).to_bytes()
    for wrong in changed_bytes(data):
        with pytest.raises(LoyalError):
            check_log_proof(LogProof.from_bytes(wrong), ledger[4], log.verifier)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"@v1", b"@v2"),
        (b"extra AAE=\n", b"extra \n"),
        (b"extra AAE=\n", b"extra\n"),
        (b"extra AAE=\n", b"extra AAE\n"),
        (b"extra AAE=\n", b"extra AAE=\nextra AAE=\n"),
        (b"index 0\n", b""),
        (b"index 0\n", b"index 00\n"),
        (b"index 0\n", b"index -1\n"),
        (b"index 0\n", b"index 9223372036854775808\n"),
        (b"index 0\n", b"index 0\nindex 0\n"),
        (b"index 0\n", b"index 0\nAAAA\n"),
        (b"\n\n", b"\n"),
    ],
)
def test_texts_that_are_no_proof(log: NoteSigner, old: bytes, new: bytes) -> None:
    data = LogProof(0, (), head(honest(1), log).note, b"\x00\x01").to_bytes()
    wrong = data.replace(old, new, 1)
    assert wrong != data
    with pytest.raises(LedgerError) as caught:
        LogProof.from_bytes(wrong)
    assert caught.value.reason == "malformed"


@given(st.binary(max_size=100))
def test_nonsense_is_our_error(data: bytes) -> None:
    for wrong in (data, HEADER.encode() + b"\n" + data):
        with pytest.raises(LedgerError):
            LogProof.from_bytes(wrong)
