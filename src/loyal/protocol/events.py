"""What happened, as the ledger holds it: frozen records that `State.record` folds into a state.

An event never decides; whoever replays the log gets the same state without any rule. Each field is
an int, a text, bytes or a tuple of such, so that an event has one canonical form (`encode_event`).
Money moves in one kind of event alone, between named accounts, so that nothing is ever made or
lost: the sum over all accounts is 0 at every moment.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field, fields
from typing import ClassVar, get_type_hints

from loyal import encoding
from loyal.errors import EncodingError, ProtocolError

OUTSIDE = "outside"
"""The account that money comes from and goes to; its balance is minus all that is inside."""
BURNED = "burned"


def free(party: bytes) -> str:
    """A party's account, of which it disposes."""
    return f"free:{party.hex()}"


def bond(purpose: str, party: bytes) -> str:
    """What a party has at stake for one purpose."""
    return f"bond:{purpose}:{party.hex()}"


def unbonding(purpose: str, party: bytes) -> str:
    """Stake on its way back, which can be slashed all the same."""
    return f"unbonding:{purpose}:{party.hex()}"


class Event:
    """One thing that happened."""

    kinds: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls) -> None:
        Event.kinds[cls.__name__] = cls


@dataclass(frozen=True)
class CommandTaken(Event):
    """Somebody asked for what the next entries say (`commands`)."""

    author: bytes
    number: int
    """Above every earlier one of this author."""
    seconds: int
    """Unix time at which the rules were read."""
    signed: bytes = field(repr=False)
    """The signed command, in its canonical bytes: a claim's shows key and reply."""


@dataclass(frozen=True)
class Moved(Event):
    """Money went from one account to another."""

    source: str
    target: str
    amount_micro: int


@dataclass(frozen=True)
class UnbondingBegun(Event):
    """Stake of a party is on its way back, until `releases_at`."""

    party: bytes
    purpose: str
    releases_at: int


@dataclass(frozen=True)
class ModelPublished(Event):
    """A model stands in the registry."""

    model: bytes
    publisher: bytes
    weights: bytes
    """SHA-256 of the weights."""
    parent: bytes | None
    fingerprint_root: bytes
    """Of its lineage set, published before the draw."""
    shares_bps: tuple[tuple[bytes, int], ...]
    challenged_until: int


@dataclass(frozen=True)
class LineageChallenged(Event):
    """Somebody says that a model descends from another one."""

    challenge: bytes
    model: bytes
    ancestor: bytes
    challenger: bytes
    electorate: tuple[tuple[bytes, int], ...]
    """Verifiers and their stake at this moment, but for the two sides; nobody else is heard."""
    until: int


@dataclass(frozen=True)
class LineageSettled(Event):
    """The challenge is decided; where it is found, the model is a descendant from now on."""

    challenge: bytes
    found: bool
    parent: bytes | None
    """Of the model, from now on."""


@dataclass(frozen=True)
class LicenseSigned(Event):
    """Both sides signed, and the stake is in escrow."""

    license: bytes
    host: bytes
    model: bytes
    terms: bytes
    expires: int


@dataclass(frozen=True)
class UsageCommitted(Event):
    """The host's own fingerprints are fixed, before it has the model."""

    license: bytes
    root: bytes
    count: int
    candidates: int
    """k: a chance match of one key is 1/k at most."""


@dataclass(frozen=True)
class ModelDelivered(Event):
    """The host has its own M.oml."""

    license: bytes
    weights: bytes


@dataclass(frozen=True)
class LicenseEnded(Event):
    """No permission is given any more."""

    license: bytes


@dataclass(frozen=True)
class BatchIssued(Event):
    """Permissions were given. Its place in the log is the batch's."""

    seconds: int
    root: bytes
    count: int
    usage: tuple[tuple[bytes, int, int], ...]
    """(license, first sequence number, how many)."""


@dataclass(frozen=True)
class TokensBought(Event):
    """A host paid for queries beforehand."""

    license: bytes
    first: int
    """Number of the first of them; tokens of a license run from 0 without a gap."""
    count: int
    ripe: int
    """From when on the host may use them."""


@dataclass(frozen=True)
class TokensReported(Event):
    """A host said which answers its tokens went to."""

    license: bytes
    uses: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class KeyDrawn(Event):
    """A key of a license's set goes to one prover."""

    license: bytes
    number: int
    """Which draw of this license it is, from 0; each is a query that counts."""
    prover: bytes
    until: int


@dataclass(frozen=True)
class Committed(Event):
    """A prover fixed what it was told, before it says so. Its place in the log is what counts."""

    license: bytes
    number: int
    """The draw that it is for."""
    commitment: bytes
    seconds: int
    """When; a host has time from then on to report a token (T3)."""


@dataclass(frozen=True)
class AnswerDemanded(Event):
    """A host is asked in public to sign the answer that it gave or refused."""

    demand: bytes
    license: bytes
    prover: bytes
    message: str
    """What was asked, in the open: a host that never got it can answer it all the same."""
    until: int


@dataclass(frozen=True)
class AnswerGiven(Event):
    """The host signed it in time."""

    demand: bytes


