"""A license with a real usage set on a real platform, and the desk at which actors meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from community import on
from parties import PROVERS, VERIFIERS, Stage
from shelf import KEYS, Shelf

from loyal.errors import EndpointError, ProtocolError
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, fingerprint
from loyal.protocol import Answer, Checkpoint, Command, Receipt, SignedAnswer, SignedNote, State
from loyal.protocol import events as e
from loyal.protocol.answers import message_digest
from loyal.protocol.disputes import DrawKey, MakeClaim, OpenLeaf
from loyal.protocol.licenses import CommitUsage, DeliverModel, Terms
from loyal.roles import Host, Platform
from loyal.roles.custodian import Custodian, evidence_digest
from loyal.roles.mirror import Mirror
from loyal.roles.prover import Heard, IntentFile, Prover
from loyal.roles.verifier import Evidence, Verifier

T = TypeVar("T")
COUNT, CANDIDATES = 20, 16


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end."""
    return asyncio.run(work)


def usage_set(
    count: int = COUNT, width: int = CANDIDATES, responses: int = 1, shared: bool = False
) -> FingerprintSet:
    """An undrawn usage set of plain keys, each with `responses` of `width` candidates; `shared`:
    all with the same ones, from one draw."""
    secret = fingerprint.new_owner_secret()
    pairs = tuple(
        Fingerprint.create(
            f"question {n}?",
            [f"<{0 if shared else n}.{k}>" for k in range(width)],
            secret,
            responses,
            shared,
        )
        for n in range(count)
    )
    return FingerprintSet("usage", "by hand", "a-model", "0" * 64, pairs, 1_700_000_000, secret)


@dataclass
class Court:
    """The platform, its parties, and the vault's side."""

    shelf: Shelf
    platform: Platform
    stage: Stage
    terms: Terms
    secret: FingerprintSet
    custodian: Custodian
    claims: dict[bytes, MakeClaim] = field(default_factory=dict)

    @property
    def license(self) -> bytes:
        return self.terms.license_id

    @property
    def state(self) -> State:
        return self.platform.state

    def draw(self) -> str:
        """The next key goes out; gives its prover's role."""
        events = self.stage.do(DrawKey(self.stage.id("platform"), self.license))
        drawn = next(one for one in events if isinstance(one, e.KeyDrawn))
        return next(role for role in PROVERS if self.stage.id(role) == drawn.prover)

    def open_leaf(self, claim: bytes) -> None:
        """The vault's side opens it, and the host's time passes."""
        proof = self.custodian.open(self.license, self.claims[claim].key)
        self.stage.do(OpenLeaf(self.stage.id("platform"), claim, evidence_digest(proof)))
        self.stage.wait(self.stage.parameters.rebuttal_seconds + 1)

    def claimed(self, folder: Path, reply: str | None = None) -> bytes:
        """A prover draws, asks a host that says `reply` (the response by default) without a
        permission, and claims; gives the claim, its leaf open."""
        role = self.draw()
        host = StageHost(self, "signed", reply)
        found = wait_for(self.prover(role, host, folder).step(self.stage.now))
        assert found == "claimed"
        claim = next(reversed(self.claims))
        self.open_leaf(claim)
        return claim

    def prover(self, role: str, host: StageHost, folder: Path, **settings: Any) -> Prover:
        """The prover of a role, with a log of its own."""
        desk = StageDesk(self, self.stage.id(role))
        intents = IntentFile(folder, self.license)
        return Prover(self.stage.id(role), self.license, desk, host, intents, **settings)

    def verifier(self, role: str, **settings: Any) -> Verifier:
        """The verifier of a role, with a log of its own."""
        return Verifier(self.stage.id(role), StageDesk(self, self.stage.id(role)), **settings)


