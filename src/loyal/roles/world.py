"""A simulated community: its parties, its clock, and the real rules between them.

Everything that happens goes through `loyal.protocol.apply` or `permits.issue` and is recorded in a
real `State` and log; hosts and the platform sign with real keys. What a model would do is a digest
of the seed: a key, its response, and whether a tuned copy still gives it. Left out: who does what
(`conduct`, `attacks`), and what must hold (`invariants`).
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loyal import merkle
from loyal.errors import ProtocolError
from loyal.protocol import (
    Command,
    MessageDigest,
    Moment,
    SignedAnswer,
    State,
    Terms,
    apply,
    licenses,
    lineage,
    permits,
    stake,
)
from loyal.protocol import events as e
from loyal.protocol.permission import SKEW_SECONDS, Receipt
from loyal.roles.scenario import INNOCENT, Conduct, Group, Scenario
from loyal.signing import SigningKey

START = 1_800_000_000
DAY = 86_400
LICENSE_SECONDS = 180 * DAY
PLENTY = 10**12
BOND = 50_000_000
STAKE = 10_000_000
PRICE = 1_000


@dataclass
class Deal:
    """A license, and what its host and the vault know beside the log."""

    license: bytes
    host: SigningKey
    conduct: Conduct
    keys: tuple[str, ...]
    known: frozenset[str]
    """The same keys."""
    receipts: dict[str, list[tuple[Receipt, bytes]]] = field(default_factory=dict)
    """Message -> the permissions for it, each with its salt, in their order."""
    hoard: dict[str, tuple[str, SignedAnswer | None]] = field(default_factory=dict)
    """Key -> reply and answer that insiders got before it was drawn."""
    over: bool = False
    """Whether its host has asked for the stake back."""

    @property
    def id(self) -> bytes:
        """The host, 32 bytes."""
        return self.host.public.data

    @property
    def purpose(self) -> str:
        """What its stake is bonded for."""
        return licenses.purpose(self.license)


@dataclass
class Tally:
    """What is counted."""

    moves: Counter[bool] = field(default_factory=Counter)
    """Whether it was an adversary's -> moves."""
    refusals: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    """What must not be: honest moves that were refused, others that were let through."""