@dataclass(frozen=True)
class Claimed(Event):
    """A prover says: this host answered this key as M.oml would, without a permission."""

    claim: bytes
    license: bytes
    number: int
    prover: bytes
    commitment: bytes
    nullifier: bytes
    """Digest of license and key: it is spent from now on."""
    message: bytes
    """`message_digest` of the key, byte for byte: what a receipt has to cover."""
    electorate: tuple[tuple[bytes, int], ...]
    """Verifiers and their stake at this moment, but for the two sides; nobody else is heard."""
    until: int
    """By then the vault opens the leaf."""
    answered: int | None
    """When the host began the answer, by its own signature; None where it let a demand pass."""


@dataclass(frozen=True)
class LeafOpened(Event):
    """The vault's side showed the leaf, after the prover had said its reply."""

    claim: bytes
    evidence: bytes
    """Digest of the opened leaf, which verifiers check."""
    rebuttal_until: int
    verdict_until: int


@dataclass(frozen=True)
class Rebutted(Event):
    """The host showed a receipt that is older than the commitment."""

    claim: bytes


@dataclass(frozen=True)
class VerdictGiven(Event):
    """A verifier has checked a claim, a challenge or a conviction, and signs what it found."""

    case: bytes
    verifier: bytes
    holds: bool


@dataclass(frozen=True)
class ClaimSettled(Event):
    """A claim is upheld, or dismissed."""

    claim: bytes
    upheld: bool


@dataclass(frozen=True)
class Convicted(Event):
    """The upheld claims are beyond chance. The host may appeal until then."""

    license: bytes
    claim: bytes
    """The one that made it so; whoever could judge it judges the appeal."""
    hits: int
    draws: int
    appeal_until: int


@dataclass(frozen=True)
class Appealed(Event):
    """The host has the conviction judged as a whole."""

    license: bytes
    electorate: tuple[tuple[bytes, int], ...]
    until: int


@dataclass(frozen=True)
class ConvictionSettled(Event):
    """The conviction stands and the stake is slashed, or a quorum quashed it."""

    license: bytes
    slashed: bool


@dataclass(frozen=True)
class ViolationShown(Event):
    """A host signed an answer that its license denies, and lost a part of its stake."""

    violation: bytes
    license: bytes
    author: bytes
    amount_micro: int


@dataclass(frozen=True)
class PromptsPromised(Event):
    """A verifier fixed the prompts that it will ask a host, with the reference's replies."""

    promise: bytes
    license: bytes
    author: bytes
    root: bytes
    earlier: int
    """Promises of this author on this license before; each raises the bar of the test."""


@dataclass(frozen=True)
class OrderDrawn(Event):
    """In which order they are asked."""

    promise: bytes
    beacon: bytes
    """The log's root just before, 32 bytes."""
    until: int
    """By then a breach is claimed."""


@dataclass(frozen=True)
class BreachClaimed(Event):
    """A verifier says: this host serves the model with its values broken."""

    breach: bytes
    promise: bytes
    evidence: bytes
    """Digest of the bundle, which verifiers check."""
    descent: bytes
    """The ballot: what is served descends from the model."""
    deviation: bytes
    """The ballot: it does not keep the values any more."""
    electorate: tuple[tuple[bytes, int], ...]
    """Verifiers and their stake at this moment, but for the two sides; nobody else is heard."""
    after: int
    """Verdicts are heard after this, when the host had its time,"""
    until: int
    """and until then."""


@dataclass(frozen=True)
class BreachSettled(Event):
    """Both questions were answered yes and the stake is slashed, or not."""

    breach: bytes
    upheld: bool


def encode_event(event: Event) -> bytes:
    """The canonical bytes of an event; law: `decode_event(encode_event(event)) == event`."""
    values = [getattr(event, name) for name in field_types(type(event))]
    return encoding.encode([type(event).__name__, *values])


def decode_event(data: bytes) -> Event:
    """ProtocolError for bytes that are not an event's canonical form."""
    try:
        record = encoding.decode(data)
    except EncodingError as error:
        raise _malformed() from error
    if not isinstance(record, list) or not record or not isinstance(record[0], str):
        raise _malformed()
    kind = Event.kinds.get(record[0])
    if kind is None:
        raise _malformed()
    types = field_types(kind).values()
    values = record[1:]
    if len(types) != len(values):
        raise _malformed()
    return kind(*map(as_type, types, values))


_FIELDS: dict[type, dict[str, object]] = {}


def field_types(kind: type) -> dict[str, object]:
    """Name and type of each field, in order; looked up once a kind, for a replay reads millions."""
    found = _FIELDS.get(kind)
    if found is None:
        hints = get_type_hints(kind)
        found = {one.name: hints[one.name] for one in fields(kind)}
        _FIELDS[kind] = found
    return found


def as_type(kind: object, value: object) -> object:
    """`value` as the type of a field: lists become tuples, and nothing else is bent."""
    if type(value) is kind:
        return value
    origin = typing.get_origin(kind)
    if origin is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, list):
            raise _malformed()
        if inner[-1] is Ellipsis:
            return tuple(as_type(inner[0], one) for one in value)
        if len(inner) != len(value):
            raise _malformed()
        return tuple(as_type(one, part) for one, part in zip(inner, value, strict=True))
    if origin is types.UnionType:
        if value is None:
            return None
        return as_type(typing.get_args(kind)[0], value)
    if type(value) is not kind:
        raise _malformed()
    return value


def _malformed() -> ProtocolError:
    return ProtocolError(
        "an entry of the log is not an event", hint="get the log again from its operator"
    )
