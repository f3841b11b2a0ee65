"""Signed commands: one author, one platform, once; and the log shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from parties import Stage, key_of, licensed

from loyal.errors import ProtocolError
from loyal.protocol import disputes, stake
from loyal.protocol import events as e
from loyal.protocol.commands import SignedCommand, enact, sign_command
from loyal.protocol.rules import COMMANDS, Command
from loyal.protocol.state import Moment

KEY = key_of("owner")
BOND = stake.Bond(KEY.public.data, "prover", 5)


def signed(stage: Stage, command: Command = BOND, number: int = 1) -> SignedCommand:
    key = next(one for one in map(key_of, ROLES) if one.public.data == command.author)
    return sign_command(key, stage.id("platform"), command, number)


ROLES = ("owner", "host", "platform", "prover-1", "member")


def rule_of(stage: Stage, command: SignedCommand) -> str | None:
    with pytest.raises(ProtocolError) as caught:
        enact(stage.state, command, stage.at)
    return caught.value.rule


def test_the_command_stands_before_what_follows_from_it() -> None:
    stage, _ = licensed()
    command = signed(stage)
    taken, *rest = stage.record(enact(stage.state, command, stage.at))
    assert isinstance(taken, e.CommandTaken)
    assert (taken.author, taken.number, taken.seconds) == (KEY.public.data, 1, stage.now)
    assert SignedCommand.from_bytes(taken.signed) == command
    assert [type(one) for one in rest] == [e.Moved]
    assert stage.state.numbers == {KEY.public.data: 1}


def test_a_command_is_taken_once() -> None:
    stage, _ = licensed()
    stage.record(enact(stage.state, signed(stage, number=7), stage.at))
    for number in (7, 6, 0):
        assert rule_of(stage, signed(stage, number=number)) == "K2"
    stage.record(enact(stage.state, signed(stage, number=100), stage.at))


def test_nobody_speaks_for_another() -> None:
    stage, _ = licensed()
    with pytest.raises(ProtocolError) as caught:
        sign_command(key_of("host"), stage.id("platform"), BOND, 1)
    assert caught.value.rule == "K1"
    stolen = replace(signed(stage), command=replace(BOND, author=stage.id("host")))
    assert rule_of(stage, stolen) == "K1"
    assert rule_of(stage, replace(signed(stage), number=2)) == "K1"
    assert rule_of(stage, replace(signed(stage), command=replace(BOND, amount_micro=6))) == "K1"
    elsewhere = sign_command(KEY, stage.id("host"), BOND, 1)
    assert rule_of(stage, elsewhere) == "K1"
    moved = replace(elsewhere, platform=stage.id("platform"))
    assert rule_of(stage, moved) == "K1"


def test_time_does_not_run_back() -> None:
    stage, _ = licensed()
    stage.record(enact(stage.state, signed(stage), stage.at))
    stage.wait(-1)
    assert rule_of(stage, signed(stage, number=2)) == "K3"
    stage.wait(1)
    stage.record(enact(stage.state, signed(stage, number=2), stage.at))


def test_every_command_comes_back_from_its_bytes() -> None:
    stage, license = licensed()
    seen: set[str] = set()
    do = stage.do

    def noted(command: Command) -> list[e.Event]:
        key = next(one for one in stage.keys.values() if one.public.data == command.author)
        one = sign_command(key, stage.id("platform"), command, 1)
        assert SignedCommand.from_bytes(one.to_bytes()) == one
        seen.add(type(command).__name__)
        return do(command)

    stage.do = noted  # type: ignore[method-assign]
    for number in range(2):
        stage.judge(stage.probe(license, number))
    assert seen >= {"DrawKey", "Commit", "MakeClaim", "OpenLeaf", "GiveVerdict", "SettleClaim"}
    model = stage.publish("owner", "another")
    stage.deliver(stage.sign(stage.terms(model)))
    assert seen >= {"PublishModel", "SignLicense", "CommitUsage", "DeliverModel"}
    assert seen < set(COMMANDS)


def test_whatever_else_is_no_command() -> None:
    stage, _ = licensed()
    whole = signed(stage).to_bytes()
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        try:
            other = SignedCommand.from_bytes(changed)
        except ProtocolError:
            continue
        with pytest.raises(ProtocolError):
            enact(stage.state, other, Moment(stage.now, stage.state.length, bytes(32)))
    for data in (b"", whole[:-1], whole + b"\x00", b"\xa0", bytes(2_000_000)):
        with pytest.raises(ProtocolError):
            SignedCommand.from_bytes(data)


def test_a_claim_is_not_printed() -> None:
    stage, license = licensed()
    command = disputes.MakeClaim(stage.id("member"), license, "a key", "a reply", bytes(16), None)
    one = sign_command(key_of("member"), stage.id("platform"), command, 1)
    assert "a key" not in repr(one)
    assert "a reply" not in repr(one)