class World:
    """One community from its first deposit on."""

    def __init__(self, scenario: Scenario, number: int | str) -> None:
        self.scenario = scenario
        self.name = f"{scenario.seed}:{number}"
        self.rng = random.Random(self.name)
        self.platform = self.key("platform")
        self.state = State(self.platform.public.data, scenario.parameters)
        self.log: list[e.Event] = []
        self.entries: list[bytes] = []
        """The log as bytes."""
        self.tree = merkle.Tree()
        self.now = START
        self.tally = Tally()
        self.steps = 0
        self.deals: list[Deal] = []
        self.live: list[Deal] = []
        """Of the deals, the one in force for each host."""
        self.by_license: dict[bytes, Deal] = {}
        self.claimed: dict[bytes, tuple[Deal, str, str]] = {}
        """Claim -> whose, the key, the reply: what the vault's side and verifiers are shown."""
        self.bodies: dict[tuple[bytes, bytes], bytes] = {}
        self._root = 0, self.tree.root()
        self._later: list[tuple[int, int, Callable[[], object]]] = []
        self._count = 0
        self._settle_in()

    def key(self, role: str) -> SigningKey:
        """A role's key, from the seed."""
        return SigningKey.from_seed(self.bits("key", role))

    def bits(self, *what: object) -> bytes:
        """32 public bytes for a purpose."""
        return hashlib.sha256(":".join(map(str, (self.name, *what))).encode()).digest()

    def fresh(self) -> bytes:
        """32 bytes that were not there before."""
        self._count += 1
        return self.bits("fresh", self._count)

    @property
    def at(self) -> Moment:
        """Now, at the end of the log."""
        if self._root[0] != self.state.length:
            self._root = self.state.length, self.tree.root()
        return Moment(self.now, self.state.length, self._root[1])

    def do(self, command: Command, adverse: bool = False) -> list[e.Event]:
        """One move: apply and record. Empty where a rule refuses it."""
        self.tally.moves[adverse] += 1
        try:
            events = apply(self.state, command, self.at)
        except ProtocolError as error:
            self._refused(error, adverse, type(command).__name__)
            return []
        return self.record(events)

    def never(self, command: Command) -> None:
        """A move of an adversary that no rule may let through."""
        if self.do(command, adverse=True):
            self.tally.surprises.append(f"{type(command).__name__} of an adversary was let through")

    def record(self, events: Sequence[e.Event]) -> list[e.Event]:
        """Write events to the log and fold them in."""
        for event in events:
            self.state.record(self.state.length, event)
            entry = e.encode_event(event)
            self.log.append(event)
            self.entries.append(entry)
            self.tree.append(entry)
        return list(events)

    def permit(
        self, deal: Deal, message: str, adverse: bool = False, **changes: bytes
    ) -> tuple[Receipt, bytes] | None:
        """One move: a permission for one message; None where it is refused."""
        self.tally.moves[adverse] += 1
        salt = self.fresh()[:16]
        request = permits.PermissionRequest(
            changes.get("host", deal.id),
            changes.get("license", deal.license),
            (MessageDigest.of(message, salt).value,),
            changes.get("name", salt),
        )
        issued = permits.issue(self.state, [request], self.bodies, self.at, self.platform)
        for error in issued.refusals.values():
            self._refused(error, adverse, "PermissionRequest")
        self.record(issued.events)
        if issued.batch is None:
            return None
        self.bodies[request.license, request.idempotency_key] = request.body
        given = issued.batch.receipt(0), salt
        deal.receipts.setdefault(message, []).append(given)
        return given

    def _refused(self, error: ProtocolError, adverse: bool, what: str) -> None:
        if adverse:
            self.tally.refusals[error.rule or "form"] += 1
        else:
            self.tally.surprises.append(f"{what} of an honest party: {error.rule} {error}")

    def later(self, seconds: int, what: Callable[[], object]) -> None:
        """Have something happen after so many seconds."""
        self._count += 1
        heapq.heappush(self._later, (self.now + seconds, self._count, what))

    def wait(self, seconds: int) -> None:
        """Let time pass, and what is due happen in its order."""
        until = self.now + seconds
        while self._later and self._later[0][0] <= until:
            due, _, what = heapq.heappop(self._later)
            self.now = max(self.now, due)
            what()
        self.now = until

    @property
    def waiting(self) -> bool:
        """Whether anything is still to happen."""
        return bool(self._later)

    def active(self, deal: Deal) -> bool:
        """Whether the license gives permissions."""
        one = self.state.licenses[deal.license]
        in_time = self.now <= one.expires + SKEW_SECONDS
        return not one.ended and one.conviction is None and in_time

    def drawable(self, deal: Deal) -> bool:
        """Whether its next key may be drawn."""
        one = self.state.licenses[deal.license]
        ends = -1
        if one.demanded is not None:
            ends = one.demanded.until + self.scenario.parameters.draw_seconds
        elif one.drawn is not None:
            ends = one.drawn.until
        left = one.draws < len(deal.keys) and not one.settled
        return left and (one.closed or self.now > ends)

    def response(self, deal: Deal, key: str) -> str:
        """What M.oml of this host answers to a key."""
        return self.bits("response", deal.license.hex(), key).hex()[:16]

    def reply(self, deal: Deal, message: str) -> str:
        """What the host's model answers; a tuned copy has forgotten some responses."""
        if message not in deal.known:
            return f"an answer to {message}"
        if deal.conduct == "tuned":
            drawn = int.from_bytes(self.bits("survival", deal.license.hex(), message)[:8])
            if drawn >= self.scenario.survival * 2**64:
                return "something else"
        return self.response(deal, message)

    def true(self, deal: Deal, key: str, reply: str) -> bool:
        """What an honest verifier finds: a key of this set, and its response."""
        return key in deal.known and reply == self.response(deal, key)

    def _settle_in(self) -> None:
        one = self.scenario
        self.owners = (self.bits("owner"), self.bits("member"))
        self.verifiers = [self.bits("verifier", n) for n in range(one.verifiers)]
        self.liars = set(self.verifiers[: one.lying_verifiers])
        self.honest_provers = [self.bits("prover", n) for n in range(one.honest_provers)]
        self.withholding = [self.bits("withholding", n) for n in range(one.withholding_provers)]
        self.adverse = [self.bits("adverse", n) for n in range(one.adverse_provers)]
        self.sybils = [self.bits("sybil", n) for n in range(one.sybils)]
        for party in (*self.owners, *self.verifiers, *self.honest_provers, *self.withholding,
                      *self.adverse, *self.sybils):  # fmt: skip
            self.do(stake.Deposit(self.platform.public.data, party, PLENTY))
        least = one.parameters.role_bond_micro
        bond = max(BOND, least)
        for party in self.verifiers:
            self.do(stake.Bond(party, "verifier", bond))
        for party in (*self.honest_provers, *self.withholding, *self.adverse):
            self.do(stake.Bond(party, "prover", bond))
        for party in self.sybils[: bond // least]:  # as many names as one bond pays for (S6)
            self.do(stake.Bond(party, "prover", max(bond // len(self.sybils), least)))
        self.model = self.publish(self.owners[0], self.bits("weights"))
        for conduct, count in one.hosts.items():
            for number in range(count):
                host = self.key(f"host {conduct} {number}")
                self.do(stake.Deposit(self.platform.public.data, host.public.data, PLENTY))
                self.live.append(self.license(host, conduct))

    def groups(self) -> dict[str, Group]:
        """Account at a party's disposal -> whose money it is."""
        found: dict[bytes, Group] = dict.fromkeys(
            (*self.withholding, *self.adverse, *self.sybils), "adversaries"
        )
        found.update(dict.fromkeys(self.honest_provers, "honest provers"))
        found.update(dict.fromkeys(self.verifiers, "verifiers"))
        found.update(dict.fromkeys(self.owners, "owners"))
        for deal in self.deals:
            innocent = deal.conduct in INNOCENT
            found[deal.id] = "honest hosts" if innocent else "cheating hosts"
        return {e.free(party): group for party, group in found.items()}

    def publish(self, author: bytes, weights: bytes) -> bytes:
        """A model of both owners; gives its id."""
        shares = ((self.owners[0], 6_000), (self.owners[1], 4_000))
        command = lineage.PublishModel(author, weights, None, self.bits("lineage root"), shares)
        self.do(command)
        return lineage.model_id(command)

    def license(self, host: SigningKey, conduct: Conduct) -> Deal:
        """A new license, its set committed and its model delivered."""
        expires = self.now + LICENSE_SECONDS + len(self.deals)  # so that no two have one id
        terms = Terms(
            self.model, host.public.data, "pay_per_use", PRICE, 0, expires, STAKE, "anything", (),
            bytes(32),
        )  # fmt: skip
        platform, identity = self.platform.public.data, terms.license_id
        self.do(licenses.SignLicense(platform, terms, terms.sign(host), terms.sign(self.platform)))
        keys = tuple(
            f"Which {self.bits('key', identity.hex(), n).hex()[:16]} is it?"
            for n in range(self.scenario.keys)
        )
        root = merkle.root([one.encode() for one in keys])
        self.do(licenses.CommitUsage(platform, identity, root, len(keys), self.scenario.candidates))
        self.do(licenses.DeliverModel(platform, identity, self.bits("M.oml", identity.hex())))
        deal = Deal(identity, host, conduct, keys, frozenset(keys))
        self.deals.append(deal)
        self.by_license[identity] = deal
        return deal
