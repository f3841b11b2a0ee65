"""Each attack on the protocol, refused by its rule, and seen to work where the rule is taken out.

The names of the tests are those of docs/threats.md, which links them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from parties import (
    PLENTY,
    STAKE,
    VERIFIERS,
    Stage,
    convicted,
    licensed,
    refused,
)

from loyal.protocol import convictions, disputes, licenses, stake, voting
from loyal.protocol import events as e
from loyal.protocol.parameters import Parameters
from loyal.protocol.permission import SKEW_SECONDS, MessageDigest, PermissionBatch, Receipt


def accused(stage: Stage, license: bytes, key: str = "key") -> tuple[str, bytes]:
    """A claim on a key that was answered without permission; gives prover and claim."""
    prover = stage.draw(license)
    stage.commit(prover, key, "reply")
    return prover, stage.claim(prover, license, key, "reply", stage.answer(license, key, "reply"))


def rebuttal(
    stage: Stage, claim: bytes, receipt: Receipt, salt: bytes, message: str = "key"
) -> Callable[[], object]:
    command = disputes.Rebut(stage.id("host"), claim, receipt, message, (salt,))
    return lambda: stage.do(command)


def test_an_honest_hosts_receipt_clears_it_and_costs_the_accuser_its_bond() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    receipt, salt = stage.permit(license, "key")
    stage.commit(prover, "key", "reply")
    hidden = stage.answer(license, "key", "reply")  # the accuser shows an answer without receipt
    before, host = stage.free(prover), stage.free("host")
    claim = stage.claim(prover, license, "key", "reply", hidden)
    rebuttal(stage, claim, receipt, salt)()
    assert stage.state.claims[claim].rebutted
    assert not stage.state.claims[claim].upheld
    bond = stage.parameters.claim_bond_micro
    assert stage.free(prover) == before - bond
    assert stage.free("host") == host + bond // 2


def test_a_receipt_in_the_answer_gives_no_claim() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    receipt, salt = stage.permit(license, "key")
    answer = stage.answer(license, "key", "reply", (receipt, salt))
    stage.commit(prover, "key", "reply")
    assert refused(lambda: stage.claim(prover, license, "key", "reply", answer)) == "C6"


def test_a_replayed_permission_clears_nothing() -> None:
    stage, license = licensed()
    receipt, salt = stage.permit(license, "another query")
    _, claim = accused(stage, license)
    assert refused(rebuttal(stage, claim, receipt, salt)) == "C9"
    assert refused(rebuttal(stage, claim, receipt, salt, "another query")) == "C9"
    # The same permission under another salt is no other permission.
    assert refused(rebuttal(stage, claim, receipt, bytes(16))) == "C9"


def test_another_hosts_permission_clears_nothing() -> None:
    stage, license = licensed()
    stage.fund("other host")
    model = stage.state.licenses[license].model
    other = stage.sign(stage.terms(model, "other host"), "other host")
    stage.deliver(other)
    receipt, salt = stage.permit(other, "key", "other host")
    _, claim = accused(stage, license)
    assert refused(rebuttal(stage, claim, receipt, salt)) == "C9"


def test_a_permission_got_after_the_probe_clears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    receipt, salt = stage.permit(license, "key")
    answer = stage.answer(license, "key", "reply")
    claim = stage.claim(prover, license, "key", "reply", answer)
    assert refused(rebuttal(stage, claim, receipt, salt)) == "C9"

    clears = disputes._clears
    monkeypatch.setattr(disputes, "_clears", lambda *given: clears(*given[:-1], 1 << 60))
    rebuttal(stage, claim, receipt, salt)()  # without the order of the log it would
    assert stage.state.claims[claim].rebutted


def test_a_backdated_batch_clears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform in league with the host signs a header with a place that the log has not got."""
    stage, license = licensed()
    real, salt = stage.permit(license, "something else")
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    claim = stage.claim(prover, license, "key", "reply", stage.answer(license, "key", "reply"))
    leaf = real.permission
    forged = type(leaf)(
        leaf.host, leaf.license, leaf.model_version,
        (MessageDigest.of("key", salt).value,), 1, leaf.expires,
    )  # fmt: skip
    place = real.header.log_index
    batch = PermissionBatch.issue([forged], place, stage.now, stage.key("platform"))
    batch.receipt(0).verify(stage.key("platform").public)
    assert refused(rebuttal(stage, claim, batch.receipt(0), salt)) == "C9"

    stage.state.batches[place] = batch.header.root  # a log that took it would clear the host
    rebuttal(stage, claim, batch.receipt(0), salt)()


