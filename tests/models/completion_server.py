"""One good fake of a completion server: real HTTP on 127.0.0.1, scripted behaviors.

Holds the server and its behaviors. Leaves out what is asked of it: test_endpoint.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Behavior = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def chat_answer(text: str, **extra: Any) -> dict[str, Any]:
    """A well-formed chat answer."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [{**choice, **extra}], "usage": {"completion_tokens": len(text.split())}}


async def echo(_request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Repeat the prompt, as a chat or as a raw completion."""
    if "messages" in body:
        return web.json_response(chat_answer("you said " + body["messages"][-1]["content"]))
    return web.json_response(
        {"choices": [{"text": body["prompt"] + "!", "finish_reason": "length"}]}
    )


def status(code: int, body: str = "", **headers: str) -> Behavior:
    """Answer with a status and nothing more."""

    async def behave(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=code, text=body, headers=headers)

    return behave


def text(body: str, content_type: str = "application/json") -> Behavior:
    """Answer 200 with this body."""

    async def behave(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=body, content_type=content_type)

    return behave


def answer(value: Any) -> Behavior:
    """Answer 200 with this value as JSON."""
    return text(json.dumps(value))


async def hang_up(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """Close the connection without a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def stop_midway(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """Promise a hundred bytes, send a few, hang up."""
    response = web.StreamResponse(headers={"Content-Length": "100"})
    response.content_type = "application/json"
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def never(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """Take longer than anybody waits."""
    await asyncio.sleep(30)
    return web.Response()


@dataclass
class Server:
    """A completion server that follows a script, one behavior a request, then `after`."""

    script: list[Behavior] = field(default_factory=list)
    after: Behavior = echo
    seen: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    """Path, body and headers of each request."""
    url: str = ""
    busiest: int = 0
    """Most requests that were in flight at once."""
    _now: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note the request and behave as the script says."""
        body = await request.json()
        self.seen.append((request.path, body, dict(request.headers)))
        behave = self.script.pop(0) if self.script else self.after
        self._now += 1
        self.busiest = max(self.busiest, self._now)
        try:
            return await behave(request, body)
        finally:
            self._now -= 1


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """The server, listening on a free port of 127.0.0.1 in a thread of its own."""
    fake, loop, ready, stop = Server(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", fake.handle)
        application.router.add_post("/v1/completions", fake.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(60)
    yield fake
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()
