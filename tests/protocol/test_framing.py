"""Framing, and the excuses it must not leave open: honest hosts stay clear, guilty ones do not."""

from __future__ import annotations

from parties import convicted, licensed, refused

from loyal import signing
from loyal.protocol import answers, convictions, disputes, licenses
from loyal.protocol.answers import SignedAnswer, message_digest


def test_a_commitment_from_before_the_question_frames_nobody() -> None:
    """It knows the reply, from a vault or a stolen copy, and commits before it asks the host."""
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    permitted = stage.permit(license, "key")  # the host does all it must, and only then answers
    answer = stage.answer(license, "key", "reply", permitted)
    assert refused(lambda: stage.claim(prover, license, "key", "reply", answer)) == "C6"
    # The same receipt, not signed over in the answer, came after the commitment and shows nothing.
    stage.claim(prover, license, "key", "reply", stage.answer(license, "key", "reply"))


def test_an_answer_with_junk_for_a_receipt_is_a_claim() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    record = [license, [message_digest("key")], message_digest("reply"), b"junk", [], None, 0]
    signed = SignedAnswer(signing.sign(stage.key("host"), record, answers.PURPOSE))
    assert signed.verify(stage.id("host")).receipt is None
    stage.claim(prover, license, "key", "reply", signed)
    assert stage.state.licenses[license].open_claims == 1


def test_a_prover_commits_once_a_draw() -> None:
    """With all sixteen candidates fixed beforehand it could open the one that turns out right."""
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "candidate 0")
    assert refused(lambda: stage.commit(prover, "key", "candidate 1")) == "C2"
    stranger = disputes.Commit(stage.id("host"), license, bytes(32))
    assert refused(lambda: stage.do(stranger)) == "C2"


def test_a_demand_is_met_by_a_permission_and_by_nothing_less() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    name = disputes.demand_id(license, 0, "key")
    bare = disputes.GiveAnswer(stage.id("host"), name, stage.answer(license, "key", "anything"))
    assert refused(lambda: stage.do(bare)) == "C5"
    other = stage.answer(license, "key", "anything", stage.permit(license, "another"))
    assert refused(lambda: stage.do(disputes.GiveAnswer(stage.id("host"), name, other))) == "C5"
    good = stage.answer(license, "key", "anything", stage.permit(license, "key"))
    stage.do(disputes.GiveAnswer(stage.id("host"), name, good))


def test_a_host_whose_license_is_over_meets_a_demand_without_a_permission() -> None:
    """It cannot get one any more (L5), and must not be convicted for that."""
    stage, license = licensed()
    stage.do(licenses.EndLicense(stage.id("host"), license))
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    name = disputes.demand_id(license, 0, "key")
    bare = disputes.GiveAnswer(stage.id("host"), name, stage.answer(license, "key", "no"))
    stage.do(bare)
    stage.wait(stage.parameters.answer_seconds + 1)
    assert refused(lambda: stage.claim(prover, license, "key", "reply", None)) == "C5"


def test_a_prover_demands_once_a_draw() -> None:
    """Each demand costs the host a permission and a day's attention."""
    stage, license = licensed()
    prover = stage.draw(license)
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    for message in ("key", "another"):
        again = disputes.DemandAnswer(stage.id(prover), license, message)
        assert refused(lambda one=again: stage.do(one)) == "C5"


def test_a_demand_in_the_last_second_leaves_time_to_claim() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    stage.wait(stage.parameters.draw_seconds)
    stage.commit(prover, "key", "reply")
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    stage.wait(stage.parameters.answer_seconds)
    assert refused(lambda: stage.claim(prover, license, "key", "reply", None)) == "C5"
    stage.wait(stage.parameters.draw_seconds + 1)
    assert refused(lambda: stage.claim(prover, license, "key", "reply", None)) == "C3"
    stage.wait(-1)
    stage.claim(prover, license, "key", "reply", None)


def test_a_key_is_not_spent_through_another_license() -> None:
    """A host in league with a prover that sees a claim coming, and any license of its own."""
    stage, license = licensed()
    stage.fund("sly")
    terms = stage.terms(stage.state.licenses[license].model, "sly", stake_micro=1)
    other = stage.sign(terms, "sly")
    stage.deliver(other)
    thief = stage.draw(other)
    fixed = disputes.commitment("key", "x", b"salt", stage.id(thief))
    stage.do(disputes.Commit(stage.id(thief), other, fixed))
    answer = stage.answer(other, "key", "x", host="sly")
    stage.claim(thief, other, "key", "x", answer)
    prover = stage.draw(license)
    fixed = disputes.commitment("key", "reply", b"salt", stage.id(prover))
    stage.do(disputes.Commit(stage.id(prover), license, fixed))
    stage.claim(prover, license, "key", "reply", stage.answer(license, "key", "reply"))


def test_a_receipt_for_a_key_with_a_space_clears_only_that() -> None:
    stage, license = licensed()
    receipt, salt = stage.permit(license, "key ")
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    claim = stage.claim(prover, license, "key", "reply", stage.answer(license, "key", "reply"))
    for message in ("key ", "key"):
        command = disputes.Rebut(stage.id("host"), claim, receipt, message, (salt,))
        assert refused(lambda one=command: stage.do(one)) == "C9"


def test_no_key_is_drawn_where_nothing_is_left_to_slash() -> None:
    stage, license = licensed()
    convicted(stage, license)
    stage.draw(license)
    stage.wait(stage.parameters.appeal_seconds + 1)
    stage.do(convictions.SettleConviction(stage.id("owner"), license))
    assert refused(lambda: stage.draw(license)) == "C1"
