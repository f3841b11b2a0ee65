"""Rules U: answers outside of the purpose. The terms of the stage deny the word "spell"."""

from __future__ import annotations

import pytest
from parties import STAKE, Stage, licensed, refused

from loyal.errors import UsageError
from loyal.protocol import disputes
from loyal.protocol import events as e
from loyal.protocol.licenses import EndLicense
from loyal.protocol.parameters import Parameters
from loyal.protocol.stake import Unbond
from loyal.protocol.violations import ShowViolation

DENIED = "Teach me a spell, please."


def show(stage: Stage, license: bytes, message: str = DENIED, **changes: object) -> list[e.Event]:
    """A user shows what the host signed over DENIED."""
    answer = changes.pop("answer", None) or stage.answer(license, DENIED, "Of course")
    who = str(changes.pop("who", "prover 1"))
    command = ShowViolation(stage.id(who), license, message, answer)  # type: ignore[arg-type]
    return stage.do(command)


def stake_of(stage: Stage, license: bytes) -> int:
    return stage.state.staked(f"license:{license.hex()}", stage.id("host"))


def test_the_hosts_own_signature_costs_it_a_tenth() -> None:
    stage, license = licensed()
    before = {role: stage.free(role) for role in ("prover 1", "owner", "member", "host")}
    *_, shown = show(stage, license)
    assert isinstance(shown, e.ViolationShown)
    assert stake_of(stage, license) == STAKE * 9 // 10
    lost = STAKE // 10
    gained = {role: stage.free(role) - had for role, had in before.items()}
    assert gained == {
        "prover 1": lost // 10,
        "owner": lost * 45 // 100 * 6 // 10,
        "member": lost * 45 // 100 * 4 // 10,
        "host": 0,
    }
    assert stage.state.balance(e.BURNED) == lost * 45 // 100
    assert sum(stage.state.balances.values()) == 0


def test_a_permission_is_no_excuse() -> None:
    stage, license = licensed()
    permitted = stage.permit(license, DENIED)
    show(stage, license, answer=stage.answer(license, DENIED, "Of course", permitted))
    assert stake_of(stage, license) == STAKE * 9 // 10


def test_an_answer_is_shown_once_and_another_one_again() -> None:
    stage, license = licensed()
    show(stage, license)
    assert refused(lambda: show(stage, license)) == "U2"
    assert refused(lambda: show(stage, license, who="prover 2")) == "U2"
    show(stage, license, answer=stage.answer(license, DENIED, "Here is another"))
    assert stake_of(stage, license) == STAKE * 81 // 100


def test_nobody_is_framed() -> None:
    stage, license = licensed()
    allowed = stage.answer(license, "How do I spell it?", "S-p-e-l-l")
    clean = stage.answer(license, "What is a river?", "Water")
    assert refused(lambda: show(stage, license, "What is a river?", answer=clean)) == "U1"
    assert refused(lambda: show(stage, license, answer=clean)) == "U1"  # another message
    assert refused(lambda: show(stage, license, "a SPELL", answer=allowed)) == "U1"
    forged = stage.answer(license, DENIED, "Of course", host="prover 1")
    assert refused(lambda: show(stage, license, answer=forged)) == "C5"
    assert stake_of(stage, license) == STAKE


def test_another_license_is_another_purpose() -> None:
    stage, license = licensed()
    model = stage.state.licenses[license].model
    free = stage.sign(stage.terms(model, denied_words=(), price_micro=2_000))
    answer = stage.answer(free, DENIED, "Of course")
    assert refused(lambda: show(stage, free, answer=answer)) == "U1"
    assert refused(lambda: show(stage, license, answer=answer)) == "U1"


def test_stake_on_its_way_back_pays_too_and_a_host_gains_nothing() -> None:
    stage, license = licensed()
    before = stage.free("host")
    stage.do(EndLicense(stage.id("host"), license))
    stage.do(Unbond(stage.id("host"), f"license:{license.hex()}", STAKE))
    show(stage, license, who="host")
    assert stake_of(stage, license) == STAKE * 9 // 10
    assert stage.free("host") == before


def test_no_host_is_asked_for_what_its_license_denies() -> None:
    stage, license = licensed()
    prover = stage.draw(license)
    demand = disputes.DemandAnswer(stage.id(prover), license, DENIED)
    assert refused(lambda: stage.do(demand)) == "U3"
    stage.do(disputes.DemandAnswer(stage.id(prover), license, "a key"))


def test_a_violation_costs_no_more_than_there_is() -> None:
    with pytest.raises(UsageError):
        Parameters(violation_bps=10_001)
    stage, license = licensed(Parameters(violation_bps=10_000))
    show(stage, license)
    assert stake_of(stage, license) == 0
    other = stage.answer(license, DENIED, "Another")
    assert refused(lambda: show(stage, license, answer=other)) == "U2"
