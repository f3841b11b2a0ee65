"""What the state says of one thing, as plain values for JSON: ids in hexadecimal, money in micro.

Each function takes as long as its answer, whatever else the state holds, and reads only: steps wait
for it. None shows a key, a reply or a salt.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from loyal.protocol import State
from loyal.protocol.events import Event, bond, field_types, free
from loyal.protocol.licenses import purpose
from loyal.protocol.lineage import bond_purpose
from loyal.protocol.state import Claim


def event_fields(event: Event) -> dict[str, Any]:
    """An event, with its kind."""
    values = {name: _plain(getattr(event, name)) for name in field_types(type(event))}
    return {"kind": type(event).__name__, **values}


def license_fields(state: State, name: bytes) -> dict[str, Any] | None:
    """How a license stands; None where there is none."""
    license = state.licenses.get(name)
    if license is None:
        return None
    drawn, conviction, usage = license.drawn, license.conviction, license.usage
    return {
        "license": name.hex(),
        "host": license.host.hex(),
        "model": license.model.hex(),
        "expires": license.expires,
        "permitted": license.permitted,
        "delivered": license.weights is not None,
        "ended": license.ended,
        "draws": license.draws,
        "upheld": len(license.upheld),
        "open_claims": license.open_claims,
        "usage_root": usage.root.hex() if usage else None,
        "keys": usage.count if usage else 0,
        "slashed": license.settled,
        "stake_micro": state.staked(purpose(name), license.host),
        "tokens": {
            "bought": license.tokens,
            "reported": len(license.reported),
            "reported_below": license.reported_below,
            "purchases": [
                {"first": first, "count": count, "ripe": ripe}
                for first, count, ripe in license.allowances
            ],
        },
        "drawn": None
        if drawn is None
        else {
            "number": drawn.number,
            "prover": drawn.prover.hex(),
            "until": drawn.until,
            "closed": license.closed,
        },
        "conviction": None
        if conviction is None
        else {
            "claim": conviction.claim.hex(),
            "hits": conviction.hits,
            "draws": conviction.draws,
            "appeal_until": conviction.appeal_until,
            "appealed_until": license.appeal.until if license.appeal else None,
        },
    }


def model_fields(state: State, name: bytes) -> dict[str, Any]:
    """A model of the registry, with its challenges and what is left of its publisher's bond."""
    model = state.models[name]
    return {
        "model": name.hex(),
        "publisher": model.publisher.hex(),
        "weights": model.weights.hex(),
        "parent": model.parent.hex() if model.parent else None,
        "root": model.fingerprint_root.hex(),
        "shares_bps": {owner.hex(): share for owner, share in model.shares_bps},
        "challenged_until": model.challenged_until,
        "bond_micro": state.balance(bond(bond_purpose(name), model.publisher)),
        "challenges": [
            {
                "challenge": made.challenge.hex(),
                "ancestor": made.ancestor.hex(),
                "challenger": made.challenger.hex(),
                "until": made.until,
                "settled": made.challenge in state.settled_challenges,
            }
            for made in map(state.challenges.__getitem__, state.challenges_of(name))
        ],
    }


def account_fields(state: State, party: bytes) -> dict[str, Any]:
    """A party's money, and the number of its last command (-1 for none)."""
    return {
        "free_micro": state.balance(free(party)),
        "bonds": state.bonds_of(party),
        "last_number": state.numbers.get(party, -1),
    }


def claims_of(state: State, license: bytes) -> list[dict[str, Any]]:
    """Every claim on a license, oldest first."""
    return [claim_fields(state, name, state.claims[name]) for name in state.claims_on(license)]


def claim_fields(state: State, name: bytes, claim: Claim) -> dict[str, Any]:
    """What the log says of one claim; weights in millionths and bps of the whole."""
    made = claim.made
    stage, until = _stage(claim)
    return {
        "claim": name.hex(),
        "license": made.license.hex(),
        "host": state.licenses[made.license].host.hex(),
        "number": made.number,
        "prover": made.prover.hex(),
        "state": stage,
        "until": until,
        **_votes(state, name, made.electorate),
    }


def promise_fields(state: State, name: bytes) -> dict[str, Any]:
    """What the log says of promised prompts; `claim_until` is None until their order is drawn."""
    made, order = state.promises[name], state.orders.get(name)
    return {
        "promise": name.hex(),
        "license": made.license.hex(),
        "author": made.author.hex(),
        "root": made.root.hex(),
        "earlier": made.earlier,
        "claim_until": order.until if order else None,
    }


def breach_fields(state: State, name: bytes) -> dict[str, Any]:
    """What the log says of a breach: its two questions, each with its votes."""
    one = state.breaches[name]
    stage = "open to the host, then verdicts"
    if one.settled:
        stage = "upheld" if one.upheld else "dismissed or lapsed"
    made = one.made
    return {
        "breach": name.hex(),
        "promise": made.promise.hex(),
        "license": one.promise.license.hex(),
        "author": one.promise.author.hex(),
        "evidence": made.evidence.hex(),
        "state": stage,
        "verdicts_after": made.after,
        "until": made.until,
        "descent": _votes(state, made.descent, made.electorate),
        "deviation": _votes(state, made.deviation, made.electorate),
    }


def _votes(
    state: State, ballot: bytes, electorate: tuple[tuple[bytes, int], ...]
) -> dict[str, Any]:
    voters, given = dict(electorate), state.verdicts.get(ballot, {})
    whole = sum(voters.values())
    sides = {
        side: sum(voters.get(one, 0) for one, holds in given.items() if holds is side)
        for side in (True, False)
    }
    return {
        "for_bps": sides[True] * 10_000 // whole if whole else 0,
        "against_bps": sides[False] * 10_000 // whole if whole else 0,
        "quorum_bps": state.parameters.quorum_bps,
        "votes": [
            {"verifier": one.hex(), "weight_micro": voters[one], "holds": given.get(one)}
            for one in sorted(voters)
        ],
    }


def _stage(claim: Claim) -> tuple[str, int | None]:
    """How far it has come, and the Unix seconds at which that ends."""
    if claim.rebutted:
        return "rebutted", None
    if claim.settled:
        return ("upheld" if claim.upheld else "dismissed or lapsed"), None
    if claim.opened is None:
        return "waits for its leaf", claim.made.until
    return "open to rebuttal, then verdicts", claim.opened.verdict_until


def parameter_fields(state: State) -> dict[str, int]:
    """Every parameter by name."""
    return dataclasses.asdict(state.parameters)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value
