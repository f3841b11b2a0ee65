"""The vault's side: a key a draw, a leaf a claim, and nothing of either in a repr or an error."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from actors_stage import COUNT, usage_set

from loyal.errors import UsageError
from loyal.fingerprints import Beacon, FingerprintSet, commitment, fingerprint
from loyal.roles.custodian import Custodian, evidence_digest

LICENSE, OTHER = b"l" * 32, b"o" * 32
BEACON = Beacon(b"b" * 32)


def drawn() -> FingerprintSet:
    return fingerprint.draw(usage_set(), BEACON)


def test_each_draw_gives_another_key_of_the_set() -> None:
    known = drawn()
    custodian = Custodian({LICENSE: known})
    keys = [custodian.key(LICENSE, number) for number in range(COUNT)]
    assert len(set(keys)) == COUNT
    assert set(keys) == {one.key for one in known.fingerprints}
    assert [custodian.keys_left(LICENSE, n) for n in (0, 5, COUNT, COUNT + 9)] == [20, 15, 0, 0]
    assert custodian.keys_left(OTHER) == 0
    for number in (-1, COUNT):
        with pytest.raises(UsageError):
            custodian.key(LICENSE, number)
    with pytest.raises(UsageError):
        custodian.key(OTHER, 0)


def test_an_opened_leaf_verifies_under_the_root_and_the_beacon() -> None:
    known = drawn()
    custodian = Custodian({LICENSE: known})
    key = custodian.key(LICENSE, 7)
    proof = custodian.open(LICENSE, key)
    leaf = commitment.verify_proof(proof, custodian.root(LICENSE), custodian.beacon(LICENSE))
    assert leaf.key == key
    assert leaf.response == known.fingerprints[7].response
    assert leaf.binding
    assert evidence_digest(proof) == hashlib.sha256(proof).digest()


def test_a_text_that_is_no_key_opens_nothing_and_is_not_repeated() -> None:
    custodian = Custodian({LICENSE: drawn()})
    key = custodian.key(LICENSE, 3)
    for text in (f"{key} ", "question 99?"):
        with pytest.raises(UsageError) as caught:
            custodian.open(LICENSE, text)
        assert "question" not in f"{caught.value} {caught.value.hint}"
    assert "question" not in repr(custodian)


def test_only_drawn_usage_sets_stand_under_licenses() -> None:
    known = drawn()
    with pytest.raises(UsageError):
        Custodian({LICENSE: usage_set()})
    with pytest.raises(UsageError):
        Custodian({LICENSE: fingerprint.draw(replace(usage_set(), kind="lineage"), BEACON)})
    with pytest.raises(UsageError):
        Custodian({LICENSE: known, OTHER: known})
    both = Custodian({OTHER: drawn(), LICENSE: known})
    assert both.licenses == (LICENSE, OTHER)
    assert LICENSE in both
    assert b"x" * 32 not in both
