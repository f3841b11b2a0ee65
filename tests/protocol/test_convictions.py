"""Convictions: how many hits, what an appeal does, and where permissions stop."""

from __future__ import annotations

import pytest
from parties import (
    CANDIDATES,
    DAY,
    PROVERS,
    STAKE,
    VERIFIERS,
    Stage,
    convicted,
    licensed,
    refused,
)

from loyal.errors import ProtocolError
from loyal.protocol import Moment, apply, convictions, disputes, licenses, permits, voting
from loyal.protocol import events as e
from loyal.protocol.permission import MessageDigest
from loyal.statistics import binomial_tail, sequential_hits

OWNERS = ("owner", "member")


def test_quotas_stop_exactly_at_the_limit() -> None:
    stage, license = licensed(most_inferences=5)
    for number in range(5):
        receipt, _ = stage.permit(license, f"query {number}")
        assert receipt.permission.sequence == number
    assert refused(lambda: stage.permit(license, "one more")) == "L6"
    other, second = licensed(most_inferences=5)
    salts = [bytes([n]) * 16 for n in range(8)]
    requests = [
        permits.PermissionRequest(
            other.id("host"), second, (MessageDigest.of("q", salt).value,), salt
        )
        for salt in salts
    ]
    issued = permits.issue(other.state, requests, {}, other.at, other.key("platform"))
    assert [one is not None for one in issued.positions] == [True] * 5 + [False] * 3
    assert {error.rule for error in issued.refusals.values()} == {"L6"}


def test_chance_convicts_once_in_a_thousand_million_at_most() -> None:
    """The threshold in force never falls below what chance reaches with that probability."""
    for draws in (9, 20, 60, 200, 1_000):
        hits = sequential_hits(draws, CANDIDATES, 10**9)
        assert hits is not None
        assert binomial_tail(hits, draws, 1 / CANDIDATES) <= 1e-9


def test_a_wrong_conviction_is_quashed_on_appeal_and_starts_anew() -> None:
    stage, license = licensed()
    convicted(stage, license)
    host = stage.free("host")
    stage.do(convictions.Appeal(stage.id("host"), license))
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), license, False))
    stage.do(convictions.SettleConviction(stage.id("host"), license))
    assert stage.free("host") == host
    assert stage.state.staked(licenses.purpose(license), stage.id("host")) == STAKE
    stage.judge(stage.probe(license, 50))
    assert stage.state.licenses[license].conviction is None  # nine hits before count no more


def test_claims_from_before_a_quashed_conviction_count_no_more() -> None:
    """They are settled after it; with their hits and without their draws, misses would convict."""
    stage, license = licensed()
    pending = [stage.probe(license, 100 + number) for number in range(9)]
    for claim in pending:
        stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    for claim in pending:
        for role in VERIFIERS:
            stage.do(voting.GiveVerdict(stage.id(role), claim, True))
    convicted(stage, license)
    stage.do(convictions.Appeal(stage.id("host"), license))
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), license, False))
    stage.do(convictions.SettleConviction(stage.id("host"), license))
    for _ in range(9):
        stage.draw(license)
        stage.wait(3 * DAY)  # nine keys that hit nothing
    for claim in pending:
        stage.do(disputes.SettleClaim(stage.id("owner"), claim))
    assert stage.state.licenses[license].upheld == []
    assert stage.state.licenses[license].conviction is None


def test_an_appeal_that_fails_costs_its_bond_too() -> None:
    stage, license = licensed()
    convicted(stage, license)
    host = stage.free("host")
    stage.do(convictions.Appeal(stage.id("host"), license))
    assert refused(lambda: stage.do(convictions.Appeal(stage.id("host"), license))) == "C12"
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), license, True))
    stage.do(convictions.SettleConviction(stage.id("host"), license))
    assert stage.free("host") == host - stage.parameters.appeal_bond_micro
    assert stage.state.staked(licenses.purpose(license), stage.id("host")) == 0


@pytest.mark.parametrize("votes", [(), (False, False), (True, True), (True, False, False)], ids=str)
def test_an_appeal_that_nobody_decides_leaves_the_conviction_standing(
    votes: tuple[bool, ...],
) -> None:
    """Two of three verifiers are no quorum, whatever they say; the bond comes back."""
    stage, license = licensed()
    convicted(stage, license)
    host = stage.free("host")
    stage.do(convictions.Appeal(stage.id("host"), license))
    for role, holds in zip(VERIFIERS, votes, strict=False):
        stage.do(voting.GiveVerdict(stage.id(role), license, holds))
    settle = convictions.SettleConviction(stage.id("owner"), license)
    stage.wait(stage.parameters.appeal_seconds)
    assert refused(lambda: stage.do(settle)) == "C12"  # the last second is the verifiers'
    stage.wait(1)
    burned, others = stage.state.balance(e.BURNED), sum(map(stage.free, (*PROVERS, *OWNERS)))
    assert stage.do(settle)[-1] == e.ConvictionSettled(license, True)
    assert stage.state.staked(licenses.purpose(license), stage.id("host")) == 0
    assert stage.free("host") == host
    paid = sum(map(stage.free, (*PROVERS, *OWNERS))) - others
    assert stage.state.balance(e.BURNED) - burned + paid == STAKE  # of the bond, nothing
    assert refused(lambda: stage.do(settle)) == "C13"


def test_a_quorum_that_says_no_quashes_however_late_it_is_settled() -> None:
    stage, license = licensed()
    convicted(stage, license)
    stage.do(convictions.Appeal(stage.id("host"), license))
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), license, False))
    stage.wait(10 * stage.parameters.appeal_seconds)
    settled = stage.do(convictions.SettleConviction(stage.id("owner"), license))
    assert settled[-1] == e.ConvictionSettled(license, False)
    assert stage.state.staked(licenses.purpose(license), stage.id("host")) == STAKE


def test_a_log_with_a_gap_or_a_reader_behind_it_is_refused() -> None:
    stage, license = licensed()
    with pytest.raises(ProtocolError, match="goes on at"):
        stage.state.record(stage.state.length + 1, e.LicenseEnded(license))
    behind = Moment(stage.now, stage.state.length - 1, bytes(32))
    with pytest.raises(ProtocolError, match="goes on at"):
        apply(stage.state, licenses.EndLicense(stage.id("host"), license), behind)


def test_a_license_that_was_never_delivered_permits_nothing() -> None:
    stage = Stage()
    stage.fund("owner", "host")
    license = stage.sign(stage.terms(stage.publish("owner", "the model")))
    assert refused(lambda: stage.permit(license, "hello")) == "L4"
    weights = licenses.DeliverModel(stage.id("platform"), license, bytes(32))
    assert refused(lambda: stage.do(weights)) == "L3"
    stage.wait(31 * DAY)
    stage.deliver(license)
    assert refused(lambda: stage.permit(license, "hello")) == "L5"
