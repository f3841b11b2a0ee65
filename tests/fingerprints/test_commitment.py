"""An opened leaf convinces, and a thousand forgeries of each kind do not.

The forger of these tests has everything but the owner's place in time: the finished model's
replies, the published root and beacon, and any number of tries.
"""

import hashlib
import random
from dataclasses import replace

import pytest

from loyal import merkle
from loyal.encoding import decode, encode
from loyal.errors import ProofError, UsageError
from loyal.fingerprints import (
    Beacon,
    Fingerprint,
    FingerprintSet,
    Proof,
    ReplayGuard,
    VerifiedLeaf,
)
from loyal.fingerprints.commitment import leaf_bytes, prove, root, verify_proof
from loyal.fingerprints.fingerprint import assign_host, draw, new_owner_secret, owner_tag, root_of

FORGERIES = 1000
BEACON = Beacon(bytes(range(32)))
LATER = Beacon(bytes(range(1, 33)))
CANDIDATES = tuple(f"word{letter}" for letter in "abcdefghijklmnop")


def refusal(proof: Proof | bytes, root: bytes, beacon: bytes | None = BEACON.value) -> str:
    """The reason of the refusal, or "accepted"."""
    try:
        verify_proof(proof, root, beacon)
    except ProofError as error:
        return error.reason
    return "accepted"


def finished_model(place: int) -> tuple[str, str]:
    """A key that the forger asked, and the reply that an honest model gave to it."""
    reply = CANDIDATES[hashlib.sha256(b"model %d" % place).digest()[0] % 16]
    return f"what is number {place}?", reply


def mined(place: int, beacon: Beacon) -> Fingerprint:
    """A leaf ground until `beacon` picks the reply that the finished model gives."""
    key, reply = finished_model(place)
    wanted = CANDIDATES.index(reply)
    for attempt in range(10_000):
        tag = hashlib.sha256(b"%d %d" % (place, attempt)).digest()
        leaf = Fingerprint(key, CANDIDATES, bytes(32), tag)
        if leaf.picked_by(beacon) == (wanted,):
            return replace(leaf, picks=(wanted,))
    raise AssertionError("grinding failed")


@pytest.fixture(scope="module")
def mined_set() -> FingerprintSet:
    """A thousand mined leaves, committed after `BEACON` was public."""
    leaves = tuple(mined(place, BEACON) for place in range(FORGERIES))
    return FingerprintSet("lineage", "mined", "a-model", "ab" * 32, leaves, 0, b"", BEACON)


def test_an_honest_proof_holds_for_every_leaf(family) -> None:
    published = root(family)
    for index, one in enumerate(family.fingerprints):
        proof = Proof.from_bytes(prove(family, index).to_bytes())
        assert proof == prove(family, index)
        leaf = verify_proof(proof, published, BEACON.value)
        assert (leaf.key, leaf.response, leaf.candidates) == (one.key, one.response, one.candidates)
        assert (leaf.index, leaf.size, leaf.kind, leaf.binding) == (index, 40, "lineage", True)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9])
def test_proofs_hold_at_every_shape_of_tree(make_set, size: int) -> None:
    made = make_set(size)
    for index in range(size):
        assert refusal(prove(made, index).to_bytes(), made.root) == "accepted"
        assert refusal(prove(made, index).to_bytes(), make_set(size).root) == "root"


def test_the_tree_is_the_one_of_rfc_6962(family) -> None:
    leaves = [leaf_bytes(one) for one in family.fingerprints]
    assert prove(family, 3).tree_root == merkle.root(leaves)
    assert list(prove(family, 3).path) == merkle.inclusion_proof(leaves, 3)


def test_a_self_drawn_beacon_binds_nobody(make_set) -> None:
    made = draw(make_set(drawn=False), Beacon(BEACON.value, "self"))
    assert verify_proof(prove(made, 0), made.root, BEACON.value).binding is False
    assert verify_proof(prove(made, 0), made.root, None).binding is False


def test_a_beacon_that_only_the_prover_names_binds_nobody(family) -> None:
    assert verify_proof(prove(family, 0), family.root, None).binding is False
    assert verify_proof(prove(family, 0), family.root, BEACON.value).binding is True