def test_an_invented_reply_needs_the_hosts_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "invented")
    honest = stage.answer(license, "key", "an honest reply")
    assert refused(lambda: stage.claim(prover, license, "key", "invented", honest)) == "C5"
    assert refused(lambda: stage.claim(prover, license, "key", "invented", None)) == "C5"
    forged = stage.answer(license, "key", "invented", host=prover)
    assert refused(lambda: stage.claim(prover, license, "key", "invented", forged)) == "C5"

    monkeypatch.setattr(disputes, "_require_answer", lambda *_: None)
    stage.claim(prover, license, "key", "invented", None)


def test_a_host_that_was_never_asked_answers_a_demand_and_is_clear() -> None:
    """Even by a prover who knows the response: it commits, demands, and claims silence."""
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "the response")
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    receipt, salt = stage.permit(license, "key")
    answer = stage.answer(license, "key", "the response", (receipt, salt))
    assert refused(lambda: stage.claim(prover, license, "key", "the response", None)) == "C5"
    name = disputes.demand_id(license, 0, "key")
    stage.do(disputes.GiveAnswer(stage.id("host"), name, answer))
    stage.wait(stage.parameters.answer_seconds + 1)
    for shown in (None, answer):
        assert refused(lambda one=shown: stage.claim(prover, license, "key", "the response", one))


def test_a_host_that_lets_a_demand_pass_can_be_claimed() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    stage.wait(stage.parameters.answer_seconds + 1)
    late = disputes.GiveAnswer(
        stage.id("host"),
        disputes.demand_id(license, 0, "key"),
        stage.answer(license, "key", "reply"),
    )
    assert refused(lambda: stage.do(late)) == "C5"
    stage.judge(stage.claim(prover, license, "key", "reply", None))
    assert len(stage.state.licenses[license].upheld) == 1


def test_other_canonical_forms_of_a_prompt_are_other_messages() -> None:
    """A host has a permission for "system + key" as one message; the key alone is claimed."""
    stage, license = licensed()
    joined = "You are kind.\n\nkey"
    receipt, salt = stage.permit(license, joined)
    own, second = stage.permit(license, "key")
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    answer = stage.answer(license, joined, "reply", (receipt, salt))
    assert refused(lambda: stage.claim(prover, license, "key", "reply", answer)) == "C5"
    # Asked as two messages it is the key, and its permission covers it in either company.
    both = stage.answer(license, "key", "reply", (own, second), more=("You are kind.",))
    assert refused(lambda: stage.claim(prover, license, "key", "reply", both)) == "C6"


@pytest.mark.parametrize("asked", ["key.", "key ", " key", "Key", "key\n", "k\u00e9y", "ke\u0301y"])
def test_a_near_key_is_another_query(asked: str) -> None:
    stage, license = licensed()
    receipt, salt = stage.permit(license, asked)
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    answer = stage.answer(license, asked, "reply", (receipt, salt))
    assert refused(lambda: stage.claim(prover, license, "key", "reply", answer)) == "C5"
    assert not receipt.permission.covers("key", (salt,))
    assert receipt.permission.covers(asked, (salt,))


def test_a_key_is_claimed_once() -> None:
    stage, license = licensed()
    stage.judge(accused(stage, license)[1])
    for key in ("key", " key\n"):  # the same key to every model's template
        stage.wait(stage.parameters.draw_seconds + 1)
        prover = stage.draw(license)
        stage.commit(prover, key, "reply", b"again")
        answer = stage.answer(license, key, "reply")
        again = lambda prover=prover, key=key, answer=answer: stage.claim(  # noqa: E731
            prover, license, key, "reply", answer, b"again"
        )
        assert refused(again) == "C4"
    stage.state.spent.clear()
    again()


def test_a_copied_commitment_is_worth_nothing() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    fixed = stage.commit(prover, "key", "reply")
    thief = next(one for one in ("prover 1", "prover 2") if one != prover)
    assert refused(lambda: stage.do(disputes.Commit(stage.id(thief), license, fixed))) == "C2"
    answer = stage.answer(license, "key", "reply")
    assert refused(lambda: stage.claim(thief, license, "key", "reply", answer)) == "C3"
    # Nor can it make one of its own when the claim is seen: the key is not drawn for it.
    assert refused(lambda: stage.commit(thief, "key", "reply")) == "C2"
    assert refused(lambda: stage.claim(thief, license, "key", "reply", answer)) == "C3"
    stage.claim(prover, license, "key", "reply", answer)


