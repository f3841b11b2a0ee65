"""The host's gateway: no answer without a permission ("Training AI to be Loyal", Figure 2).

One core, `LoyalMiddleware`, around any ASGI app that speaks OpenAI's form: a model server in this
process, or `Upstream`, which is any server elsewhere. For each query

1. the texts that a permission covers are read, and refused where they cannot be covered;
2. a prompt outside of the license's purpose is refused (403), nothing else happens;
3. the platform is asked for a permission, in one call with other queries; where it cannot be
   reached a prepaid token stands in for it (rules T), where it refuses none does; without either
   the query ends here (503), and the model server never sees it;
4. the receipt is checked, and kept on the disk before anything is answered;
5. the request goes on as the bytes that were received, and the answer comes back as it is;
6. the host signs the answer: in a header of a whole reply; for a stream, of which no byte changes,
   under the request's id once it has ended. An answer that goes on a token is noted on the disk
   before its last byte leaves.

Headers: `Loyal-Request-Id` always; `Loyal-Receipt` and, on a reply with one choice, `Loyal-Answer`
(base64url). `GET /loyal/receipts/ID` gives both as JSON. No log line and no error shows a prompt, a
reply or a key. Left out: who may use the gateway (the upstream's own check of credentials, or a
proxy in front), and every route that could answer a query unseen.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from loyal.app.asgi import (
    App,
    ClientGone,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    header,
    read_body,
    replay,
    send_json,
    send_refusal,
    to_json,
)
from loyal.app.openai_form import (
    CHAT,
    RAW,
    Refused,
    StreamedReply,
    covered_texts,
    latest,
    reply_texts,
)
from loyal.app.outage import Outage
from loyal.app.platform_client import to_base64url
from loyal.errors import EndpointError, LoyalError, ProtocolError, StorageError, Unreachable
from loyal.protocol.permission import Receipt
from loyal.protocol.tokens import use_digest
from loyal.roles.batcher import Batcher
from loyal.roles.host import (
    Host,
    KeptReceipt,
    PermissionSource,
    ReceiptStore,
    TokenPurse,
)

HEALTH, RECEIPTS = "/loyal/health", "/loyal/receipts/"
MOST_HEADER = 4096
"""Letters of a signed answer that goes into a header; longer ones stand on the receipt route."""
_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OURS = frozenset({b"loyal-receipt", b"loyal-answer", b"loyal-request-id"})

_UNEXPECTED = Refused(500, "unexpected", "the gateway failed; its log says where")

_log = logging.getLogger("loyal.gateway")


@dataclass(frozen=True)
class GatewayLimits:
    """What one query may take."""

    most_bytes: int = 16 << 20
    """Longest request body."""
    most_reply_bytes: int = 64 << 20
    """Longest whole reply; a stream may be of any length."""
    body_seconds: float = 60.0
    """For the request's body to come in."""
    permit_seconds: float = 30.0
    """For a permission, from asking to its receipt."""
    outage_seconds: float = 10.0
    """After a platform that could not be reached queries go on tokens for so long, before one of
    them asks it again."""


@dataclass(frozen=True)
class _Query:
    """A query that has its permission, or a token."""

    id: str
    texts: list[str]
    receipt: Receipt | None
    salts: tuple[bytes, ...]
    data: bytes
    """The receipt's canonical bytes; empty for a token."""
    token: int | None
    began: int
    """Unix seconds of the host's clock, before the model server is asked: the answer's time."""


