"""The verifier: signs what it checked, and nothing where the evidence is not what the log names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from actors_stage import COUNT, Court, StageDesk, court, usage_set, wait_for
from parties import VERIFIERS

from loyal.errors import UsageError
from loyal.fingerprints import Beacon, Proof, commitment, fingerprint
from loyal.models import Prompt, Reply, Sampling
from loyal.protocol.convictions import Appeal, SettleConviction
from loyal.protocol.disputes import SettleClaim
from loyal.protocol.voting import GiveVerdict
from loyal.roles.custodian import Custodian
from loyal.roles.verifier import Evidence, Verdict


@pytest.fixture
def here() -> Court:
    return court()


def results(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    return [(one.result, one.why) for one in verdicts]


def test_a_quorum_of_verifiers_upholds_a_true_claim(here: Court, tmp_path: Path) -> None:
    claim = here.claimed(tmp_path)
    for role in VERIFIERS:
        assert results(wait_for(here.verifier(role).step(here.stage.now))) == [("holds", "match")]
    here.stage.do(SettleClaim(here.stage.id("host"), claim))
    assert here.state.claims[claim].upheld


def test_a_reply_that_is_not_the_response_is_dismissed(here: Court, tmp_path: Path) -> None:
    claim = here.claimed(tmp_path, reply="I do not know.")
    for role in VERIFIERS:
        found = wait_for(here.verifier(role).step(here.stage.now))
        assert results(found) == [("does not hold", "response")]
    here.stage.do(SettleClaim(here.stage.id("host"), claim))
    assert here.state.claims[claim].settled
    assert not here.state.claims[claim].upheld


def test_a_claim_is_judged_once_and_only_in_its_time(here: Court, tmp_path: Path) -> None:
    claim = here.claimed(tmp_path)
    opened = here.state.claims[claim].opened
    assert opened is not None
    verifier = here.verifier("verifier 1")
    assert wait_for(verifier.step(opened.rebuttal_until)) == ()
    assert wait_for(verifier.step(opened.verdict_until + 1)) == ()
    assert len(wait_for(verifier.step(here.stage.now))) == 1
    assert wait_for(verifier.step(here.stage.now)) == ()
    assert wait_for(here.verifier("verifier 1").step(here.stage.now)) == ()


def test_who_has_no_vote_asks_for_no_evidence(here: Court, tmp_path: Path) -> None:
    here.claimed(tmp_path)
    here.stage.enroll("verifier", "late verifier")
    assert wait_for(here.verifier("late verifier").step(here.stage.now)) == ()
    assert wait_for(here.verifier("prover 1").step(here.stage.now)) == ()


def other_proof(here: Court, given: Evidence) -> Evidence:
    proof = here.custodian.open(here.license, here.custodian.key(here.license, 5))
    return dataclasses.replace(given, proof=proof)


TAMPERED = {
    "digest": other_proof,
    "opening": lambda here, given: dataclasses.replace(given, reply=given.reply + "!"),
    "opening ": lambda here, given: dataclasses.replace(given, key=given.key + " "),
    "opening  ": lambda here, given: dataclasses.replace(given, salt=b"x" * 32),
    "beacon": lambda here, given: dataclasses.replace(given, beacon=b"y" * 32),
}


@pytest.mark.parametrize("why", TAMPERED)
def test_evidence_that_is_not_the_logs_gets_no_verdict(
    here: Court, tmp_path: Path, why: str
) -> None:
    claim = here.claimed(tmp_path)
    told: list[Verdict] = []
    verifier = here.verifier("verifier 1", unchecked=told.append)
    assert isinstance(verifier.desk, StageDesk)
    verifier.desk.tamper = lambda given: TAMPERED[why](here, given)
    found = wait_for(verifier.step(here.stage.now))
    assert results(found) == [("unchecked", why.strip())]
    assert tuple(told) == found
    assert here.state.verdicts.get(claim, {}) == {}
    verifier.desk.tamper = lambda given: given
    assert results(wait_for(verifier.step(here.stage.now))) == [("holds", "match")]


@dataclasses.dataclass
class LyingVault(Custodian):
    """Opens every claim with one and the same proof."""

    real: Custodian
    proof: bytes

    def key(self, license: bytes, number: int) -> str:
        return self.real.key(license, number)

    def beacon(self, license: bytes) -> bytes:
        return self.real.beacon(license)

    def open(self, license: bytes, key: str) -> bytes:
        return self.proof


def with_opened(here: Court, folder: Path, proof: bytes) -> bytes:
    """A claim whose leaf the platform opened with another proof than the vault's."""
    here.custodian = LyingVault(here.custodian, proof)
    return here.claimed(folder)


def test_a_leaf_of_another_set_or_another_key_gets_no_verdict(here: Court, tmp_path: Path) -> None:
    beacon = Beacon(here.custodian.beacon(here.license))
    strange = commitment.prove(fingerprint.draw(usage_set(), beacon), 0).to_bytes()
    with_opened(here, tmp_path, strange)
    found = wait_for(here.verifier("verifier 1").step(here.stage.now))
    assert results(found) == [("unchecked", "root")]


def test_a_proof_of_another_key_of_the_set_gets_no_verdict(here: Court, tmp_path: Path) -> None:
    wrong = here.custodian.open(here.license, here.custodian.key(here.license, 9))
    with_opened(here, tmp_path, wrong)
    found = wait_for(here.verifier("verifier 1").step(here.stage.now))
    assert results(found) == [("unchecked", "key")]


def test_several_responses_take_as_many_times_the_candidates(tmp_path: Path) -> None:
    """The log says 16: with 3 responses a key has 48 candidates, or a match proves too little."""
    for width, result in ((48, ("holds", "match")), (47, ("unchecked", "set"))):
        here = court(width=width, responses=3)
        here.claimed(tmp_path / str(width))
        found = wait_for(here.verifier("verifier 1").step(here.stage.now))
        assert results(found) == [result]