def test_a_prover_cannot_choose_its_reply_after_the_leaf_is_open() -> None:
    stage, license = licensed()
    prover, claim = accused(stage, license)
    stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
    other = disputes.commitment("key", "the response", b"salt", stage.id(prover))
    again = disputes.Commit(stage.id(prover), license, other)
    assert refused(lambda: stage.do(again)) == "C2"
    answer = stage.answer(license, "key", "the response")
    assert refused(lambda: stage.claim(prover, license, "key", "the response", answer)) == "C3"


@pytest.mark.parametrize("share", [1, 6_000, 9_999])
def test_a_host_that_accuses_itself_loses(share: int) -> None:
    """It is host, every prover, and under another name an owner of `share` bps of the model."""
    stage = Stage()
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("prover", "prover 1", "prover 2", "prover 3")
    stage.fund("owner", "host")
    model = stage.publish(
        "owner", "the model", shares=(("owner", 10_000 - share), ("straw man", share))
    )
    license = stage.sign(stage.terms(model))
    stage.deliver(license)
    mine = ("host", "straw man", "prover 1", "prover 2", "prover 3")
    convicted(stage, license)
    stage.wait(stage.parameters.appeal_seconds + 1)
    before = sum(map(stage.free, mine))
    stage.do(convictions.SettleConviction(stage.id("host"), license))
    back = sum(map(stage.free, mine)) - before
    assert stage.state.staked(licenses.purpose(license), stage.id("host")) == 0
    assert back <= 0.55 * STAKE
    assert back <= STAKE * 0.1 + STAKE * 0.45 * share / 10_000 + 1


def test_the_host_under_its_own_name_gets_no_part_of_its_slash() -> None:
    stage = Stage()
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("prover", "prover 1", "prover 2", "prover 3")
    stage.fund("owner", "host")
    model = stage.publish("owner", "the model", shares=(("owner", 4_000), ("host", 6_000)))
    license = stage.sign(stage.terms(model))
    stage.deliver(license)
    convicted(stage, license)
    stage.wait(stage.parameters.appeal_seconds + 1)
    before, burned = stage.free("host"), stage.state.balance(e.BURNED)
    stage.do(convictions.SettleConviction(stage.id("owner"), license))
    assert stage.free("host") == before
    assert stage.state.balance(e.BURNED) - burned == STAKE - STAKE // 10 - 4_500_000 * 4 // 10


def test_unbonding_is_no_escape_up_to_the_last_second() -> None:
    """Asked back when the license ends; a conviction in the last second takes all of it."""
    stage, license = licensed()
    name = licenses.purpose(license)
    stage.do(licenses.EndLicense(stage.id("host"), license))
    stage.do(stake.Unbond(stage.id("host"), name, STAKE))
    until = stage.state.releases[stage.id("host"), name]
    convicted(stage, license)
    assert stage.now < until
    stage.now = until  # the boundary: slashable, and not to be had
    release = stake.Release(stage.id("host"), name)
    assert refused(lambda: stage.do(release)) == "S4"
    stage.now = until + 1  # after it the conviction still holds the stake
    assert refused(lambda: stage.do(release)) == "S5"
    stage.wait(stage.parameters.appeal_seconds)
    stage.do(convictions.SettleConviction(stage.id("owner"), license))
    assert stage.state.staked(name, stage.id("host")) == 0
    assert refused(lambda: stage.do(release)) == "S2"


def test_a_stake_without_claims_comes_back_after_the_boundary_and_not_at_it() -> None:
    stage, license = licensed()
    name = licenses.purpose(license)
    unbond = stake.Unbond(stage.id("host"), name, STAKE)
    assert refused(lambda: stage.do(unbond)) == "S5"
    stage.do(licenses.EndLicense(stage.id("host"), license))
    stage.do(unbond)
    stage.now = stage.state.releases[stage.id("host"), name]
    assert refused(lambda: stage.do(stake.Release(stage.id("host"), name))) == "S4"
    stage.wait(1)
    stage.do(stake.Release(stage.id("host"), name))
    assert stage.free("host") == PLENTY


def test_an_open_claim_holds_the_stake() -> None:
    stage, license = licensed()
    name = licenses.purpose(license)
    accused(stage, license)
    stage.do(licenses.EndLicense(stage.id("host"), license))
    unbond = stake.Unbond(stage.id("host"), name, STAKE)
    assert refused(lambda: stage.do(unbond)) == "S5"


def test_windows_longer_than_unbonding_are_no_choice() -> None:
    from loyal.errors import UsageError

    with pytest.raises(UsageError, match="given back"):
        Parameters(unbond_seconds=Parameters().floor_seconds)
    Parameters(unbond_seconds=Parameters().floor_seconds + 1)