class LoyalMiddleware:
    """The gateway's core around an ASGI app. Belongs to one event loop."""

    def __init__(
        self,
        app: App,
        host: Host,
        source: PermissionSource,
        receipts: ReceiptStore,
        limits: GatewayLimits | None = None,
        purse: TokenPurse | None = None,
    ) -> None:
        """`purse` holds the tokens for an outage of the platform; None for a host without any."""
        self._app, self._host, self._receipts = app, host, receipts
        self._limits = limits or GatewayLimits()
        self._batcher = Batcher(source)
        self._purse, self._outage = purse, Outage(self._limits.outage_seconds)

    async def close(self) -> None:
        """Stop asking for permissions. The app, the source and the receipts stay open."""
        await self._batcher.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a socket could answer queries unseen
            await send({"type": "websocket.close", "code": 1008})
            return
        request_id = secrets.token_hex(16)
        labeled = _Labeled(send, [(b"loyal-request-id", request_id.encode())])
        try:
            await self._route(request_id, scope, receive, labeled)
        except ClientGone:
            return
        except Refused as refused:
            _log.info("%s %d %s", request_id, refused.status, refused.code)
            if not labeled.started:
                await send_refusal(labeled.send, refused, [])
        except Exception as error:  # its text could quote a prompt: the place alone is shown
            _log.error("%s unexpected %s", request_id, _place(error))
            if not labeled.started:
                await send_refusal(labeled.send, _UNEXPECTED, [])

    async def _route(
        self, request_id: str, scope: Scope, receive: Receive, labeled: _Labeled
    ) -> None:
        method, path = scope["method"], scope["path"]
        if path in (CHAT, RAW) and method == "POST":
            await self._answer(request_id, scope, receive, labeled)
        elif path == HEALTH and method == "GET":
            await send_json(labeled.send, 200, to_json({"status": "ok"}), [])
        elif path.startswith(RECEIPTS) and method == "GET":
            await self._receipt(path.removeprefix(RECEIPTS), labeled.send)
        elif method in _SAFE_METHODS and path not in (CHAT, RAW):
            await self._app(scope, receive, labeled.send)
        else:
            raise Refused(404, "unknown_route", "this gateway has no such route")

    async def _receipt(self, request_id: str, send: Send) -> None:
        kept = None
        if _REQUEST_ID.fullmatch(request_id):
            try:
                kept = await self._receipts.find(request_id)
            except StorageError as error:
                raise _unavailable("receipts_unavailable", request_id, error) from None
        if kept is None:
            raise Refused(404, "unknown_request", "there is no receipt for this request")
        fields = {
            "request_id": request_id,
            "receipt": to_base64url(kept.receipt) if kept.receipt else None,
            "answers": [to_base64url(one) for one in kept.answers],
            "complete": kept.complete,
        }
        await send_json(send, 200, to_json(fields), [(b"cache-control", b"no-store")])

    async def _answer(
        self, request_id: str, scope: Scope, receive: Receive, labeled: _Labeled
    ) -> None:
        if header(scope["headers"], b"content-encoding") not in (b"", b"identity"):
            raise Refused(415, "compressed_body", "send the body without compression")
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await read_body(receive, self._limits.most_bytes)
        except TimeoutError:
            raise Refused(408, "slow_body", "the body did not come in time") from None
        texts = covered_texts(scope["path"], body)
        if any(self._host.refuses(one) for one in texts):
            raise Refused(403, "purpose_refused", "the model's license does not allow this purpose")
        query = await self._query(request_id, latest(texts))
        if query.receipt is not None:
            labeled.headers.append((b"loyal-receipt", to_base64url(query.data).encode()))
        onward = dict(scope)
        # A reply that is to be signed is read, so it is asked for without compression.
        onward["headers"] = [one for one in scope["headers"] if one[0] != b"accept-encoding"]
        reply = _Reply(self, query, labeled)
        try:
            await self._app(onward, replay(body, receive), reply.send)
        finally:
            await reply.finish()
            if query.token is not None and self._purse is not None and not reply.signed:
                await self._purse.give_back(query.token)
        if not labeled.started:
            raise Refused(502, "reply_broke_off", "the model server broke off its reply")

    async def _query(self, request_id: str, texts: list[str]) -> _Query:
        """Steps 3 and 4. In an outage tokens come first, so that no user waits for the platform to
        be silent; once they are gone it is asked again. Refused (503) without either."""
        asks = self._outage.asks()
        if not asks and (query := await self._on_token(request_id, texts)):
            return query
        try:
            permitted = await self._permit(request_id, texts)
        except Unreachable as error:
            self._outage.began()
            if asks and (query := await self._on_token(request_id, texts)):
                return query
            raise _unavailable("platform_unavailable", request_id, error) from None
        except Refused:
            self._outage.over()
            raise
        except BaseException:
            self._outage.unknown()
            raise
        self._outage.over()
        return permitted

    async def _permit(self, request_id: str, texts: list[str]) -> _Query:
        """The permission, checked and on the disk. Refused where the platform gives none,
        Unreachable where it cannot be asked."""
        asked = self._host.ask(texts)
        try:
            async with asyncio.timeout(self._limits.permit_seconds):
                data = await self._batcher.permit(asked.request)
            began = self._host.clock()
            receipt = self._host.receive(data, asked.request, began)
            await self._receipts.keep(request_id, KeptReceipt(data, asked.salts))
        except ProtocolError as error:
            raise _unavailable("permission_refused", request_id, error) from None
        except StorageError as error:
            raise _unavailable("receipts_unavailable", request_id, error) from None
        except TimeoutError:
            raise Unreachable(
                "the platform did not answer in time", hint="look at its load"
            ) from None
        except Unreachable:
            raise
        except EndpointError as error:
            raise _unavailable("platform_unavailable", request_id, error) from None
        return _Query(request_id, texts, receipt, asked.salts, data, None, began)

    async def _on_token(self, request_id: str, texts: list[str]) -> _Query | None:
        """The query on a token that is now used; None without one."""
        began = self._host.clock()
        if self._purse is None or not self._host.may_use_tokens(began):
            return None
        try:
            token = await self._purse.take(began)
            if token is None:
                return None
            try:
                await self._receipts.keep(request_id, KeptReceipt(b"", ()))
            except StorageError:
                await self._purse.give_back(token)
                raise
        except StorageError as error:
            raise _unavailable("receipts_unavailable", request_id, error) from None
        return _Query(request_id, texts, None, (), b"", token, began)

    async def sign(self, query: _Query, replies: list[str], complete: bool) -> list[bytes]:
        """Step 6: one signed answer for each reply, kept beside the receipt. Each needs a token of
        its own where there is no permission (T2)."""
        signed: list[bytes] = []
        for one, token in zip(replies, await self._tokens(query, len(replies)), strict=True):
            answer = self._host.answer(
                query.texts, one, query.receipt, query.salts, began=query.began, token=token
            )
            if token is not None and self._purse is not None:
                await self._purse.bind(token, use_digest(answer))
            signed.append(answer.signed.to_bytes())
        self._receipts.answered(query.id, tuple(signed), complete)
        return signed

    async def _tokens(self, query: _Query, count: int) -> Sequence[int | None]:
        """One for each reply; None for each under a permission. Refused (503) where they do not
        suffice: none is then used."""
        if query.token is None or self._purse is None:
            return [None] * count
        further: list[int] = []
        while len(further) + 1 < count:
            token = await self._purse.take(query.began)
            if token is None:
                for one in further:
                    await self._purse.give_back(one)
                raise Refused(503, "platform_unavailable", "no token is left for a further reply")
            further.append(token)
        return [query.token, *further][:count]

    @property
    def limits(self) -> GatewayLimits:
        """What one query may take."""
        return self._limits


