"""Rules M: the registry of models, who descends from whom, and where fees go.

M1  A model's owners hold shares that add up to 10,000 bps; each of them appears once, with a part.
M2  The same weights are published once, whoever comes second.
M3  A parent stands in the registry already; so no model is its own ancestor.
M4  The publisher puts a bond on the lineage that it states, for as long as it can be challenged or
    a challenge is open; then it takes back what is left.
M5  Within that time an owner of another, earlier model may challenge it with a bond of the same
    size: "it answers my lineage fingerprints". Each owner can do so alone.
M6  A quorum of the verifiers' stake at that moment decides. Found: the model is a descendant from
    then on, its publisher's bond goes half to the challenger's side and half is burned. Not found,
    or not decided in time: the challenger's bond goes half to the publisher and half is burned.
    Whatever is settled first, the nearest ancestor that was found is the parent.
M7  Of a descendant's fees `royalty_bps` go to the owners of its parent, of those again to the
    parent's parent, and so on through any number of generations.
"""

from __future__ import annotations

from dataclasses import dataclass

from loyal.encoding import digest
from loyal.protocol import events as e
from loyal.protocol.forms import ID_BYTES
from loyal.protocol.parameters import WHOLE_BPS
from loyal.protocol.stake import move, refuse, share_of, split
from loyal.protocol.state import Moment, State
from loyal.protocol.voting import decided, electorate

MODEL = "loyal model 1"
CHALLENGE = "loyal lineage challenge 1"


@dataclass(frozen=True)
class PublishModel:
    """A model enters the registry, open to anyone."""

    author: bytes
    weights: bytes
    """SHA-256 of the weights, 32 bytes."""
    parent: bytes | None
    """Id of the model it was made from; None for a model made from nothing registered."""
    fingerprint_root: bytes
    """Root of its lineage set, 32 bytes."""
    shares_bps: tuple[tuple[bytes, int], ...]
    """Owner and share."""


@dataclass(frozen=True)
class ChallengeLineage:
    """An owner of `ancestor` says that `model` descends from it."""

    author: bytes
    model: bytes
    ancestor: bytes


@dataclass(frozen=True)
class SettleLineage:
    """Close a challenge that is decided, or whose time is over; anybody may."""

    author: bytes
    challenge: bytes


@dataclass(frozen=True)
class ReclaimBond:
    """The publisher takes its bond back, once nobody can challenge the model any more."""

    author: bytes
    model: bytes


def model_id(command: PublishModel) -> bytes:
    """What a model is called, 32 bytes: the digest of its weights alone (M2)."""
    return digest([command.weights], MODEL)


def publish(state: State, command: PublishModel, at: Moment) -> list[e.Event]:
    """M1 to M4."""
    owners = [owner for owner, _ in command.shares_bps]
    parts = [share for _, share in command.shares_bps]
    whole = sum(parts) == WHOLE_BPS and all(type(one) is int and one > 0 for one in parts)
    sound = {len(owner) for owner in owners} == {ID_BYTES} and len(set(owners)) == len(owners)
    if not sound or not whole:
        refuse("M1", "the shares do not add up to 10,000", "name each owner once, with its part")
    if command.weights in state.weights:
        refuse("M2", "these weights are published already", "license them from their owners")
    if command.parent is not None and command.parent not in state.models:
        refuse("M3", "the parent is not in the registry", "publish the parent first")
    identity = model_id(command)
    stake = move(
        state,
        e.free(command.author),
        e.bond(bond_purpose(identity), command.author),
        state.parameters.publish_bond_micro,
    )
    until = at.seconds + state.parameters.lineage_seconds
    published = e.ModelPublished(
        identity,
        command.author,
        command.weights,
        command.parent,
        command.fingerprint_root,
        command.shares_bps,
        until,
    )
    return [stake, published]


