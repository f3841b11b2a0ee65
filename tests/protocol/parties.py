"""A community on a stage: its parties by role, a clock that is moved by hand, and the log.

Every command goes through `apply` and is recorded; the log's root before it is the beacon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from loyal import merkle
from loyal.errors import ProtocolError
from loyal.protocol import disputes, licenses, lineage, permits, stake, voting
from loyal.protocol import events as e
from loyal.protocol.answers import Answer, SignedAnswer, message_digest
from loyal.protocol.parameters import Parameters
from loyal.protocol.permission import MessageDigest, Receipt
from loyal.protocol.rules import Command, apply
from loyal.protocol.state import Moment, State
from loyal.signing import SigningKey

DAY = 86_400
PLENTY = 100_000_000
STAKE = 10_000_000
CANDIDATES = 16
KEYS = 200


def key_of(role: str) -> SigningKey:
    """A fixed key a role: tests are about who, not about secrets."""
    return SigningKey.from_seed(role.encode().ljust(32, b"."))


def salt_of(number: int) -> bytes:
    """A fixed salt a message."""
    return number.to_bytes(16, "big")


@dataclass
class Stage:
    """The parties, the state and the log."""

    parameters: Parameters = field(default_factory=Parameters)
    now: int = 1_800_000_000
    keys: dict[str, SigningKey] = field(default_factory=dict)
    log: list[e.Event] = field(default_factory=list)
    tree: merkle.Tree = field(default_factory=merkle.Tree)
    permitted: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    receipts: dict[tuple[bytes, bytes], Receipt] = field(default_factory=dict)
    queries: int = 0

    def __post_init__(self) -> None:
        self.state = State(self.id("platform"), self.parameters)

    def key(self, role: str) -> SigningKey:
        """The role's signing key."""
        return self.keys.setdefault(role, key_of(role))

    def id(self, role: str) -> bytes:
        """The role's public key, 32 bytes."""
        return self.key(role).public.data

    @property
    def at(self) -> Moment:
        """Now, here in the log."""
        return Moment(self.now, self.state.length, self.tree.root())

    def do(self, command: Command) -> list[e.Event]:
        """Apply and record."""
        return self.record(apply(self.state, command, self.at))

    def record(self, events: list[e.Event] | tuple[e.Event, ...]) -> list[e.Event]:
        """Write events to the log and fold them in."""
        for event in events:
            self.state.record(self.state.length, event)
            self.log.append(event)
            self.tree.append(e.encode_event(event))
        return list(events)

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.now += seconds

    def free(self, role: str) -> int:
        """What a role has at its disposal."""
        return self.state.balance(e.free(self.id(role)))

    def fund(self, *roles: str, amount: int = PLENTY) -> None:
        """The platform credits money."""
        for role in roles:
            self.do(stake.Deposit(self.id("platform"), self.id(role), amount))

    def enroll(self, purpose: str, *roles: str, amount: int = STAKE) -> None:
        """Roles bond as provers or verifiers."""
        self.fund(*roles)
        for role in roles:
            self.do(stake.Bond(self.id(role), purpose, amount))

    def publish(
        self, role: str, name: str, parent: bytes | None = None,
        shares: tuple[tuple[str, int], ...] = (("owner", 6_000), ("member", 4_000)),
        weights: bytes | None = None,
    ) -> bytes:  # fmt: skip
        """A model with owners; gives its id. Without `weights` its name is taken for them."""
        command = lineage.PublishModel(
            self.id(role),
            weights or name.encode().ljust(32, b"."),
            parent,
            bytes(32),
            tuple((self.id(owner), share) for owner, share in shares),
        )
        self.do(command)
        return lineage.model_id(command)

    def terms(self, model: bytes, host: str = "host", **changes: object) -> licenses.Terms:
        """Pay per use, 1,000 micro a query, 30 days."""
        values: dict[str, object] = {
            "kind": "pay_per_use",
            "price_micro": 1_000,
            "most_inferences": 0,
            "expires": self.now + 30 * DAY,
            "stake_micro": STAKE,
            "allowed": "anything but spells",
            "denied_words": ("spell",),
            "constitution": bytes(32),
        }
        return licenses.Terms(model=model, host=self.id(host), **{**values, **changes})  # type: ignore[arg-type]

    def sign(self, terms: licenses.Terms, host: str = "host") -> bytes:
        """Both sides sign; gives the license's id."""
        self.do(
            licenses.SignLicense(
                self.id("platform"),
                terms,
                terms.sign(self.key(host)),
                terms.sign(self.key("platform")),
            )
        )
        return terms.license_id

    def deliver(self, license: bytes, count: int = KEYS) -> None:
        """The usage set's root first, then the model."""
        platform = self.id("platform")
        self.do(licenses.CommitUsage(platform, license, bytes(32), count, CANDIDATES))
        self.do(licenses.DeliverModel(platform, license, b"M.oml".ljust(32, b".")))

    def permit(self, license: bytes, message: str, host: str = "host") -> tuple[Receipt, bytes]:
        """A permission for one message; gives the receipt and its salt."""
        salt = salt_of(self.queries)
        self.queries += 1
        request = permits.PermissionRequest(
            self.id(host), license, (MessageDigest.of(message, salt).value,), salt
        )
        issued = permits.issue(self.state, [request], self.permitted, self.at, self.key("platform"))
        if issued.refusals:
            raise issued.refusals[0]
        self.record(issued.events)
        assert issued.batch is not None
        self.permitted[license, salt] = request.body
        self.receipts[license, salt] = issued.batch.receipt(0)
        return self.receipts[license, salt], salt

    def answer(
        self,
        license: bytes,
        message: str,
        reply: str,
        permitted: tuple[Receipt, bytes] | None = None,
        host: str = "host",
        more: tuple[str, ...] = (),
    ) -> SignedAnswer:
        """What the host signs when it answers now; `permitted` is what `permit` gave."""
        messages = tuple(message_digest(one) for one in (*more, message))
        receipt, salts = (permitted[0], (permitted[1],)) if permitted else (None, ())
        answer = Answer(license, messages, message_digest(reply), receipt, salts, time=self.now)
        return answer.sign(self.key(host))

    def dated(self, answer: SignedAnswer, seconds: int) -> SignedAnswer:
        """The same answer with another time, signed by the host."""
        one = replace(answer.verify(self.id("host")), time=seconds)
        return one.sign(self.key("host"))

    def draw(self, license: bytes) -> str:
        """The next key goes to a prover; gives its role."""
        drawn = self.do(disputes.DrawKey(self.id("platform"), license))[0]
        assert isinstance(drawn, e.KeyDrawn)
        return next(role for role in self.keys if self.id(role) == drawn.prover)

    def commit(self, prover: str, key: str, reply: str, salt: bytes = b"salt") -> bytes:
        """The prover fixes what it was told."""
        fixed = disputes.commitment(key, reply, salt, self.id(prover))
        self.do(disputes.Commit(self.id(prover), self.license_out_to(prover), fixed))
        return fixed

    def license_out_to(self, prover: str) -> bytes:
        """The license whose last key was drawn for this prover; without one, the first license."""
        for name, license in self.state.licenses.items():
            if license.drawn is not None and license.drawn.prover == self.id(prover):
                return name
        return next(iter(self.state.licenses))

    def claim(
        self, prover: str, license: bytes, key: str, reply: str, answer: SignedAnswer | None,
        salt: bytes = b"salt",
    ) -> bytes:  # fmt: skip
        """The prover opens its commitment; gives the claim's id."""
        events = self.do(disputes.MakeClaim(self.id(prover), license, key, reply, salt, answer))
        made = next(one for one in events if isinstance(one, e.Claimed))
        return made.claim

    def probe(self, license: bytes, number: int, reply: str = "reply") -> bytes:
        """One whole claim against a host that answered without a permission."""
        prover, key = self.draw(license), f"key {number}"
        answer = self.answer(license, key, reply)
        self.commit(prover, key, reply)
        return self.claim(prover, license, key, reply, answer)

    def judge(self, claim: bytes, holds: bool = True, verifiers: tuple[str, ...] = ()) -> None:
        """The leaf is opened, the rebuttal's time passes, verifiers sign, the claim is settled."""
        self.do(disputes.OpenLeaf(self.id("platform"), claim, bytes(32)))
        self.wait(self.parameters.rebuttal_seconds + 1)
        for role in verifiers or VERIFIERS:
            self.do(voting.GiveVerdict(self.id(role), claim, holds))
        self.do(disputes.SettleClaim(self.id("host"), claim))


VERIFIERS = ("verifier 1", "verifier 2", "verifier 3")
PROVERS = ("prover 1", "prover 2", "prover 3", "prover 4", "prover 5")


def licensed(
    parameters: Parameters | None = None, now: int = 1_800_000_000, **changes: object
) -> tuple[Stage, bytes]:
    """A stage with a published model, a delivered license, provers and verifiers."""
    stage = Stage(parameters or Parameters(), now)
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("prover", *PROVERS)
    stage.fund("owner", "member", "host")
    model = stage.publish("owner", "the model")
    license = stage.sign(stage.terms(model, **changes))
    stage.deliver(license)
    return stage, license


def convicted(stage: Stage, license: bytes) -> int:
    """Probes until the host is convicted; gives the number of draws."""
    for number in range(100):
        stage.judge(stage.probe(license, number))
        if stage.state.licenses[license].conviction is not None:
            return number + 1
    raise AssertionError("never convicted")


def refused(action: Callable[[], object]) -> str:
    """The rule that forbids it; fails where nothing does."""
    with pytest.raises(ProtocolError) as caught:
        action()
    assert caught.value.hint
    return caught.value.rule
