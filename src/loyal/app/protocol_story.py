"""The protocol lived through on loopback: licenses, hosts, provers, verdicts, slashes, money.

A `Community` is a platform with its durable store, owners, provers and verifiers with bonds. Hosts
get a license, their set is committed to the log, the log's next root draws it, and only then the
model is made and delivered. `live` then serves every host over HTTP, some of them dishonest, lets
users and provers ask, verifiers judge, and slashes. Days pass on a clock of the story's own.

Everything is what a community runs in earnest: the same rules, gateway, prover, verifier and store.
At the end the log is audited: each entry follows from a signed command and the rules. Left out:
making the models (demo.py), and pages and tables (demo_page.py).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loyal.app.store import open_store
from loyal.errors import LedgerError, UsageError
from loyal.fingerprints import Beacon, FingerprintSet, fingerprint
from loyal.models import LanguageModel
from loyal.protocol import Checkpoint, Command, Event, NoteSigner, State, Terms
from loyal.protocol import events as e
from loyal.protocol.audit import Auditor
from loyal.protocol.commands import sign_command
from loyal.protocol.licenses import CommitUsage, DeliverModel, SignLicense, purpose
from loyal.protocol.lineage import PublishModel, model_id
from loyal.protocol.stake import Bond, Deposit
from loyal.roles import Platform, PlatformKeys
from loyal.signing import SigningKey

if TYPE_CHECKING:
    from loyal.app.breach_story import Hearing, Trial

DEPOSIT_MICRO = 50_000_000
STAKE_MICRO = 10_000_000
BOND_MICRO = 10_000_000
PRICE_MICRO = 1_000
PROVERS, VERIFIERS = 5, 3
PERIOD_SECONDS = 10 * 365 * 86_400
"""Of a license: the story waits out every window, a key at a time."""
OWNERS = (("the owner", 6_000), ("a member", 4_000))


@dataclass(frozen=True)
class Conduct:
    """How a host behaves."""

    skips: float = 0.0
    """Share of queries that it answers without a permission."""
    signs: bool = True
    """Whether it signs those answers, as its license obliges it to."""
    breaks: bool = False
    """Whether it serves the model with the community's values broken."""

    @property
    def honest(self) -> bool:
        """Whether it keeps its license."""
        return self.skips == 0 and not self.breaks


@dataclass(frozen=True)
class Licensed:
    """A host under its license."""

    name: str
    key: SigningKey
    terms: Terms

    @property
    def id(self) -> bytes:
        """The license's, 32 bytes."""
        return self.terms.license_id


@dataclass(frozen=True)
class Copy:
    """A host, what it serves, and how."""

    host: Licensed
    fingerprints: FingerprintSet
    """Its own usage set, drawn."""
    model: LanguageModel
    conduct: Conduct = field(default_factory=Conduct)


@dataclass(frozen=True)
class HostEnd:
    """What became of a host. Money in millionths."""

    name: str
    honest: bool
    permissions: int
    draws: int
    claims: int
    upheld: int
    slashed_micro: int
    balance_micro: int
    """All that it has at the end, bonds too, less what it paid in."""


@dataclass(frozen=True)
class Ending:
    """What became of everybody."""

    hosts: tuple[HostEnd, ...]
    money: tuple[tuple[str, int], ...]
    """Party or group -> what it has gained, in millionths; the sum is 0."""
    entries: int
    """Of the log, each of which the audit derived again."""
    verdicts: int
    days: int
    """That passed in the story."""
    seconds: float
    hearings: tuple[Hearing, ...] = ()
    """Of hosts that were tried over the values."""

    @property
    def good(self) -> bool:
        """Every dishonest host is slashed, no honest one is or stands accused, and no money came
        or went."""
        right = all((one.slashed_micro == 0) == one.honest for one in self.hosts)
        clean = all(one.upheld == 0 for one in self.hosts if one.honest)
        clean = clean and all(one.right for one in self.hearings)
        return right and clean and sum(amount for _, amount in self.money) == 0


