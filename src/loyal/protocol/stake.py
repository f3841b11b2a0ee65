"""Rules S: money in and out, bonds, and their slow way back.

S1  Only the platform credits money that came from outside, and only an owner takes its own out.
S2  A bond is moved from a party's free account, whole or not at all.
S3  Unbonding takes `unbond_seconds`; asking again for more starts the wait anew for all of it.
    A claim that is upheld holds a license's stake as long again, from the end of its verdicts: so
    hits add up to a conviction although each of them is over soon.
S4  What is on its way back can be slashed up to and including the second at which the wait ends,
    and is free only after it: no instant is both, and none is neither.
S5  A license's stake cannot be asked back while the license gives permissions, a claim on it is
    open, or a conviction stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from loyal.errors import ProtocolError
from loyal.protocol import events as e
from loyal.protocol.parameters import WHOLE_BPS
from loyal.protocol.state import License, Moment, State

ROLES = ("verifier", "prover")
"""What anybody may bond for; other bonds belong to a license, a model or a claim."""
MOST_MICRO = 2**63 - 1
"""All money inside, so that every amount has its place in an event."""


@dataclass(frozen=True)
class Deposit:
    """The platform saw money of `party` arrive."""

    author: bytes
    party: bytes
    amount_micro: int


@dataclass(frozen=True)
class Withdraw:
    """A party takes money out."""

    author: bytes
    amount_micro: int


@dataclass(frozen=True)
class Bond:
    """A party puts money at stake as a verifier or a prover."""

    author: bytes
    purpose: str
    amount_micro: int


@dataclass(frozen=True)
class Unbond:
    """A party asks for a bond back: of a role, or `license:` and the license's id in hex."""

    author: bytes
    purpose: str
    amount_micro: int


@dataclass(frozen=True)
class Release:
    """A party takes what has waited long enough."""

    author: bytes
    purpose: str


def deposit(state: State, command: Deposit, at: Moment) -> list[e.Event]:
    """S1."""
    if command.author != state.platform:
        refuse("S1", "only the platform credits money", "ask the platform to do it")
    if command.amount_micro - state.balance(e.OUTSIDE) > MOST_MICRO:
        refuse("S2", f"all money together stays below {MOST_MICRO} micro", "credit less")
    return [move(state, e.OUTSIDE, e.free(command.party), command.amount_micro)]


def withdraw(state: State, command: Withdraw, at: Moment) -> list[e.Event]:
    """S1."""
    return [move(state, e.free(command.author), e.OUTSIDE, command.amount_micro)]


def bond(state: State, command: Bond, at: Moment) -> list[e.Event]:
    """S2."""
    if command.purpose not in ROLES:
        refuse("S2", "a bond is for a verifier or a prover", f"name one of {', '.join(ROLES)}")
    target = e.bond(command.purpose, command.author)
    return [move(state, e.free(command.author), target, command.amount_micro)]


def unbond(state: State, command: Unbond, at: Moment) -> list[e.Event]:
    """S3 and S5."""
    license = _license_of(state, command.purpose)
    if license is None and command.purpose not in ROLES:
        refuse("S3", "there is no such bond", "name a role, or a license of yours")
    if license is not None and not _over(license, at):
        refuse(
            "S5",
            "the license is in force, or a claim on it is open",
            "end the license, and wait for its claims",
        )
    source = e.bond(command.purpose, command.author)
    target = e.unbonding(command.purpose, command.author)
    until = at.seconds + state.parameters.unbond_seconds
    return [
        move(state, source, target, command.amount_micro),
        e.UnbondingBegun(command.author, command.purpose, until),
    ]


def release(state: State, command: Release, at: Moment) -> list[e.Event]:
    """S4."""
    source = e.unbonding(command.purpose, command.author)
    amount = state.balance(source)
    until = state.releases.get((command.author, command.purpose), 0)
    license = _license_of(state, command.purpose)
    if at.seconds <= until:
        refuse("S4", f"the stake is bound until {until}", "wait until then")
    if license is not None and not _over(license, at):
        refuse("S5", "a claim on the license is open", "wait until it is settled")
    back = move(state, source, e.free(command.author), amount)
    if license is not None and at.seconds <= (held := _held_until(state, license)):
        refuse("S4", f"claims that were upheld hold the stake until {held}", "wait until then")
    return [back]


def take(state: State, purpose: str, party: bytes, amount: int, target: str) -> list[e.Event]:
    """Slash: `amount` of a party's stake to `target`, the bond first, then what is on its way."""
    moves: list[e.Event] = []
    for source in (e.bond(purpose, party), e.unbonding(purpose, party)):
        part = min(amount, state.balance(source))
        if part:
            moves.append(e.Moved(source, target, part))
            amount -= part
    return moves


def divide(
    state: State, license: bytes, amount: int, pool: str, finders: tuple[tuple[bytes, int], ...]
) -> list[e.Event]:
    """C13, U2: a part of a license's stake to its finders (by their counts), to the owners,
    and burned; never to the host. Law: the parts add up to what is taken."""
    host, model = state.licenses[license].host, state.licenses[license].model
    moves = take(state, f"license:{license.hex()}", host, amount, pool)
    bounty = share_of(amount, state.parameters.bounty_bps)
    owners = share_of(amount, state.parameters.owners_bps)
    paid = split(bounty, finders) if finders else []
    paid += split(owners, state.models[model].shares_bps)
    parts = [e.Moved(pool, e.free(who), part) for who, part in paid if part and who != host]
    burned = amount - sum(one.amount_micro for one in parts)
    return [*moves, *parts, *([e.Moved(pool, e.BURNED, burned)] if burned else [])]


def split(amount: int, shares: tuple[tuple[bytes, int], ...]) -> list[tuple[bytes, int]]:
    """`amount` by shares, whole millionths; what rounding leaves goes to the first. Law: the parts
    add up to the amount."""
    whole = sum(share for _, share in shares)
    parts = [(owner, amount * share // whole) for owner, share in shares]
    rest = amount - sum(part for _, part in parts)
    first, part = parts[0]
    return [(first, part + rest), *parts[1:]]


def share_of(amount: int, bps: int) -> int:
    """`bps` hundredths of a percent of `amount`, rounded down."""
    return amount * bps // WHOLE_BPS


def move(state: State, source: str, target: str, amount: int) -> e.Moved:
    """The move, if there is that much to move (S2)."""
    if type(amount) is not int or amount < 1:
        refuse("S2", "an amount is a whole number above 0", "give one in millionths")
    if source != e.OUTSIDE and state.balance(source) < amount:
        refuse(
            "S2",
            f"{source.split(':')[0]} holds {state.balance(source)}, {amount} are needed",
            "deposit more, or ask for less",
        )
    return e.Moved(source, target, amount)


def refuse(rule: str, message: str, hint: str) -> NoReturn:
    """ProtocolError that names its rule."""
    raise ProtocolError(message, hint=hint, rule=rule)


def _license_of(state: State, purpose: str) -> License | None:
    kind, _, name = purpose.partition(":")
    if kind != "license" or len(name) != 64:
        return None
    try:
        return state.licenses.get(bytes.fromhex(name))
    except ValueError:
        return None


def _held_until(state: State, license: License) -> int:
    """S3: how long upheld claims hold a stake."""
    opened = [state.claims[name].opened for name in license.upheld]
    ends = [one.verdict_until + state.parameters.unbond_seconds for one in opened if one]
    return max(ends, default=0)


def _over(license: License, at: Moment) -> bool:
    """Whether nothing more can come of a license now."""
    judged = license.conviction is None or license.settled
    return judged and not license.open_claims and (license.ended or at.seconds > license.expires)
