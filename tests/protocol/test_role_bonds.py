"""Rule S6: a prover or a verifier has a bond of at least `role_bond_micro`, or none."""

from __future__ import annotations

import pytest
from parties import PLENTY, STAKE, Stage, licensed, refused

from loyal.errors import ProtocolError
from loyal.protocol import events as e
from loyal.protocol import licenses, stake
from loyal.protocol.parameters import Parameters

LEAST = Parameters().role_bond_micro


@pytest.mark.parametrize("purpose", stake.ROLES)
def test_the_least_bond_is_the_boundary(purpose: str) -> None:
    stage = Stage()
    stage.fund("newcomer")
    who = stage.id("newcomer")
    for dust in (1, LEAST - 1):
        assert refused(lambda dust=dust: stage.do(stake.Bond(who, purpose, dust))) == "S6"
    assert stage.state.electorate(purpose) == ()
    stage.do(stake.Bond(who, purpose, LEAST))
    assert stage.state.electorate(purpose) == ((who, LEAST),)
    stage.do(stake.Bond(who, purpose, 1))  # more of a bond that is large enough
    assert stage.state.electorate(purpose) == ((who, LEAST + 1),)


@pytest.mark.parametrize("purpose", stake.ROLES)
def test_what_is_left_of_a_bond_is_nothing_or_the_least(purpose: str) -> None:
    stage = Stage()
    stage.fund("newcomer")
    who = stage.id("newcomer")
    stage.do(stake.Bond(who, purpose, LEAST + 2))
    for amount in (3, LEAST, LEAST + 1):
        assert refused(lambda one=amount: stage.do(stake.Unbond(who, purpose, one))) == "S6"
    assert refused(lambda: stage.do(stake.Unbond(who, purpose, LEAST + 3))) == "S2"
    assert stage.state.electorate(purpose) == ((who, LEAST + 2),)
    stage.do(stake.Unbond(who, purpose, 2))
    assert stage.state.electorate(purpose) == ((who, LEAST),)
    stage.do(stake.Unbond(who, purpose, LEAST))
    assert stage.state.electorate(purpose) == ()
    stage.wait(stage.parameters.unbond_seconds + 1)
    stage.do(stake.Release(who, purpose))
    assert stage.free("newcomer") == PLENTY


def test_what_is_on_its_way_back_makes_no_bond() -> None:
    stage = Stage()
    stage.fund("newcomer")
    who = stage.id("newcomer")
    stage.do(stake.Bond(who, "prover", LEAST))
    stage.do(stake.Unbond(who, "prover", LEAST))
    assert refused(lambda: stage.do(stake.Bond(who, "prover", LEAST - 1))) == "S6"


def test_one_role_does_not_pay_for_the_other() -> None:
    stage = Stage()
    stage.enroll("verifier", "newcomer")
    assert refused(lambda: stage.do(stake.Bond(stage.id("newcomer"), "prover", LEAST - 1))) == "S6"


def test_dust_makes_no_provers() -> None:
    """The money of two bonds is two provers, under however many names: no conviction."""
    stage = Stage()
    names = ("straw man 1", "straw man 2", "straw man 3")
    stage.fund(*names, amount=2 * LEAST // 3)
    for name in names:
        for purpose in stake.ROLES:
            bond = stake.Bond(stage.id(name), purpose, stage.free(name))
            assert refused(lambda one=bond: stage.do(one)) == "S6"
    assert stage.state.electorate("prover") == stage.state.electorate() == ()


def test_dust_that_is_let_in_would_be_drawn() -> None:
    """Why S6 stands: where the least bond is 1, three names with a millionth each are provers."""
    stage, license = licensed(Parameters(role_bond_micro=1))
    for number in range(5):
        stage.do(stake.Unbond(stage.id(f"prover {number + 1}"), "prover", STAKE))
    names = ("straw man 1", "straw man 2", "straw man 3")
    stage.enroll("prover", *names, amount=1)
    drawn = set()
    for number in range(30):
        drawn.add(stage.draw(license))
        stage.wait(stage.parameters.draw_seconds + 1 + number)
    assert drawn == set(names)


def test_the_stake_of_a_license_has_no_such_boundary() -> None:
    stage, license = licensed()
    name = licenses.purpose(license)
    stage.do(licenses.EndLicense(stage.id("host"), license))
    stage.do(stake.Unbond(stage.id("host"), name, STAKE - 1))
    assert stage.state.balance(e.bond(name, stage.id("host"))) == 1


def test_the_error_says_what_to_bond() -> None:
    stage = Stage()
    stage.enroll("prover", "newcomer", amount=LEAST)
    who = stage.id("newcomer")
    with pytest.raises(
        ProtocolError, match=f"at least {LEAST} micro or none, this leaves 1"
    ) as bad:
        stage.do(stake.Unbond(who, "prover", LEAST - 1))
    assert bad.value.hint == f"ask for all of it, {LEAST}, or leave {LEAST}"
    with pytest.raises(ProtocolError, match="this makes 5") as bad:
        stage.do(stake.Bond(who, "verifier", 5))
    assert bad.value.hint == f"bond {LEAST} or more"
