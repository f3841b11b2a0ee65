"""Events have one byte form, and a log replays to the state that lived through it."""

from __future__ import annotations

import copy
import random
import typing
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parties import PROVERS, VERIFIERS, Stage, convicted, licensed

from loyal import encoding
from loyal.errors import ProtocolError
from loyal.protocol import State, apply, convictions, disputes, licenses, stake, voting
from loyal.protocol import events as e

NUMBERS = st.integers(0, 2**63)
VALUES: dict[object, st.SearchStrategy[object]] = {
    int: NUMBERS,
    str: st.text(max_size=20),
    bytes: st.binary(max_size=40),
    bool: st.booleans(),
    bytes | None: st.none() | st.binary(max_size=40),
    int | None: st.none() | NUMBERS,
    tuple[tuple[bytes, int], ...]: st.lists(
        st.tuples(st.binary(max_size=32), NUMBERS), max_size=3
    ).map(tuple),
    tuple[tuple[int, bytes], ...]: st.lists(
        st.tuples(NUMBERS, st.binary(max_size=32)), max_size=3
    ).map(tuple),
    tuple[tuple[bytes, int, int], ...]: st.lists(
        st.tuples(st.binary(max_size=32), NUMBERS, NUMBERS), max_size=3
    ).map(tuple),
}


@st.composite
def some_event(draw: st.DrawFn) -> e.Event:
    kind = draw(st.sampled_from(sorted(e.Event.kinds.values(), key=lambda one: one.__name__)))
    hints = typing.get_type_hints(kind)
    return kind(*(draw(VALUES[hints[one.name]]) for one in fields(kind)))  # type: ignore[arg-type]


@given(some_event())
def test_an_event_has_one_form(event: e.Event) -> None:
    data = e.encode_event(event)
    assert e.decode_event(data) == event
    assert e.encode_event(e.decode_event(data)) == data


@given(some_event(), st.data())
def test_an_event_with_a_field_of_another_type_is_refused(
    event: e.Event, data: st.DataObject
) -> None:
    name, *values = encoding.decode(e.encode_event(event))  # type: ignore[misc]
    at = data.draw(st.integers(0, len(values) - 1))
    bad = [*values[:at], {"a": 1}, *values[at + 1 :]]
    for record in ([name, *bad], [name, *values, 0], [name, *values[:-1]], ["Nothing", *values]):
        with pytest.raises(ProtocolError, match="not an event"):
            e.decode_event(encoding.encode(record))  # type: ignore[arg-type]


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not an event"):
        e.decode_event(data)


def test_true_is_no_number() -> None:
    record = encoding.encode(["Moved", "a", "b", True])
    with pytest.raises(ProtocolError):
        e.decode_event(record)


def test_a_replay_of_the_bytes_gives_the_same_state() -> None:
    stage, license = licensed()
    stage.permit(license, "hello")
    convicted(stage, license)
    stage.wait(stage.parameters.appeal_seconds + 1)
    stage.do(convictions.SettleConviction(stage.id("owner"), license))
    log = [e.decode_event(e.encode_event(one)) for one in stage.log]
    assert State(stage.id("platform"), stage.parameters).replay(log) == stage.state
    assert State(stage.id("platform"), stage.parameters).replay(log[:-1]) != stage.state


def test_a_log_that_overdraws_is_refused() -> None:
    state = State(b"p" * 32)
    with pytest.raises(ProtocolError, match="below 0"):
        state.record(0, e.Moved("free:aa", "free:bb", 1))
    with pytest.raises(ProtocolError, match="below 0"):
        state.record(0, e.Moved("outside", "free:bb", -1))
    assert state.length == 0


def wild_command(stage: Stage, license: bytes, rng: random.Random) -> object:
    """Anything that anybody might send, mostly refused."""
    role = rng.choice((*PROVERS[:2], *VERIFIERS[:2], "host", "owner", "platform", "stranger"))
    who, amount = stage.id(role), rng.choice((0, 1, 999, 10_000_000, 10**12))
    claims = list(stage.state.claims) or [bytes(32)]
    number = stage.state.licenses[license].draws
    key, reply = f"key {number - rng.randrange(2)}", "reply"
    drawn = stage.state.licenses[license].drawn
    if drawn is not None and rng.random() < 0.5:
        who = drawn.prover  # else hardly any claim would come about
    kinds = [
        stake.Deposit(who, stage.id(rng.choice(PROVERS)), amount),
        stake.Withdraw(who, amount),
        stake.Bond(who, rng.choice(("prover", "verifier", "king")), amount),
        stake.Unbond(who, rng.choice(("prover", licenses.purpose(license), "license:zz")), amount),
        stake.Release(who, rng.choice(("prover", licenses.purpose(license)))),
        disputes.DrawKey(who, license),
        disputes.DrawKey(stage.id("platform"), license),
        disputes.Commit(who, license, disputes.commitment(key, reply, b"s", who)),
        disputes.DemandAnswer(who, license, key),
        disputes.MakeClaim(who, license, key, reply, b"s", stage.answer(license, key, reply)),
        disputes.OpenLeaf(stage.id("platform"), rng.choice(claims), bytes(32)),
        *(
            voting.GiveVerdict(stage.id(one), rng.choice((claims[-1], license)), rng.random() < 0.9)
            for one in VERIFIERS
        ),
        disputes.SettleClaim(who, claims[-1]),
        disputes.OpenLeaf(stage.id("platform"), claims[-1], bytes(32)),
        disputes.SettleClaim(who, rng.choice(claims)),
        convictions.Appeal(who, license),
        convictions.SettleConviction(who, license),
        licenses.EndLicense(who, license) if rng.random() < 0.02 else stake.Withdraw(who, 1),
    ]
    return rng.choice(kinds)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_is_sent_money_adds_up_and_the_log_replays(seed: int) -> None:
    rng = random.Random(seed)
    stage, license = licensed()
    went, refusals = 0, []
    for sent in range(2500):
        if sent >= 250 and went > 20:  # a few seeds send much that is refused
            break
        command = wild_command(stage, license, rng)
        before = copy.deepcopy(stage.state)
        try:
            events = apply(stage.state, command, stage.at)  # type: ignore[arg-type]
        except ProtocolError as error:
            refusals.append(error)
            events = []
        assert stage.state == before  # deciding changes nothing
        stage.record(events)  # and recording never fails
        went += bool(events)
        stage.wait(rng.choice((0, 1, 3600, 86_400)))
        held = stage.state.balances
        assert sum(held.values()) == 0
        assert all(amount >= 0 for name, amount in held.items() if name != e.OUTSIDE)
    assert went > 20
    assert all(one.rule and one.hint for one in refusals)
    assert State(stage.id("platform"), stage.parameters).replay(stage.log) == stage.state


def test_the_electorate_is_what_the_balances_say() -> None:
    stage, license = licensed()
    convicted(stage, license)
    stage.do(stake.Unbond(stage.id("prover 2"), "prover", 10_000_000))
    stage.do(stake.Unbond(stage.id("prover 3"), "prover", 1))
    again = State(stage.id("platform"), balances=dict(stage.state.balances))
    for purpose, roles in (("prover", PROVERS), ("verifier", VERIFIERS)):
        bonds = {
            stage.id(role): stage.state.balance(e.bond(purpose, stage.id(role))) for role in roles
        }
        expected = tuple(sorted((who, amount) for who, amount in bonds.items() if amount))
        assert stage.state.electorate(purpose) == expected == again.electorate(purpose)
    assert len(stage.state.electorate("prover")) == len(PROVERS) - 1
