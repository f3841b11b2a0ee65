"""Commands come from strangers: whatever a field holds, a rule's error or nothing comes of it."""

from __future__ import annotations

import dataclasses

import pytest
from parties import VERIFIERS, Stage, licensed, refused

from loyal.errors import ProtocolError
from loyal.protocol import (
    breaches,
    convictions,
    disputes,
    licenses,
    lineage,
    permits,
    stake,
    tokens,
    violations,
    voting,
)
from loyal.protocol import events as e
from loyal.protocol.answers import SignedAnswer
from loyal.protocol.permission import BatchHeader, Receipt
from loyal.protocol.rules import _RULES, apply
from loyal.signing import Signed

BAD: tuple[object, ...] = (
    None, True, 1, -1, 2**64, 10**40, 1.5, b"", b"short", bytes(33), bytearray(32), "",
    "\ud800", "x" * 100_000, [], (), (1,), ((b"", 1),), ((bytes(32), True),), {}, set(), object(),
    (bytes(32),) * 2_000,
)  # fmt: skip


def commands() -> tuple[Stage, list[object]]:
    """One of each kind, on a stage where most of them would go."""
    stage, license = licensed()
    model = stage.state.licenses[license].model
    receipt, salt = stage.permit(license, "asked")
    claim = stage.probe(license, 0)
    stage.do(disputes.OpenLeaf(stage.id("platform"), claim, bytes(32)))
    stage.wait(stage.parameters.rebuttal_seconds + 1)
    prover = stage.draw(license)
    stage.commit(prover, "key", "reply")
    answer = stage.answer(license, "key", "reply")
    terms = stage.terms(model, most_inferences=7)
    signed = terms.sign(stage.key("host")), terms.sign(stage.key("platform"))
    me, host, platform = stage.id(prover), stage.id("host"), stage.id("platform")
    shares = ((stage.id("owner"), 10_000),)
    return stage, [
        stake.Deposit(platform, host, 5),
        stake.Withdraw(host, 5),
        stake.Bond(host, "verifier", 5),
        stake.Unbond(me, "prover", 5),
        stake.Release(me, "prover"),
        lineage.PublishModel(stage.id("owner"), b"w" * 32, model, bytes(32), shares),
        lineage.ChallengeLineage(stage.id("owner"), model, model),
        lineage.SettleLineage(me, bytes(32)),
        lineage.ReclaimBond(stage.id("owner"), model),
        licenses.SignLicense(platform, terms, *signed),
        licenses.CommitUsage(platform, license, bytes(32), 50, 16),
        licenses.DeliverModel(platform, license, bytes(32)),
        licenses.EndLicense(host, license),
        voting.GiveVerdict(stage.id(VERIFIERS[0]), claim, True),
        disputes.DrawKey(platform, license),
        disputes.Commit(me, license, bytes(32)),
        disputes.DemandAnswer(me, license, "key"),
        disputes.GiveAnswer(host, bytes(32), answer),
        disputes.MakeClaim(me, license, "key", "reply", b"salt", answer),
        disputes.OpenLeaf(platform, claim, bytes(32)),
        disputes.Rebut(host, claim, receipt, "key", (salt,)),
        disputes.SettleClaim(me, claim),
        convictions.Appeal(host, license),
        convictions.SettleConviction(me, license),
        violations.ShowViolation(me, license, "a spell", stage.answer(license, "a spell", "yes")),
        tokens.BuyTokens(host, license, 5),
        tokens.ReportTokens(host, license, ((0, bytes(32)),)),
        breaches.PromisePrompts(stage.id(VERIFIERS[0]), license, bytes(32)),
        breaches.DrawOrder(platform, bytes(32)),
        breaches.ClaimBreach(stage.id(VERIFIERS[0]), bytes(32), bytes(32)),
        breaches.SettleBreach(me, bytes(32)),
    ]


