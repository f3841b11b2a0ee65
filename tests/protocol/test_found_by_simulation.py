"""Holes that simulated adversaries found (`loyal simulate`), each as a short story of its own."""

from __future__ import annotations

from parties import DAY, PLENTY, PROVERS, VERIFIERS, Stage, convicted, licensed, refused

from loyal.protocol import disputes, lineage, stake, voting
from loyal.protocol import events as e


def test_a_commitment_made_before_the_question_frames_no_honest_host() -> None:
    """An insider knows the response: it commits to it, asks, and the permission comes after."""
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "the response")
    permitted = stage.permit(license, "key")  # the host asks before it answers, as it must
    answer = stage.answer(license, "key", "the response", permitted)
    claim = lambda: stage.claim(prover, license, "key", "the response", answer)  # noqa: E731
    assert refused(claim) == "C6"


def test_a_permission_of_another_batch_in_the_answer_is_none() -> None:
    """The receipt that the host signed with its answer must stand in the log by then."""
    stage, license = licensed()
    prover = stage.draw(license)
    receipt, salt = stage.permit(license, "key")
    del stage.state.batches[receipt.header.log_index]
    stage.commit(prover, "key", "reply")
    answer = stage.answer(license, "key", "reply", (receipt, salt))
    stage.claim(prover, license, "key", "reply", answer)


def test_a_key_claimed_under_another_license_is_not_spent_under_its_own() -> None:
    """A host sees a demanded key in the log, and has a friend claim it against a straw man."""
    stage, license = licensed()
    stage.fund("straw man")
    model = stage.state.licenses[license].model
    other = stage.sign(stage.terms(model, "straw man"), "straw man")
    stage.deliver(other)
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    friend = stage.draw(other)
    stage.commit(friend, "key", "anything", b"friend")
    stage.claim(
        friend, other, "key", "anything", stage.answer(other, "key", "anything", host="straw man"),
        b"friend",
    )  # fmt: skip
    stage.wait(stage.parameters.answer_seconds + 1)
    stage.judge(stage.claim(prover, license, "key", "reply", None))
    assert len(stage.state.licenses[license].upheld) == 1


def test_a_party_with_a_verifiers_bond_cannot_block_its_own_case() -> None:
    stage, license = licensed()
    stage.do(stake.Bond(stage.id("host"), "verifier", 20_000_000))
    claim = stage.probe(license, 0)
    stage.judge(claim)
    assert stage.state.claims[claim].upheld
    for number in range(1, 20):
        if stage.state.licenses[license].conviction is None:
            stage.judge(stage.probe(license, number))
    stage.do(disputes.Appeal(stage.id("host"), license))
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), license, True))
    stage.do(disputes.SettleConviction(stage.id("owner"), license))
    assert stage.state.licenses[license].settled


def test_a_party_with_a_verifiers_bond_cannot_block_a_lineage_challenge() -> None:
    stage = Stage()
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("verifier", "thief", amount=20_000_000)
    stage.fund("owner", "member")
    old = stage.publish("owner", "old")
    new = stage.publish("thief", "new", shares=(("thief", 10_000),))
    made = stage.do(lineage.ChallengeLineage(stage.id("member"), new, old))[-1]
    assert isinstance(made, e.LineageChallenged)
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), made.challenge, True))
    stage.do(lineage.SettleLineage(stage.id("owner"), made.challenge))
    assert stage.state.models[new].parent == old