class Community:
    """Everybody but the hosts' models."""

    def __init__(self, folder: Path, weights: bytes, lineage_root: bytes) -> None:
        """A new community with one model: SHA-256 of its weights, root of its lineage set."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.began = self.now = int(time.time())
        self.identity = SigningKey.generate()
        self.log = NoteSigner("loyal.example/demo", SigningKey.generate())
        self.store = open_store(f"sqlite:///{folder / 'platform.db'}")
        self.platform = Platform(self.store, PlatformKeys(self.identity, self.log))
        self.names: dict[bytes, str] = {}
        self._numbers: Counter[bytes] = Counter()
        self.owners = [self._party(name) for name, _ in OWNERS]
        self.provers = [self._bonded("prover", n) for n in range(PROVERS)]
        self.verifiers = [self._bonded("verifier", n) for n in range(VERIFIERS)]
        shares = tuple(
            (key.public.data, share) for key, (_, share) in zip(self.owners, OWNERS, strict=True)
        )
        publish = PublishModel(self.owners[0].public.data, weights, None, lineage_root, shares)
        self.do(self.owners[0], publish)
        self.model = model_id(publish)

    @property
    def state(self) -> State:
        """What the log says."""
        return self.platform.state

    def do(self, key: SigningKey, command: Command) -> tuple[Event, ...]:
        """A party's signed command. ProtocolError with the rule that forbids it."""
        self._numbers[key.public.data] += 1
        number = self._numbers[key.public.data]
        signed = sign_command(key, self.identity.public.data, command, number)
        return self.platform.submit(signed, self.now)

    def order(self, command: Command) -> tuple[Event, ...]:
        """The platform's own command."""
        return self.do(self.identity, command)

    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now += seconds

    def license(self, name: str) -> Licensed:
        """A new host and its license, signed by both sides, the stake in escrow."""
        key = self._party(name)
        terms = Terms(
            self.model, key.public.data, "pay_per_use", PRICE_MICRO, 0, self.now + PERIOD_SECONDS,
            STAKE_MICRO, "any lawful use", (), bytes(32),
        )  # fmt: skip
        own = self.identity.public.data
        self.order(SignLicense(own, terms, terms.sign(key), terms.sign(self.identity)))
        return Licensed(name, key, terms)

    def commit(self, host: Licensed, made: FingerprintSet) -> FingerprintSet:
        """The set's root goes to the log; the log's root after it draws the responses."""
        width = min(one.one_in for one in made.fingerprints)
        own = self.identity.public.data
        self.order(CommitUsage(own, host.id, made.root, len(made), width))
        note = self.platform.checkpoint
        assert note is not None
        return fingerprint.draw(made, Beacon(Checkpoint.from_text(note.text).root))

    def deliver(self, host: Licensed, weights: bytes) -> None:
        """The host has its own M.oml, of this SHA-256."""
        self.order(DeliverModel(self.identity.public.data, host.id, weights))

    def audit(self) -> int:
        """Derive every entry of the log again; how many there are. LedgerError for one that the
        rules did not write, or a log that is not the one under the checkpoint."""
        auditor = Auditor(State(self.identity.public.data, self.state.parameters))
        for data in self.store.entries(0, self.state.length):
            auditor.read(data)
        auditor.finish()
        note = self.platform.checkpoint
        assert note is not None
        if Checkpoint.from_text(note.text).root != auditor.root:
            raise LedgerError(
                "the log is not the one that its checkpoint signs",
                hint="run the demo anew in another folder",
                reason="root",
            )
        return auditor.length

    def worth(self, party: bytes) -> int:
        """All that a party has, free, bonded or on its way, less what it paid in."""
        tail = party.hex()
        kept = sum(amount for name, amount in self.state.balances.items() if name.endswith(tail))
        return kept - DEPOSIT_MICRO

    def _party(self, name: str) -> SigningKey:
        key = SigningKey.generate()
        self.names[key.public.data] = name
        self.order(Deposit(self.identity.public.data, key.public.data, DEPOSIT_MICRO))
        return key

    def _bonded(self, purpose: str, number: int) -> SigningKey:
        key = self._party(f"{purpose} {number + 1}")
        self.do(key, Bond(key.public.data, purpose, BOND_MICRO))
        return key


def live(
    community: Community,
    copies: tuple[Copy, ...],
    questions: tuple[str, ...],
    progress: Callable[[str, int, int], None] = lambda name, done, of: None,
    rng: random.Random | None = None,
    trial: Trial | None = None,
) -> Ending:
    """Serve the copies, ask them `questions` as users and their keys as provers, judge, slash;
    with a `trial`, then try those with all their permissions over the community's values.

    `progress` is told host, keys drawn, keys there are. `rng` decides which queries a cheat skips
    and how provers word theirs: the system's, unless given. UsageError without a copy.
    """
    import asyncio

    from loyal.app.protocol_stage import Stage

    if not copies:
        raise UsageError("nobody is a host", hint="give one copy at least")
    began = time.monotonic()
    stage = Stage(community, questions, progress, rng or random.SystemRandom())
    hearings = asyncio.run(stage.run(copies, trial))
    return replace(_ending(community, copies, time.monotonic() - began), hearings=hearings)


def _ending(community: Community, copies: tuple[Copy, ...], seconds: float) -> Ending:
    state = community.state
    hosts = tuple(_host_end(community, one) for one in copies)
    groups = (("the owners", community.owners), ("provers", community.provers),
              ("verifiers", community.verifiers))  # fmt: skip
    money = [(one.name, one.balance_micro) for one in hosts]
    for name, keys in groups:
        money.append((name, sum(community.worth(one.public.data) for one in keys)))
    money.append(("burned", state.balance(e.BURNED)))
    return Ending(
        hosts=hosts,
        money=tuple(money),
        entries=community.audit(),
        verdicts=sum(len(one) for one in state.verdicts.values()),
        days=(community.now - community.began) // 86_400,
        seconds=seconds,
    )


def _host_end(community: Community, one: Copy) -> HostEnd:
    license, key = community.state.licenses[one.host.id], one.host.key.public
    claims = [each for each in community.state.claims.values() if each.made.license == one.host.id]
    return HostEnd(
        name=one.host.name,
        honest=one.conduct.honest,
        permissions=license.permitted,
        draws=license.draws,
        claims=len(claims),
        upheld=sum(each.upheld for each in claims),
        slashed_micro=STAKE_MICRO - community.state.staked(purpose(one.host.id), key.data),
        balance_micro=community.worth(key.data),
    )
