"""The few pieces of raw ASGI that the gateway is made of: types, headers, a body, an error.

Raw, because a web framework costs two to three times the CPU of a request. Left out: what is said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import msgspec

from loyal.app.openai_form import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Headers that are about one connection alone (RFC 9110, section 7.6.1)."""


class ClientGone(Exception):
    """Whoever asked hung up."""


def end_to_end(headers: Iterable[tuple[bytes, bytes]], drop: frozenset[bytes]) -> Headers:
    """The headers that go beyond this connection, in their order, without those of `drop`."""
    given = [(name.lower(), value) for name, value in headers]
    named = {
        one.strip().lower()
        for name, value in given
        if name == b"connection"
        for one in value.split(b",")
    }
    return [
        (name, value)
        for name, value in given
        if name not in HOP_BY_HOP and name not in drop and name not in named
    ]


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of a header, without space around it; empty where there is none."""
    for key, value in headers:
        if key.lower() == name:
            return value.strip()
    return b""


async def read_body(receive: Receive, most_bytes: int) -> bytes:
    """The request's whole body. Refused (413) for one too long, ClientGone for half of one."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > most_bytes:
            raise too_long(most_bytes)
        return body
    data = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        data += message.get("body", b"")
        if len(data) > most_bytes:
            raise too_long(most_bytes)
        if not message.get("more_body", False):
            return bytes(data)
        message = await receive()


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body again, and then what the server says."""
    waiting: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def too_long(most_bytes: int) -> Refused:
    """The error of a body that is too long."""
    return Refused(413, "body_too_long", f"the body is longer than {most_bytes:,} bytes")


async def send_json(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """One whole response."""
    every = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": every})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_refusal(send: Send, refused: Refused, headers: Headers) -> None:
    """An error in OpenAI's form."""
    # A body that was not read to its end must not be taken for the next request.
    more: Headers = [(b"connection", b"close")] if refused.status in (408, 413) else []
    await send_json(send, refused.status, refused.body(), [*headers, *more])


def to_json(value: Any) -> bytes:
    """JSON of plain values."""
    return msgspec.json.encode(value)
