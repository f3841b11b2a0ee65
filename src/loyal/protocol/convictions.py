"""Rules C11 to C13: when claims convict a host, how it appeals, and what a slash takes.

C11 A host is convicted when its upheld claims among all draws reach an e-value of one over the
    false conviction bound, and come from `least_provers` provers. After a conviction that was
    quashed the count is anew: draws from before it, and claims on them, are no part of it.
C12 A convicted host may appeal with a bond; a quorum must then uphold the conviction itself, of
    those who could judge the claim that made it: stake that comes later buys no vote here either.
C13 A slash takes the license's stake, on its way back or not, and never more than it. Of it the
    bounty goes to the provers, `owners_bps` to the owners but for the host itself, the rest burns.
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal.protocol import events as e
from loyal.protocol.licenses import known, purpose
from loyal.protocol.stake import divide, move, refuse
from loyal.protocol.state import Claim, License, Moment, State
from loyal.protocol.voting import appeal_ballot, decided
from loyal.statistics import sequential_hits


@dataclass(frozen=True)
class Appeal:
    """The host has its conviction judged again."""

    author: bytes
    license: bytes


@dataclass(frozen=True)
class SettleConviction:
    """Slash, or quash; anybody may, once the time is over."""

    author: bytes
    license: bytes


def appeal(state: State, command: Appeal, at: Moment) -> list[e.Event]:
    """C12."""
    license = known(state, command.license)
    convicted = license.conviction
    if convicted is None or license.settled or license.appeal is not None:
        refuse("C12", "there is no conviction to appeal", "look at `loyal dispute show`")
    if command.author != license.host or at.seconds > convicted.appeal_until:
        refuse("C12", f"the host could appeal until {convicted.appeal_until}", "it is too late")
    account = e.bond(f"appeal:{command.license.hex()}", license.host)
    stake = move(state, e.free(license.host), account, state.parameters.appeal_bond_micro)
    until = at.seconds + state.parameters.appeal_seconds
    judges = state.claims[convicted.claim].made.electorate
    return [stake, e.Appealed(command.license, judges, until)]


def settle_conviction(state: State, command: SettleConviction, at: Moment) -> list[e.Event]:
    """C12 and C13."""
    license = known(state, command.license)
    convicted = license.conviction
    if convicted is None or license.settled:
        refuse("C13", "there is no open conviction", "look at `loyal dispute show`")
    if license.appeal is None:
        if at.seconds <= convicted.appeal_until:
            refuse("C13", f"the host may appeal until {convicted.appeal_until}", "wait until then")
        return [*_slash(state, command.license, license), _settled(command.license, True)]
    ballot = appeal_ballot(command.license, license.appeal.until)
    stands = decided(state, ballot, license.appeal.electorate)
    if stands is None and at.seconds <= license.appeal.until:
        refuse("C12", f"the verifiers have time until {license.appeal.until}", "wait for them")
    account = e.bond(f"appeal:{command.license.hex()}", license.host)
    held = state.balance(account)
    if stands:
        burned = e.Moved(account, e.BURNED, held)
        return [burned, *_slash(state, command.license, license), _settled(command.license, True)]
    back = e.Moved(account, e.free(license.host), held)
    return [back, _settled(command.license, False)]


def convict(state: State, name: bytes, one: Claim, at: Moment) -> list[e.Event]:
    """C11, with the claim that is being upheld counted in."""
    license = state.licenses[one.made.license]
    forgiven = one.made.number < license.forgiven
    if license.conviction is not None or license.usage is None or forgiven:
        return []
    provers = {state.claims[past].made.prover for past in license.upheld} | {one.made.prover}
    hits = len(license.upheld) + 1
    needed = sequential_hits(
        license.draws - license.forgiven,
        license.usage.candidates,
        state.parameters.false_conviction_one_in,
    )
    if needed is None or hits < needed or len(provers) < state.parameters.least_provers:
        return []
    until = at.seconds + state.parameters.appeal_seconds
    draws = license.draws - license.forgiven
    return [e.Convicted(one.made.license, name, hits, draws, until)]


def _slash(state: State, name: bytes, license: License) -> list[e.Event]:
    """C13: all of the stake, the bounty by upheld claims."""
    amount = state.staked(purpose(name), license.host)
    provers = sorted(state.claims[one].made.prover for one in license.upheld)
    counts = tuple((one, provers.count(one)) for one in dict.fromkeys(provers))
    return divide(state, name, amount, f"slash:{name.hex()}", counts)


def _settled(license: bytes, slashed: bool) -> e.ConvictionSettled:
    return e.ConvictionSettled(license, slashed)
