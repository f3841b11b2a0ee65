"""The witness: what it cosigns, each way it refuses, its requests, and the quorum."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_stage import (
    LOG_NAME,
    NOW,
    ROOTS,
    after,
    changed_bytes,
    head,
    honest,
    log_signer,
    refused,
    request,
    witness_signer,
)

from loyal.errors import LedgerError, UsageError
from loyal.protocol import AddCheckpoint, Cosigned, Ledger, NoteSigner, WitnessState, witness
from loyal.protocol.checkpoint import cosign_note, sign_checkpoint
from loyal.protocol.note import MAX_SIZE


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_growth_is_cosigned(log: NoteSigner, witness_key: NoteSigner, sizes: list[int]) -> None:
    state, old = WitnessState().watch(log.verifier), 0
    for time, size in enumerate(sorted(sizes), start=NOW):
        asked = request(honest(size), log, old)
        answer = witness.cosign(witness_key, state, asked, time)
        assert isinstance(answer, Cosigned)
        note = asked.note.with_signatures([answer.cosignature.line])
        found = witness.witnessed(note, log.verifier, [witness_key.verifier], 1)
        assert found.checkpoint == honest(size).checkpoint()
        assert [one.time_seconds for one in found.cosignatures] == [time]
        assert answer.state.logs[LOG_NAME].size == size
        assert (state.logs[LOG_NAME].size, state.logs[LOG_NAME].time_seconds <= time) == (old, True)
        state, old = answer.state, size


def test_an_unknown_log_and_a_wrong_key(log: NoteSigner, witness_key: NoteSigner) -> None:
    asked = request(honest(3), log, 0)
    assert refused(witness_key, WitnessState(), asked).reason == "origin"
    other = WitnessState().watch(log_signer(LOG_NAME).verifier)
    assert refused(witness_key, other, asked).reason == "signature"
    spoiled = replace(asked.note.signatures[0], signature=bytes(64))
    state = WitnessState().watch(log.verifier)
    wrong = replace(asked, note=replace(asked.note, signatures=(spoiled,)))
    assert refused(witness_key, state, wrong).reason == "signature"


def test_a_key_may_sign_for_another_origin(log: NoteSigner, witness_key: NoteSigner) -> None:
    state = WitnessState().watch(log.verifier, "example.com/other")
    ledger = Ledger("example.com/other", [b"a"])
    answer = witness.cosign(witness_key, state, request(ledger, log, 0), NOW)
    assert isinstance(answer, Cosigned)
    assert refused(witness_key, state, request(honest(1), log, 0)).reason == "origin"
    with pytest.raises(UsageError):
        state.watch(log.verifier, "example.com/other")


def test_sizes(log: NoteSigner, witness_key: NoteSigner) -> None:
    state = after(honest(8), log, witness_key)
    for size, old, reason in (
        (5, 8, "size"),
        (5, 5, "rewind"),
        (0, 0, "rewind"),
        (9, 0, "stale"),
        (9, 7, "stale"),
        (9, 9, "stale"),
        (8, 0, "stale"),
    ):
        answer = refused(witness_key, state, request(honest(size), log, old))
        assert (answer.reason, answer.known_size, answer.evidence) == (reason, 8, None)


def test_the_same_head_again_is_cosigned_again(log: NoteSigner, witness_key: NoteSigner) -> None:
    state = after(honest(8), log, witness_key)
    answer = witness.cosign(witness_key, state, request(honest(8), log, 8), NOW + 9)
    assert isinstance(answer, Cosigned)
    assert answer.cosignature.time_seconds == NOW + 9


def test_time_does_not_go_back(log: NoteSigner, witness_key: NoteSigner) -> None:
    state = after(honest(8), log, witness_key)
    assert refused(witness_key, state, request(honest(9), log, 8), NOW - 1).reason == "clock"


@given(old=st.integers(1, 30), more=st.integers(1, 30), bit=st.integers(0, 255))
def test_a_wrong_proof_of_honest_growth_is_refused_without_evidence(
    log: NoteSigner, witness_key: NoteSigner, old: int, more: int, bit: int
) -> None:
    state = after(honest(old), log, witness_key)
    good = request(honest(old + more), log, old)
    flipped = bytes(a ^ (1 << bit % 8 if i == bit // 8 else 0) for i, a in enumerate(good.proof[0]))
    for proof in ((flipped, *good.proof[1:]), good.proof[1:], (*good.proof, flipped)):
        answer = refused(witness_key, state, replace(good, proof=proof))
        assert (answer.reason, answer.evidence) == ("consistency", None)


def test_a_first_checkpoint_has_no_proof(log: NoteSigner, witness_key: NoteSigner) -> None:
    state = WitnessState().watch(log.verifier)
    wrong = replace(request(honest(3), log, 0), proof=(bytes(32),))
    assert refused(witness_key, state, wrong).reason == "consistency"


def test_only_a_witness_key_cosigns(log: NoteSigner) -> None:
    state = WitnessState().watch(log.verifier)
    with pytest.raises(UsageError):
        witness.cosign(log, state, request(honest(3), log, 0), NOW)


def test_the_state_keeps_no_line_of_others(log: NoteSigner, witness_key: NoteSigner) -> None:
    asked = request(honest(3), log, 0)
    line = cosign_note(asked.note, witness_signer("example.com/other"), NOW).line
    asked = replace(asked, note=asked.note.with_signatures([line]))
    answer = witness.cosign(witness_key, WitnessState().watch(log.verifier), asked, NOW)
    assert isinstance(answer, Cosigned)
    assert answer.state.logs[LOG_NAME].latest == head(honest(3), log)


@given(st.integers(0, MAX_SIZE), st.lists(ROOTS, max_size=63))
def test_requests_round_trip(old_size: int, proof: list[bytes]) -> None:
    one = AddCheckpoint(old_size, tuple(proof), head(honest(2), log_signer(LOG_NAME)).note)
    assert AddCheckpoint.from_bytes(one.to_bytes()) == one


# c2sp.org/tlog-witness, the example request; its keys are not published.
SPEC_REQUEST = """\
old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gG\
zGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UE\
jw6QUXTS5Rovnzv++qbSzm9Q=
""".encode()


def test_the_example_request_of_the_standard() -> None:
    one = AddCheckpoint.from_bytes(SPEC_REQUEST)
    assert (one.old_size, len(one.proof), len(one.note.signatures)) == (20852014, 4, 2)
    assert one.to_bytes() == SPEC_REQUEST


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"old 20852014", b""),
        (b"old 20852014", b"old"),
        (b"old 20852014", b"old 020852014"),
        (b"old 20852014", b"old 9223372036854775808"),
        (b"old 20852014", b"OLD 20852014"),
        (b"old 20852014", b"old 20852014 "),
        (b"old 20852014", "old \u0661".encode()),
        (b"PlRN", b"PlR\n"),
        (b"PlRN", b"PlRNPlRN"),
        (b"/0=\n\n", b"/0=\n"),
        (b"/0=\n\n", b"/0=\n\n\n"),
        (b"20852163", b"020852163"),
    ],
)
def test_requests_that_are_none(old: bytes, new: bytes) -> None:
    wrong = SPEC_REQUEST.replace(old, new)
    assert wrong != SPEC_REQUEST
    with pytest.raises(LedgerError) as caught:
        AddCheckpoint.from_bytes(wrong)
    assert caught.value.reason == "malformed"


def test_more_lines_of_proof_than_any_tree_needs(log: NoteSigner) -> None:
    with pytest.raises(LedgerError):
        AddCheckpoint(0, (bytes(32),) * 64, head(honest(2), log).note)


@given(st.binary(max_size=100))
def test_nonsense_is_our_error(data: bytes) -> None:
    for wrong in (data, b"old 0\n" + data, b"old 0\n\n" + data):
        with pytest.raises(LedgerError):
            AddCheckpoint.from_bytes(wrong)


def test_no_change_of_a_byte_is_cosigned(log: NoteSigner, witness_key: NoteSigner) -> None:
    state = after(honest(3), log, witness_key)
    body = request(honest(5), log, 3).to_bytes()
    for wrong in changed_bytes(body):
        try:
            asked = AddCheckpoint.from_bytes(wrong)
        except LedgerError:
            continue
        refused(witness_key, state, asked)


@given(present=st.integers(0, 5), quorum=st.integers(1, 5))
def test_the_quorum(log: NoteSigner, present: int, quorum: int) -> None:
    signers = [witness_signer(f"example.com/w{index}") for index in range(5)]
    note = head(honest(4), log).note
    note = note.with_signatures(cosign_note(note, one, NOW).line for one in signers[:present])
    keys = [one.verifier for one in signers]
    if present >= quorum:
        found = witness.witnessed(note, log.verifier, keys, quorum)
        assert found.checkpoint == honest(4).checkpoint()
        assert [one.witness for one in found.cosignatures] == keys[:present]
    else:
        with pytest.raises(LedgerError) as caught:
            witness.witnessed(note, log.verifier, keys, quorum)
        assert caught.value.reason == "quorum"


def test_names_the_log_and_strangers_make_no_quorum(log: NoteSigner) -> None:
    note = head(honest(4), log).note
    one = witness_signer("example.com/one")
    alias, log_too = replace(one, name="example.com/alias"), replace(one, name="x", key=log.key)
    stranger = witness_signer("example.com/stranger")
    lines = [cosign_note(note, each, NOW).line for each in (one, alias, log_too, stranger)]
    note = note.with_signatures(lines)
    two = witness_signer("example.com/two").verifier
    keys = [one.verifier, alias.verifier, log_too.verifier, two]
    with pytest.raises(LedgerError):
        witness.witnessed(note, log.verifier, keys, 2)
    assert len(witness.witnessed(note, log.verifier, keys, 1).cosignatures) == 1
    for quorum in (0, 3):
        with pytest.raises(UsageError):
            witness.witnessed(note, log.verifier, keys, quorum)


def test_a_known_line_that_does_not_hold_spoils_the_note(log: NoteSigner) -> None:
    note = head(honest(4), log).note
    other = sign_checkpoint(honest(5).checkpoint(), log).note
    one, two = witness_signer("example.com/one"), witness_signer("example.com/two")
    lines = [cosign_note(note, one, NOW).line, cosign_note(other, two, NOW).line]
    keys = [one.verifier, two.verifier]
    with pytest.raises(LedgerError) as caught:
        witness.witnessed(note.with_signatures(lines), log.verifier, keys, 1)
    assert caught.value.reason == "signature"
    assert witness.witnessed(note.with_signatures(lines), log.verifier, keys[:1], 1)
