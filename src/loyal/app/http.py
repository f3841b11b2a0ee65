"""The platform over HTTP (docs/protocol.md, The API): one ASGI app over `loyal.roles.Platform`.

`PlatformApp` is the door: it counts, limits, logs and answers errors in one form. Permissions go
from it to raw ASGI (`permission_route`), everything else to FastAPI (`routes`). A log line is the
route's template, never a path, a query, a body or a header. Left out: TLS, the clock's truth, and
who runs the vault (`caretaker`).
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loyal.app.access import ApiKeys, Buckets, Rate, asker_of
from loyal.app.asgi import App, ClientGone, Message, Receive, Scope, Send
from loyal.app.failures import place_of
from loyal.app.log_view import LogView
from loyal.app.metrics import Metrics
from loyal.app.permission_route import PATH, BodyLimits, Doors, PermissionRoute
from loyal.app.problems import Problem, problem_of, too_often, unexpected
from loyal.app.routes import api_of
from loyal.app.vault_desk import VaultDesk
from loyal.errors import LoyalError
from loyal.protocol import VerifierKey
from loyal.protocol.commands import MOST_COMMAND_BYTES
from loyal.roles import PermissionQueue, Platform, Store

_FREE = frozenset({"/health"})
"""Routes that are not limited: their askers are the operator's own."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_log = logging.getLogger("loyal.platform")


@dataclass(frozen=True)
class HttpLimits:
    """What one asker may take."""

    permissions: BodyLimits = field(default=BodyLimits(8 << 20, 30.0))
    commands: BodyLimits = field(default=BodyLimits(MOST_COMMAND_BYTES, 30.0))
    address: Rate = field(default=Rate(50.0, 500.0))
    """Requests from one address, those for permissions aside."""
    host: Rate = field(default=Rate(20_000.0, 100_000.0))
    """Queries of one host that ask for permission."""


@dataclass
class Parts:
    """What the app stands on."""

    platform: Platform
    queue: PermissionQueue
    store: Store
    log_key: VerifierKey
    keys: ApiKeys
    desk: VaultDesk = field(default_factory=VaultDesk)
    clock: Callable[[], int] = lambda: int(time.time())
    """Unix seconds."""
    limits: HttpLimits = field(default_factory=HttpLimits)
    metrics: Metrics = field(default_factory=Metrics)


class PlatformApp:
    """The ASGI app. Belongs to one event loop, the queue's."""

    def __init__(self, parts: Parts) -> None:
        limits, monotonic = parts.limits, time.monotonic
        self.log = LogView(parts.platform, parts.store)
        self._addresses = Buckets(limits.address, monotonic)
        doors = Doors(parts.keys, Buckets(limits.host, monotonic), self._addresses, parts.clock)
        self._permissions = PermissionRoute(
            parts.platform, parts.queue, doors, parts.metrics, limits.permissions
        )
        self._api: App = api_of(parts, self.log)
        self._metrics = parts.metrics
        self._metrics.length.set_function(lambda: parts.platform.state.length)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        begun, seen = time.perf_counter(), _Seen(send)
        try:
            await self._answer(scope, receive, seen)
        finally:
            self._note(scope, seen.status, time.perf_counter() - begun)

    async def _answer(self, scope: Scope, receive: Receive, seen: _Seen) -> None:
        try:
            if scope["path"] == PATH:
                await self._permissions(scope, receive, seen.send)
                return
            wait = 0.0
            if scope["path"] not in _FREE:
                wait = self._addresses.take(asker_of(scope.get("client")))
            if wait:
                raise too_often(wait)
            await self._api(scope, receive, seen.send)
        except ClientGone:
            seen.status = 499
        except Problem as problem:
            await seen.refuse(problem)
        except LoyalError as error:
            _log.warning("%s: %s", type(error).__name__, error)
            await seen.refuse(problem_of(error))
        except Exception as error:  # its text could quote a request: the place alone is shown
            _log.error("unexpected %s%s", type(error).__name__, place_of(error))
            await seen.refuse(unexpected())

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        template = getattr(scope.get("route"), "path", "other")
        route = PATH if scope["path"] == PATH else str(template)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.answered(route, method, status, seconds)
        # A line a permission would cost as much CPU as the permission: metrics count those.
        level = logging.DEBUG if route == PATH and status == 200 else logging.INFO
        if _log.isEnabledFor(level):
            ms = round(seconds * 1e3, 2)
            fields = {"route": route, "method": method, "status": status, "ms": ms}
            _log.log(level, "request", extra={"fields": {"id": secrets.token_hex(8), **fields}})


class _Seen:
    """A `send` that knows the status that was said."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer was begun."""
        if not self.status:
            await problem.send(self.send)


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message and the record's own fields. Tracebacks are left out."""
        fields: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "log": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(fields, ensure_ascii=False)
