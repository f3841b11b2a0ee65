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
