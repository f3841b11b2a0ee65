"""Rules L: the license between a community and a host ("Training AI to be Loyal", Figure 1).

L1  A license is the same terms signed by both sides, each for this purpose; ids are digests of the
    terms and the host, so the same license is signed once.
L2  The required stake is in escrow before the license stands; a subscription is paid with it.
L3  The root of the host's own fingerprint set is in the log before the host gets its model, and the
    set is large enough that it can convict.
L4  No permission before delivery.
L5  No permission after the period (with `SKEW_SECONDS` of grace for clocks), after the license was
    ended, or after a conviction.
L6  No permission beyond the number of inferences: exactly at the limit it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from loyal import encoding, signing
from loyal.encoding import digest
from loyal.errors import EncodingError, ProtocolError, SignatureError
from loyal.protocol import events as e
from loyal.protocol.forms import require_form
from loyal.protocol.lineage import pay
from loyal.protocol.permission import SKEW_SECONDS
from loyal.protocol.stake import move, refuse
from loyal.protocol.state import License, Moment, State
from loyal.signing import PublicKey, Signed, SigningKey
from loyal.statistics import sequential_hits

Kind = Literal["free", "subscription", "pay_per_use"]
PURPOSE = "loyal license 1"
_VERSION = 1
_ENOUGH_KEYS = 1_000
"""So many hits of two candidates are beyond any bound of 64 bits."""


@dataclass(frozen=True)
class Terms:
    """What both sides sign."""

    model: bytes
    """Id of the model in the registry, 32 bytes."""
    host: bytes
    """Public key of the host, 32 bytes."""
    kind: Kind
    price_micro: int
    """A query for pay_per_use, the whole period for a subscription, 0 for free."""
    most_inferences: int
    """Permissions in all; 0 sets no limit."""
    expires: int
    """Unix seconds of the end of the period."""
    stake_micro: int
    """What the host has in escrow, and loses."""
    allowed: str
    """The purpose that is allowed, for people."""
    denied_words: tuple[str, ...]
    """The same as a rule that anybody can check: a prompt with one of these words gets no
    permission, and answering it is a violation."""
    constitution: bytes
    """Digest of the constitution in force, 32 bytes; zeros for none."""

    def __post_init__(self) -> None:
        require_form(self)
        numbers = (self.price_micro, self.most_inferences, self.expires, self.stake_micro)
        if any(one < 0 for one in numbers):
            refuse("L1", "the terms are malformed", "numbers are at least 0")
        if self.kind not in get_args(Kind) or (self.kind == "free") != (self.price_micro == 0):
            refuse(
                "L1",
                "the kind and the price do not go together",
                "free costs 0; subscription and pay_per_use cost something",
            )
        if not self.stake_micro:
            refuse("L2", "a license without a stake protects nobody", "ask for some stake")

    def to_bytes(self) -> bytes:
        """Canonical bytes; law: `Terms.from_bytes(terms.to_bytes()) == terms`."""
        return encoding.encode(self._record())

    def _record(self) -> list[encoding.Encodable]:
        return [
            _VERSION, self.model, self.host, self.kind, self.price_micro, self.most_inferences,
            self.expires, self.stake_micro, self.allowed, self.denied_words, self.constitution,
        ]  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Terms:
        """ProtocolError for bytes that are not terms."""
        try:
            fields = encoding.decode(data)
        except EncodingError as error:
            raise ProtocolError(
                "the terms are not canonical", hint="get the license again", rule="L1"
            ) from error
        match fields:
            case [
                int(version), bytes(model), bytes(host),
                "free" | "subscription" | "pay_per_use" as kind, int(price), int(most),
                int(expires), int(stake), str(allowed), list(words), bytes(constitution),
            ] if type(version) is int and version == _VERSION:  # fmt: skip
                texts = tuple(one for one in words if isinstance(one, str))
                if len(texts) == len(words):
                    return cls(
                        model, host, kind, price, most, expires, stake, allowed, texts,
                        constitution,
                    )  # fmt: skip
        refuse("L1", "the terms do not have the form of terms", "get the license again")

    @property
    def license_id(self) -> bytes:
        """What the license is called, 32 bytes."""
        return digest(self._record(), PURPOSE)

    def sign(self, key: SigningKey) -> bytes:
        """One side's signature, 64 bytes."""
        return signing.sign(key, self._record(), PURPOSE).signature

    def allows(self, prompt: str) -> bool:
        """Whether a prompt keeps to the purpose, by the rule that is written down."""
        words = {one.strip(".,;:!?\"'()").casefold() for one in prompt.split()}
        return not words & {one.casefold() for one in self.denied_words}


@dataclass(frozen=True)
class SignLicense:
    """The platform brings a license that both sides signed."""

    author: bytes
    terms: Terms
    host_signature: bytes
    platform_signature: bytes


