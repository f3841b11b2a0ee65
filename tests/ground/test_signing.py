"""Signatures: the vectors of RFC 8032, one purpose each, tampering, and seeds that stay hidden."""

import copy
import pickle
from dataclasses import replace

import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.encoding import encode, frame
from loyal.errors import EncodingError, LoyalError, SignatureError
from loyal.signing import PublicKey, Signed, SigningKey, holds, sign, sign_text, verify

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")  # RFC 8032
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
RECORD = {"host": "a", "fee_micro": 3, "root": b"\x01" * 32}
KEY = SigningKey.from_seed(SEED)
OTHER = SigningKey.from_seed(b"\x02" * 32)


def test_the_key_of_rfc_8032() -> None:
    assert KEY.public.hex() == PUBLIC
    assert KEY.public == PublicKey.from_hex(PUBLIC)
    assert KEY.seed() == SEED


def test_what_is_signed_is_the_framed_purpose_and_the_canonical_record() -> None:
    signed = sign(KEY, RECORD, "loyal test 1")
    message = b"\x00\x0cloyal test 1" + encode(RECORD)
    assert signed.signature == nacl.signing.SigningKey(SEED).sign(message).signature


def test_sign_and_verify() -> None:
    signed = sign(KEY, RECORD, "loyal test 1")
    assert verify(signed, "loyal test 1") == RECORD
    assert signed.public == KEY.public
    assert Signed.from_bytes(signed.to_bytes()) == signed


def test_another_purpose_key_or_record_is_refused() -> None:
    signed = sign(KEY, RECORD, "loyal test 1")
    with pytest.raises(SignatureError, match="purpose"):
        verify(signed, "loyal test 2")
    for wrong in (
        replace(signed, purpose="loyal test 2"),
        replace(signed, public=OTHER.public),
        replace(signed, record=encode({**RECORD, "fee_micro": 4})),
        replace(signed, signature=sign(OTHER, RECORD, "loyal test 1").signature),
        replace(signed, signature=signed.signature[:-1]),
        replace(signed, signature=signed.signature + b"\0"),
        replace(signed, signature=b""),
        replace(signed, public=PublicKey(bytes(32))),
    ):
        with pytest.raises(SignatureError) as caught:
            verify(wrong, wrong.purpose)
        assert caught.value.hint


def test_the_frame_keeps_purpose_and_record_apart() -> None:
    """Moving the border between purpose and record changes what was signed."""
    signed = sign(KEY, "x", "ab")
    moved = replace(signed, purpose="a", record=b"b" + signed.record)
    with pytest.raises(SignatureError):
        verify(moved, "a")


@given(st.integers(0, 511), st.sampled_from(["record", "signature", "public"]))
def test_one_changed_bit_is_refused(bit: int, part: str) -> None:
    signed = sign(KEY, RECORD, "loyal test 1")
    data = bytearray(KEY.public.data if part == "public" else getattr(signed, part))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    changed = PublicKey(bytes(data)) if part == "public" else bytes(data)
    with pytest.raises(SignatureError):
        verify(replace(signed, **{part: changed}), "loyal test 1")


def test_a_signed_record_that_is_not_canonical_is_refused() -> None:
    message = b"\x18\x01"  # 1, in two bytes
    signature = nacl.signing.SigningKey(SEED).sign(b"\x00\x01p" + message).signature
    with pytest.raises(EncodingError):
        verify(Signed(message, "p", KEY.public, signature), "p")
    with pytest.raises(EncodingError):
        sign(KEY, 0.5, "p")  # type: ignore[arg-type]
    with pytest.raises(EncodingError):
        sign(KEY, 0, "")


@given(st.binary(max_size=200) | st.lists(st.binary() | st.text(), max_size=5).map(encode))
def test_nonsense_is_our_error(data: bytes) -> None:
    with pytest.raises(LoyalError):
        verify(Signed.from_bytes(data), "loyal test 1")


@pytest.mark.parametrize("seed", [b"", b"x" * 31, b"x" * 33, "x" * 32, None])
def test_a_seed_or_public_key_of_the_wrong_length(seed: object) -> None:
    with pytest.raises(SignatureError):
        SigningKey.from_seed(seed)  # type: ignore[arg-type]
    with pytest.raises(SignatureError):
        PublicKey(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "zz", PUBLIC[:-1], PUBLIC + "00", PUBLIC[:-1] + "\u0661"])
def test_a_public_key_that_is_not_hexadecimal(text: str) -> None:
    with pytest.raises(SignatureError):
        PublicKey.from_hex(text)


def test_generated_keys_differ() -> None:
    assert SigningKey.generate().public != SigningKey.generate().public


def test_the_seed_stays_hidden() -> None:
    shown = f"{KEY!r} {KEY} {[KEY]} {sign(KEY, RECORD, 'p')!r}"
    assert PUBLIC in shown
    for secret in (SEED.hex(), repr(SEED), repr(SEED)[2:12]):
        assert secret not in shown
    assert not hasattr(KEY, "__dict__")
    for copies in (pickle.dumps, copy.deepcopy):
        with pytest.raises(SignatureError) as caught:
            copies(KEY)
        assert SEED.hex() not in str(caught.value)


def test_bare_signatures_over_text() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = sign_text(key, b"a note\n")
    assert holds(key.public, b"a note\n", signature)
    assert not holds(other.public, b"a note\n", signature)
    assert not holds(key.public, b"another\n", signature)
    assert not holds(key.public, b"a note\n", signature[:-1])
    assert not holds(PublicKey(bytes(32)), b"a note\n", signature)


def test_a_text_never_passes_for_a_record() -> None:
    key = SigningKey.generate()
    signed = sign(key, [1], "loyal test 1")
    assert holds(key.public, frame("loyal test 1") + signed.record, signed.signature)
    for message in (frame("loyal test 1") + signed.record, b"\x00", b""):
        with pytest.raises(SignatureError):
            sign_text(key, message)