def challenge(state: State, command: ChallengeLineage, at: Moment) -> list[e.Event]:
    """M5."""
    model, ancestor = state.models.get(command.model), state.models.get(command.ancestor)
    if model is None or ancestor is None:
        refuse("M5", "one of the two models is not in the registry", "publish it first")
    if at.seconds > model.challenged_until:
        refuse("M5", "the time to challenge this model is over", "challenge a model when it is new")
    if command.author not in dict(ancestor.shares_bps):
        refuse("M5", "only an owner of the ancestor may challenge", "ask one of its owners")
    if ancestor.index >= model.index or command.ancestor in ancestors(state, command.model):
        refuse("M5", "it is an ancestor already, or is the younger one", "there is nothing to find")
    identity = digest([command.model, command.ancestor, command.author], CHALLENGE)
    if identity in state.challenges:
        refuse("M5", "this challenge was made before", "an owner challenges a lineage once")
    stake = move(
        state,
        e.free(command.author),
        e.bond(bond_purpose(identity), command.author),
        state.parameters.publish_bond_micro,
    )
    made = e.LineageChallenged(
        identity,
        command.model,
        command.ancestor,
        command.author,
        electorate(state, (command.author, model.publisher)),
        at.seconds + state.parameters.verdict_seconds,
    )
    return [stake, made]


def settle(state: State, command: SettleLineage, at: Moment) -> list[e.Event]:
    """M6."""
    made = state.challenges.get(command.challenge)
    if made is None or command.challenge in state.settled_challenges:
        refuse("M6", "there is no such open challenge", "look at `loyal dispute show`")
    found = decided(state, command.challenge, made.electorate)
    if found is None and at.seconds <= made.until:
        refuse("M6", f"the verifiers have time until {made.until}", "wait for them")
    model = state.models[made.model]
    liar, winner, purpose = made.challenger, model.publisher, bond_purpose(command.challenge)
    if found:
        liar, winner, purpose = model.publisher, made.challenger, bond_purpose(made.model)
    account = e.bond(purpose, liar)
    lost = state.balance(account)
    moves: list[e.Event] = []
    if lost:
        moves.append(e.Moved(account, e.free(winner), lost - lost // 2))
        moves.append(e.Moved(account, e.BURNED, lost // 2))
    if found:
        own = e.bond(bond_purpose(command.challenge), made.challenger)
        moves.append(e.Moved(own, e.free(made.challenger), state.balance(own)))
    parent = model.parent
    if found and made.ancestor not in ancestors(state, made.model):
        parent = made.ancestor
    return [*moves, e.LineageSettled(command.challenge, bool(found), parent)]


def reclaim(state: State, command: ReclaimBond, at: Moment) -> list[e.Event]:
    """M4: the way back."""
    model = state.models.get(command.model)
    if model is None or command.author != model.publisher:
        refuse("M4", "only its publisher has a bond on a model", "name a model of yours")
    if at.seconds <= model.challenged_until:
        refuse("M4", f"it can be challenged until {model.challenged_until}", "wait until then")
    if not state.settled_challenges.issuperset(state.challenges_of(command.model)):
        refuse("M4", "a challenge of this model is open", "have it settled first")
    account = e.bond(bond_purpose(command.model), command.author)
    return [move(state, account, e.free(command.author), state.balance(account))]


def ancestors(state: State, model: bytes) -> list[bytes]:
    """Its parent, the parent's parent, and so on."""
    found: list[bytes] = []
    parent = state.models[model].parent
    while parent is not None:
        found.append(parent)
        parent = state.models[parent].parent
    return found


def pay(state: State, source: str, model: bytes, amount: int) -> list[e.Event]:
    """M7: a fee from an account to everybody who has a part in it. Law: it is all paid out."""
    moves: list[e.Event] = []
    at: bytes | None = model
    while at is not None and amount:
        parent = state.models[at].parent
        upwards = share_of(amount, state.parameters.royalty_bps) if parent is not None else 0
        for owner, part in split(amount - upwards, state.models[at].shares_bps):
            if part:
                moves.append(e.Moved(source, e.free(owner), part))
        at, amount = parent, upwards
    return moves


def bond_purpose(identity: bytes) -> str:
    """What a bond on a model, or on a challenge, is put up for."""
    return f"lineage:{identity.hex()}"
