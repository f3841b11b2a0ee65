"""C14: an answer has a time, so an old permission clears no new answer, and an old answer stays as
good as it was. Boundary seconds included."""

from __future__ import annotations

import pytest
from parties import DAY, Stage, licensed, refused

from loyal import signing
from loyal.protocol import answers, disputes, licenses
from loyal.protocol.answers import SignedAnswer, message_digest
from loyal.protocol.permission import APART_SECONDS, SKEW_SECONDS, Receipt
from loyal.protocol.permits import LIFETIME_SECONDS

OFF = (-SKEW_SECONDS, 0, SKEW_SECONDS)
Permitted = tuple[Receipt, bytes]


def used(stage: Stage, license: bytes, permitted: Permitted, after: int) -> SignedAnswer:
    """An answer under this permission, so many seconds after its expiry."""
    answer = stage.answer(license, "key", "reply", permitted)
    return stage.dated(answer, permitted[0].permission.expires + after)


def until(stage: Stage, permitted: Permitted, after: int) -> None:
    """Let the clock come to so many seconds after the expiry."""
    stage.now = permitted[0].permission.expires + after


def committed(stage: Stage, license: bytes) -> str:
    """A key goes out, and its prover commits now."""
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    return prover


def shown(stage: Stage, claim: bytes, permitted: Permitted) -> list[object]:
    """The host rebuts."""
    receipt, salt = permitted
    return list(stage.do(disputes.Rebut(stage.id("host"), claim, receipt, "key", (salt,))))


def demanded(stage: Stage, license: bytes) -> bytes:
    """A demand for the key in the log, made now."""
    prover = committed(stage, license)
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    return disputes.demand_id(license, 0, "key")


def given(stage: Stage, demand: bytes, answer: SignedAnswer) -> list[object]:
    """The host meets it."""
    return list(stage.do(disputes.GiveAnswer(stage.id("host"), demand, answer)))


def test_an_expired_permission_used_again_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, license = licensed()
    permitted = stage.permit(license, "key")
    until(stage, permitted, 1)
    prover, answer = committed(stage, license), used(stage, license, permitted, 1)
    last = used(stage, license, permitted, 0)
    assert refused(lambda: stage.claim(prover, license, "key", "reply", last)) == "C6"
    claim = stage.claim(prover, license, "key", "reply", answer)
    assert stage.state.claims[claim].made.answered == stage.now
    assert refused(lambda: shown(stage, claim, permitted)) == "C14"

    monkeypatch.setattr(disputes, "_late", lambda *_: False)
    shown(stage, claim, permitted)  # without the rule it would clear for ever
    assert stage.state.claims[claim].rebutted


@pytest.mark.parametrize("late", [0, 7_200, 20 * DAY, 300 * DAY])
def test_an_old_answer_committed_late_convicts_nobody(late: int) -> None:
    """Its permission has expired since; the answer was given in its time."""
    stage, license = licensed()
    permitted = stage.permit(license, "key")
    answer, hidden = used(stage, license, permitted, 0), stage.answer(license, "key", "reply")
    hidden = stage.dated(hidden, permitted[0].permission.expires)  # by a host that is forgetful
    until(stage, permitted, late)
    prover = committed(stage, license)
    assert refused(lambda: stage.claim(prover, license, "key", "reply", answer)) == "C6"
    claim = stage.claim(prover, license, "key", "reply", hidden)
    shown(stage, claim, permitted)
    assert stage.state.claims[claim].rebutted


def test_the_permission_of_a_second_answer_is_the_one_that_counts() -> None:
    stage, license = licensed()
    first = stage.permit(license, "key")
    until(stage, first, 1)
    second = stage.permit(license, "key")
    answer = stage.answer(license, "key", "reply")
    claim = stage.claim(committed(stage, license), license, "key", "reply", answer)
    assert refused(lambda: shown(stage, claim, first)) == "C14"
    shown(stage, claim, second)


def test_an_answer_from_after_the_commitment_is_no_evidence() -> None:
    stage, license = licensed()
    prover = committed(stage, license)
    answer = stage.answer(license, "key", "reply")
    for late in (APART_SECONDS + 1, 10 * DAY, 2**62):
        dated = stage.dated(answer, stage.now + late)
        made = refused(lambda a=dated: stage.claim(prover, license, "key", "reply", a))
        assert made == "C14"
    stage.claim(prover, license, "key", "reply", stage.dated(answer, stage.now + APART_SECONDS))


