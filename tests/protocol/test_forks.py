"""Forks, rewinds and deletions are all caught, forks leave evidence, honest logs never do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_stage import (
    LOG_NAME,
    ROOTS,
    after,
    changed_bytes,
    forks,
    head,
    honest,
    log_signer,
    numbered,
    refused,
    request,
)

from loyal import merkle
from loyal.errors import LedgerError, LoyalError, ProofError, UsageError
from loyal.protocol import ForkEvidence, Ledger, NoteSigner, VerifierKey
from loyal.protocol.evidence import MAX_EVIDENCE_BYTES, fork_shown_by, prove_fork, verify_evidence


def convicted(evidence: ForkEvidence | None, log: VerifierKey) -> bool:
    """Whether the evidence verifies, after a trip through its bytes."""
    assert evidence is not None
    again = ForkEvidence.from_bytes(evidence.to_bytes())
    assert again == evidence
    fork = verify_evidence(again, log)
    assert fork.older.origin == fork.newer.origin == LOG_NAME
    return True


@given(forked=forks(), data=st.data())
def test_every_fork_is_refused_and_leaves_evidence(
    log: NoteSigner, witness_key: NoteSigner, forked: tuple[Ledger, Ledger], data: st.DataObject
) -> None:
    seen, other = forked
    state = after(seen, log, witness_key)
    old = data.draw(st.sampled_from([len(seen), 0, len(other), data.draw(st.integers(0, 90))]))
    answer = refused(witness_key, state, request(other, log, old))
    same_size = len(seen) == len(other)
    if same_size or (old == len(seen) < len(other) and not merkle.is_complete(old)):
        assert answer.reason == "fork"
        assert convicted(answer.evidence, log.verifier)
    assert state.logs[LOG_NAME].size == len(seen)

    # Whatever the sizes: who has the larger tree turns the two heads into evidence.
    heads = head(seen, log), head(other, log)
    larger = max(seen, other, key=len)
    assert convicted(prove_fork(*heads, larger), log.verifier)
    assert convicted(prove_fork(*heads[::-1], larger), log.verifier)


@given(seen=st.integers(1, 60), smaller=st.integers(0, 59), old=st.integers(0, 60))
def test_every_rewind_is_refused(
    log: NoteSigner, witness_key: NoteSigner, seen: int, smaller: int, old: int
) -> None:
    smaller %= seen
    state = after(honest(seen), log, witness_key)
    answer = refused(witness_key, state, request(honest(smaller), log, old))
    assert answer.reason in ("rewind", "size")
    # An old head shown again is none of the log's crimes.
    assert answer.evidence is None
    assert prove_fork(head(honest(smaller), log), head(honest(seen), log), honest(seen)) is None


@given(size=st.integers(2, 60), data=st.data())
def test_every_deletion_is_refused_and_provable(
    log: NoteSigner, witness_key: NoteSigner, size: int, data: st.DataObject
) -> None:
    gone = data.draw(st.integers(0, size - 2))
    added = data.draw(st.integers(0, 10))
    state = after(honest(size), log, witness_key)
    entries = [*numbered(gone), *numbered(size - gone - 1, gone + 1), *numbered(added, 1_000)]
    cut = Ledger(LOG_NAME, entries)
    for old in (0, size, len(cut)):
        refused(witness_key, state, request(cut, log, old))
    larger = max(honest(size), cut, key=len)
    assert convicted(prove_fork(head(honest(size), log), head(cut, log), larger), log.verifier)


@given(sizes=st.tuples(st.integers(0, 60), st.integers(0, 60)), data=st.data())
def test_an_honest_log_is_never_convicted(
    log: NoteSigner, sizes: tuple[int, int], data: st.DataObject
) -> None:
    old, new = sorted(sizes)
    older, newer = head(honest(old), log), head(honest(new), log)
    assert prove_fork(older, newer, honest(new)) is None
    proof = honest(new).consistency_proof(old)
    written_out = (honest(old).root(), *proof)
    made_up = data.draw(st.lists(ROOTS, max_size=8))
    paths = [(), proof, written_out, proof[1:], proof[::-1], (*proof, bytes(32)), tuple(made_up)]
    for place in range(len(proof)):
        other = data.draw(ROOTS)
        paths.append((*proof[:place], other, *proof[place + 1 :]))
        paths.append((*written_out[:place], other, *written_out[place + 1 :]))
    for nodes in paths:
        assert fork_shown_by(older, newer, nodes) is None
        for pair in ((older.note, newer.note), (newer.note, older.note), (older.note, older.note)):
            with pytest.raises(LoyalError):
                verify_evidence(ForkEvidence(*pair, tuple(nodes)), log.verifier)


def test_two_honest_logs_of_one_key_are_no_fork(log: NoteSigner) -> None:
    other = Ledger("example.com/other", [b"x", b"y", b"z"])
    evidence = ForkEvidence(head(honest(3), log).note, head(other, log).note)
    with pytest.raises(LedgerError) as caught:
        verify_evidence(evidence, log.verifier)
    assert caught.value.reason == "origin"
    with pytest.raises(UsageError):
        prove_fork(head(honest(2), log), head(other, log), other)


def test_nobody_else_can_be_framed(log: NoteSigner) -> None:
    impostor = log_signer(LOG_NAME)
    forged = honest(2).append(b"forged")
    notes = head(honest(3), log).note, head(forged, impostor).note
    for evidence in (ForkEvidence(*notes), ForkEvidence(*notes[::-1])):
        for key in (log.verifier, impostor.verifier):
            with pytest.raises(LedgerError) as caught:
                verify_evidence(evidence, key)
            assert caught.value.reason == "signature"


def test_no_changed_byte_of_evidence_verifies_as_something_else(log: NoteSigner) -> None:
    seen, other = honest(3), honest(2).append(b"x", b"y", b"z")
    evidence = prove_fork(head(seen, log), head(other, log), other)
    assert evidence is not None
    assert evidence.nodes
    for wrong in changed_bytes(evidence.to_bytes()):
        with pytest.raises(LoyalError):
            verify_evidence(ForkEvidence.from_bytes(wrong), log.verifier)


def test_a_proof_at_a_power_of_two_needs_the_tree(log: NoteSigner, witness_key: NoteSigner) -> None:
    seen, other = honest(4), honest(3).append(b"x", b"y")
    answer = refused(witness_key, after(seen, log, witness_key), request(other, log, 4))
    assert (answer.reason, answer.evidence) == ("consistency", None)
    assert convicted(prove_fork(head(seen, log), head(other, log), other), log.verifier)


def test_the_wrong_tree_proves_nothing(log: NoteSigner) -> None:
    with pytest.raises(UsageError):
        prove_fork(head(honest(3), log), head(honest(5), log), honest(4))


def test_evidence_of_one_size_has_no_nodes(log: NoteSigner) -> None:
    notes = head(honest(3), log).note, head(honest(2).append(b"x"), log).note
    assert convicted(ForkEvidence(*notes), log.verifier)
    with pytest.raises(ProofError) as caught:
        verify_evidence(ForkEvidence(*notes, (bytes(32),)), log.verifier)
    assert caught.value.reason == "fork"


@given(st.binary(max_size=80))
def test_nonsense_is_our_error(data: bytes) -> None:
    with pytest.raises(ProofError) as caught:
        ForkEvidence.from_bytes(data)
    assert caught.value.reason == "malformed"


def test_evidence_of_another_form(log: NoteSigner) -> None:
    from loyal.encoding import encode

    note = head(honest(3), log).note
    data = note.to_bytes()
    for wrong in ([2, data, data, []], [True, data, data, []], [1, data, data, ["x"]],
                  [1, data, data], [1, data, b"no note", []], [1, "text", data, []]):  # fmt: skip
        with pytest.raises(ProofError):
            ForkEvidence.from_bytes(encode(wrong))
    with pytest.raises(ProofError):
        ForkEvidence.from_bytes(bytes(MAX_EVIDENCE_BYTES + 1))
    with pytest.raises(LedgerError):
        verify_evidence(ForkEvidence(replace(note, text="no checkpoint\n"), note), log.verifier)