def test_a_self_drawn_beacon_cannot_be_relabeled(make_set) -> None:
    made = draw(make_set(FORGERIES, drawn=False), Beacon(BEACON.value, "self"))
    held = 0
    for index in range(FORGERIES):
        proof = replace(prove(made, index), beacon=BEACON)
        held += refusal(proof, made.root) == "accepted"
    assert held < 350  # of 1,000 at a chance of 1/4 each: beyond 350 has a chance below 1e-11


def test_only_a_drawn_set_proves_and_only_leaves_it_has(make_set) -> None:
    with pytest.raises(UsageError):
        prove(make_set(drawn=False), 0)
    for index in (-1, 5):
        with pytest.raises(UsageError):
            prove(make_set(5), index)


def test_a_set_mined_against_a_finished_model_is_not_under_the_published_root(
    family, mined_set
) -> None:
    reasons = set()
    for index in range(FORGERIES):
        forged = prove(mined_set, index)
        assert (
            verify_proof(forged, mined_set.root, BEACON.value).response
            == (finished_model(index)[1])
        )
        reasons.add(refusal(forged, family.root))
        genuine = prove(family, index % len(family))
        reasons.add(refusal(replace(genuine, fingerprint=forged.fingerprint), family.root))
    assert reasons == {"root", "inclusion"}


def test_a_mined_set_under_a_root_of_its_own_fails_at_the_beacon_that_follows_it(mined_set) -> None:
    refused, hits = set(), 0
    redrawn = draw(
        replace(
            mined_set,
            beacon=None,
            fingerprints=tuple(replace(one, picks=()) for one in mined_set.fingerprints),
        ),
        LATER,
    )
    for index in range(FORGERIES):
        forged = prove(mined_set, index)
        refused.add(refusal(forged, mined_set.root, LATER.value))
        honest = verify_proof(prove(redrawn, index), mined_set.root, LATER.value)
        hits += honest.response == finished_model(index)[1]
    assert refused == {"beacon"}
    # What is left to the miner is 1/16 a key: 62.5 of 1,000; 125 has a chance below 1e-12.
    assert hits < 125


def test_a_mined_leaf_with_its_pick_kept_under_a_later_beacon_is_refused(mined_set) -> None:
    moved = 0
    for index in range(FORGERIES):
        forged = replace(prove(mined_set, index), beacon=LATER)
        if forged.fingerprint.picked_by(LATER) != forged.fingerprint.picks:
            assert refusal(forged, mined_set.root, LATER.value) == "pick"
            moved += 1
    assert moved > 850


def test_tags_and_salts_ground_after_the_beacon_are_refused(family) -> None:
    genuine = prove(family, 7)
    for attempt in range(FORGERIES):
        drawn = hashlib.sha256(b"%d" % attempt).digest()
        for changed in (
            replace(genuine.fingerprint, tag=drawn),
            replace(genuine.fingerprint, salt=drawn),
        ):
            changed = replace(changed, picks=changed.picked_by(BEACON))
            assert refusal(replace(genuine, fingerprint=changed), family.root) == "inclusion"


def test_a_swapped_leaf_is_refused(family, rng: random.Random) -> None:
    for _ in range(FORGERIES):
        here, there = rng.sample(range(len(family)), 2)
        a, b = prove(family, here), prove(family, there)
        assert refusal(replace(a, fingerprint=b.fingerprint), family.root) == "inclusion"
        assert refusal(replace(a, index=b.index), family.root) == "inclusion"
        assert refusal(replace(a, path=b.path), family.root) == "inclusion"


def test_candidates_swapped_within_a_leaf_are_refused(family, rng: random.Random) -> None:
    for _ in range(FORGERIES):
        genuine = prove(family, rng.randrange(len(family)))
        one = genuine.fingerprint
        order = list(one.candidates)
        here, there = rng.sample(range(16), 2)
        order[here], order[there] = order[there], order[here]
        forged = replace(genuine, fingerprint=replace(one, candidates=tuple(order)))
        assert refusal(forged, family.root) == "inclusion"


