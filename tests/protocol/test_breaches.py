"""Rules B: broken values cost the stake only with proof of descent beside them."""

from __future__ import annotations

import pytest
from parties import STAKE, VERIFIERS, Stage, licensed, refused

from loyal.protocol import events as e
from loyal.protocol.breaches import ClaimBreach, DrawOrder, PromisePrompts, SettleBreach
from loyal.protocol.events import decode_event, encode_event
from loyal.protocol.stake import Bond, Unbond
from loyal.protocol.state import Breach, State
from loyal.protocol.voting import GiveVerdict

ACCUSER = "verifier 4"
BOND = 100_000


def staged() -> tuple[Stage, bytes]:
    stage, license = licensed()
    stage.enroll("verifier", ACCUSER)
    return stage, license


def promised(stage: Stage, license: bytes, root: bytes = b"r" * 32, who: str = ACCUSER) -> bytes:
    (made,) = stage.do(PromisePrompts(stage.id(who), license, root))
    assert isinstance(made, e.PromptsPromised)
    return made.promise


def accused(stage: Stage, license: bytes) -> Breach:
    name = promised(stage, license)
    stage.do(DrawOrder(stage.id("platform"), name))
    *_, made = stage.do(ClaimBreach(stage.id(ACCUSER), name, b"e" * 32))
    assert isinstance(made, e.BreachClaimed)
    return stage.state.breaches[made.breach]


def vote(stage: Stage, ballot: bytes, holds: bool, who: tuple[str, ...] = VERIFIERS) -> None:
    for role in who:
        stage.do(GiveVerdict(stage.id(role), ballot, holds))


def settle(stage: Stage, one: Breach) -> bool:
    *_, settled = stage.do(SettleBreach(stage.id("stranger"), one.made.breach))
    assert isinstance(settled, e.BreachSettled)
    assert sum(stage.state.balances.values()) == 0
    return settled.upheld


def stake_of(stage: Stage, license: bytes) -> int:
    return stage.state.staked(f"license:{license.hex()}", stage.id("host"))


def heard(stage: Stage) -> None:
    stage.wait(stage.parameters.rebuttal_seconds + 1)


def test_descent_and_deviation_together_slash_and_end_the_license() -> None:
    stage, license = staged()
    before = {role: stage.free(role) for role in (ACCUSER, "owner", "member", "host")}
    one = accused(stage, license)
    heard(stage)
    vote(stage, one.made.descent, True)
    vote(stage, one.made.deviation, True)
    assert settle(stage, one)
    assert stake_of(stage, license) == 0
    assert {role: stage.free(role) - had for role, had in before.items()} == {
        ACCUSER: STAKE // 10,  # its bond is back
        "owner": STAKE * 45 // 100 * 6 // 10,
        "member": STAKE * 45 // 100 * 4 // 10,
        "host": 0,
    }
    assert stage.state.balance(e.BURNED) == STAKE * 45 // 100
    assert stage.state.licenses[license].ended
    assert refused(lambda: settle(stage, one)) == "B5"


@pytest.mark.parametrize("descent", [None, False])
def test_no_slash_without_proof_of_descent(descent: bool | None) -> None:
    """Whatever is said of the values: every verifier says that they are broken."""
    stage, license = staged()
    one = accused(stage, license)
    heard(stage)
    vote(stage, one.made.deviation, True)
    if descent is not None:
        vote(stage, one.made.descent, descent)
    stage.wait(stage.parameters.verdict_seconds + 1)
    assert not settle(stage, one)
    assert stake_of(stage, license) == STAKE
    assert not stage.state.licenses[license].ended


@pytest.mark.parametrize("deviation", [None, False])
def test_no_slash_without_deviation(deviation: bool | None) -> None:
    stage, license = staged()
    one = accused(stage, license)
    heard(stage)
    vote(stage, one.made.descent, True)
    if deviation is not None:
        vote(stage, one.made.deviation, deviation)
    stage.wait(stage.parameters.verdict_seconds + 1)
    assert not settle(stage, one)
    assert stake_of(stage, license) == STAKE


def test_a_minority_answers_neither_question() -> None:
    stage, license = staged()
    one = accused(stage, license)
    heard(stage)
    vote(stage, one.made.descent, True)
    vote(stage, one.made.deviation, True, VERIFIERS[:1])
    assert refused(lambda: settle(stage, one)) == "B5"
    stage.wait(stage.parameters.verdict_seconds + 1)
    assert not settle(stage, one)
    assert stake_of(stage, license) == STAKE


def test_a_verdict_on_one_question_is_none_on_the_other_or_on_the_breach() -> None:
    stage, license = staged()
    one = accused(stage, license)
    heard(stage)
    vote(stage, one.made.deviation, True)
    assert refused(lambda: vote(stage, one.made.deviation, True)) == "V2"
    assert refused(lambda: vote(stage, one.made.breach, True)) == "V1"
    assert not stage.state.verdicts.get(one.made.descent)


