"""The moving part of `protocol_story`: hosts on loopback, users, provers and verifiers in turn.

Each host has an address of its own. An honest one is the gateway before its model; a dishonest one
sends a share of its queries around the gateway. Provers reach both as any user does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from loyal.app.asgi import App, Message, Receive, Scope, Send, read_body
from loyal.app.gateway import LoyalMiddleware
from loyal.app.model_server import ModelServer
from loyal.app.openai_form import CHAT, covered_texts, reply_texts
from loyal.app.platform_client import to_base64url
from loyal.app.protocol_story import Community, Conduct, Copy, Desk
from loyal.app.prover_client import AskerSettings, ChatAsker
from loyal.app.receipts import SqliteReceipts
from loyal.errors import ProtocolError
from loyal.protocol.answers import Answer, message_digest
from loyal.protocol.convictions import SettleConviction
from loyal.protocol.disputes import DrawKey, OpenLeaf, SettleClaim
from loyal.protocol.events import KeyDrawn
from loyal.protocol.permits import PermissionRequest
from loyal.roles import Host, PermissionQueue
from loyal.roles.custodian import evidence_digest
from loyal.roles.prover import IntentFile, Prover
from loyal.roles.verifier import Verifier
from loyal.signing import PublicKey

MOST_TOKENS = 12
"""Of a reply: a response is its first word."""
MOST_BYTES = 1 << 20


class QueueSource:
    """Permissions from a platform in this process (`roles.host.PermissionSource`)."""

    def __init__(self, queue: PermissionQueue) -> None:
        self._queue = queue

    async def permit(self, requests: Sequence[PermissionRequest]) -> list[bytes | ProtocolError]:
        """For each request its receipt, or why it gets none."""

        async def one(request: PermissionRequest) -> bytes | ProtocolError:
            try:
                return await self._queue.permit(request)
            except ProtocolError as error:
                return error

        return list(await asyncio.gather(*map(one, requests)))


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
        answer = Answer(self._host.license, digests, message_digest(reply), None, ())
        return to_base64url(answer.sign(self._host.key).signed.to_bytes()).encode()


@dataclass
class Stage:
    """Everybody at work."""

    community: Community
    questions: tuple[str, ...]
    progress: Callable[[str, int, int], None]
    rng: random.Random
    verifiers: list[Verifier] = field(default_factory=list)

    async def run(self, copies: Sequence[Copy]) -> None:
        """Every host in turn: users first, then provers, until it is convicted or has no keys."""
        community = self.community
        desks = [(key, Desk(community, key)) for key in community.verifiers]
        self.verifiers = [Verifier(key.public.data, desk) for key, desk in desks]
        async with PermissionQueue(community.platform, lambda: community.now) as queue:
            for one in copies:
                async with self._served(one, queue) as url:
                    await self._use(url)
                    await self._probe(one, url)

    async def _use(self, url: str) -> None:
        user = ChatAsker(self._manner(url))
        try:
            for question in self.questions:
                await user.ask(question)
        finally:
            await user.close()

    async def _probe(self, one: Copy, url: str) -> None:
        """Draw keys one at a time, as far as a conviction or the last key."""
        community, license = self.community, one.host.id
        asker = ChatAsker(self._manner(url))
        provers = {
            key.public.data: Prover(
                key.public.data, license, Desk(community, key), asker,
                IntentFile(community.folder / f"prover-{place}", license),
            )
            for place, key in enumerate(community.provers)
        }  # fmt: skip
        try:
            for number in range(self._keys(one)):
                self.progress(one.host.name, number, len(one.fingerprints))
                await self._draw(license, provers)
                if community.state.licenses[license].conviction is not None:
                    community.wait(community.state.parameters.appeal_seconds + 1)
                    community.order(SettleConviction(community.identity.public.data, license))
                    return
        finally:
            await asker.close()

    def _keys(self, one: Copy) -> int:
        """An honest host is asked as many as convict a host that never asks, and some more."""
        return len(one.fingerprints) if one.conduct.skips else min(len(one.fingerprints), 12)

    async def _draw(self, license: bytes, provers: dict[bytes, Prover]) -> None:
        """One key, from the draw to the settled claim."""
        community = self.community
        own, windows = community.identity.public.data, community.state.parameters
        drawn = community.order(DrawKey(own, license))[-1]
        assert isinstance(drawn, KeyDrawn)
        prover = provers[drawn.prover]
        found = await prover.step(community.now)
        if found == "demanded":  # and the host lets it pass
            community.wait(windows.answer_seconds + 1)
            found = await prover.step(community.now)
        if found != "claimed":
            community.wait(windows.draw_seconds + 1)
            return
        claim = next(reversed(community.claims))
        proof = community.custodian.open(license, community.claims[claim].key)
        community.order(OpenLeaf(own, claim, evidence_digest(proof)))
        community.wait(windows.rebuttal_seconds + 1)
        for one in self.verifiers:
            await one.step(community.now)
        community.order(SettleClaim(own, claim))

    def _manner(self, url: str) -> AskerSettings:
        return AskerSettings(
            url, least_pause_seconds=0.0, most_pause_seconds=0.0, system_share=0.0, rng=self.rng
        )

    @contextlib.asynccontextmanager
    async def _served(self, one: Copy, queue: PermissionQueue) -> AsyncIterator[str]:
        """The host's address, while it is up."""
        community = self.community
        model = ModelServer(one.model, MOST_TOKENS)
        host = Host(one.host.key, one.host.terms, PublicKey(community.identity.public.data))
        kept = SqliteReceipts(community.folder / f"receipts-{one.host.id.hex()[:8]}.db")
        gateway = LoyalMiddleware(model, host, QueueSource(queue), kept)
        app: App = gateway
        if one.conduct.skips:
            app = Cheat(gateway, model, host, one.conduct, self.rng)
        try:
            async with serving(app) as url:
                yield url
        finally:
            await gateway.close()
            kept.close()
            model.close()


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    """An app on a free port of 127.0.0.1, in this event loop."""
    import uvicorn

    door = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="error")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([door]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await task
        door.close()
