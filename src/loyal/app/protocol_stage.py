"""The moving part of `protocol_story`: hosts on loopback, users, provers and verifiers in turn.

The platform and each host have an address of their own, and everybody reaches them over HTTP. An
honest host is the gateway before its model; a dishonest one sends a share of its queries around the
gateway. Provers reach both as any user does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from loyal.app.access import ApiKeys, Rate
from loyal.app.asgi import App, Message, Receive, Scope, Send, read_body
from loyal.app.breach_story import Hearing, Trial, hear
from loyal.app.caretaker import Caretaker, Pace
from loyal.app.gateway import LoyalMiddleware
from loyal.app.http import HttpLimits, Parts, PlatformApp
from loyal.app.listening import Address, open_door, url_of
from loyal.app.model_server import ModelServer
from loyal.app.openai_form import CHAT, covered_texts, reply_texts
from loyal.app.platform_api import PlatformApi, PlatformDesk
from loyal.app.platform_client import PlatformClient, to_base64url
from loyal.app.protocol_story import Community, Conduct, Copy
from loyal.app.prover_client import AskerSettings, ChatAsker
from loyal.app.receipts import SqliteReceipts
from loyal.app.vault_desk import VaultDesk
from loyal.protocol.answers import Answer, message_digest
from loyal.roles import Host, PermissionQueue
from loyal.roles.prover import IntentFile, Prover
from loyal.roles.verifier import Verifier
from loyal.signing import PublicKey, SigningKey

MOST_TOKENS = 12
"""Of a reply: a response is its first word."""
MOST_BYTES = 1 << 20
PACE_SECONDS = 7 * 86_400
"""Between two draws: a claim is settled by then."""


class Cheat:
    """A dishonest host: some queries never reach the gateway, and so have no permission."""

    def __init__(
        self, gateway: App, model: App, host: Host, conduct: Conduct, rng: random.Random
    ) -> None:
        self._gateway, self._model, self._host = gateway, model, host
        self._conduct, self._rng = conduct, rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        asked = scope["type"] == "http" and scope["path"] == CHAT
        if not asked or self._rng.random() >= self._conduct.skips:
            await self._gateway(scope, receive, send)
            return
        data = await read_body(receive, MOST_BYTES)

        async def again() -> Message:
            return {"type": "http.request", "body": data, "more_body": False}

        said: list[Message] = []

        async def keep(message: Message) -> None:
            said.append(message)

        await self._model(scope, again, keep)
        start, body = said
        if self._conduct.signs and start["status"] == 200:
            start["headers"] = [
                *start["headers"],
                (b"loyal-answer", self._sign(data, body["body"])),
            ]
        await send(start)
        await send(body)

    def _sign(self, asked: bytes, said: bytes) -> bytes:
        """Its license obliges it to sign, so it does: without a receipt, for it has none."""
        texts = covered_texts(CHAT, asked)
        reply = (reply_texts(said) or [""])[0]
        digests = tuple(map(message_digest, texts))
        now = self._host.clock()
        answer = Answer(self._host.license, digests, message_digest(reply), None, (), time=now)
        return to_base64url(answer.sign(self._host.key).signed.to_bytes()).encode()


@dataclass
class Court:
    """The platform as its parties reach it."""

    url: str
    parts: Parts
    app: PlatformApp
    community: Community
    closing: contextlib.AsyncExitStack
    desks: list[PlatformDesk] = field(default_factory=list)
    """The provers', in their order."""
    verifiers: list[Verifier] = field(default_factory=list)
    caretaker: Caretaker = field(init=False)

    def look_at(self, one: Copy | None) -> None:
        """From now on the platform draws this host's keys, and no other's; None for nobody's."""
        parts = replace(self.parts, desk=VaultDesk([] if one is None else [one.fingerprints]))
        self.caretaker = Caretaker(parts, self.app.log, Pace(draw_seconds=PACE_SECONDS))

    def api_key(self, one: Copy) -> str:
        """A new key for a host."""
        return self.parts.keys.draw(one.host.key.public.data)

    def desk(self, key: SigningKey) -> PlatformDesk:
        """A party's desk, over HTTP, with a copy of the log that it audits itself."""
        community = self.community
        api = PlatformApi(self.url, key, clock=lambda: float(community.now))
        self.closing.push_async_callback(api.close)
        return PlatformDesk(api, community.log.verifier)


