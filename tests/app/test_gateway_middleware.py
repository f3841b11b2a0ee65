"""The same core around an ASGI app in this process: what passes, what is held, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_stage import REPLY, chat, chat_reply, events, play, serving
from issuing import Issuer

from loyal.app.gateway import LoyalMiddleware
from loyal.app.platform_client import from_base64url
from loyal.app.receipts import SqliteReceipts
from loyal.errors import StorageError
from loyal.protocol import SignedAnswer
from loyal.protocol.answers import message_digest
from loyal.roles import KeptReceipt
from loyal.signing import Signed


class Server:
    """A model server in a few lines of raw ASGI."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, list[bytes]]] = []
        self.lifespan = 0
        self.fails = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer chats, whole or as a stream; anything else with 200 and no word."""
        if scope["type"] == "lifespan":
            self.lifespan += 1
            return
        body = (await receive())["body"]
        self.seen.append((scope["path"], body, [name for name, _ in scope["headers"]]))
        if self.fails:
            raise RuntimeError("planted xylophone")
        data, kind = b"", b"application/json"
        if body and json.loads(body).get("stream"):
            data, kind = events(*REPLY), b"text/event-stream"
        elif body:
            data = json.dumps(chat_reply(REPLY)).encode()
        headers = [(b"content-type", kind), (b"Loyal-Request-Id", b"forged")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for place in range(0, len(data), 11):
            part = data[place : place + 11]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})


@contextlib.asynccontextmanager
async def wrapped(path: Path) -> AsyncIterator[tuple[str, Server, Issuer, LoyalMiddleware]]:
    """The server behind the middleware, under uvicorn."""
    server, issuer = Server(), Issuer()
    with contextlib.closing(SqliteReceipts(path / "receipts.db")) as receipts:
        app = LoyalMiddleware(server, issuer.host(), issuer, receipts)
        async with serving(app) as url:
            yield url, server, issuer, app
        await app.close()


def signed_reply(issuer: Issuer, text: str) -> bytes:
    """The digest of the reply in a signed answer."""
    signed = SignedAnswer(Signed.from_bytes(from_base64url(text)))
    return signed.verify(issuer.stage.id("host")).reply


def test_a_server_in_process_gets_permissions_receipts_and_signatures(tmp_path: Path) -> None:
    async def story() -> None:
        async with wrapped(tmp_path) as (url, server, issuer, _), aiohttp.ClientSession() as http:
            chats = f"{url}/v1/chat/completions"
            async with http.post(chats, json=chat("one")) as got:
                assert await got.json() == chat_reply(REPLY)
                assert signed_reply(issuer, got.headers["Loyal-Answer"]) == message_digest(REPLY)
                assert got.headers.getall("Loyal-Request-Id") != ["forged"]
                assert len(got.headers.getall("Loyal-Request-Id")) == 1
            async with http.post(chats, json=chat("two", stream=True)) as got:
                assert await got.read() == events(*REPLY)
                request_id = got.headers["Loyal-Request-Id"]
            async with http.get(f"{url}/loyal/receipts/{request_id}") as got:
                kept = await got.json()
            assert signed_reply(issuer, kept["answers"][0]) == message_digest(REPLY)
            assert issuer.calls == [1, 1]
            assert all(b"accept-encoding" not in names for _, _, names in server.seen)

    play(story())


def test_no_route_answers_a_query_unseen(tmp_path: Path) -> None:
    async def story() -> None:
        async with wrapped(tmp_path) as (url, server, issuer, app), aiohttp.ClientSession() as http:
            async with http.get(f"{url}/metrics") as got:
                assert got.status == 200
            for path in ("/generate", "/v1/responses", "/v1/embeddings", "/v1/chat/completions/"):
                for method in ("POST", "PUT", "PATCH", "DELETE", "QUERY"):
                    async with http.request(method, url + path, json=chat("x")) as got:
                        assert got.status == 404
            for method in ("PUT", "GET"):
                async with http.request(method, f"{url}/v1/chat/completions") as got:
                    assert got.status == 404
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            await app({"type": "websocket", "path": "/v1/realtime"}, asyncio.sleep, send)  # type: ignore[arg-type]
            assert sent == [{"type": "websocket.close", "code": 1008}]
            issuer.down = True
            async with http.post(f"{url}/v1/chat/completions", json=chat("x")) as got:
                assert got.status == 503
            assert [path for path, _, _ in server.seen] == ["/metrics"]

    play(story())


class Disk:
    """A `ReceiptStore` that keeps nothing before it is let go, and then fails if it is full."""

    def __init__(self) -> None:
        self.asked, self.go, self.full = asyncio.Event(), asyncio.Event(), False
        self.signed = 0

    async def keep(self, request_id: str, kept: KeptReceipt) -> None:
        """Wait."""
        self.asked.set()
        await self.go.wait()
        if self.full:
            raise StorageError("the disk is full", hint="free some")

    def answered(self, request_id: str, answers: tuple[bytes, ...], complete: bool) -> None:
        """Count."""
        self.signed += 1

    async def find(self, request_id: str) -> KeptReceipt | None:
        """Fail."""
        raise StorageError("the disk is gone", hint="mount it")


def test_nothing_is_forwarded_before_its_receipt_is_durable() -> None:
    async def story() -> None:
        server, issuer, disk = Server(), Issuer(), Disk()
        app = LoyalMiddleware(server, issuer.host(), issuer, disk)
        async with serving(app) as url, aiohttp.ClientSession() as http:
            chats = f"{url}/v1/chat/completions"
            asking = asyncio.create_task(http.post(chats, json=chat("x")))
            await disk.asked.wait()
            await asyncio.sleep(0.05)
            assert server.seen == []
            disk.go.set()
            assert (await asking).status == 200
            disk.full = True
            for method, address in (("POST", chats), ("GET", f"{url}/loyal/receipts/{'0' * 32}")):
                async with http.request(method, address, json=chat("x")) as got:
                    assert got.status == 503
                    assert (await got.json())["error"]["code"] == "receipts_unavailable"
            assert len(server.seen) == 1
        await app.close()

    play(story())


def test_a_stream_is_signed_before_its_last_bytes_are_sent() -> None:
    async def story() -> None:
        issuer, disk, signed = Issuer(), Disk(), []
        disk.go.set()
        app = LoyalMiddleware(Server(), issuer.host(), issuer, disk)
        body = json.dumps(chat("x", stream=True)).encode()
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            signed.append((message.get("more_body", False), disk.signed))

        await app(scope, receive, send)
        assert {number for more, number in signed[1:] if more} == {0}
        assert signed[-1] == (False, 1)
        await app.close()

    play(story())


def test_an_app_that_fails_is_said_without_its_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with wrapped(tmp_path) as (url, server, _, _app), aiohttp.ClientSession() as http:
            server.fails = True
            async with http.post(f"{url}/v1/chat/completions", json=chat("xylophone")) as got:
                assert got.status == 500
                assert (await got.json())["error"]["code"] == "unexpected"
        assert "RuntimeError" in caplog.text
        assert "xylophone" not in caplog.text

    play(story())


def test_the_lifespan_is_the_apps(tmp_path: Path) -> None:
    async def story() -> None:
        async with wrapped(tmp_path) as (_, server, _issuer, app):
            await app({"type": "lifespan"}, asyncio.sleep, asyncio.sleep)  # type: ignore[arg-type]
            assert server.lifespan == 1

    play(story())
