"""The one door to the rules: `apply(state, command, at) -> events`.

    events = apply(state, command, at)      # decides; changes nothing, may raise ProtocolError
    for event in events:
        state.record(state.length, event)   # once they are durable

A command's `author` is whoever signed it: `commands.enact` checks that before. Permissions are
issued many at a time, through `permits.issue`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loyal.errors import ProtocolError
from loyal.protocol import (
    breaches,
    convictions,
    disputes,
    licenses,
    lineage,
    stake,
    tokens,
    violations,
    voting,
)
from loyal.protocol.events import Event
from loyal.protocol.forms import require_form
from loyal.protocol.state import Moment, State

Command = (
    stake.Deposit
    | stake.Withdraw
    | stake.Bond
    | stake.Unbond
    | stake.Release
    | lineage.PublishModel
    | lineage.ChallengeLineage
    | lineage.SettleLineage
    | lineage.ReclaimBond
    | licenses.SignLicense
    | licenses.CommitUsage
    | licenses.DeliverModel
    | licenses.EndLicense
    | voting.GiveVerdict
    | disputes.DrawKey
    | disputes.Commit
    | disputes.DemandAnswer
    | disputes.GiveAnswer
    | disputes.MakeClaim
    | disputes.OpenLeaf
    | disputes.Rebut
    | disputes.SettleClaim
    | convictions.Appeal
    | convictions.SettleConviction
    | violations.ShowViolation
    | tokens.BuyTokens
    | tokens.ReportTokens
    | breaches.PromisePrompts
    | breaches.DrawOrder
    | breaches.ClaimBreach
    | breaches.SettleBreach
)

_RULES: dict[type, Callable[[State, Any, Moment], list[Event]]] = {
    stake.Deposit: stake.deposit,
    stake.Withdraw: stake.withdraw,
    stake.Bond: stake.bond,
    stake.Unbond: stake.unbond,
    stake.Release: stake.release,
    lineage.PublishModel: lineage.publish,
    lineage.ChallengeLineage: lineage.challenge,
    lineage.SettleLineage: lineage.settle,
    lineage.ReclaimBond: lineage.reclaim,
    licenses.SignLicense: licenses.sign_license,
    licenses.CommitUsage: licenses.commit_usage,
    licenses.DeliverModel: licenses.deliver,
    licenses.EndLicense: licenses.end,
    voting.GiveVerdict: voting.give,
    disputes.DrawKey: disputes.draw_key,
    disputes.Commit: disputes.commit,
    disputes.DemandAnswer: disputes.demand,
    disputes.GiveAnswer: disputes.give_answer,
    disputes.MakeClaim: disputes.claim,
    disputes.OpenLeaf: disputes.open_leaf,
    disputes.Rebut: disputes.rebut,
    disputes.SettleClaim: disputes.settle_claim,
    convictions.Appeal: convictions.appeal,
    convictions.SettleConviction: convictions.settle_conviction,
    violations.ShowViolation: violations.show,
    tokens.BuyTokens: tokens.buy,
    tokens.ReportTokens: tokens.report,
    breaches.PromisePrompts: breaches.promise,
    breaches.DrawOrder: breaches.draw_order,
    breaches.ClaimBreach: breaches.claim,
    breaches.SettleBreach: breaches.settle,
}

COMMANDS: Mapping[str, Any] = {kind.__name__: kind for kind in _RULES}
"""What there is to ask for, by name."""


def apply(state: State, command: Command, at: Moment) -> list[Event]:
    """The events that follow from `command`, or ProtocolError with the rule that forbids it.

    Law: `state` is as before; recording the events in order never fails.
    """
    if at.index != state.length:
        raise ProtocolError(
            f"the log goes on at {state.length}, not at {at.index}",
            hint="read the log to its end first",
        )
    rule = _RULES.get(type(command))
    if rule is None:
        raise ProtocolError("there is no such command", hint="see docs/protocol.md for the rules")
    require_form(command)
    return rule(state, command, at)
