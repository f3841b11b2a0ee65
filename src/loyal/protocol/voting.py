"""Rules V: verdicts of verifiers, and when they decide.

V1  Only a verifier who had a bond when the claim or the challenge was made is heard, with that bond
    as weight: stake that comes later buys no vote. An appeal has the voters of its last claim.
V2  Each verifier signs one verdict a case, for good.
V3  Nobody judges a case in which it is a party, and a party's bond is no part of the weight: so
    it does not keep the others from a quorum.
V4  A case is decided when `quorum_bps` of that weight say the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal.protocol import events as e
from loyal.protocol.parameters import WHOLE_BPS
from loyal.protocol.stake import refuse
from loyal.protocol.state import Moment, State

Electorate = tuple[tuple[bytes, int], ...]


@dataclass(frozen=True)
class GiveVerdict:
    """A verifier says whether a case holds: a claim, a lineage challenge, an appealed
    conviction (named by its license), or one of the two questions of a breach (its ballot)."""

    author: bytes
    case: bytes
    holds: bool


def give(state: State, command: GiveVerdict, at: Moment) -> list[e.Event]:
    """V1 to V3."""
    voters, parties, after, until = _case(state, command.case)
    if command.author in parties:
        refuse("V3", "a party does not judge its own case", "leave it to the others")
    if command.author not in dict(voters):
        refuse("V1", "this verifier had no bond when the case began", "bond for the next cases")
    if command.author in state.verdicts.get(_ballot(state, command.case), {}):
        refuse("V2", "this verifier has signed a verdict already", "a verdict is for good")
    if not after < at.seconds <= until:
        refuse("V2", f"verdicts are heard after {after} and until {until}", "come then")
    return [e.VerdictGiven(_ballot(state, command.case), command.author, command.holds)]


def electorate(state: State, parties: tuple[bytes, ...]) -> Electorate:
    """V1 and V3: who may judge a case that begins now."""
    return tuple(one for one in state.electorate() if one[0] not in parties)


def decided(state: State, ballot: bytes, voters: Electorate) -> bool | None:
    """V4: what a quorum says; None where there is none."""
    whole = sum(weight for _, weight in voters)
    given = state.verdicts.get(ballot, {})
    for side in (True, False):
        weight = sum(stake for verifier, stake in voters if given.get(verifier) is side)
        if whole and weight * WHOLE_BPS >= state.parameters.quorum_bps * whole:
            return side
    return None


def appeal_ballot(license: bytes, until: int) -> bytes:
    """Where the verdicts on an appealed conviction are kept: a second one has its own."""
    return license + until.to_bytes(8, "big")


def _ballot(state: State, case: bytes) -> bytes:
    license = state.licenses.get(case)
    if license is not None and license.appeal is not None:
        return appeal_ballot(case, license.appeal.until)
    return case


def _case(state: State, case: bytes) -> tuple[Electorate, tuple[bytes, ...], int, int]:
    """Who may judge a case, its parties, and between which times (after, until)."""
    claim = state.claims.get(case)
    if claim is not None and claim.opened is not None and not claim.settled:
        license = state.licenses[claim.made.license]
        opened = claim.opened
        parties = (claim.made.prover, license.host)
        return claim.made.electorate, parties, opened.rebuttal_until, opened.verdict_until
    challenge = state.challenges.get(case)
    if challenge is not None and case not in state.settled_challenges:
        parties = (challenge.challenger, state.models[challenge.model].publisher)
        return challenge.electorate, parties, -1, challenge.until
    breach = state.breaches.get(state.breach_ballots.get(case, b""))
    if breach is not None and not breach.settled:
        made, host = breach.made, state.licenses[breach.promise.license].host
        return made.electorate, (breach.promise.author, host), made.after, made.until
    found = state.licenses.get(case)
    if found is not None and found.appeal is not None and not found.settled:
        return found.appeal.electorate, (found.host,), -1, found.appeal.until
    refuse("V1", "there is no such open case", "look at `loyal dispute show`")
