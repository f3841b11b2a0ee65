"""Rules P: which queries get a permission ("Training AI to be Loyal", Figure 2).

P1  A host asks for its own license alone, and the license gives permissions now (L4 to L6).
P2  Sequence numbers of a license run from 0 without a gap; so quotas stop exactly at the limit.
P3  The same request twice, told by its idempotency key, costs once and gets the same receipt; the
    same key with another body is refused.
P4  A query that costs something is paid before it is permitted.
P5  Permissions are issued by the platform, in batches, each of which is one entry of the log.

`issue` decides and signs; storing the receipts durably before anybody sees them is the store's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from loyal.encoding import encode_checked, frame
from loyal.errors import PermissionRefused, ProtocolError
from loyal.protocol import events as e
from loyal.protocol.forms import require_form
from loyal.protocol.licenses import Terms, known, require_active
from loyal.protocol.lineage import pay
from loyal.protocol.permission import Permission, PermissionBatch
from loyal.protocol.stake import refuse
from loyal.protocol.state import License, Moment, State
from loyal.signing import SigningKey

_BODY_FRAME = frame("loyal permission request 1")
LIFETIME_SECONDS = 3600
"""How long an answer may take after its permission."""
MOST_IDEMPOTENCY_BYTES = 64
Usage = tuple[tuple[bytes, int, int], ...]
"""(license, first sequence number, how many), for each license of a batch."""


@dataclass(frozen=True)
class PermissionRequest:
    """What a host asks for one query."""

    host: bytes
    license: bytes
    messages: tuple[bytes, ...]
    """Salted digest of each user message."""
    idempotency_key: bytes
    """Told apart within the license; 1 to 64 bytes."""

    @property
    def body(self) -> bytes:
        """Digest of what is asked for, 32 bytes. For a request that has its form.

        Computed once, kept without `cached_property`, whose lock costs as much as the hash.
        """
        known = self.__dict__.get("_body")
        if known is None:
            record = encode_checked([self.host, self.license, self.messages])
            known = self.__dict__["_body"] = hashlib.sha256(_BODY_FRAME + record).digest()
        return cast(bytes, known)


@dataclass(frozen=True)
class Issued:
    """What came of a list of requests."""

    events: tuple[e.Event, ...]
    """For the log, in order; the batch is the last one. Empty where nothing new was permitted."""
    batch: PermissionBatch | None
    positions: tuple[int | None, ...]
    """For each request its leaf in the batch; None where it was refused or was there before."""
    refusals: Mapping[int, ProtocolError]
    """Request -> why it got none."""
    repeated: Mapping[int, bytes]
    """Request -> idempotency key under which its receipt was given before."""


def issue(
    state: State,
    requests: Sequence[PermissionRequest],
    known_keys: Mapping[tuple[bytes, bytes], bytes],
    at: Moment,
    key: SigningKey,
) -> Issued:
    """P1 to P5, for many requests at once; one that is refused does not hold up the others.

    `known_keys` tells (license, idempotency key) -> body of requests that were permitted before.
    """
    if key.public.data != state.platform:
        refuse("P5", "only the platform issues permissions", "use the platform's key")
    plan = _Plan(state, known_keys, at)
    positions = [plan.take(number, one) for number, one in enumerate(requests)]
    if not plan.leaves:
        return Issued((), None, tuple(positions), plan.refusals, plan.repeated)
    fees = plan.fee_events()
    batch = PermissionBatch.issue(plan.leaves, at.index + len(fees), at.seconds, key)
    event = e.BatchIssued(at.seconds, batch.header.root, batch.header.count, plan.usage())
    return Issued((*fees, event), batch, tuple(positions), plan.refusals, plan.repeated)


def charge(state: State, usage: Usage, at: Moment) -> list[e.Event]:
    """The fees that stand before a batch in the log, from what the batch says that it gave: L4 to
    L6, P2, P4 and K3 for a reader who does not see the requests. ProtocolError where a rule forbids
    such a batch."""
    owed: Counter[bytes] = Counter()
    found: list[e.Event] = []
    if at.seconds < state.seconds:
        refuse("K3", "the clock runs behind the log", "set the platform's clock")
    if len({name for name, _, _ in usage}) != len(usage) or not usage:
        refuse("P2", "a batch names each of its licenses once", "look at the log")
    for name, first, count in usage:
        license = known(state, name)
        terms = require_active(license, at)
        if first != license.permitted or count < 1:
            refuse("P2", "sequence numbers have a gap", "look at the log")
        if terms.most_inferences and first + count + license.tokens > terms.most_inferences:
            refuse("L6", "the license's inferences are used up", "look at the log")
        if terms.kind == "pay_per_use":
            owed[license.host] += count * terms.price_micro
            if state.balance(e.free(license.host)) < owed[license.host]:
                refuse("P4", "the host's account does not pay for these queries", "look at the log")
        found += _fees(state, license, terms, count)
    return found


def _fees(state: State, license: License, terms: Terms, count: int) -> list[e.Event]:
    """P4: what so many queries cost, to everybody who has a part in the model."""
    if not count or terms.kind != "pay_per_use":
        return []
    return pay(state, e.free(license.host), license.model, count * terms.price_micro)


class _Plan:
    """A batch in the making: what was permitted and spent so far, on top of the state."""

    def __init__(
        self, state: State, known_keys: Mapping[tuple[bytes, bytes], bytes], at: Moment
    ) -> None:
        self.state, self.known_keys, self.at = state, known_keys, at
        self.bodies: dict[tuple[bytes, bytes], bytes] = {}
        self.leaves: list[Permission] = []
        self.refusals: dict[int, ProtocolError] = {}
        self.repeated: dict[int, bytes] = {}
        self.counts: Counter[bytes] = Counter()
        self.terms: dict[bytes, Terms] = {}
        self.money: dict[bytes, int] = {}
        """What a host has left for further queries, in micro."""

    def take(self, number: int, request: PermissionRequest) -> int | None:
        """The request's leaf, or None."""
        try:
            return self._permit(number, request)
        except ProtocolError as error:
            self.refusals[number] = error
            return None

    def _permit(self, number: int, request: PermissionRequest) -> int | None:
        require_form(request)
        license = known(self.state, request.license)
        if request.host != license.host:
            refuse("P1", "this license is another host's", "use your own license")
        name = request.license, request.idempotency_key
        if not 0 < len(request.idempotency_key) <= MOST_IDEMPOTENCY_BYTES:
            refuse("P3", "an idempotency key is 1 to 64 bytes long", "draw a random one a query")
        before = self.known_keys.get(name) or self.bodies.get(name)
        if before is not None:
            if before != request.body:
                refuse("P3", "this idempotency key stands for another query", "draw a new one")
            self.repeated[number] = request.idempotency_key
            return None
        terms = self._terms(request.license, license)
        sequence = license.permitted + self.counts[request.license]
        if terms.most_inferences and sequence + license.tokens >= terms.most_inferences:
            refuse("L6", "the license's inferences are used up", "request a new one")
        price = terms.price_micro if terms.kind == "pay_per_use" else 0
        if price and self._money(license.host) < price:
            refuse("P4", "the host's account does not pay for this query", "deposit more")
        leaf = Permission(
            license.host,
            request.license,
            license.weights or b"",
            request.messages,
            sequence,
            self.at.seconds + LIFETIME_SECONDS,
        )
        if not leaf.well_formed:
            raise PermissionRefused(
                "the messages are not 1 to 64 digests of 32 bytes",
                hint="send the salted digest of each user message",
                rule="P1",
            )
        if price:
            self.money[license.host] -= price
        self.counts[request.license] += 1
        self.bodies[name] = request.body
        self.leaves.append(leaf)
        return len(self.leaves) - 1

    def _terms(self, name: bytes, license: License) -> Terms:
        if name not in self.terms:
            self.terms[name] = require_active(license, self.at)
        return self.terms[name]

    def _money(self, host: bytes) -> int:
        if host not in self.money:
            self.money[host] = self.state.balance(e.free(host))
        return self.money[host]

    def fee_events(self) -> list[e.Event]:
        """P4: what each license's queries cost, to everybody who has a part in its model."""
        found: list[e.Event] = []
        for name, count in self.counts.items():
            terms, license = self.terms[name], self.state.licenses[name]
            found += _fees(self.state, license, terms, count)
        return found

    def usage(self) -> Usage:
        """(license, first sequence number, how many)."""
        return tuple(
            (name, self.state.licenses[name].permitted, count)
            for name, count in self.counts.items()
            if count
        )
