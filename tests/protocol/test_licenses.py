"""Licenses: signed by both sides, paid, delivered in order, and permissions that cost once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import PLENTY, STAKE, Stage, licensed, refused, salt_of

from loyal.errors import ProtocolError
from loyal.protocol import licenses, permits
from loyal.protocol.licenses import Terms
from loyal.protocol.permission import MessageDigest


def stage_with_model() -> tuple[Stage, Terms]:
    stage = Stage()
    stage.fund("owner", "host")
    return stage, stage.terms(stage.publish("owner", "the model"))


def test_both_sides_sign_the_same_terms() -> None:
    stage, terms = stage_with_model()
    other = replace(terms, price_micro=1)
    good = terms.sign(stage.key("host")), terms.sign(stage.key("platform"))
    for host, platform in (
        (other.sign(stage.key("host")), good[1]),
        (good[0], other.sign(stage.key("platform"))),
        (good[1], good[0]),
        (b"", good[1]),
    ):
        command = licenses.SignLicense(stage.id("platform"), terms, host, platform)
        assert refused(lambda one=command: stage.do(one)) == "L1"
    command = licenses.SignLicense(stage.id("platform"), terms, *good)
    stage.do(command)
    assert refused(lambda: stage.do(command)) == "L1"
    assert stage.free("host") == PLENTY - STAKE


def test_a_host_without_the_stake_gets_no_license() -> None:
    stage, terms = stage_with_model()
    greedy = replace(terms, stake_micro=PLENTY + 1)
    assert refused(lambda: stage.sign(greedy)) == "S2"
    with pytest.raises(ProtocolError, match="protects nobody"):
        replace(terms, stake_micro=0)


def test_a_subscription_is_paid_once_and_its_queries_cost_nothing() -> None:
    stage, license = licensed(kind="subscription", price_micro=5_000_000)
    assert stage.free("host") == PLENTY - STAKE - 5_000_000
    assert stage.free("owner") == PLENTY - 1_000_000 + 3_000_000
    assert stage.free("member") == PLENTY + 2_000_000
    before = stage.free("host")
    for number in range(3):
        stage.permit(license, f"query {number}")
    assert stage.free("host") == before


def test_each_query_pays_everybody_who_has_a_part() -> None:
    stage, license = licensed()
    before = stage.free("host"), stage.free("owner"), stage.free("member")
    for number in range(10):
        stage.permit(license, f"query {number}")
    after = stage.free("host"), stage.free("owner"), stage.free("member")
    assert [b - a for a, b in zip(before, after, strict=True)] == [-10_000, 6_000, 4_000]


def test_a_host_that_cannot_pay_gets_no_permission() -> None:
    stage, license = licensed(price_micro=40_000_000)
    stage.permit(license, "one")
    stage.permit(license, "two")
    assert refused(lambda: stage.permit(license, "three")) == "P4"


def request(stage: Stage, license: bytes, message: str, name: bytes) -> permits.PermissionRequest:
    digest = MessageDigest.of(message, salt_of(1)).value
    return permits.PermissionRequest(stage.id("host"), license, (digest,), name)


def test_the_same_request_twice_costs_once() -> None:
    stage, license = licensed()
    one, same = request(stage, license, "q", b"k1"), request(stage, license, "q", b"k1")
    other = request(stage, license, "another", b"k1")
    issued = permits.issue(stage.state, [one, same, other], {}, stage.at, stage.key("platform"))
    assert issued.positions == (0, None, None)
    assert dict(issued.repeated) == {1: b"k1"}
    assert issued.refusals[2].rule == "P3"
    stage.record(issued.events)
    known = {(license, b"k1"): one.body}
    again = permits.issue(stage.state, [same, other], known, stage.at, stage.key("platform"))
    assert again.events == ()
    assert again.batch is None
    assert dict(again.repeated) == {0: b"k1"}
    assert again.refusals[1].rule == "P3"
    assert stage.state.licenses[license].permitted == 1


def test_who_asks_for_what() -> None:
    stage, license = licensed()
    good = request(stage, license, "q", b"k")
    bad = [
        replace(good, host=stage.id("stranger")),
        replace(good, license=bytes(32)),
        replace(good, idempotency_key=b""),
        replace(good, idempotency_key=b"k" * 65),
        replace(good, messages=()),
        replace(good, messages=(b"short",)),
    ]
    issued = permits.issue(stage.state, [*bad, good], {}, stage.at, stage.key("platform"))
    assert [issued.refusals[n].rule for n in range(6)] == ["P1", "L1", "P3", "P3", "P1", "P1"]
    assert issued.positions[-1] == 0
    with pytest.raises(ProtocolError) as caught:
        permits.issue(stage.state, [good], {}, stage.at, stage.key("host"))
    assert caught.value.rule == "P5"


def test_the_batchs_place_in_the_log_is_where_it_lands() -> None:
    stage, license = licensed()
    receipt, _ = stage.permit(license, "q")
    assert stage.state.batches[receipt.header.log_index] == receipt.header.root
    assert receipt.permission.model_version == stage.state.licenses[license].weights


@pytest.mark.parametrize(("count", "candidates"), [(8, 16), (1, 4096), (30, 2)])
def test_a_set_that_could_never_convict_is_no_set(count: int, candidates: int) -> None:
    stage, terms = stage_with_model()
    license = stage.sign(terms)
    command = licenses.CommitUsage(stage.id("platform"), license, bytes(32), count, candidates)
    assert refused(lambda: stage.do(command)) == "L3"
    stage.do(replace(command, count=10**12))


def test_the_purpose_is_a_rule_that_anybody_can_check() -> None:
    stage, terms = stage_with_model()
    assert terms.allows("How do I bake bread?")
    assert terms.allows("Spelling is hard.")
    for prompt in ("Cast a spell!", "a SPELL, please", "(spell)"):
        assert not terms.allows(prompt)
    assert stage.id("host") == terms.host


@given(
    st.sampled_from(["free", "subscription", "pay_per_use"]),
    st.integers(1, 10**15),
    st.integers(0, 10**9),
    st.lists(st.text(max_size=10), max_size=4),
)
def test_terms_have_one_form(kind: str, number: int, most: int, words: list[str]) -> None:
    price = 0 if kind == "free" else number
    terms = Terms(
        b"m" * 32, b"h" * 32, kind, price, most, number, number, "why", tuple(words), bytes(32)
    )  # fmt: skip
    assert Terms.from_bytes(terms.to_bytes()) == terms
    assert Terms.from_bytes(terms.to_bytes()).license_id == terms.license_id


@given(st.binary(max_size=80))
def test_other_bytes_are_no_terms(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Terms.from_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "free"},
        {"kind": "gift"},
        {"price_micro": 0},
        {"price_micro": -1},
        {"price_micro": 1.5},
        {"host": b"h"},
    ],
)
def test_terms_that_make_no_sense_are_refused(change: dict) -> None:
    _, terms = stage_with_model()
    with pytest.raises(ProtocolError):
        replace(terms, **change)
