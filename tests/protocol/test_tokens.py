"""Rules T: tokens bought beforehand carry a host over an outage, and cover one answer each."""

from __future__ import annotations

import pytest
from parties import DAY, Stage, licensed, refused

from loyal.errors import UsageError
from loyal.protocol import events as e
from loyal.protocol.answers import Answer, SignedAnswer, message_digest
from loyal.protocol.parameters import Parameters
from loyal.protocol.tokens import BuyTokens, ReportTokens, use_digest

COUNT = 10


def bought(**terms: object) -> tuple[Stage, bytes]:
    """A license whose host holds ten ripe tokens."""
    stage, license = licensed(**terms)
    buy(stage, license)
    stage.wait(stage.parameters.ripening_seconds)
    return stage, license


def buy(stage: Stage, license: bytes, count: int = COUNT, who: str = "host") -> list[e.Event]:
    return stage.do(BuyTokens(stage.id(who), license, count))


def answered(stage: Stage, license: bytes, key: str, token: int | None) -> SignedAnswer:
    """What the host signs while the platform is out."""
    asked = (message_digest(key),)
    answer = Answer(license, asked, message_digest("reply"), None, (), token, time=stage.now)
    return answer.sign(stage.key("host"))


def report(stage: Stage, license: bytes, *uses: tuple[int, SignedAnswer]) -> list[e.Event]:
    named = tuple((number, use_digest(answer)) for number, answer in uses)
    return stage.do(ReportTokens(stage.id("host"), license, named))


def asked(stage: Stage, license: bytes, token: int | None) -> tuple[str, SignedAnswer]:
    """A key goes out, the host answers it on a token, the prover commits."""
    prover = stage.draw(license)
    answer = answered(stage, license, "key", token)
    stage.commit(prover, "key", "reply")
    return prover, answer


def claim(stage: Stage, license: bytes, given: tuple[str, SignedAnswer]) -> bytes:
    prover, answer = given
    return stage.claim(prover, license, "key", "reply", answer)


def test_a_token_that_is_reported_gives_no_claim() -> None:
    stage, license = bought()
    given = asked(stage, license, 3)
    assert refused(lambda: claim(stage, license, given)) == "T3"  # the host has time to report
    report(stage, license, (3, given[1]))
    assert refused(lambda: claim(stage, license, given)) == "T3"
    stage.wait(stage.parameters.report_seconds + 1)
    assert refused(lambda: claim(stage, license, given)) == "T3"


def test_a_token_that_is_never_reported_is_no_excuse() -> None:
    stage, license = bought()
    given = asked(stage, license, 3)
    stage.wait(stage.parameters.report_seconds)
    assert refused(lambda: claim(stage, license, given)) == "T3"
    stage.wait(1)
    claim(stage, license, given)
    assert stage.state.licenses[license].open_claims == 1


def test_one_token_under_two_answers_covers_one_of_them() -> None:
    stage, license = bought()
    given = asked(stage, license, 3)
    report(stage, license, (3, answered(stage, license, "another user's question", 3)))
    claim(stage, license, given)
    again = ((3, given[1]),)
    assert refused(lambda: report(stage, license, *again)) == "T2"


@pytest.mark.parametrize("token", [None, -1, COUNT, 2**40])
def test_a_token_that_was_never_bought_is_none(token: int | None) -> None:
    stage, license = bought()
    claim(stage, license, asked(stage, license, token))


def test_a_token_that_is_bought_once_the_key_is_out_is_none() -> None:
    """Else a host would pay only where a commitment tells it that it was asked."""
    for later in (0, 1):
        stage, license = licensed()
        prover = stage.draw(license)
        stage.wait(later)
        buy(stage, license)
        answer = answered(stage, license, "key", 3)
        stage.commit(prover, "key", "reply")
        report(stage, license, (3, answer))
        claim(stage, license, (prover, answer))


def test_a_ripe_token_was_bought_before_every_key_that_is_out() -> None:
    """So an insider who holds a key back, or an old answer, frames nobody."""
    windows = Parameters()
    longest = 2 * windows.draw_seconds + windows.answer_seconds
    assert windows.ripening_seconds == longest
    stage, license = bought()
    assert stage.state.licenses[license].allowances == [(0, COUNT, stage.now)]
    old = answered(stage, license, "key", 3)
    report(stage, license, (3, old))
    stage.wait(20 * DAY)
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    assert refused(lambda: claim(stage, license, (prover, old))) == "T3"


def test_tokens_are_paid_and_count_as_inferences() -> None:
    stage, license = licensed(most_inferences=12)
    before = stage.free("host")
    buy(stage, license)
    assert before - stage.free("host") == COUNT * 1_000
    assert refused(lambda: buy(stage, license, 3)) == "L6"
    stage.permit(license, "one")
    stage.permit(license, "two")
    assert refused(lambda: stage.permit(license, "three")) == "L6"
    assert refused(lambda: buy(stage, license, 1)) == "L6"


def test_who_may_buy_and_report() -> None:
    stage, license = bought()
    assert refused(lambda: buy(stage, license, who="member")) == "T1"
    assert refused(lambda: buy(stage, license, 0)) == "T1"
    assert refused(lambda: buy(stage, license, 10**9)) == "T1"
    assert refused(lambda: buy(stage, license, 1_000_000)) == "P4"
    answer = answered(stage, license, "key", 1)
    foreign = ReportTokens(stage.id("member"), license, ((1, use_digest(answer)),))
    assert refused(lambda: stage.do(foreign)) == "T2"
    assert refused(lambda: report(stage, license, (COUNT, answer))) == "T2"
    assert refused(lambda: report(stage, license, (1, answer), (1, answer))) == "T2"
    assert refused(lambda: report(stage, license)) == "T2"
    report(stage, license, (1, answer), (2, answer))
    stage.wait(31 * DAY)
    assert refused(lambda: buy(stage, license)) == "L5"
    report(stage, license, (4, answer))  # what was used may be reported at any time


def test_the_report_tells_nobody_what_was_asked() -> None:
    """It is over the signature, which only the host can make."""
    stage, license = bought()
    answer = answered(stage, license, "key", 1)
    same = answer.verify(stage.id("host"))
    other = same.sign(stage.key("member"))
    assert other.signed.record == answer.signed.record
    assert use_digest(other) != use_digest(answer)


def test_the_time_to_report_ends_before_the_draw() -> None:
    with pytest.raises(UsageError):
        Parameters(report_seconds=86_400)