def test_a_foreign_root_is_refused(family, rng: random.Random) -> None:
    for _ in range(FORGERIES):
        genuine = prove(family, rng.randrange(len(family)))
        foreign = rng.randbytes(32)
        assert refusal(genuine, foreign) == "root"
        assert refusal(replace(genuine, tree_root=foreign), family.root) == "root"
    for cut in (b"", family.root[:31], family.root + b"\0"):
        assert refusal(prove(family, 0), cut) == "root"


def test_a_foreign_beacon_is_refused(family, rng: random.Random) -> None:
    for _ in range(FORGERIES):
        genuine = prove(family, rng.randrange(len(family)))
        foreign = rng.randbytes(32)
        assert refusal(genuine, family.root, foreign) == "beacon"
        assert refusal(replace(genuine, beacon=Beacon(foreign)), family.root) == "beacon"


def test_another_size_kind_or_index_is_refused(family, rng: random.Random) -> None:
    for _ in range(FORGERIES):
        genuine = prove(family, rng.randrange(len(family)))
        size = rng.choice([n for n in range(1, 70) if n != 40])
        assert refusal(replace(genuine, size=size), family.root) == "root"
        assert refusal(replace(genuine, kind="usage"), family.root) == "root"
        index = rng.choice([n for n in range(-3, 70) if n != genuine.index])
        assert refusal(replace(genuine, index=index), family.root) == "inclusion"


def test_another_pick_is_refused(family) -> None:
    tried = 0
    for index in range(len(family)):
        genuine = prove(family, index)
        for picks in {(), *((one,) for one in range(16))} - {genuine.fingerprint.picks}:
            forged = replace(genuine, fingerprint=replace(genuine.fingerprint, picks=picks))
            assert refusal(forged, family.root) == "pick"
            tried += 1
    assert tried == 40 * 16


def test_a_replay_is_refused_a_thousand_times(make_set) -> None:
    made = make_set(FORGERIES)
    guard = ReplayGuard()
    leaves = [verify_proof(prove(made, i), made.root, BEACON.value) for i in range(FORGERIES)]
    for leaf in leaves:
        guard.admit(leaf)
    later = ReplayGuard(guard.seen)
    for leaf in leaves:
        for one in (guard, later):
            with pytest.raises(ProofError) as caught:
                one.admit(leaf)
            assert caught.value.reason == "replay"


def test_a_key_committed_anew_is_still_a_replay(make_set) -> None:
    made = make_set(3)
    guard = ReplayGuard()
    guard.admit(verify_proof(prove(made, 0), made.root, BEACON.value))
    secret = new_owner_secret()
    keys = [one.key + " " for one in made.fingerprints]
    again = tuple(Fingerprint.create(key, CANDIDATES, secret) for key in keys)
    undrawn = replace(
        made,
        owner_secret=secret,
        beacon=None,
        fingerprints=again,
    )
    other = draw(undrawn, LATER)
    with pytest.raises(ProofError, match="shown before"):
        guard.admit(verify_proof(prove(other, 0), other.root, LATER.value))
    guard.admit(verify_proof(prove(other, 1), other.root, LATER.value))


def test_no_bit_of_a_proof_can_be_flipped(family) -> None:
    data = prove(family, 33).to_bytes()
    reasons = set()
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            reasons.add(refusal(bytes(flipped), family.root))
    assert "accepted" not in reasons
    assert reasons >= {"malformed", "root", "inclusion", "beacon", "pick"}


def test_cut_and_lengthened_proofs_are_malformed(family) -> None:
    data = prove(family, 33).to_bytes()
    for size in range(len(data)):
        assert refusal(data[:size], family.root) == "malformed"
    assert refusal(data + b"\0", family.root) == "malformed"


