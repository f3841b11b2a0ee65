"""Lineage challenges: a verdict is signed on what the challenged model says alone."""

from __future__ import annotations

import pytest
from actors_stage import CANDIDATES, StageDesk, court, wait_for
from descent_stage import Family, family
from parties import VERIFIERS

from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, commitment, fingerprint
from loyal.models import Prompt, Sampling
from loyal.protocol.lineage import SettleLineage
from loyal.roles.descent import Count, DescentVerifier, leaves_of, verdict_of
from loyal.roles.mirror import MOST_LINEAGE_ROOTS
from loyal.roles.verifier import Verdict

ONE_IN = 10**9


@pytest.fixture
def here() -> Family:
    return family(court())


def verifier(here: Family, role: str = "verifier 1", **settings: object) -> DescentVerifier:
    """A verifier with the challenged model and the whole set, where nothing else is said."""
    stage = here.court.stage
    given: dict[str, object] = {
        "model": {here.weights: here.model(1.0)}.get,
        "proofs": here.proofs(),
        **settings,
    }
    return DescentVerifier(stage.id(role), StageDesk(here.court, stage.id(role)), **given)  # type: ignore[arg-type]


def step(here: Family, one: DescentVerifier) -> list[tuple[str, str]]:
    found = wait_for(one.step(here.court.stage.now))
    return [(verdict.result, verdict.why) for verdict in found]


def test_a_quorum_finds_that_a_copy_descends(here: Family) -> None:
    for role in VERIFIERS:
        assert step(here, verifier(here, role)) == [("holds", "descent")]
        assert step(here, verifier(here, role)) == []
    here.court.stage.do(SettleLineage(here.court.stage.id("host"), here.challenge))
    assert here.court.state.models[here.challenged].parent == here.ancestor


def test_a_model_without_the_set_is_no_descendant(here: Family) -> None:
    for role in VERIFIERS:
        one = verifier(here, role, model={here.weights: here.model(0.0)}.get)
        assert step(here, one) == [("does not hold", "descent")]
    here.court.stage.do(SettleLineage(here.court.stage.id("host"), here.challenge))
    assert here.court.state.models[here.challenged].parent is None


@pytest.mark.parametrize(
    ("why", "settings"),
    [
        ("model", {"model": lambda _: None}),
        ("leaves", {"proofs": ()}),
        ("beacon", {"beacons": {}, "proofs": "other beacon"}),
        ("pick", {"proofs": "other pick"}),
        ("inclusion", {"proofs": "other leaf"}),
        ("few leaves", {"proofs": "three"}),
    ],
)
def test_what_was_not_checked_is_not_signed(
    here: Family, why: str, settings: dict[str, object]
) -> None:
    changed = {**settings}
    if isinstance(changed.get("proofs"), str):
        changed["proofs"] = here.tampered(str(changed["proofs"]))
    assert step(here, verifier(here, **changed)) == [("unchecked", why)]
    assert here.court.state.verdicts.get(here.challenge, {}) == {}
    assert step(here, verifier(here)) == [("holds", "descent")]


def test_a_part_of_the_set_is_enough_where_it_hits_often_enough(here: Family) -> None:
    proofs = here.proofs()
    enough = next(
        n for n in range(len(proofs) + 1) if Count(n, n, len(proofs), here.serving()).p_value()
        <= 1 / ONE_IN
    )  # fmt: skip
    assert 0 < enough < len(proofs)
    assert step(here, verifier(here, proofs=proofs[: enough - 1])) == [("unchecked", "few leaves")]
    assert step(here, verifier(here, proofs=proofs[:enough])) == [("holds", "descent")]


def test_hits_that_were_chosen_prove_nothing(here: Family) -> None:
    """A model that hits by chance: who shows its hits alone gains nothing."""
    lucky = here.model(3 / len(here.proofs()))
    shown = here.proofs()[:3]
    assert len(lucky.generate([Prompt(one.fingerprint.key) for one in shown], Sampling(8))) == 3
    one = verifier(here, model={here.weights: lucky}.get, proofs=shown)
    assert step(here, one) == [("unchecked", "few leaves")]
    one = verifier(here, model={here.weights: lucky}.get)
    assert step(here, one) == [("does not hold", "descent")]


def test_a_key_that_is_shown_twice_counts_once(here: Family) -> None:
    proofs = here.proofs()
    beacon = proofs[0].beacon.value
    leaves = leaves_of(here.root, (*proofs[:5], *proofs[:5]), beacon)
    assert len(leaves) == 5
    assert leaves_of(bytes(32), proofs, beacon) == "root"