def test_a_demand_is_met_by_a_permission_that_has_not_expired() -> None:
    stage, license = licensed()
    permitted = stage.permit(license, "key")
    until(stage, permitted, APART_SECONDS + 1)
    demand = demanded(stage, license)
    again = stage.answer(license, "key", "reply", permitted)
    assert refused(lambda: given(stage, demand, again)) == "C5"
    backdated = used(stage, license, permitted, 0)
    assert refused(lambda: given(stage, demand, backdated)) == "C14"
    stage.wait(100)
    given(stage, demand, stage.answer(license, "key", "reply", stage.permit(license, "key")))


@pytest.mark.parametrize("ended", [False, True])
def test_a_demand_is_met_by_an_answer_that_is_not_older(ended: bool) -> None:
    """With or without a permission to be had: the boundary is the same second."""
    stage, license = licensed()
    permitted = None if ended else stage.permit(license, "key")
    if ended:
        stage.do(licenses.EndLicense(stage.id("host"), license))
    demand, made = demanded(stage, license), stage.now
    stage.wait(stage.parameters.answer_seconds)
    answer = stage.answer(license, "key", "reply", permitted)
    older = stage.dated(answer, made - APART_SECONDS - 1)
    assert refused(lambda: given(stage, demand, older)) == "C14"
    given(stage, demand, stage.dated(answer, made - APART_SECONDS))


def test_silence_has_no_time_and_any_older_receipt_rebuts_it() -> None:
    """The host answered in time, its answer was hidden, and it was offline when it was demanded."""
    stage, license = licensed()
    permitted = stage.permit(license, "key")
    until(stage, permitted, 20 * DAY)
    prover = committed(stage, license)
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    stage.wait(stage.parameters.answer_seconds + 1)
    claim = stage.claim(prover, license, "key", "reply", None)
    assert stage.state.claims[claim].made.answered is None
    shown(stage, claim, permitted)
    assert stage.state.claims[claim].rebutted


@pytest.mark.parametrize("platform", OFF)
@pytest.mark.parametrize("host", OFF)
def test_clocks_ten_minutes_off_harm_no_honest_host_and_free_no_other(
    host: int, platform: int
) -> None:
    """The stage's clock is the platform's; a host uses a permission to the last second of it by its
    own clock, meets a demand in the demand's own second, and skips one."""
    ahead = host - platform
    assert abs(ahead) <= APART_SECONDS < LIFETIME_SECONDS
    stage, license = licensed()
    permitted = stage.permit(license, "key")
    until(stage, permitted, -ahead)  # now the host's clock shows the last second
    prover, answer = committed(stage, license), used(stage, license, permitted, 0)
    assert refused(lambda: stage.claim(prover, license, "key", "reply", answer)) == "C6"
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "key"))
    fresh = stage.answer(license, "key", "reply", stage.permit(license, "key"))
    demand = disputes.demand_id(license, 0, "key")
    given(stage, demand, stage.dated(fresh, stage.now + ahead))

    stage, license = licensed()
    permitted = stage.permit(license, "key")
    until(stage, permitted, 1 - ahead)  # one second more, by the host's clock
    prover, answer = committed(stage, license), used(stage, license, permitted, 1)
    claim = stage.claim(prover, license, "key", "reply", answer)
    assert refused(lambda: shown(stage, claim, permitted)) == "C14"


def test_an_asker_takes_a_time_of_its_own_question_alone() -> None:
    stage, license = licensed()
    answer = stage.answer(license, "key", "reply").verify(stage.id("host"))
    asked, heard = answer.time + SKEW_SECONDS, answer.time - SKEW_SECONDS
    assert answer.timely(asked, asked)
    assert answer.timely(heard, heard)
    assert answer.timely(heard - 3_000, heard)
    assert not answer.timely(asked + 1, asked + 1)
    assert not answer.timely(heard - 3_000, heard - 1)


@pytest.mark.parametrize("time", [None, True, -1, 2**63, "0", b"0"])
def test_an_answer_has_a_time_of_64_bits(time: object) -> None:
    stage, license = licensed()
    head = [license, [message_digest("key")], message_digest("reply"), None, [], None]
    host = stage.key("host")
    good = SignedAnswer(signing.sign(host, [*head, 2**63 - 1], answers.PURPOSE))
    assert good.verify(stage.id("host")).time == 2**63 - 1
    for record in ([*head, time], head):
        bad = SignedAnswer(signing.sign(host, record, answers.PURPOSE))  # type: ignore[arg-type]
        assert refused(lambda one=bad: one.verify(stage.id("host"))) == "C5"
    first = SignedAnswer(signing.sign(host, [*head, 0], "loyal answer 1"))
    assert refused(lambda: first.verify(stage.id("host"))) == "C5"