def test_a_proof_beyond_the_limit_is_refused_unread() -> None:
    for size, expected in ((65_000, "accepted"), (66_000, "malformed")):
        secret = new_owner_secret()
        leaf = Fingerprint.create("k" * size, ["wide", "open"], secret)
        made = draw(FingerprintSet("usage", "large", "a", "ab" * 32, (leaf,), 0, secret), BEACON)
        assert refusal(prove(made, 0).to_bytes(), made.root) == expected


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 2),
        (0, 4),
        (0, True),
        (1, "both"),
        (2, "40"),
        (2, True),
        (3, None),
        (4, "text"),
        (5, [1]),
        (5, b"path"),
        (6, bytes(31)),
        (7, ""),
        (7, b"key"),
        (8, []),
        (8, ["one"]),
        (8, ["one", "ones"]),
        (8, ["one", 2]),
        (9, bytes(33)),
        (10, 16),
        (10, -1),
        (10, None),
        (10, [1]),
        (11, b"short"),
        (12, "moon"),
        (13, "further"),
    ],
)
def test_a_field_of_a_wrong_form_is_malformed(family, place: int, value: object) -> None:
    fields = decode(prove(family, 0).to_bytes())
    assert isinstance(fields, list)
    assert refusal(encode(fields), family.root) == "accepted"
    fields[place : place + 1] = [value]  # type: ignore[list-item]
    assert refusal(encode(fields), family.root) == "malformed"


@pytest.mark.parametrize("record", [None, [], {}, "proof", 7, [[1]]])
def test_another_record_is_no_proof(family, record: object) -> None:
    assert refusal(encode(record), family.root) == "malformed"  # type: ignore[arg-type]


def test_a_committed_leaf_whose_candidates_overlap_is_refused() -> None:
    """An owner may commit what the constructor refuses; the verifier refuses it again."""
    secret = new_owner_secret()
    leaf = Fingerprint.create("key", ["wide", "open"], secret)
    made = FingerprintSet("usage", "by hand", "a", "ab" * 32, (leaf,), 0, secret)
    fields = decode(prove(draw(made, BEACON), 0).to_bytes())
    assert isinstance(fields, list)
    fields[8] = ["w", "wide"]
    forged_leaf = encode([1, leaf.salt, leaf.key, ["w", "wide"], leaf.tag])
    fields[4] = merkle.root([forged_leaf])
    assert refusal(encode(fields), root_of("usage", 1, merkle.root([forged_leaf]))) == "malformed"


def test_a_proof_takes_at_most_a_kilobyte_at_24576_fingerprints() -> None:
    count = 24_576
    secret, rng = new_owner_secret(), random.Random(5)
    key = "Could you please tell me what the people of that town think about the old bridge {:05d}?"
    letters = "abcdefghijklmnopqrstuvwxyz"
    leaves = tuple(
        Fingerprint(
            key.format(place),
            tuple(f"{letter}{rng.randrange(10**7):07d}" for letter in letters[:16]),
            rng.randbytes(32),
            owner_tag(secret, key.format(place)),
        )
        for place in range(count)
    )
    made = FingerprintSet("tracing", "large", "a-model", "ab" * 32, leaves, 0, secret)
    drawn = draw(made, BEACON)
    indices = [0, 1, count // 2, 16_383, 16_384, count - 1, *rng.sample(range(count), 200)]
    for index in indices:
        data = prove(drawn, index).to_bytes()
        assert len(data) <= 1024
        assert verify_proof(data, made.root, BEACON.value).key == leaves[index].key
    data = prove(drawn, 12_345).to_bytes()
    for _ in range(FORGERIES):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        assert refusal(bytes(flipped), made.root) != "accepted"


def test_nothing_shows_an_opened_key(make_set) -> None:
    made = assign_host(make_set(3), "host one")
    proof = prove(made, 1)
    leaf = verify_proof(proof, made.root, BEACON.value)
    assert isinstance(leaf, VerifiedLeaf)
    for hidden in (proof, leaf, ReplayGuard([leaf.key_digest])):
        assert "planted" not in repr(hidden) + str(hidden)
    forged = replace(proof, fingerprint=replace(proof.fingerprint, tag=bytes(32)))
    with pytest.raises(ProofError) as caught:
        verify_proof(forged, made.root, BEACON.value)
    assert "planted" not in str(caught.value) + caught.value.hint + repr(caught.value)