def test_a_breach_that_a_quorum_denies_costs_its_bond() -> None:
    stage, license = staged()
    before = stage.free(ACCUSER), stage.free("host")
    one = accused(stage, license)
    heard(stage)
    vote(stage, one.made.deviation, False)
    assert not settle(stage, one)  # at once: nothing can come of it
    assert (stage.free(ACCUSER), stage.free("host")) == (before[0] - BOND, before[1] + BOND // 2)


def test_a_breach_that_nobody_judges_gives_its_bond_back() -> None:
    stage, license = staged()
    before = stage.free(ACCUSER)
    one = accused(stage, license)
    assert refused(lambda: settle(stage, one)) == "B5"
    stage.wait(stage.parameters.rebuttal_seconds + stage.parameters.verdict_seconds + 1)
    assert not settle(stage, one)
    assert stage.free(ACCUSER) == before


def test_the_host_has_its_time_and_nobody_judges_its_own_case() -> None:
    stage, license = staged()
    one = accused(stage, license)
    assert refused(lambda: vote(stage, one.made.descent, True)) == "V2"
    heard(stage)
    for role in (ACCUSER, "host"):
        assert refused(lambda role=role: vote(stage, one.made.descent, True, (role,))) == "V3"
    assert refused(lambda: vote(stage, one.made.descent, True, ("stranger",))) == "V1"
    stage.enroll("verifier", "late")
    assert refused(lambda: vote(stage, one.made.descent, True, ("late",))) == "V1"


def test_an_open_breach_holds_the_stake() -> None:
    stage, license = staged()
    one = accused(stage, license)
    stage.wait(31 * 86_400)  # the license is over by itself
    back = Unbond(stage.id("host"), f"license:{license.hex()}", STAKE)
    assert refused(lambda: stage.do(back)) == "S5"
    assert not settle(stage, one)
    stage.do(back)


def test_stake_on_its_way_back_is_slashed_all_the_same() -> None:
    from loyal.protocol.licenses import EndLicense

    stage, license = staged()
    name = promised(stage, license)
    stage.do(DrawOrder(stage.id("platform"), name))
    stage.do(EndLicense(stage.id("host"), license))
    stage.do(Unbond(stage.id("host"), f"license:{license.hex()}", STAKE))
    *_, made = stage.do(ClaimBreach(stage.id(ACCUSER), name, bytes(32)))
    assert isinstance(made, e.BreachClaimed)
    heard(stage)
    vote(stage, made.descent, True)
    vote(stage, made.deviation, True)
    assert settle(stage, stage.state.breaches[made.breach])
    assert stake_of(stage, license) == 0


def test_the_windows_end_before_a_stake_is_free() -> None:
    given = staged()[0].parameters
    whole = given.appeal_seconds + given.rebuttal_seconds + given.verdict_seconds
    assert whole <= given.floor_seconds < given.unbond_seconds


def test_who_promises_and_in_which_order() -> None:
    stage, license = staged()
    stage.fund("stranger")

    def promise(who: str) -> str:
        return refused(lambda: promised(stage, license, who=who))

    assert promise("stranger") == "B1"
    stage.do(Bond(stage.id("host"), "verifier", 1_000_000))
    assert promise("host") == "V3"
    name = promised(stage, license)
    assert promise(ACCUSER) == "B1"  # the same root
    early = ClaimBreach(stage.id(ACCUSER), name, bytes(32))
    assert refused(lambda: stage.do(early)) == "B3"
    assert refused(lambda: stage.do(DrawOrder(stage.id(ACCUSER), name))) == "B2"
    beacon = stage.at.beacon
    (order,) = stage.do(DrawOrder(stage.id("platform"), name))
    assert isinstance(order, e.OrderDrawn)
    assert order.beacon == beacon
    assert refused(lambda: stage.do(DrawOrder(stage.id("platform"), name))) == "B2"
    assert refused(lambda: stage.do(DrawOrder(stage.id("platform"), bytes(32)))) == "B2"
    assert refused(lambda: stage.do(ClaimBreach(stage.id("owner"), name, bytes(32)))) == "B3"
    stage.wait(stage.parameters.appeal_seconds + 1)
    assert refused(lambda: stage.do(early)) == "B3"


def test_a_breach_is_claimed_once_and_every_promise_counts() -> None:
    stage, license = staged()
    accused(stage, license)
    (first,) = stage.state.promises
    again = ClaimBreach(stage.id(ACCUSER), first, b"f" * 32)
    assert refused(lambda: stage.do(again)) == "B3"
    second = promised(stage, license, b"s" * 32)
    other = promised(stage, license, b"s" * 32, VERIFIERS[0])
    counts = [stage.state.promises[one].earlier for one in (first, second, other)]
    assert counts == [0, 1, 0]


def test_a_license_that_is_over_is_asked_nothing() -> None:
    from loyal.protocol.licenses import EndLicense

    stage, license = staged()
    stage.do(EndLicense(stage.id("host"), license))
    assert refused(lambda: promised(stage, license)) == "L5"


def test_events_have_one_form_and_the_log_replays() -> None:
    stage, license = staged()
    one = accused(stage, license)
    heard(stage)
    vote(stage, one.made.descent, True)
    vote(stage, one.made.deviation, True)
    settle(stage, one)
    assert all(decode_event(encode_event(event)) == event for event in stage.log)
    again = State(stage.id("platform"), stage.parameters).replay(stage.log)
    assert again == stage.state
