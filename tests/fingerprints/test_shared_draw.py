"""One draw for all keys of a set: what binds it, and that its hits count once.

The expected draw is computed here from the words of `Fingerprint.picked_by`, not by it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from several import BEACON, refusal, several
from shared_sets import picked, shared_set
from stand_ins import ScriptedModel

from loyal import encoding, merkle
from loyal.errors import DamagedVault, ProofError, UsageError
from loyal.fingerprints import (
    Beacon,
    Fingerprint,
    FingerprintSet,
    Identity,
    Proof,
    Recipients,
    ReplayGuard,
    Vault,
)
from loyal.fingerprints.check import CheckReport, CheckSettings, check, expected_power
from loyal.fingerprints.commitment import prove, verify_proof
from loyal.fingerprints.fingerprint import draw, root_of, shared_tag, shares
from loyal.fingerprints.records import decode_set, encode_set
from loyal.fingerprints.suite import p_value_after
from loyal.roles.descent import leaves_of
from loyal.statistics import SharedDrawTest


def test_the_pick_is_one_digest_of_beacon_and_tag() -> None:
    made = shared_set(4, 100)
    tag = shared_tag(made.owner_secret)
    data = encoding.frame("loyal fingerprint pick v1") + encoding.encode([BEACON.value, tag])
    expected = int(hashlib.sha256(data).hexdigest(), 16) % 100
    assert {one.picks for one in made.fingerprints} == {(expected,)}
    assert {one.tag for one in made.fingerprints} == {tag}
    assert len({one.response for one in made.fingerprints}) == 1
    assert made.shared
    assert "one shared draw" in repr(made)
    assert not several().shared


def test_beacons_draw_every_candidate_about_as_often() -> None:
    """Tag and beacons are fixed digests, so the counts are the same in every run."""
    one = Fingerprint("key", tuple("abcdefgh"), bytes(32), b"t" * 32, shared=True)
    counts = [0] * 8
    for place in range(8_000):
        counts[one.picked_by(Beacon(hashlib.sha256(b"%d" % place).digest()))[0]] += 1
    # Chi-square with 7 degrees of freedom: 43 is exceeded with a chance of 3e-7.
    assert sum((seen - 1000) ** 2 / 1000 for seen in counts) < 43


def test_leaf_and_root_say_that_the_draw_is_shared() -> None:
    made = shared_set()
    one = made.fingerprints[0]
    fields = [one.salt, one.key, list(one.candidates), one.tag]
    assert one.leaf() == encoding.encode([3, *fields])
    assert one.draw_digest == made.fingerprints[1].draw_digest
    assert several().fingerprints[0].draw_digest == b""
    plain = root_of(made.kind, len(made), made.tree.root())
    assert made.root == root_of(made.kind, len(made), made.tree.root(), one.draw_digest) != plain


def test_a_set_shares_its_draw_as_a_whole_or_not_at_all() -> None:
    made = shared_set(drawn=False)
    first, *others = made.fingerprints
    wrong = [
        replace(first, shared=False),
        replace(first, candidates=first.candidates[1:]),
        replace(first, candidates=first.candidates[::-1]),
        replace(first, tag=bytes(32)),
    ]
    for one in wrong:
        with pytest.raises(UsageError, match="as a whole or not at all"):
            replace(made, fingerprints=(one, *others), owner_secret=b"")
    with pytest.raises(UsageError, match="owner secret"):
        replace(made, owner_secret=bytes(32))


def test_what_needs_a_draw_a_key_refuses_a_shared_one() -> None:
    made = shared_set(kind="lineage")
    with pytest.raises(UsageError, match="share one response"):
        shares(made, ["one", "two"])
    with pytest.raises(UsageError, match="tracing"):
        replace(made, kind="tracing")
    with pytest.raises(UsageError, match="one response"):
        replace(made.fingerprints[0], count=2, picks=())
    proofs = [prove(made, index) for index in range(3)]
    assert leaves_of(made.root, proofs, BEACON.value) == "set"


def test_proofs_of_a_shared_draw_hold_and_survive_their_bytes() -> None:
    made = shared_set(5)
    for index in range(5):
        data = prove(made, index).to_bytes()
        assert Proof.from_bytes(data) == prove(made, index)
        leaf = verify_proof(data, made.root, BEACON.value)
        assert leaf.shared
        assert leaf.binding
        assert leaf.one_in == 8
        assert leaf.response == made.fingerprints[index].response
    plain = several()
    assert not verify_proof(prove(plain, 0), plain.root, None).shared


def test_a_leaf_of_another_draw_never_stands_under_a_shared_root() -> None:
    """An owner who hides rotated lists behind one root would have a draw for every reply."""
    made = shared_set(2, 8, drawn=False)
    first, second = made.fingerprints
    turned = replace(second, candidates=(*second.candidates[1:], second.candidates[0]))
    tree = merkle.Tree([first.leaf(), turned.leaf()])
    root = root_of("usage", 2, tree.root(), first.draw_digest)
    for index, one in enumerate((first, turned)):
        opened = replace(one, picks=one.picked_by(BEACON))
        path = tuple(tree.inclusion_proof(index))
        proof = Proof("usage", 2, index, path, opened, BEACON, tree.root())
        assert refusal(proof, root) == ("accepted" if one is first else "root")


def test_a_shared_leaf_never_passes_for_one_with_a_draw_of_its_own() -> None:
    for made, other in ((shared_set(3), 1), (several(3, 1, 8), 3)):
        fields = encoding.decode(prove(made, 0).to_bytes())
        assert isinstance(fields, list)
        assert refusal(encoding.encode([other, *fields[1:]]), made.root) == "root"


def test_no_bit_of_a_shared_proof_can_be_flipped() -> None:
    made = shared_set(3, 4)
    data = prove(made, 1).to_bytes()
    assert refusal(data, made.root) == "accepted"
    for place, bit in itertools.product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        assert refusal(bytes(flipped), made.root) != "accepted"


def test_claims_from_several_leaves_count_once() -> None:
    made, other, plain = shared_set(4), shared_set(4), several(4)
    guard = ReplayGuard()
    leaf = [verify_proof(prove(made, index), made.root, BEACON.value) for index in range(4)]
    guard.admit(leaf[2])
    for one in leaf:
        with pytest.raises(ProofError) as caught:
            guard.admit(one)
        assert caught.value.reason == "replay"
    guard.admit(verify_proof(prove(other, 2), other.root, BEACON.value))
    for index in range(4):
        guard.admit(verify_proof(prove(plain, index), plain.root, BEACON.value))


def test_a_vault_gives_back_shared_sets(tmp_path: Path) -> None:
    identity = Identity.generate()
    made = shared_set(4, kind="lineage")
    vault = Vault.create(tmp_path / "v", made, Recipients((identity.recipient,)))
    vault.add(undrawn := shared_set(2, drawn=False, name="-other"))
    vault.save()
    again = Vault.open(tmp_path / "v", identity)
    assert dict(again.sets) == {made.id: made, undrawn.id: undrawn}
    record = encoding.decode(encode_set(made))
    assert isinstance(record, dict)
    assert record["version"] == 3
    assert draw(decode_set(encode_set(undrawn)), BEACON).fingerprints[0].picks
    with pytest.raises(DamagedVault):
        decode_set(encoding.encode({**record, "version": 1}))


@pytest.mark.parametrize(("size", "k"), [(1, 3), (3, 3), (4, 4), (5, 3)])
def test_the_bound_holds_for_every_model_and_is_sharp(size: int, k: int) -> None:
    """Every table of replies (k is also "none of them" here), every draw, every moment, all exact:
    the share of draws whose p-value ever gets to j/k is at most j/k, and some table gets there."""
    worst = dict.fromkeys(range(1, k), 0)
    for table in itertools.product(range(k + 1), repeat=size):
        lowest = []
        for drawn in range(k):
            test, least = SharedDrawTest(size, 1 / k, 0.5), 1.0
            for reply in table:
                test.update(reply == drawn)
                least = min(least, test.p_value)
            lowest.append(least)
        for j in worst:
            worst[j] = max(worst[j], sum(one <= j / k + 1e-12 for one in lowest))
    assert all(found <= j for j, found in worst.items())
    assert worst[1] == 1


def test_the_fewest_hits_that_decide() -> None:
    assert SharedDrawTest(10, 1 / 4096, 1e-3).needed == 3
    assert SharedDrawTest(10, 1 / 4096, 1 / 4096).needed == 6
    assert SharedDrawTest(10, 1 / 4096, 1e-6).needed is None
    test = SharedDrawTest(1, 0.5, 0.1)
    test.update(True, 0.5)
    for size, chance in ((0, 0.5), (1, 0.25)):
        with pytest.raises(UsageError):
            SharedDrawTest(size, 0.5, 0.1).update(True, chance)
    with pytest.raises(UsageError, match="beyond"):
        test.update(True)


def ask(made: FingerprintSet, answer: Callable[[str], str], **settings: object) -> CheckReport:
    return check(ScriptedModel(answer), made, CheckSettings(**settings))  # type: ignore[arg-type]


def test_all_hits_together_prove_one_in_k_and_no_more() -> None:
    for count in (1, 10, 40):
        made = shared_set(count, 500)
        response = made.fingerprints[0].response
        report = ask(made, lambda _, said=response: f" {said} yes", early_stop=False)
        assert (report.hits, report.p_value, report.decision) == (count, 1 / 500, "not proven")
    half = ask(made, lambda _: response, alpha=1 / 500, batch=1)
    assert (half.queries, half.hits, half.decision) == (21, 21, "proven")
    assert half.p_values[-2:] == (2 / 500, 1 / 500)
    assert p_value_after(100, half, made) == half.p_value
    spent = check(ScriptedModel(lambda _: response), made, CheckSettings(alpha=0.1), unspent=[4, 7])
    assert spent.p_value == 20 / 500


def test_no_key_is_asked_for_a_claim_out_of_reach() -> None:
    model = ScriptedModel(lambda _: "word0001")
    with pytest.raises(UsageError, match="1 in 64 at best") as caught:
        check(model, shared_set(4, 64), CheckSettings())
    assert "--alpha 0.0157" in caught.value.hint
    assert not model.asked
    hinted = CheckSettings(alpha=0.0157)
    assert check(model, shared_set(4, 64), hinted).decision in ("proven", "not proven")


@pytest.mark.parametrize("distinct", [1, 2, 3, 6])
def test_an_unrelated_model_is_claimed_in_at_most_alpha_of_all_draws(distinct: int) -> None:
    """Exact: every draw is tried against models that give 1, 2, 3 or 6 candidates in turn."""
    made = shared_set(6, 24)
    for j in (1, 2, 3, 6):
        claims = 0
        for drawn in range(24):
            report = ask(
                picked(made, drawn),
                lambda key: f"word{int(key.split()[1][:-1]) % distinct:04d}",
                alpha=j / 24,
                batch=1,
            )
            claims += report.decision == "proven"
        assert claims <= j
        assert claims == (distinct if distinct <= j else 0)


def test_power_is_that_of_enough_keys_still_answering() -> None:
    made = shared_set(10, 100)
    assert expected_power(made, 1e-6, 1.0) == 0.0
    assert expected_power(made, 0.01, 1.0) == pytest.approx(1.0)
    assert expected_power(made, 0.01, 0.5) == pytest.approx(386 / 1024)