def tried(stage: Stage, command: object) -> None:
    try:
        events = apply(stage.state, command, stage.at)  # type: ignore[arg-type]
    except ProtocolError:
        return
    for event in events:
        assert e.decode_event(e.encode_event(event)) == event


def test_no_field_of_any_command_breaks_a_rule_or_the_log() -> None:
    stage, all_kinds = commands()
    assert {type(one) for one in all_kinds} == set(_RULES)
    for command in all_kinds:
        tried(stage, command)
        for field in dataclasses.fields(command):  # type: ignore[arg-type]
            for bad in BAD:
                tried(stage, dataclasses.replace(command, **{field.name: bad}))  # type: ignore[type-var]


def test_what_stands_inside_a_command_is_looked_at_too() -> None:
    stage, all_kinds = commands()
    claim = next(one for one in all_kinds if isinstance(one, disputes.MakeClaim))
    rebut = next(one for one in all_kinds if isinstance(one, disputes.Rebut))
    for bad in BAD:
        tried(stage, dataclasses.replace(claim, answer=SignedAnswer(bad)))  # type: ignore[arg-type]
        for field in dataclasses.fields(Signed):
            signed = dataclasses.replace(claim.answer.signed, **{field.name: bad})
            tried(stage, dataclasses.replace(claim, answer=SignedAnswer(signed)))
        for field in dataclasses.fields(Receipt):
            receipt = dataclasses.replace(rebut.receipt, **{field.name: bad})
            tried(stage, dataclasses.replace(rebut, receipt=receipt))
        for field in dataclasses.fields(BatchHeader):
            header = dataclasses.replace(rebut.receipt.header, **{field.name: bad})
            receipt = dataclasses.replace(rebut.receipt, header=header)
            tried(stage, dataclasses.replace(rebut, receipt=receipt))


@pytest.mark.parametrize("bad", BAD)
def test_terms_of_another_form_are_refused(bad: object) -> None:
    stage, license = licensed()
    terms = stage.terms(stage.state.licenses[license].model)
    for field in dataclasses.fields(terms):
        try:
            made = dataclasses.replace(terms, **{field.name: bad})
        except ProtocolError:
            continue
        assert licenses.Terms.from_bytes(made.to_bytes()) == made


def test_a_verdict_that_is_no_bool_would_make_the_log_unreadable() -> None:
    stage, all_kinds = commands()
    verdict = next(one for one in all_kinds if isinstance(one, voting.GiveVerdict))
    event = voting.give(stage.state, dataclasses.replace(verdict, holds=1), stage.at)[0]  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="not an event"):
        e.decode_event(e.encode_event(event))
    one = dataclasses.replace(verdict, holds=1)  # type: ignore[arg-type]
    assert refused(lambda: apply(stage.state, one, stage.at)) == ""


def test_what_is_no_command_is_refused() -> None:
    stage = Stage()
    for other in (None, "Deposit", Stage, object()):
        assert refused(lambda one=other: apply(stage.state, one, stage.at)) == ""


def test_a_malformed_request_does_not_hold_up_the_others() -> None:
    stage, license = licensed()
    good = permits.PermissionRequest(stage.id("host"), license, (bytes(32),), b"good")
    bad = [
        dataclasses.replace(good, **{field.name: value})
        for field in dataclasses.fields(good)
        for value in (None, [], 1, "text", (1,), (None,))
    ]
    issued = permits.issue(stage.state, [*bad, good], {}, stage.at, stage.key("platform"))
    assert issued.positions == (*[None] * len(bad), 0)


def test_more_money_than_a_number_holds_is_not_credited() -> None:
    stage = Stage()
    for _ in range(2):
        stage.do(stake.Deposit(stage.id("platform"), stage.id("host"), 2**62))
        stage.do(stake.Withdraw(stage.id("host"), 2**62))
    stage.do(stake.Deposit(stage.id("platform"), stage.id("host"), 2**62))
    more = stake.Deposit(stage.id("platform"), stage.id("owner"), 2**62)
    assert refused(lambda: stage.do(more)) == "S2"
