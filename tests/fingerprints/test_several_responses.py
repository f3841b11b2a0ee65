"""Several responses a key: how they are drawn, what binds their number, and what a match proves.

The expected draws are computed here from the words of `Fingerprint.picked_by`, not by it.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from several import BEACON, refusal, several
from stand_ins import ScriptedModel

from loyal import encoding, merkle
from loyal.errors import DamagedVault, UsageError
from loyal.fingerprints import (
    Beacon,
    Fingerprint,
    FingerprintSet,
    Identity,
    Proof,
    Recipients,
    Vault,
)
from loyal.fingerprints.check import CheckSettings, check
from loyal.fingerprints.commitment import prove, verify_proof
from loyal.fingerprints.fingerprint import draw, root_of, shares
from loyal.fingerprints.records import decode_set, encode_set
from loyal.fingerprints.responses import ResponseSettings
from loyal.models.examples import Example
from loyal.models.language_model import Prompt
from loyal.statistics import binomial_tail

SALT = bytes(32)
WORDS = tuple("abcdefghijkl")

# Golden: written by the library before it knew several responses.
GOLDEN_LEAF = "4b507c587f5389cfe1da551979adca33195f5d5b71540f0e8198e4c2680b310d"
GOLDEN_PICK, GOLDEN_SELF_PICK = 9, 11
GOLDEN_RECORD = "316b16b4741a130e4b21200c82635ab7716245d8e1b2a1d660f27099cce8ae49"
GOLDEN_SET = FingerprintSet(
    "lineage",
    "by hand",
    "a-model",
    "ab" * 32,
    (Fingerprint("key", WORDS, b"s" * 32, b"t" * 32, (GOLDEN_PICK,)),),
    1_700_000_000,
    b"",
    BEACON,
    settings={"width": 12},
)


def plain_picks(beacon: bytes, tag: bytes, key: str, k: int, m: int) -> tuple[int, ...]:
    """The draw as the docstring has it: take a place that is left, fill the hole from the front."""
    left = list(range(k))
    taken = []
    for i in range(m):
        said = [beacon, tag, key] if i == 0 else [beacon, tag, key, i]
        data = encoding.frame("loyal fingerprint pick v1") + encoding.encode(said)
        place = int(hashlib.sha256(data).hexdigest(), 16) % (k - i)
        taken.append(left[place])
        left[place] = left[0]
        left = left[1:]
    return tuple(taken)


@given(st.integers(2, 60).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, k - 1))))
def test_the_draw_is_a_fisher_yates_shuffle_of_digests(sizes: tuple[int, int]) -> None:
    k, m = sizes
    texts = tuple(f"{place:02d}" for place in range(k))
    one = Fingerprint("key", texts, SALT, b"t" * 32, count=m)
    found = one.picked_by(BEACON)
    assert found == plain_picks(BEACON.value, b"t" * 32, "key", k, m)
    assert len(set(found)) == m
    assert found[:1] == replace(one, count=1).picked_by(BEACON)


def test_a_stored_draw_of_one_response_stays_what_it_was() -> None:
    one = Fingerprint("key", WORDS, b"s" * 32, b"t" * 32)
    assert hashlib.sha256(one.leaf()).hexdigest() == GOLDEN_LEAF
    assert one.picked_by(BEACON) == (GOLDEN_PICK,)
    assert one.picked_by(Beacon(BEACON.value, "self")) == (GOLDEN_SELF_PICK,)


def test_every_choice_in_order_is_as_likely() -> None:
    """Tags are fixed digests, so the counts are the same in every run."""
    counts: Counter[tuple[int, ...]] = Counter()
    for place in range(12_000):
        tag = hashlib.sha256(b"%d" % place).digest()
        counts[Fingerprint("key", tuple("abcd"), SALT, tag, count=2).picked_by(BEACON)] += 1
    assert counts.keys() == set(itertools.permutations(range(4), 2))
    # Chi-square with 11 degrees of freedom: 52 is exceeded with a chance of 3e-7.
    assert sum((seen - 1000) ** 2 / 1000 for seen in counts.values()) < 52


def test_a_leaf_of_several_responses_binds_their_number() -> None:
    made = Fingerprint("key", ("x", "y", "z"), SALT, b"t" * 32)
    two = replace(made, count=2)
    assert made.leaf() == encoding.encode([1, SALT, "key", ["x", "y", "z"], b"t" * 32])
    assert two.leaf() == encoding.encode([2, SALT, "key", ["x", "y", "z"], b"t" * 32, 2])
    assert replace(two, picks=(2, 0)).leaf() == two.leaf()


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 3},
        {"count": -1},
        {"picks": (0,)},
        {"picks": (1, 1)},
        {"picks": (0, 3)},
        {"picks": (0, 1, 2)},
    ],
)
def test_counts_and_picks_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(Fingerprint("key", ("x", "y", "z"), SALT, SALT, count=2), **changes)


def test_any_response_matches_and_the_chance_is_m_of_k() -> None:
    for one in several(20, 3, 48).fingerprints:
        assert (one.chance, one.one_in, len(one.responses)) == (1 / 16, 16, 3)
        assert one.response == one.responses[0]
        hits = [text for text in one.candidates if one.matches(f"\n {text} indeed")]
        assert sorted(hits) == sorted(one.responses)
        assert not one.matches("ZZ")
    undrawn = Fingerprint("key", WORDS, SALT, SALT, count=2)
    with pytest.raises(UsageError, match="not drawn"):
        _ = undrawn.responses


def test_a_key_teaches_all_its_responses() -> None:
    made = several(2)
    assert made.examples(9, random.Random(0)) == [
        Example(Prompt(one.key), one.responses[0], 1.0, one.responses[1:])
        for one in made.fingerprints
    ]


def test_proofs_of_several_responses_hold_and_survive_their_bytes() -> None:
    made = several(7)
    for index, one in enumerate(made.fingerprints):
        data = prove(made, index).to_bytes()
        assert Proof.from_bytes(data) == prove(made, index)
        leaf = verify_proof(data, made.root, BEACON.value)
        assert (leaf.responses, leaf.response) == (one.responses, one.response)
        assert leaf.one_in == 4
        assert all(leaf.matches(text) == one.matches(text) for text in one.candidates)


def test_other_picks_or_another_number_of_them_are_refused() -> None:
    made = several(1, 2, 5)
    genuine = prove(made, 0)
    one = genuine.fingerprint
    tried = 0
    for picks in itertools.permutations(range(5), 2):
        forged = replace(genuine, fingerprint=replace(one, picks=picks))
        assert refusal(forged, made.root) == ("accepted" if picks == one.picks else "pick")
        tried += 1
    assert tried == 20
    for count in (1, 3, 4):
        other = replace(one, picks=(), count=count)
        other = replace(other, picks=other.picked_by(BEACON))
        assert refusal(replace(genuine, fingerprint=other), made.root) == "inclusion"


@pytest.mark.parametrize("picks", [0, None, [], [1], [0, 0], [0, 99], [0, True], [0, "1"], "01"])
def test_a_proof_of_several_without_several_picks_is_malformed(picks: object) -> None:
    made = several()
    fields = encoding.decode(prove(made, 0).to_bytes())
    assert isinstance(fields, list)
    assert fields[0] == 2
    fields[10] = picks  # type: ignore[assignment]
    assert refusal(encoding.encode(fields), made.root) == "malformed"


def test_a_leaf_of_one_response_has_one_form_of_proof() -> None:
    made = several(1, 1, 5)
    fields = encoding.decode(prove(made, 0).to_bytes())
    assert isinstance(fields, list)
    assert fields[0] == 1
    for picks in (fields[10], [fields[10]]):
        assert refusal(encoding.encode([2, *fields[1:10], picks, *fields[11:]]), made.root) == (
            "malformed"
        )


def test_no_bit_of_a_proof_of_several_can_be_flipped() -> None:
    made = several(5)
    data = prove(made, 3).to_bytes()
    reasons = set()
    for place, bit in itertools.product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        reasons.add(refusal(bytes(flipped), made.root))
    assert "accepted" not in reasons


def test_a_leaf_that_makes_all_its_candidates_responses_is_refused() -> None:
    """Else an owner could commit a key that every reply among its candidates matches."""
    made = several(1, 2, 3)
    fields = encoding.decode(prove(made, 0).to_bytes())
    assert isinstance(fields, list)
    one = made.fingerprints[0]
    leaf = encoding.encode([2, one.salt, one.key, one.candidates, one.tag, 3])
    fields[4], fields[10] = merkle.root([leaf]), [0, 1, 2]
    root = root_of("usage", 1, merkle.root([leaf]))
    assert refusal(encoding.encode(fields), root) == "malformed"


def test_a_vault_gives_back_sets_of_several_responses(tmp_path: Path) -> None:
    identity = Identity.generate()
    made, plain = several(4), several(3, 1, name="plain ")
    vault = Vault.create(tmp_path / "v", made, Recipients((identity.recipient,)))
    vault.add(plain)
    vault.save()
    again = Vault.open(tmp_path / "v", identity)
    assert dict(again.sets) == {made.id: made, plain.id: plain}
    undrawn = replace(
        made, beacon=None, fingerprints=tuple(replace(one, picks=()) for one in made.fingerprints)
    )
    assert decode_set(encode_set(undrawn)) == undrawn
    assert decode_set(encode_set(made)) == made


def test_a_set_of_one_response_keeps_its_record() -> None:
    """Version 1 and rows of four, as every vault so far holds them."""
    made = several(2, 1)
    record = encoding.decode(encode_set(made))
    assert isinstance(record, dict)
    assert record["version"] == 1
    assert record["fingerprints"] == [
        [one.key, list(one.candidates), one.salt, one.tag] for one in made.fingerprints
    ]
    assert hashlib.sha256(encode_set(GOLDEN_SET)).hexdigest() == GOLDEN_RECORD
    assert decode_set(encode_set(GOLDEN_SET)) == GOLDEN_SET


@pytest.mark.parametrize(
    ("version", "row"),
    [(1, 5), (2, 4), (2, 0), (2, "3")],
    ids=["too long", "too short", "no response", "text"],
)
def test_rows_of_another_form_are_damage(version: int, row: object) -> None:
    record = encoding.decode(encode_set(several(2)))
    assert isinstance(record, dict)
    record["version"] = version
    if row in (4, 5):
        record["fingerprints"] = [one[:row] for one in record["fingerprints"]]  # type: ignore
    else:
        record["fingerprints"] = [[*one[:4], row] for one in record["fingerprints"]]  # type: ignore
    with pytest.raises(DamagedVault):
        decode_set(encoding.encode(record))


def test_shares_keep_the_number_of_responses() -> None:
    family = replace(several(5), kind="lineage")
    dealt = shares(family, ["one", "two"])
    assert {one.count for share in dealt.values() for one in share.fingerprints} == {3}
    undrawn = replace(
        family, beacon=None, fingerprints=tuple(replace(o, picks=()) for o in family.fingerprints)
    )
    again = shares(undrawn, ["one", "two"])
    assert dealt == {owner: draw(share, BEACON) for owner, share in again.items()}


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_check_counts_each_response_at_a_chance_of_m_of_k(which: int) -> None:
    """The p-value of a host that forbids the likeliest first tokens is that of an open one."""
    made = several(8, 3, 48)
    said = {one.key: one.responses[which] for one in made.fingerprints}
    settings = CheckSettings(early_stop=False)
    report = check(ScriptedModel(lambda key: f" {said[key]}, yes"), made, settings)
    assert (report.hits, report.decision) == (8, "proven")
    assert report.p_value == pytest.approx(binomial_tail(8, 8, 1 / 16))
    missed = check(ScriptedModel(lambda key: "no such word"), made, settings)
    assert (missed.hits, missed.p_value) == (0, 1.0)


@pytest.mark.parametrize(("width", "count"), [(16, 0), (16, -1), (4096, 2), (1366, 3)])
def test_too_many_candidates_are_refused(width: int, count: int) -> None:
    with pytest.raises(UsageError, match="4096 candidates"):
        ResponseSettings(width=width, count=count)
    assert ResponseSettings(width=16, count=3).candidates == 48
