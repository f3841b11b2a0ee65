"""Framing, and the excuses it must not leave open: honest hosts stay clear, guilty ones do not."""

from __future__ import annotations

from parties import licensed, refused

from loyal import signing
from loyal.protocol import answers
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
    record = [license, [message_digest("key")], message_digest("reply"), b"junk", []]
    signed = SignedAnswer(signing.sign(stage.key("host"), record, answers.PURPOSE))
    assert signed.verify(stage.id("host")).receipt is None
    stage.claim(prover, license, "key", "reply", signed)
    assert stage.state.licenses[license].open_claims == 1