def test_a_publishers_bond_comes_back_when_nobody_can_challenge_any_more() -> None:
    stage = Stage()
    stage.enroll("verifier", *VERIFIERS)
    stage.fund("owner", "member")
    old = stage.publish("owner", "old")
    new = stage.publish("member", "new", shares=(("member", 10_000),))
    bond = stage.parameters.publish_bond_micro
    back = stake.Unbond(stage.id("member"), f"lineage:{new.hex()}", bond)
    assert refused(lambda: stage.do(back)) == "M4"  # it can be challenged still
    made = stage.do(lineage.ChallengeLineage(stage.id("owner"), new, old))[-1]
    assert isinstance(made, e.LineageChallenged)
    stage.wait(stage.parameters.lineage_seconds + 1)
    assert refused(lambda: stage.do(back)) == "M4"  # it is challenged
    stage.do(lineage.SettleLineage(stage.id("owner"), made.challenge))
    assert refused(lambda: stage.do(stake.Unbond(stage.id("owner"), back.purpose, bond))) == "S2"
    stage.do(back)
    stage.wait(stage.parameters.unbond_seconds + 1)
    stage.do(stake.Release(stage.id("member"), back.purpose))
    # All of it, and half of the bond of the challenge that was not found.
    assert stage.free("member") == PLENTY + bond - bond // 2
    for purpose in ("lineage:", "lineage:zz", f"lineage:{bytes(32).hex()}", "claim:" + "00" * 32):
        nothing = stake.Unbond(stage.id("member"), purpose, bond)
        assert refused(lambda one=nothing: stage.do(one)) == "S3"


def test_claims_on_forgiven_draws_count_no_more() -> None:
    """A conviction is quashed while older claims are open: like their draws, they do not count."""
    stage, license = licensed()
    late = [stage.probe(license, 100 + number) for number in range(8)]
    for claim in late:
        stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
    number = 0
    while stage.state.licenses[license].conviction is None:
        claim = stage.probe(license, number)
        stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
        stage.wait(1)
        late.append(claim)
        number += 1
        if number == 16:
            break
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    open_ones = []
    for claim in late:
        if stage.state.licenses[license].conviction is not None:
            open_ones.append(claim)
            continue
        for role in VERIFIERS:
            stage.do(voting.GiveVerdict(stage.id(role), claim, True))
        stage.do(disputes.SettleClaim(stage.id("host"), claim))
    assert len(open_ones) > 8
    stage.do(disputes.Appeal(stage.id("host"), license))
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), license, False))
    stage.do(disputes.SettleConviction(stage.id("host"), license))
    for claim in open_ones:
        for role in VERIFIERS:
            stage.do(voting.GiveVerdict(stage.id(role), claim, True))
        stage.do(disputes.SettleClaim(stage.id("host"), claim))
        assert stage.state.licenses[license].upheld == []
    for _ in range(8):  # eight draws that come to nothing, and one hit
        stage.draw(license)
        stage.wait(2 * DAY + 1)
    stage.judge(stage.probe(license, 60))
    assert stage.state.licenses[license].conviction is None


def test_a_draw_gives_one_demand() -> None:
    """Else a prover could have an honest host pay for any number of queries, at no cost."""
    stage, license = licensed()
    prover = stage.id(stage.draw(license))
    stage.do(disputes.DemandAnswer(prover, license, "key"))
    assert refused(lambda: stage.do(disputes.DemandAnswer(prover, license, "another"))) == "C5"
    stage.wait(2 * DAY + 1)
    prover = stage.id(stage.draw(license))
    stage.do(disputes.DemandAnswer(prover, license, "another"))


def test_the_electorate_is_what_the_balances_say() -> None:
    stage, license = licensed()
    convicted(stage, license)
    stage.do(stake.Unbond(stage.id("prover 2"), "prover", 10_000_000))
    stage.do(stake.Unbond(stage.id("prover 3"), "prover", 1))
    for purpose, roles in (("prover", PROVERS), ("verifier", VERIFIERS)):
        bonds = {
            stage.id(role): stage.state.balance(e.bond(purpose, stage.id(role))) for role in roles
        }
        expected = tuple(sorted((who, amount) for who, amount in bonds.items() if amount))
        assert stage.state.electorate(purpose) == expected
    assert len(stage.state.electorate("prover")) == len(PROVERS) - 1
    assert type(stage.state)(b"p" * 32, balances=dict(stage.state.balances)).electorate(
        "prover"
    ) == stage.state.electorate("prover")
