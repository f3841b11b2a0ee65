"""Guilty hosts and their ways out: time, votes, order, and the money that is not there any more."""

from __future__ import annotations

from parties import STAKE, VERIFIERS, convicted, licensed, refused

from loyal.protocol import convictions, disputes, licenses, stake, voting
from loyal.protocol import events as e


def test_stake_that_comes_after_the_conviction_buys_no_appeal() -> None:
    """With over a third of the stake that is silent, no quorum would uphold anything."""
    stage, license = licensed()
    convicted(stage, license)
    stage.enroll("verifier", "straw man", amount=2 * STAKE)
    stage.do(convictions.Appeal(stage.id("host"), license))
    late = voting.GiveVerdict(stage.id("straw man"), license, False)
    assert refused(lambda: stage.do(late)) == "V1"
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), license, True))
    stage.do(convictions.SettleConviction(stage.id("owner"), license))
    assert stage.state.staked(licenses.purpose(license), stage.id("host")) == 0


def test_a_partys_own_stake_blocks_no_verdict() -> None:
    stage, license = licensed()
    stage.do(stake.Bond(stage.id("host"), "verifier", 2 * STAKE))
    prover = stage.draw(license)
    stage.do(stake.Bond(stage.id(prover), "verifier", 2 * STAKE))
    stage.commit(prover, "key", "reply")
    claim = stage.claim(prover, license, "key", "reply", stage.answer(license, "key", "reply"))
    assert len(stage.state.claims[claim].made.electorate) == len(VERIFIERS)
    stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    for party in ("host", prover):
        own = voting.GiveVerdict(stage.id(party), claim, False)
        assert refused(lambda one=own: stage.do(one)) == "V3"
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), claim, True))
    settled = stage.do(disputes.SettleClaim(stage.id("owner"), claim))
    assert e.ClaimSettled(claim, True) in settled


def test_a_gap_between_two_claims_is_no_way_out() -> None:
    """Eight hits are upheld, no claim is open for a moment, and the wait is just over."""
    stage, license = licensed()
    name = licenses.purpose(license)
    stage.do(licenses.EndLicense(stage.id("host"), license))
    stage.do(stake.Unbond(stage.id("host"), name, STAKE))
    for number in range(8):
        stage.judge(stage.probe(license, number))
    stage.now = max(stage.now, stage.state.releases[stage.id("host"), name] + 1)
    release = stake.Release(stage.id("host"), name)
    assert refused(lambda: stage.do(release)) == "S4"
    stage.judge(stage.probe(license, 8))
    assert stage.state.licenses[license].conviction is not None
    stage.wait(stage.parameters.appeal_seconds + 1)
    stage.do(convictions.SettleConviction(stage.id("owner"), license))
    assert stage.state.staked(name, stage.id("host")) == 0


def test_hits_that_never_become_a_conviction_hold_the_stake_for_one_wait() -> None:
    stage, license = licensed()
    name = licenses.purpose(license)
    stage.judge(stage.probe(license, 0))
    stage.do(licenses.EndLicense(stage.id("host"), license))
    stage.do(stake.Unbond(stage.id("host"), name, STAKE))
    claim = stage.state.claims[stage.state.licenses[license].upheld[0]]
    assert claim.opened is not None
    stage.now = claim.opened.verdict_until + stage.parameters.unbond_seconds
    assert refused(lambda: stage.do(stake.Release(stage.id("host"), name))) == "S4"
    stage.wait(1)
    stage.do(stake.Release(stage.id("host"), name))