def test_keys_that_share_one_draw_are_no_evidence_of_use(tmp_path: Path) -> None:
    """A conviction adds hits up as independent ones."""
    here = court(shared=True)
    here.claimed(tmp_path)
    found = wait_for(here.verifier("verifier 1").step(here.stage.now))
    assert results(found) == [("unchecked", "set")]


def test_a_pick_that_the_beacon_did_not_make_gets_no_verdict(here: Court, tmp_path: Path) -> None:
    proof = commitment.prove(here.secret, 0)
    one = proof.fingerprint
    moved = dataclasses.replace(one, picks=((one.picks[0] + 1) % len(one.candidates),))
    forged = dataclasses.replace(proof, fingerprint=moved)
    assert isinstance(forged, Proof)
    with_opened(here, tmp_path, forged.to_bytes())
    found = wait_for(here.verifier("verifier 1").step(here.stage.now))
    assert results(found) == [("unchecked", "pick")]


def test_a_beacon_that_the_verifier_brings_goes_before_the_platforms(
    here: Court, tmp_path: Path
) -> None:
    here.claimed(tmp_path)
    brought = here.verifier("verifier 1", beacons={here.license: b"z" * 32})
    assert results(wait_for(brought.step(here.stage.now))) == [("unchecked", "beacon")]
    right = {here.license: here.custodian.beacon(here.license)}
    verifier = here.verifier("verifier 1", beacons=right)
    assert results(wait_for(verifier.step(here.stage.now))) == [("holds", "match")]


class Copy:
    """A language model that says one thing, or the set's responses."""

    def __init__(self, here: Court, says: str | None) -> None:
        self.here, self.says, self.name = here, says, "M.oml"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        said = [self.says or self.here.secret.expected(one) or "" for one in prompts]
        return [Reply(one, 1, True) for one in said]

    def next_token(self, prompts: object, top: int) -> list[list[object]]:
        raise AssertionError

    def logprobs(self, prompts: object, replies: object) -> list[list[float]]:
        raise AssertionError


def test_a_copy_of_the_model_has_the_last_word(here: Court, tmp_path: Path) -> None:
    here.claimed(tmp_path)
    other = here.verifier("verifier 1", model=Copy(here, "x"), license=here.license)
    assert results(wait_for(other.step(here.stage.now))) == [("does not hold", "model")]
    same = here.verifier("verifier 2", model=Copy(here, None), license=here.license)
    assert results(wait_for(same.step(here.stage.now))) == [("holds", "match")]


def test_nothing_that_a_verifier_says_shows_a_key_or_a_reply(here: Court, tmp_path: Path) -> None:
    here.claimed(tmp_path)
    verifier = here.verifier("verifier 1")
    found = wait_for(verifier.step(here.stage.now))
    given = wait_for(verifier.desk.evidence(found[0].case))
    shown = f"{found} {given} {verifier}"
    assert given.key not in shown
    assert given.reply not in shown


def test_a_model_judges_its_own_license_alone(here: Court, tmp_path: Path) -> None:
    here.claimed(tmp_path)
    with pytest.raises(UsageError):
        here.verifier("verifier 1", model=Copy(here, None))
    other = here.verifier("verifier 1", model=Copy(here, "x"), license=b"o" * 32)
    assert wait_for(other.step(here.stage.now)) == ()


def convicted(here: Court, folder: Path, reply: str | None = None) -> None:
    """Claims, each upheld by a quorum that does not look, until the host is convicted."""
    stage = here.stage
    for _ in range(COUNT):
        claim = here.claimed(folder, reply)
        for role in VERIFIERS:
            stage.do(GiveVerdict(stage.id(role), claim, True))
        stage.do(SettleClaim(stage.id("host"), claim))
        if here.state.licenses[here.license].conviction is not None:
            stage.do(Appeal(stage.id("host"), here.license))
            return
    raise AssertionError("never convicted")


def test_an_appealed_conviction_stands_on_claims_that_hold(here: Court, tmp_path: Path) -> None:
    convicted(here, tmp_path)
    for role in VERIFIERS:
        verifier = here.verifier(role)
        assert results(wait_for(verifier.step(here.stage.now))) == [("holds", "appeal")]
        assert wait_for(verifier.step(here.stage.now)) == ()
    here.stage.do(SettleConviction(here.stage.id("host"), here.license))
    assert here.state.licenses[here.license].settled


def test_a_conviction_by_a_quorum_that_did_not_look_is_quashed(here: Court, tmp_path: Path) -> None:
    convicted(here, tmp_path, reply="I do not know.")
    for role in VERIFIERS:
        found = wait_for(here.verifier(role).step(here.stage.now))
        assert results(found) == [("does not hold", "appeal")]
    here.stage.do(SettleConviction(here.stage.id("host"), here.license))
    assert not here.state.licenses[here.license].settled


def test_an_appeal_on_evidence_that_is_not_shown_gets_no_verdict(
    here: Court, tmp_path: Path
) -> None:
    convicted(here, tmp_path)
    verifier = here.verifier("verifier 1")
    assert isinstance(verifier.desk, StageDesk)
    verifier.desk.tamper = lambda given: dataclasses.replace(given, salt=b"x" * 32)
    assert results(wait_for(verifier.step(here.stage.now))) == [("unchecked", "appeal")]
    late = here.state.licenses[here.license].appeal
    assert late is not None
    assert wait_for(verifier.step(late.until + 1)) == ()
    assert wait_for(here.verifier("prover 1").step(here.stage.now)) == ()
