"""Receipts stand alone: what the platform signed holds, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import key_of, salt_of

from loyal.errors import PermissionRefused, UsageError
from loyal.protocol.permission import (
    MOST_LEAVES,
    MessageDigest,
    Permission,
    PermissionBatch,
    Receipt,
)

PLATFORM = key_of("platform")


def leaf(number: int = 0, messages: int = 1) -> Permission:
    digests = tuple(MessageDigest.of(f"m{n}", salt_of(n)).value for n in range(messages))
    return Permission(b"h" * 32, b"l" * 32, b"w" * 32, digests, number, 1_800_000_000)


def batch(count: int) -> PermissionBatch:
    return PermissionBatch.issue([leaf(n) for n in range(count)], 17, 1_800_000_000, PLATFORM)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 255, 256])
def test_every_receipt_of_a_batch_holds(count: int) -> None:
    made = batch(count)
    for place in range(count):
        receipt = made.receipt(place)
        assert receipt.verify(PLATFORM.public) == leaf(place) == receipt.permission
        assert Receipt.from_bytes(receipt.to_bytes()) == receipt


def test_a_receipt_is_small() -> None:
    """The sizes of the field's tables: 189 bytes single, 445 in a batch of 256."""
    assert len(batch(1).receipt(0).to_bytes()) <= 320
    assert len(batch(256).receipt(255).to_bytes()) <= 320 + 8 * 34


@given(st.data())
def test_one_changed_byte_is_refused(data: st.DataObject) -> None:
    whole = bytearray(batch(5).receipt(3).to_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PermissionRefused) as caught:
        Receipt.from_bytes(bytes(whole)).verify(PLATFORM.public)
    assert caught.value.hint


@given(st.binary(max_size=300))
def test_other_bytes_are_no_receipt(data: bytes) -> None:
    for kind in (Receipt, Permission):
        with pytest.raises(PermissionRefused):
            kind.from_bytes(data)


def test_another_platform_did_not_give_it() -> None:
    with pytest.raises(PermissionRefused, match="did not sign"):
        batch(3).receipt(1).verify(key_of("other platform").public)


def test_leaves_do_not_change_places() -> None:
    made = batch(4)
    moved = replace(made.receipt(1), position=2)
    swapped = replace(made.receipt(1), leaf=made.leaves[2])
    for one in (moved, swapped, replace(made.receipt(1), path=())):
        with pytest.raises(PermissionRefused, match="not in its batch"):
            one.verify(PLATFORM.public)


def test_the_place_in_the_log_is_signed() -> None:
    receipt = batch(2).receipt(0)
    earlier = replace(receipt, header=replace(receipt.header, log_index=1))
    with pytest.raises(PermissionRefused, match="did not sign"):
        earlier.verify(PLATFORM.public)


@pytest.mark.parametrize(
    "change",
    [
        {"host": b"h" * 31},
        {"messages": ()},
        {"messages": (b"m" * 31,)},
        {"messages": (b"m" * 32,) * 65},
        {"sequence": -1},
        {"sequence": True},
        {"expires": 2**63},
    ],
)
def test_a_malformed_leaf_is_refused_even_under_the_platforms_signature(change: dict) -> None:
    made = PermissionBatch.issue([replace(leaf(), **change)], 0, 0, PLATFORM)
    with pytest.raises(PermissionRefused):
        made.receipt(0).verify(PLATFORM.public)


def test_batches_have_a_size() -> None:
    for count in (0, MOST_LEAVES + 1):
        with pytest.raises(PermissionRefused, match="batch"):
            PermissionBatch.issue([leaf()] * count, 0, 0, PLATFORM)
    with pytest.raises(UsageError):
        batch(2).receipt(2)


@given(st.text(max_size=40), st.text(max_size=40), st.binary(min_size=16, max_size=16))
def test_a_digest_opens_to_its_message_alone(message: str, other: str, salt: bytes) -> None:
    digest = MessageDigest.of(message, salt)
    assert digest.opens_to(message, salt)
    assert digest.opens_to(other, salt) == (other == message)
    flipped = bytes([salt[0] ^ 1]) + salt[1:]
    assert not digest.opens_to(message, flipped)
    assert not digest.opens_to(message, salt[:15])


def test_a_salt_has_its_length() -> None:
    with pytest.raises(PermissionRefused, match="16 bytes"):
        MessageDigest.of("message", b"short")


def test_a_permission_covers_each_of_its_messages() -> None:
    one = leaf(messages=3)
    salts = [salt_of(n) for n in range(3)]
    assert all(one.covers(f"m{n}", salts) for n in range(3))
    assert not one.covers("m0", salts[1:])
    assert not one.covers("m3", salts)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 100])
def test_all_receipts_at_once_are_the_receipts_one_by_one(count: int) -> None:
    batch = PermissionBatch.issue([leaf(number) for number in range(count)], 5, 9, PLATFORM)
    assert batch.receipts() == [batch.receipt(place).to_bytes() for place in range(count)]