class _Labeled:
    """A `send` that puts our headers on the response, and lets nobody else's pass for them."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send, self.headers = send, headers
        self.started = False

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            self.started = True
            given = [one for one in message.get("headers", ()) if one[0].lower() not in _OURS]
            message = {**message, "headers": [*given, *self.headers]}
        await self._send(message)


class _Reply:
    """The app's response on its way: a stream goes by and is read, anything else is held until it
    is whole, so that its signed answer can stand in a header."""

    def __init__(self, core: LoyalMiddleware, query: _Query, labeled: _Labeled) -> None:
        self._core, self._query, self._labeled = core, query, labeled
        self._start: Message | None = None
        self._stream: StreamedReply | None = None
        self._held = bytearray()
        self._whole = False
        self.signed = False
        """Whether there is a signed answer."""

    async def send(self, message: Message) -> None:
        """Take one message of the app."""
        if message["type"] == "http.response.start":
            self._start = message
            self._held.clear()  # an app may say our own refusal in place of the reply that it had
            if _is_stream(message):
                self._stream = StreamedReply()
                await self._labeled.send(message)
            return
        if message["type"] != "http.response.body":
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._stream is not None:
            self._stream.feed(body)
            self._whole = not more
            if not more:  # before the last bytes: whoever asks for the receipt then finds it
                await self.finish()
            await self._labeled.send(message)
            return
        self._held += body
        if len(self._held) > self._core.limits.most_reply_bytes:
            self._held.clear()
            raise Refused(502, "reply_too_long", "the model server's reply is too long")
        if not more:
            await self._send_whole()

    async def finish(self) -> None:
        """Sign a stream, whole or as far as it was sent; once."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            self.signed = bool(await self._core.sign(self._query, stream.texts(), self._whole))

    async def _send_whole(self) -> None:
        start, body = self._start, bytes(self._held)
        assert start is not None
        replies = reply_texts(body) if start["status"] == 200 else None
        if replies is not None:
            signed = await self._core.sign(self._query, replies, True)
            self.signed = bool(signed)
            answers = [to_base64url(one) for one in signed]
            if len(answers) == 1 and len(answers[0]) <= MOST_HEADER:
                self._labeled.headers.append((b"loyal-answer", answers[0].encode()))
        await self._labeled.send(start)
        await self._labeled.send({"type": "http.response.body", "body": body, "more_body": False})


def _is_stream(start: Message) -> bool:
    kind = header(start.get("headers", ()), b"content-type").lower()
    return bool(start["status"] == 200 and kind.startswith(b"text/event-stream"))


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _unavailable(code: str, request_id: str, error: LoyalError) -> Refused:
    rule = f" ({error.rule})" if isinstance(error, ProtocolError) and error.rule else ""
    _log.warning("%s %s%s: %s; %s", request_id, code, rule, error, error.hint)
    words = {
        "permission_refused": f"the platform gives no permission for this query{rule}",
        "platform_unavailable": "no permission can be had now: the platform cannot be asked",
        "receipts_unavailable": "the host cannot keep or read receipts now",
    }
    return Refused(503, code, words[code])
