"""Rules B: a host that serves the community's model with its values broken (the paper, 3.1).

B1  A verifier with a bond fixes the root of its prompts, with the reference's judged replies, for a
    license that gives permissions. Each such promise of one author on one license raises the bar of
    its test (`alignment.deviation`), so that trying again until chance helps does not pay.
B2  Only after that the platform draws the order, from the log's root: nobody chooses which prompts
    are asked first. Once a promise.
B3  Whoever promised may claim a breach with a bond, within `appeal_seconds` of the order, once; the
    claim names its evidence by digest. An open one holds the stake (S5).
B4  Two questions are judged, each on its own ballot, by the verifiers of that moment: is what is
    served a descendant of the model (descent), and does it keep the values no longer (deviation)?
    Verdicts wait for `rebuttal_seconds`, the time in which a host can speak.
B5  Only where a quorum says yes to both, the license's stake is slashed (C13) and the license ends.
    No proof of descent, no slash. A quorum's no on either dismisses the claim, whose bond is lost;
    without quorums it lapses, and the bond goes back.

The protocol never runs a model or a judge: it believes a quorum of signed verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loyal.encoding import digest
from loyal.protocol import events as e
from loyal.protocol.licenses import known, purpose, require_active
from loyal.protocol.stake import divide, move, refuse
from loyal.protocol.state import Breach, Moment, State
from loyal.protocol.voting import decided, electorate

PROMISE = "loyal deviation promise 1"
BREACH = "loyal breach 1"
QUESTION = "loyal breach question 1"
Question = Literal["descent", "deviation"]


@dataclass(frozen=True)
class PromisePrompts:
    """A verifier fixes what it will ask a host, before anybody knows in which order."""

    author: bytes
    license: bytes
    root: bytes
    """`alignment.PromptSet.root`, 32 bytes."""


@dataclass(frozen=True)
class DrawOrder:
    """The platform draws the order of a promise's prompts."""

    author: bytes
    promise: bytes


@dataclass(frozen=True)
class ClaimBreach:
    """Whoever promised says: this host serves the model, and its values are broken."""

    author: bytes
    promise: bytes
    evidence: bytes
    """Digest of the bundle that verifiers are given, 32 bytes (`roles.breach`)."""


@dataclass(frozen=True)
class SettleBreach:
    """Close a breach that is decided, or whose time is over; anybody may."""

    author: bytes
    breach: bytes


def promise_id(license: bytes, author: bytes, root: bytes) -> bytes:
    """What a promise is called, 32 bytes."""
    return digest([license, author, root], PROMISE)


def breach_id(promise: bytes) -> bytes:
    """What the breach that is claimed on a promise is called, 32 bytes."""
    return digest([promise], BREACH)


def ballot(breach: bytes, question: Question) -> bytes:
    """Where the verdicts on one of the two questions are given, 32 bytes."""
    return digest([breach, question], QUESTION)


def promise(state: State, command: PromisePrompts, at: Moment) -> list[e.Event]:
    """B1."""
    license = known(state, command.license)
    require_active(license, at)
    if command.author == license.host:
        refuse("V3", "a host does not accuse itself", "leave it to others")
    if not state.balance(e.bond("verifier", command.author)):
        refuse("B1", "only a verifier with a bond promises prompts", "bond as a verifier first")
    name = promise_id(command.license, command.author, command.root)
    if name in state.promises:
        refuse("B1", "these prompts were promised before", "make a new set, with new replies")
    both = command.license, command.author
    earlier = sum((one.license, one.author) == both for one in state.promises.values())
    return [e.PromptsPromised(name, command.license, command.author, command.root, earlier)]


def draw_order(state: State, command: DrawOrder, at: Moment) -> list[e.Event]:
    """B2."""
    if command.author != state.platform:
        refuse("B2", "the platform draws the order", "wait for it")
    if command.promise not in state.promises or command.promise in state.orders:
        refuse("B2", "there is no such promise without an order", "promise prompts first")
    until = at.seconds + state.parameters.appeal_seconds
    return [e.OrderDrawn(command.promise, at.beacon, until)]


def claim(state: State, command: ClaimBreach, at: Moment) -> list[e.Event]:
    """B3."""
    made, order = state.promises.get(command.promise), state.orders.get(command.promise)
    if made is None or order is None or made.author != command.author:
        refuse("B3", "a breach is claimed on one's own promise", "promise, and wait for the order")
    if at.seconds > order.until:
        refuse("B3", f"it could be claimed until {order.until}", "promise a new set")
    name = breach_id(command.promise)
    if name in state.breaches:
        refuse("B3", "this breach was claimed before", "promise a new set")
    host = state.licenses[made.license].host
    if not state.staked(purpose(made.license), host):
        refuse("B3", "the license's stake is gone", "there is nothing left to lose")
    account = e.bond(_purpose(name), command.author)
    bond = move(state, e.free(command.author), account, state.parameters.claim_bond_micro)
    after = at.seconds + state.parameters.rebuttal_seconds
    claimed = e.BreachClaimed(
        name,
        command.promise,
        command.evidence,
        ballot(name, "descent"),
        ballot(name, "deviation"),
        electorate(state, (command.author, host)),
        after,
        after + state.parameters.verdict_seconds,
    )
    return [bond, claimed]


def settle(state: State, command: SettleBreach, at: Moment) -> list[e.Event]:
    """B5."""
    one = state.breaches.get(command.breach)
    if one is None or one.settled:
        refuse("B5", "there is no such open breach", "look at the log")
    made = one.made
    found = [decided(state, ballot, made.electorate) for ballot in (made.descent, made.deviation)]
    if None in found and False not in found and at.seconds <= made.until:
        refuse("B5", f"the verifiers have time until {made.until}", "wait for them")
    account = e.bond(_purpose(command.breach), one.promise.author)
    held = state.balance(account)
    host = state.licenses[one.promise.license].host
    if False in found:
        half = held // 2
        lost = [e.Moved(account, e.free(host), half), e.Moved(account, e.BURNED, held - half)]
        return [*lost, e.BreachSettled(command.breach, False)]
    back = e.Moved(account, e.free(one.promise.author), held)
    if None in found:
        return [back, e.BreachSettled(command.breach, False)]
    return [back, *_slash(state, command.breach, one), e.BreachSettled(command.breach, True)]


def _slash(state: State, name: bytes, one: Breach) -> list[e.Event]:
    license = one.promise.license
    amount = state.staked(purpose(license), state.licenses[license].host)
    finders = ((one.promise.author, 1),)
    moves = divide(state, license, amount, f"breach:{name.hex()}", finders) if amount else []
    ended = [] if state.licenses[license].ended else [e.LicenseEnded(license)]
    return [*moves, *ended]


def _purpose(breach: bytes) -> str:
    return f"breach:{breach.hex()}"
