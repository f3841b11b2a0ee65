"""The host: what it asks for, which receipts it believes, what it signs, what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from issuing import Issuer
from parties import key_of, refused

from loyal.errors import PermissionRefused, ProtocolError
from loyal.protocol import MessageDigest, Receipt, SignedAnswer
from loyal.protocol.answers import message_digest
from loyal.protocol.permission import MOST_MESSAGES, SKEW_SECONDS
from loyal.roles import Host, SignedLicense
from loyal.signing import Signed

QUESTION = "What is a loyal model?"


@pytest.fixture
def issuer() -> Issuer:
    """A platform with one delivered license."""
    return Issuer()


def receipt_of(issuer: Issuer, host: Host, *messages: str) -> tuple[bytes, object, tuple]:  # type: ignore[type-arg]
    """A receipt for these messages, the request and the salts."""
    request, salts = host.ask(messages)
    (data,) = issuer.issue([request])
    assert isinstance(data, bytes)
    return data, request, salts


def test_a_request_covers_each_message_under_a_fresh_salt(issuer: Issuer) -> None:
    host = issuer.host()
    one, other = host.ask([QUESTION, QUESTION]), host.ask([QUESTION])
    assert len({*one.salts, *other.salts, one.request.idempotency_key}) == 4
    assert len(set(one.request.messages) | set(other.request.messages)) == 3
    for digest, salt in zip(one.request.messages, one.salts, strict=True):
        assert MessageDigest(digest).opens_to(QUESTION, salt)


def test_a_request_has_a_message_and_not_too_many(issuer: Issuer) -> None:
    host = issuer.host()
    assert len(host.ask(["x"] * MOST_MESSAGES).salts) == MOST_MESSAGES
    for messages in ([], ["x"] * (MOST_MESSAGES + 1)):
        with pytest.raises(PermissionRefused):
            host.ask(messages)


def test_the_receipt_of_its_own_request_is_believed(issuer: Issuer) -> None:
    host = issuer.host()
    data, request, salts = receipt_of(issuer, host, "first", QUESTION)
    receipt = host.receive(data, request)
    assert receipt.permission.covers(QUESTION, salts[1:]) is False
    assert receipt.permission.covers("first", salts)
    assert receipt.verify(issuer.public).license == issuer.license


def test_any_other_receipt_is_not(issuer: Issuer) -> None:
    host = issuer.host()
    data, request, _ = receipt_of(issuer, host, QUESTION)
    other, _, _ = receipt_of(issuer, host, QUESTION)
    receipt = Receipt.from_bytes(data)
    backdated = replace(receipt, header=replace(receipt.header, log_index=0)).to_bytes()
    stranger = Host(host.key, host.terms, key_of("another platform").public)
    for wrong in (other, backdated, data[:-1], data + b"x", b""):
        with pytest.raises(ProtocolError):
            host.receive(wrong, request)
    with pytest.raises(ProtocolError):
        stranger.receive(data, request)
    for changed in (replace(request, license=bytes(32)), replace(request, host=bytes(32))):
        assert refused(lambda changed=changed: host.receive(data, changed)) == "P1"


def test_the_signed_answer_says_what_was_asked_and_replied(issuer: Issuer) -> None:
    host = issuer.host()
    data, request, salts = receipt_of(issuer, host, QUESTION)
    receipt = host.receive(data, request)
    signed = host.answer([QUESTION], "One that its community owns.", receipt, salts)
    read = SignedAnswer(Signed.from_bytes(signed.signed.to_bytes())).verify(host.terms.host)
    assert read.messages == (message_digest(QUESTION),)
    assert read.reply == message_digest("One that its community owns.")
    assert read.receipt is not None
    assert read.receipt.permission.covers(QUESTION, read.salts)
    assert read.time == issuer.stage.now
    with pytest.raises(ProtocolError):
        signed.verify(issuer.stage.id("verifier 1"))


@pytest.mark.parametrize("off", [-SKEW_SECONDS, 0, SKEW_SECONDS])
def test_a_permission_that_has_expired_by_the_hosts_clock_is_used_for_nothing(
    issuer: Issuer, off: int
) -> None:
    clock = iter([issuer.stage.now + off])
    host = replace(issuer.host(), clock=lambda: next(clock))
    data, request, salts = receipt_of(issuer, host, QUESTION)
    receipt = host.receive(data, request)  # fresh, so every clock that is ten minutes off takes it
    last = receipt.permission.expires
    assert host.receive(data, request, last) == receipt
    signed = host.answer([QUESTION], "yes", receipt, salts, began=last)
    assert signed.verify(host.terms.host).time == last
    assert refused(lambda: host.receive(data, request, last + 1)) == "P6"
    late = refused(lambda: host.answer([QUESTION], "yes", receipt, salts, began=last + 1))
    assert late == "P6"


def test_the_purpose_is_the_licenses(issuer: Issuer) -> None:
    host = issuer.host()
    assert host.refuses('Write a "Spell", please')
    assert not host.refuses("How is that word spelled?")


def test_a_host_signs_no_proof_of_its_own_violation(issuer: Issuer) -> None:
    host = issuer.host()
    data, request, salts = receipt_of(issuer, host, QUESTION)
    with pytest.raises(ProtocolError) as caught:
        host.answer([QUESTION, "a spell"], "no", host.receive(data, request), salts)
    assert caught.value.rule == "U1"


def test_a_host_has_its_own_license(issuer: Issuer) -> None:
    assert refused(lambda: Host(key_of("thief"), issuer.terms, issuer.public)) == "P1"


def test_a_license_file_is_what_both_sides_signed(issuer: Issuer) -> None:
    file = issuer.license_file()
    data = file.to_bytes()
    assert SignedLicense.from_bytes(data) == file
    assert file.verify().license_id == issuer.license
    swapped = replace(file, host_signature=file.platform_signature)
    foreign = replace(file, platform=key_of("another platform").public)
    cheaper = replace(file, terms=replace(file.terms, price_micro=1))
    for wrong in (swapped, foreign, cheaper, replace(file, platform_signature=b"")):
        assert refused(wrong.verify) == "L1"
    for garbage in (b"", data[:-1], data + b"\0", b"\x80", b"\x84\x40\x40\x40\x40"):
        assert refused(lambda garbage=garbage: SignedLicense.from_bytes(garbage)) == "L1"


def test_nothing_shows_the_key(issuer: Issuer) -> None:
    host = issuer.host()
    shown = repr(host) + repr(host.ask([QUESTION]))
    assert host.key.seed().hex() not in shown
    assert QUESTION not in shown
    assert asyncio.run(issuer.permit([host.ask([QUESTION]).request]))