class StageDesk:
    """An `EvidenceDesk` in the same process; the log is read and checked like anybody's."""

    def __init__(self, court: Court, party: bytes) -> None:
        self.court, self.party = court, party
        self.mirror = Mirror(court.stage.id("platform"), KEYS.log.verifier, court.stage.parameters)
        self.sent: list[Command] = []
        self.crash_before: type | None = None
        self.crash_after: type | None = None
        self.readings: int | None = None
        self.tamper: Callable[[Evidence], Evidence] = lambda given: given

    async def read_on(self) -> State:
        if self.readings is not None:
            if not self.readings:
                raise EndpointError("the platform could not be reached", hint="wait")
            self.readings -= 1
        head = self.mirror.opened(self.court.shelf.notes[-1])
        self.mirror.take(head, self.court.shelf.log[self.mirror.size : head.size])
        return self.mirror.state

    async def submit(self, command: Command) -> None:
        if self.crash_before is type(command):
            raise KeyboardInterrupt
        events = self.court.stage.do(command)
        for one in events:
            if isinstance(one, e.Claimed):
                assert isinstance(command, MakeClaim)
                self.court.claims[one.claim] = command
        self.sent.append(command)
        if self.crash_after is type(command):
            raise KeyboardInterrupt

    async def drawn_key(self, license: bytes) -> str:
        drawn = self.court.state.licenses[license].drawn
        if drawn is None or drawn.prover != self.party:
            raise ProtocolError("no key is out to you", hint="wait for a draw", rule="C1")
        return self.court.custodian.key(license, drawn.number)

    async def evidence(self, claim: bytes) -> Evidence:
        made, court = self.court.claims[claim], self.court
        proof = court.custodian.open(made.license, made.key)
        beacon = court.custodian.beacon(made.license)
        return self.tamper(Evidence(made.key, made.reply, made.salt, proof, beacon))

    def drew_between(self, license: bytes, beacon: bytes) -> bool:
        return self.mirror.drew_between(license, beacon)

    def lineage_beacons(self, root: bytes, before: int) -> frozenset[bytes]:
        return self.mirror.lineage_beacons(root, before)


Manner = Literal["permitted", "signed", "token", "unsigned", "silent"]


@dataclass
class StageHost:
    """A host as its users reach it: `loyal.roles.Host` does the signing."""

    court: Court
    manner: Manner
    reply: str | None = None
    """None: the response, as M.oml gives it."""
    asked: int = 0
    ahead: int = 0
    """Seconds by which its clock is ahead of the platform's."""
    answers: list[SignedAnswer] = field(default_factory=list)
    """Those on token 0."""

    async def ask(self, message: str) -> Heard | None:
        self.asked += 1
        if self.manner == "silent":
            return None
        court = self.court
        reply = self.reply
        if reply is None:
            known = court.secret
            reply = f" {known.fingerprints[known.positions[message.strip()]].response} indeed"
        if self.manner == "unsigned":
            return Heard(reply)
        if self.manner == "signed":
            answer = court.stage.answer(court.license, message, reply)
            answer = court.stage.dated(answer, court.stage.now + self.ahead)
            return Heard(reply, (answer.signed.to_bytes(),))
        if self.manner == "token":
            asked_of, said = (message_digest(message),), message_digest(reply)
            now = court.stage.now
            answered = Answer(court.license, asked_of, said, None, (), 0, time=now)
            token = answered.sign(court.stage.key("host"))
            self.answers.append(token)
            return Heard(reply, (token.signed.to_bytes(),))
        host = Host(
            court.stage.key("host"), court.terms, court.stage.key("platform").public,
            clock=lambda: court.stage.now + self.ahead,
        )  # fmt: skip
        asked = host.ask([message])
        data = court.platform.permit([asked.request], court.stage.now)[0]
        assert isinstance(data, bytes)
        signed = host.answer([message], reply, Receipt.from_bytes(data), asked.salts)
        return Heard(reply, (signed.signed.to_bytes(),))


def court(
    now: int | None = None,
    weights: bytes = b"M.oml".ljust(32, b"."),
    width: int = CANDIDATES,
    responses: int = 1,
    shared: bool = False,
    published: bytes | None = None,
) -> Court:
    """Provers, verifiers and a delivered license, its set drawn by the log's root after its own;
    `published` are the weights of the licensed model."""
    shelf = Shelf()
    platform = Platform(shelf, KEYS)
    stage = on(platform)
    stage.now = stage.now if now is None else now
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("prover", *PROVERS)
    stage.fund("owner", "member", "host")
    terms = stage.terms(stage.publish("owner", "the model", weights=published))
    license = stage.sign(terms)
    undrawn = usage_set(COUNT, width, responses, shared)
    vault = stage.id("platform")
    stage.do(CommitUsage(vault, license, undrawn.root, COUNT, CANDIDATES))
    root = Checkpoint.from_text(SignedNote.from_bytes(shelf.notes[-1]).text).root
    drawn = fingerprint.draw(undrawn, Beacon(root))
    stage.do(DeliverModel(vault, license, weights))
    return Court(shelf, platform, stage, terms, drawn, Custodian({license: drawn}))
