"""The gateway on a stage: a model server, a platform that really issues, and the gateway between.

All three are real HTTP on free ports of 127.0.0.1, in the event loop of the test. Left out: what is
asked of them (test_gateway.py and its neighbors).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web
from issuing import Issuer
from multidict import CIMultiDict
from yarl import URL

from loyal.app.asgi import App
from loyal.app.gateway import GatewayLimits, LoyalMiddleware
from loyal.app.listening import Address, open_door, url_of
from loyal.app.platform_client import (
    PlatformClient,
    PlatformPatience,
    from_base64url,
    to_base64url,
)
from loyal.app.receipts import SqliteReceipts
from loyal.app.upstream import Upstream, UpstreamSettings
from loyal.errors import ProtocolError
from loyal.protocol import Answer, Permission, Receipt, SignedAnswer
from loyal.protocol.permits import PermissionRequest
from loyal.signing import Signed

API_KEY = "planted-platform-key"
REPLY = "A model that its community owns."

Behavior = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    """A chat request with these user messages."""
    return {"model": "m", "messages": [{"role": "user", "content": one} for one in texts], **more}


def chat_reply(*texts: str) -> dict[str, Any]:
    """A chat answer with these choices."""
    choices = [
        {"index": place, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for place, text in enumerate(texts)
    ]
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": choices,
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }  # fmt: skip


def events(*texts: str, done: bool = True) -> bytes:
    """A chat stream that says these pieces."""
    lines = [": a comment", ""]
    for text in texts:
        piece = {
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
        }  # fmt: skip
        lines += [f"data: {json.dumps(piece, ensure_ascii=False)}", ""]
    lines += ["data: [DONE]", ""] if done else []
    return ("\n".join(lines) + "\n").encode()


async def reply(request: web.Request) -> web.StreamResponse:
    """Say REPLY, in the form of the route."""
    if request.path.endswith("/models"):
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})
    body = await request.json()
    if request.path.endswith("/chat/completions"):
        return web.json_response(chat_reply(*[REPLY] * body.get("n", 1)))
    prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
    choices = [{"index": place, "text": f"{one}!"} for place, one in enumerate(prompts)]
    return web.json_response({"id": "cmpl-1", "object": "text_completion", "choices": choices})


def says(status: int, body: bytes, **headers: str) -> Behavior:
    """Answer with exactly this."""

    async def behave(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return behave


def in_two_parts(go_on: asyncio.Event) -> Behavior:
    """A model that streams "first", and "second" once it is told to go on."""

    async def behave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(events("first", done=False))
        await go_on.wait()
        await response.write(events("second"))
        return response

    return behave


def streams(data: bytes, *, size: int = 7, whole: bool = True) -> Behavior:
    """Send these bytes as a stream, `size` at a time; break off before the end if not `whole`."""

    async def behave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for place in range(0, len(data), size):
            await response.write(data[place : place + size])
            await asyncio.sleep(0)
        if not whole:
            assert request.transport is not None
            await asyncio.sleep(0.02)
            request.transport.close()
        return response

    return behave


@dataclass
class ModelServer:
    """What the model server was asked, and how it behaves."""

    url: str = ""
    behave: Behavior = reply
    seen: list[tuple[str, bytes, CIMultiDict[str]]] = field(default_factory=list)
    """Path with query, raw body and headers of each request."""
    cancelled: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note it, and behave."""
        self.seen.append((request.raw_path, await request.read(), CIMultiDict(request.headers)))
        try:
            return await self.behave(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@dataclass
class Platform:
    """The permission route of docs/protocol.md over an `Issuer`."""

    issuer: Issuer = field(default_factory=Issuer)
    url: str = ""
    failures: list[int] = field(default_factory=list)
    """Statuses of the next answers, before it works."""
    broken: bytes | None = None
    """Said in place of an answer."""
    lost: int = 0
    """Answers that are issued and then never arrive."""
    calls: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Issue what is asked for."""
        self.bodies.append(await request.read())
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            return web.Response(status=401)
        if self.failures:
            return web.Response(status=self.failures.pop(0))
        if self.broken is not None:
            return web.Response(body=self.broken)
        asked = json.loads(self.bodies[-1])
        host, license = self.issuer.stage.id("host"), bytes.fromhex(asked["license"])
        requests = [
            PermissionRequest(
                host,
                license,
                tuple(bytes.fromhex(digest) for digest in one["messages"]),
                bytes.fromhex(one["idempotency_key"]),
            )
            for one in asked["requests"]
        ]
        self.calls.append(len(requests))
        outcomes = [_outcome(one) for one in self.issuer.issue(requests)]
        if self.lost:
            self.lost -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"receipts": outcomes})


def _outcome(result: bytes | ProtocolError) -> dict[str, Any]:
    if isinstance(result, bytes):
        return {"receipt": to_base64url(result)}
    return {"error": {"rule": result.rule, "message": str(result), "hint": result.hint}}


@dataclass(frozen=True)
class Said:
    """One response."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def error(self) -> str:
        """The code of an error in OpenAI's form."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        return str(error["code"])


@dataclass
class Play:
    """All parties, up."""

    model: ModelServer
    platform: Platform
    url: str
    receipts: SqliteReceipts
    http: aiohttp.ClientSession

    async def post(
        self, body: object, path: str = "/v1/chat/completions", url: str = "", **headers: str
    ) -> Said:
        """Send a body, raw where it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        async with self.http.post((url or self.url) + path, data=data, headers=headers) as got:
            return Said(got.status, CIMultiDict(got.headers), await got.read())

    async def get(self, path: str, url: str = "") -> Said:
        """Get a route."""
        async with self.http.get(URL((url or self.url) + path, encoded=True)) as got:
            return Said(got.status, CIMultiDict(got.headers), await got.read())

    async def receipt(self, request_id: str) -> dict[str, Any]:
        """What the receipt route says."""
        said = await self.get(f"/loyal/receipts/{request_id}")
        assert said.status == 200
        found: dict[str, Any] = json.loads(said.body)
        return found

    def verified(self, receipt: str, answer: str | None = None) -> tuple[Permission, Answer | None]:
        """Receipt and answer, checked as whoever asked checks them: offline."""
        issuer = self.platform.issuer
        permission = Receipt.from_bytes(from_base64url(receipt)).verify(issuer.public)
        if answer is None:
            return permission, None
        signed = SignedAnswer(Signed.from_bytes(from_base64url(answer)))
        return permission, signed.verify(issuer.stage.id("host"))


async def _serve(handler: Behavior) -> tuple[web.AppRunner, str]:
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{anything:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port of 127.0.0.1 at which nobody listens but whom we let: bound meanwhile, so that the
    system gives it to nobody else."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class _Prompt(uvicorn.Server):
    """Ends when it is told to; uvicorn looks up ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ended.wait()


@contextlib.asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Any ASGI app under uvicorn, on a free port where none is named; gives its address."""
    door = open_door(Address("127.0.0.1", port))
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_config=None)
    server = _Prompt(config)
    task = asyncio.create_task(server.serve([door]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield url_of(door)
    finally:
        server.ended.set()
        await task
        door.close()


@contextlib.asynccontextmanager
async def outsiders(
    platform: Platform | None = None,
) -> AsyncIterator[tuple[ModelServer, Platform]]:
    """A model server and a platform."""
    model, platform = ModelServer(), platform or Platform()
    model_runner, model.url = await _serve(model.handle)
    platform_runner, platform.url = await _serve(platform.handle)
    try:
        yield model, platform
    finally:
        await model_runner.cleanup()
        await platform_runner.cleanup()


@contextlib.asynccontextmanager
async def playing(
    path: Path,
    limits: GatewayLimits | None = None,
    platform: Platform | None = None,
    around: Callable[[App], App] = lambda app: app,
    **upstream: Any,
) -> AsyncIterator[Play]:
    """The gateway before a model server, with its receipts in `path`; `around` goes between."""
    async with outsiders(platform) as (model, issuing), aiohttp.ClientSession() as http:
        server = Upstream(UpstreamSettings(model.url, **upstream))
        patience = PlatformPatience(first_wait_seconds=0.001, timeout_seconds=2.0)
        source = PlatformClient(issuing.url, API_KEY, patience)
        with contextlib.closing(SqliteReceipts(path / "receipts.db")) as receipts:
            host = issuing.issuer.host()
            gateway = LoyalMiddleware(around(server), host, source, receipts, limits)
            async with serving(gateway) as url:
                yield Play(model, issuing, url, receipts, http)
            await gateway.close()
            await source.close()
            await server.close()


def play(story: Coroutine[Any, Any, None]) -> None:
    """Run one story to its end."""
    asyncio.run(asyncio.wait_for(story, 60))