def test_griefing_claims_cost_their_bonds() -> None:
    stage, license = licensed()
    host = stage.free("host")
    for number in range(3):
        prover = stage.draw(license)
        before = stage.free(prover)
        key = f"key {number}"
        stage.commit(prover, key, "reply")
        claim = stage.claim(prover, license, key, "reply", stage.answer(license, key, "reply"))
        stage.judge(claim, holds=False)
        assert stage.free(prover) == before - stage.parameters.claim_bond_micro
    assert stage.free("host") == host + 3 * (stage.parameters.claim_bond_micro // 2)
    assert stage.state.licenses[license].upheld == []


def test_a_prover_with_many_names_is_drawn_no_more_often() -> None:
    """The lottery weighs bonds: ten names with a tenth each have the chance of one."""
    honest, sybil = b"h" * 32, [bytes([65 + n]) * 32 for n in range(10)]
    one = ((honest, 500), (sybil[0], 500))
    many = ((honest, 500), *((name, 50) for name in sybil))
    counts = []
    for bonds in (one, many):
        wins = [disputes.lottery(bonds, bytes([n % 256, n // 256]), b"", 0) for n in range(4_000)]
        counts.append(sum(winner != honest for winner in wins))
    for count in counts:
        assert abs(count - 2_000) < 4 * (4_000 / 4) ** 0.5
    equal = [disputes.lottery(tuple((name, 1) for name in (honest, *sybil)), bytes([n]), b"", 0)
             for n in range(256)]  # fmt: skip
    assert sum(winner != honest for winner in equal) > 200  # were it by name, ten would beat one


def test_one_prover_alone_convicts_nobody() -> None:
    stage = Stage()
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("prover", "prover 1", "prover 2")
    stage.fund("owner", "host")
    license = stage.sign(stage.terms(stage.publish("owner", "the model")))
    stage.deliver(license)
    for number in range(14):
        stage.judge(stage.probe(license, number))
    assert stage.state.licenses[license].conviction is None
    stage.enroll("prover", "prover 3", amount=50 * STAKE // 10)
    number = 14
    while stage.state.licenses[license].conviction is None:
        stage.judge(stage.probe(license, number))
        number += 1
    provers = {stage.state.claims[one].made.prover for one in stage.state.licenses[license].upheld}
    assert len(provers) == 3


def test_stake_that_comes_after_the_claim_buys_no_vote() -> None:
    stage, license = licensed()
    _, claim = accused(stage, license)
    stage.enroll("verifier", "whale", amount=PLENTY)  # the claim names the case, in the open
    stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    verdict = voting.GiveVerdict(stage.id("whale"), claim, False)
    assert refused(lambda: stage.do(verdict)) == "V1"
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), claim, True))
    stage.do(disputes.SettleClaim(stage.id("host"), claim))
    assert stage.state.claims[claim].upheld


def test_a_minority_of_verifiers_decides_nothing() -> None:
    stage, license = licensed()
    prover, claim = accused(stage, license)
    before = stage.free(prover)
    stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    stage.do(voting.GiveVerdict(stage.id("verifier 1"), claim, True))
    stage.do(voting.GiveVerdict(stage.id("verifier 2"), claim, True))  # 66.67 % is not 6,667 bps
    settle = disputes.SettleClaim(stage.id("owner"), claim)
    assert refused(lambda: stage.do(settle)) == "C10"
    stage.wait(stage.parameters.verdict_seconds)
    stage.do(settle)
    assert not stage.state.claims[claim].upheld
    assert stage.free(prover) == before + stage.parameters.claim_bond_micro


@pytest.mark.parametrize("skew", [-SKEW_SECONDS, 0, SKEW_SECONDS])
def test_ten_minutes_of_skew_reject_no_honest_query_and_clear_no_other(skew: int) -> None:
    """The platform's clock is off against the host's at the end of the license."""
    stage, license = licensed()
    expires = stage.state.licenses[license].expires
    stage.now = expires + skew
    receipt, _ = stage.permit(license, "the last honest query")
    assert receipt.permission.expires > stage.now + SKEW_SECONDS
    stage.now = expires + SKEW_SECONDS + 1
    assert refused(lambda: stage.permit(license, "too late")) == "L5"
    # Which came first, probe or permission, is the log's to say: a slow clock changes nothing.
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    stage.now = expires + skew - 5_000
    late, second = stage.permit(license, "key")
    assert late.header.issued < stage.now + 1
    claim = stage.claim(prover, license, "key", "reply", stage.answer(license, "key", "reply"))
    assert refused(rebuttal(stage, claim, late, second)) == "C9"
