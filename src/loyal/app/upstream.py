"""Any OpenAI-compatible server as an ASGI app: what comes in goes there, what it says comes back.

Byte for byte: bodies as they were received, a stream's chunks as they come, errors of the server
too. Headers of one connection are left behind; the caller's credentials are sent on, or replaced by
the host's own. When the caller hangs up, the request to the server is ended.

Left out: permissions and receipts (`gateway`), retries (an answer that is made twice costs twice),
redirects, proxies of the environment, and every route but the three of the gateway.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from loyal.app.asgi import (
    ClientGone,
    Headers,
    Receive,
    Scope,
    Send,
    end_to_end,
    read_body,
    send_refusal,
)
from loyal.app.openai_form import CHAT, RAW, Refused
from loyal.errors import UsageError

MODELS = "/v1/models"
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_REQUEST_DROPS = frozenset({b"host", b"content-length", b"accept-encoding", b"expect"})
# A server that is asked for no compression sends the text that is to be signed.
_PLAIN = ("Accept-Encoding", "identity")


@dataclass(frozen=True, repr=False)
class UpstreamSettings:
    """Which server, and how long it may take."""

    url: str
    """Its root or its `/v1`."""
    key: str | None = None
    """Sent as a bearer token in place of the caller's; None sends the caller's on."""
    connect_seconds: float = 10.0
    silence_seconds: float = 600.0
    """How long it may say nothing, before its answer and in the middle of it."""
    connections: int = 512
    most_bytes: int = 32 << 20
    """Longest request body."""

    def __post_init__(self) -> None:
        if self.connections < 1 or min(self.connect_seconds, self.silence_seconds) <= 0:
            raise UsageError(
                "the upstream server needs a connection and some time", hint="raise the limit"
            )


class Upstream:
    """The ASGI app. Opens its connections at the first call; close it at the end."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._root = upstream_url(settings.url)
        self._urls = {path: self._under(path) for path in (CHAT, RAW, MODELS)}
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Upstream({self._root})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = _Exchange(send)
        try:
            url = self._target(scope)
            body = await read_body(receive, self._settings.most_bytes)
            await exchange.unless_gone(receive, self._exchange(exchange, scope, url, body))
        except ClientGone:
            return
        except Refused as refused:
            await send_refusal(send, refused, [])

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _target(self, scope: Scope) -> URL:
        method, path = scope["method"], scope["path"]
        posts = path in (CHAT, RAW)
        gets = path == MODELS or path.startswith(f"{MODELS}/")
        if (not posts and not gets) or ".." in path.split("/"):
            raise Refused(404, "unknown_route", "this gateway has no such route")
        if method != ("POST" if posts else "GET"):
            raise Refused(405, "wrong_method", f"this route takes {'POST' if posts else 'GET'}")
        url = self._urls.get(path) or self._model(scope)
        query = scope.get("query_string", b"")
        return URL(f"{url}?{query.decode('latin-1')}", encoded=True) if query else url

    def _model(self, scope: Scope) -> URL:
        raw = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
        return URL(f"{self._root}{raw.removeprefix('/v1')}", encoded=True)

    def _under(self, path: str) -> URL:
        return self._root.with_path(f"{self._root.path}{path.removeprefix('/v1')}")

    async def _exchange(self, exchange: _Exchange, scope: Scope, url: URL, body: bytes) -> None:
        headers = self._headers(scope["headers"])
        try:
            async with self._open().request(
                scope["method"],
                url,
                data=body or None,
                headers=headers,
                skip_auto_headers=_AUTOMATIC,
                allow_redirects=False,
            ) as response:
                await exchange.relay(response)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            if exchange.started:
                return  # what is missing shows: the response is not ended
            if isinstance(error, TimeoutError):
                raise Refused(504, "upstream_timeout", "the model server is too slow") from None
            raise Refused(
                502, "upstream_unreachable", "the model server cannot be reached"
            ) from None

    def _headers(self, given: Headers) -> CIMultiDict[str]:
        key = self._settings.key
        drop = _REQUEST_DROPS | {b"authorization"} if key else _REQUEST_DROPS
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in end_to_end(given, drop)
        )
        headers.add(*_PLAIN)
        if key:
            headers.add("Authorization", f"Bearer {key}")
        return headers

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            settings = self._settings
            self._session = aiohttp.ClientSession(
                # Shorter than servers keep idle connections, so that none is used while it closes.
                connector=aiohttp.TCPConnector(limit=settings.connections, keepalive_timeout=4.0),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=settings.silence_seconds,
                    sock_connect=settings.connect_seconds,
                    sock_read=settings.silence_seconds,
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _Exchange:
    """One request under way."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        """Whether a response was begun: then no error can be said any more."""
        self._ended = False
        self._gone = False

    async def relay(self, response: aiohttp.ClientResponse) -> None:
        """Send the server's response on, each chunk as it comes."""
        headers = end_to_end(response.raw_headers, frozenset())
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        self.started = True
        await self._send(start)
        async for chunk in response.content.iter_any():
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def unless_gone(self, receive: Receive, work: object) -> None:
        """Do the work, and cancel it when the caller hangs up first (ClientGone)."""
        task = asyncio.current_task()
        assert task is not None
        assert asyncio.iscoroutine(work)
        watcher = asyncio.create_task(self._watch(receive, task))
        try:
            await work
        except asyncio.CancelledError:
            if not self._gone or task.uncancel() > 0:
                raise
            raise ClientGone from None
        finally:
            watcher.cancel()

    async def _watch(self, receive: Receive, task: asyncio.Task[object]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self._gone = True
            task.cancel()


def upstream_url(text: str) -> URL:
    """The API's root; UsageError where it is no http address. A bare host gets `/v1`."""
    hint = "give an address like http://127.0.0.1:8000/v1"
    try:
        url = URL(text)
    except ValueError:
        raise UsageError("the upstream server's address cannot be read", hint=hint) from None
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
        raise UsageError("the upstream server's address is not a plain http one", hint=hint)
    if url.query_string or url.fragment:
        raise UsageError("the upstream server's address has a query", hint=hint)
    return url.with_path(url.path.rstrip("/") or "/v1")