@dataclass(frozen=True)
class CommitUsage:
    """The root of the host's own fingerprints goes to the log."""

    author: bytes
    license: bytes
    root: bytes
    count: int
    candidates: int


@dataclass(frozen=True)
class DeliverModel:
    """The host was given its own M.oml."""

    author: bytes
    license: bytes
    weights: bytes


@dataclass(frozen=True)
class EndLicense:
    """Either side ends it."""

    author: bytes
    license: bytes


def sign_license(state: State, command: SignLicense, at: Moment) -> list[e.Event]:
    """L1 and L2."""
    terms = command.terms
    if command.author != state.platform:
        refuse("L1", "the platform brings the license", "send it to the platform")
    _require_signature(terms, terms.host, command.host_signature)
    _require_signature(terms, state.platform, command.platform_signature)
    identity = terms.license_id
    if identity in state.licenses:
        refuse("L1", "this license stands already", "use it, or sign other terms")
    if terms.model not in state.models:
        refuse("L1", "the model is not in the registry", "publish it first")
    if at.seconds > terms.expires:
        refuse("L5", "the period is over before it begins", "sign a later end")
    account = e.bond(purpose(identity), terms.host)
    fee = terms.price_micro if terms.kind == "subscription" else 0
    move(state, e.free(terms.host), account, terms.stake_micro + fee)
    stake = e.Moved(e.free(terms.host), account, terms.stake_micro)
    paid = pay(state, e.free(terms.host), terms.model, fee)
    signed = e.LicenseSigned(identity, terms.host, terms.model, terms.to_bytes(), terms.expires)
    return [stake, *paid, signed]


def commit_usage(state: State, command: CommitUsage, at: Moment) -> list[e.Event]:
    """L3."""
    license = known(state, command.license)
    if command.author != state.platform or license.usage is not None:
        refuse("L3", "the platform commits a license's set once", "look at the log")
    sound = len(command.root) == 32 and command.count > 0 and 2 <= command.candidates <= 4096
    if not sound:
        refuse("L3", "a set has a root, a count and 2 to 4,096 candidates a key", "generate one")
    bound = state.parameters.false_conviction_one_in
    if sequential_hits(min(command.count, _ENOUGH_KEYS), command.candidates, bound) is None:
        refuse("L3", "not even all keys of this set would convict", "generate a larger one")
    return [e.UsageCommitted(command.license, command.root, command.count, command.candidates)]


def deliver(state: State, command: DeliverModel, at: Moment) -> list[e.Event]:
    """L3."""
    license = known(state, command.license)
    if command.author != state.platform or license.weights is not None:
        refuse("L3", "the platform delivers a license's model once", "look at the log")
    if license.usage is None:
        refuse("L3", "the host's fingerprint set is not in the log yet", "commit its root first")
    return [e.ModelDelivered(command.license, command.weights)]


def end(state: State, command: EndLicense, at: Moment) -> list[e.Event]:
    """Either side, once."""
    license = known(state, command.license)
    if command.author not in (state.platform, license.host) or license.ended:
        refuse("L5", "one of its two sides ends a license, once", "ask the platform or the host")
    return [e.LicenseEnded(command.license)]


def require_active(license: License, at: Moment) -> Terms:
    """The terms, if permissions may be given now (L4 to L6); ProtocolError if not."""
    terms = _terms(license.terms)
    if license.weights is None:
        refuse("L4", "the model is not delivered yet", "download it first")
    if license.ended or license.conviction is not None:
        refuse("L5", "the license was ended", "request a new one")
    if at.seconds > license.expires + SKEW_SECONDS:
        refuse("L5", "the license has expired", "request a new one")
    if terms.most_inferences and license.permitted + license.tokens >= terms.most_inferences:
        refuse("L6", "the license's inferences are used up", "request a new one")
    return terms


def terms_of(license: License) -> Terms:
    """What both sides signed."""
    return _terms(license.terms)


@lru_cache(maxsize=1024)
def _terms(data: bytes) -> Terms:
    """Terms are asked for with every permission, and never change."""
    return Terms.from_bytes(data)


def known(state: State, license: bytes) -> License:
    """The license; ProtocolError where there is none."""
    found = state.licenses.get(license)
    if found is None:
        refuse("L1", "there is no such license", "check its id")
    return found


def purpose(license: bytes) -> str:
    """What a license's stake is bonded for."""
    return f"license:{license.hex()}"


def _require_signature(terms: Terms, party: bytes, signature: bytes) -> None:
    try:
        signed = Signed[encoding.Value](terms.to_bytes(), PURPOSE, PublicKey(party), signature)
        signing.verify(signed, PURPOSE)
    except (SignatureError, EncodingError) as error:
        raise ProtocolError(
            "a signature under the license does not hold",
            hint="have both sides sign the same terms",
            rule="L1",
        ) from error
