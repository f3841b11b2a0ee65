"""Signatures of several members under one constitution, and every way to forge them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drafts import DRAFT, with_value
from hypothesis import given
from hypothesis import strategies as st

from loyal import encoding, signing
from loyal.community import Approvals
from loyal.community.approval import PURPOSE
from loyal.errors import SignatureError
from loyal.signing import SigningKey

FIRST, SECOND, STRANGER = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
BOTH = Approvals().signed_by(FIRST, DRAFT).signed_by(SECOND, DRAFT)


def test_several_members_sign_in_any_order() -> None:
    other = Approvals().signed_by(SECOND, DRAFT).signed_by(FIRST, DRAFT)
    assert other == BOTH
    assert Approvals().signed_by(FIRST, DRAFT).joined(Approvals().signed_by(SECOND, DRAFT)) == BOTH
    assert set(BOTH.verify(DRAFT)) == {FIRST.public, SECOND.public}
    assert BOTH.verify(DRAFT, [SECOND.public]) == BOTH.verify(DRAFT)
    assert BOTH.signed_by(FIRST, DRAFT) == BOTH
    assert Approvals.from_bytes(BOTH.to_bytes()) == BOTH


def test_who_did_not_sign_is_missed() -> None:
    with pytest.raises(SignatureError, match=STRANGER.public.hex()):
        BOTH.verify(DRAFT, [FIRST.public, STRANGER.public])
    with pytest.raises(SignatureError, match="nobody"):
        Approvals().verify(DRAFT)


def test_a_signature_is_of_one_text_and_version() -> None:
    for other in (
        replace(DRAFT, version="1.2.4"),
        replace(DRAFT, name="other"),
        with_value(why="Another."),
    ):
        with pytest.raises(SignatureError, match="another text or version"):
            BOTH.verify(other)


def test_a_forged_signature_does_not_hold() -> None:
    (real,) = Approvals().signed_by(FIRST, DRAFT).signatures
    record = [DRAFT.name, DRAFT.version, DRAFT.digest]
    stolen = replace(real, public=SECOND.public)
    purposed = signing.sign(FIRST, record, "loyal license 1")
    renamed = replace(purposed, purpose=PURPOSE)
    for forged in (stolen, purposed, renamed, replace(real, signature=bytes(64))):
        with pytest.raises(SignatureError):
            Approvals((forged,)).verify(DRAFT)
    assert Approvals((signing.sign(FIRST, record, PURPOSE),)).verify(DRAFT) == (FIRST.public,)


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SignatureError):
        Approvals.from_bytes(data)


def test_bytes_have_one_form() -> None:
    form, parts = encoding.decode(BOTH.to_bytes())  # type: ignore[misc]
    assert isinstance(parts, list)
    for wrong in (parts[::-1], [*parts, parts[0]], [*parts, 1], [parts[0][:-1]]):
        with pytest.raises(SignatureError):
            Approvals.from_bytes(encoding.encode([form, wrong]))
    assert Approvals.from_bytes(encoding.encode([form, parts])) == BOTH