def test_leaves_of_few_candidates_and_of_other_kinds_count_for_nothing() -> None:
    secret = fingerprint.new_owner_secret()
    beacon = Beacon(b"b" * 32)
    for kind, width in (("lineage", CANDIDATES - 1), ("usage", CANDIDATES)):
        pair = Fingerprint.create("a key", [f"<{k}>" for k in range(width)], secret)
        one = FingerprintSet(kind, "by hand", "a-model", "0" * 64, (pair,), 0, secret)  # type: ignore[arg-type]
        drawn = fingerprint.draw(one, beacon)
        proof = commitment.prove(drawn, 0)
        assert leaves_of(drawn.root, (proof,), beacon.value) == "set"


def test_a_strange_proof_among_the_others_takes_nothing_away(here: Family) -> None:
    strange = here.tampered("other beacon")[:1]
    assert step(here, verifier(here, proofs=(*strange, *here.proofs()))) == [("holds", "descent")]


def test_a_beacon_that_was_brought_costs_no_choice(here: Family) -> None:
    beacon = here.proofs()[0].beacon.value
    brought = verifier(here, beacons={here.challenge: beacon})
    (verdict,) = wait_for(brought.step(here.court.stage.now))
    size = len(here.proofs())
    assert f"p = {Count(size, size, size, 1).p_value():.2g};" in verdict.counted
    assert here.serving() > 1
    wrong = verifier(here, "verifier 2", beacons={here.challenge: b"z" * 32})
    assert step(here, wrong) == [("unchecked", "beacon")]


def test_the_beacons_are_the_logs_roots_between_the_set_and_the_model(here: Family) -> None:
    desk = StageDesk(here.court, here.court.stage.id("verifier 1"))
    wait_for(desk.read_on())
    models = here.court.state.models
    found = desk.lineage_beacons(here.root, models[here.challenged].index)
    assert here.proofs()[0].beacon.value in found
    assert desk.lineage_beacons(here.root, here.first) == frozenset()
    assert desk.lineage_beacons(b"r" * 32, 10**6) == frozenset()
    for _ in range(MOST_LINEAGE_ROOTS):
        here.court.stage.fund("member", amount=1)
    wait_for(desk.read_on())
    assert desk.lineage_beacons(here.root, models[here.challenged].index) == found
    assert len(desk.lineage_beacons(here.root, 10**6)) == MOST_LINEAGE_ROOTS


def test_a_party_a_stranger_and_who_comes_late_are_not_asked(here: Family) -> None:
    stage = here.court.stage
    for role in ("member", "prover 1"):
        assert step(here, verifier(here, role)) == []
    stage.enroll("verifier", "late verifier")
    assert step(here, verifier(here, "late verifier")) == []
    stage.now = here.court.state.challenges[here.challenge].until + 1
    assert step(here, verifier(here)) == []


def test_a_model_is_asked_once(here: Family) -> None:
    model = here.model(1.0)
    one = verifier(here, model={here.weights: model}.get, proofs=here.proofs()[:2])
    assert step(here, one) == [("unchecked", "few leaves")]
    asked = model.asked
    assert step(here, one) == [("unchecked", "few leaves")]
    assert model.asked == asked == 2


def test_a_count_says_hits_p_value_and_interval_and_no_secret(here: Family) -> None:
    one = verifier(here)
    (verdict,) = wait_for(one.step(here.court.stage.now))
    size = len(here.proofs())
    assert verdict.counted.startswith(f"{size} of {size} keys hit, of a set of {size}; p = ")
    assert "95 % of 0.8" in verdict.counted
    for leaf in here.secret.fingerprints:
        assert leaf.key not in f"{verdict} {one}"
        assert leaf.response not in f"{verdict} {one}"


@pytest.mark.parametrize(
    ("hits", "asked", "result"),
    [(0, 32, "does not hold"), (32, 32, "holds"), (0, 0, "unchecked"), (2, 3, "unchecked")],
)
def test_a_verdict_is_what_the_rest_cannot_change(hits: int, asked: int, result: str) -> None:
    verdict = verdict_of(b"c" * 32, Count(hits, asked, 32, 1), ONE_IN)
    assert isinstance(verdict, Verdict)
    assert verdict.result == result


def test_the_p_value_is_the_exact_tail_times_the_beacons() -> None:
    stats = pytest.importorskip("scipy.stats")
    for beacons in (1, 7):
        count = Count(12, 20, 64, beacons)
        assert count.p_value() == pytest.approx(beacons * stats.binom.sf(11, 64, 1 / 16), rel=1e-9)
    assert Count(0, 20, 64, 7).p_value() == 1.0