@dataclass
class Stage:
    """Everybody at work."""

    community: Community
    questions: tuple[str, ...]
    progress: Callable[[str, int, int], None]
    rng: random.Random

    async def run(self, copies: Sequence[Copy], trial: Trial | None = None) -> tuple[Hearing, ...]:
        """Every host in turn: users first, then provers, until it is convicted or has no keys. Then
        the trial of those that never left out a permission: do they keep the values?"""
        community = self.community
        async with (
            PermissionQueue(community.platform, lambda: community.now) as queue,
            self._court(copies, queue) as court,
        ):
            for one in copies:
                court.look_at(one)
                async with self.served(one, court) as url:
                    await self._use(url)
                    await self._probe(one, court, url)
            if trial is None:
                return ()
            heard = [one for one in copies if one.conduct.skips == 0]
            return tuple([await hear(self, court, one, trial) for one in heard])

    async def _use(self, url: str) -> None:
        user = ChatAsker(self._manner(url))
        try:
            for question in self.questions:
                await user.ask(question)
        finally:
            await user.close()

    async def _probe(self, one: Copy, court: Court, url: str) -> None:
        """Draw keys one at a time, as far as a conviction or the last key."""
        community, license = self.community, one.host.id
        asker = ChatAsker(self._manner(url))
        provers = {
            key.public.data: Prover(
                key.public.data, license, desk, asker,
                IntentFile(community.folder / f"prover-{place}", license),
            )
            for place, (key, desk) in enumerate(zip(community.provers, court.desks, strict=True))
        }  # fmt: skip
        try:
            for number in range(self._keys(one)):
                self.progress(one.host.name, number, len(one.fingerprints))
                began = community.now
                await self._draw(license, court, provers)
                if community.state.licenses[license].conviction is not None:
                    community.wait(community.state.parameters.appeal_seconds + 1)
                    await court.caretaker.once()
                    return
                community.wait(max(0, began + PACE_SECONDS - community.now))
        finally:
            await asker.close()

    def _keys(self, one: Copy) -> int:
        """An honest host is asked as many as convict a host that never asks, and some more. One
        that breaks the values has a permission for every answer: that is for its trial."""
        if one.conduct.breaks:
            return 0
        return len(one.fingerprints) if one.conduct.skips else min(len(one.fingerprints), 12)

    async def _draw(self, license: bytes, court: Court, provers: dict[bytes, Prover]) -> None:
        """One key, from the draw to the settled claim; the platform's part is its caretaker's."""
        community = self.community
        windows = community.state.parameters
        await court.caretaker.once()
        drawn = community.state.licenses[license].drawn
        assert drawn is not None
        prover = provers[drawn.prover]
        found = await prover.step(community.now)
        if found == "demanded":  # and the host lets it pass
            community.wait(windows.answer_seconds + 1)
            found = await prover.step(community.now)
        if found != "claimed":
            return
        await court.caretaker.once()
        community.wait(windows.rebuttal_seconds + 1)
        for one in court.verifiers:
            await one.step(community.now)
        await court.caretaker.once()

    @contextlib.asynccontextmanager
    async def _court(self, copies: Sequence[Copy], queue: PermissionQueue) -> AsyncIterator[Court]:
        """The platform on its address, with the vault, and a desk for everybody."""
        community = self.community
        vault = VaultDesk([one.fingerprints for one in copies])
        vault.update(community.state)
        parts = Parts(
            community.platform, queue, community.store, community.log.verifier,
            ApiKeys(community.folder / "api-keys"), vault, lambda: community.now,
            HttpLimits(address=Rate(1e6, 1e6)),  # everybody has one address here
        )  # fmt: skip
        app = PlatformApp(parts)
        async with serving(app) as url, contextlib.AsyncExitStack() as stack:
            court = Court(url, parts, app, community, stack)
            court.desks += map(court.desk, community.provers)
            court.verifiers += [
                Verifier(key.public.data, court.desk(key)) for key in community.verifiers
            ]
            yield court

    def _manner(self, url: str) -> AskerSettings:
        return AskerSettings(
            url, least_pause_seconds=0.0, most_pause_seconds=0.0, system_share=0.0, rng=self.rng
        )

    @contextlib.asynccontextmanager
    async def served(
        self, one: Copy, court: Court, most_tokens: int = MOST_TOKENS
    ) -> AsyncIterator[str]:
        """The host's address, while it is up."""
        community = self.community
        model = ModelServer(one.model, most_tokens)
        platform = PublicKey(community.identity.public.data)
        host = Host(one.host.key, one.host.terms, platform, clock=lambda: community.now)
        kept = SqliteReceipts(community.folder / f"receipts-{one.host.id.hex()[:8]}.db")
        source = PlatformClient(court.url, court.api_key(one))
        gateway = LoyalMiddleware(model, host, source, kept)
        app: App = gateway
        if one.conduct.skips:
            app = Cheat(gateway, model, host, one.conduct, self.rng)
        try:
            async with serving(app) as url:
                yield url
        finally:
            await gateway.close()
            await source.close()
            kept.close()
            model.close()


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    """An app on a free port of 127.0.0.1, in this event loop."""
    import uvicorn

    door = open_door(Address("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="error")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([door]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield url_of(door)
    finally:
        server.should_exit = True
        await task
        door.close()
