"""POST /v1/permissions in raw ASGI (docs/protocol.md, The permission route).

One request asks for many permissions of one license. An API key is looked at before the body is
read; a host without one signs the request, body and all (`signed_request`).
What is malformed is refused as a whole (400); what a rule forbids is refused query by query. Where
a step may not have become durable the whole answer is 503: asking again with the same idempotency
keys costs nothing twice. Its part of the OpenAPI page is written here by hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from loyal.app.access import ApiKeys, Buckets, asker_of
from loyal.app.asgi import Receive, Scope, Send, header, read_body, send_json
from loyal.app.metrics import Metrics
from loyal.app.openai_form import Refused
from loyal.app.platform_client import to_base64url
from loyal.app.problems import Problem, error_fields, too_often
from loyal.app.signed_request import SCHEME, caller
from loyal.errors import ProtocolError
from loyal.protocol.permission import DIGEST_BYTES, MOST_MESSAGES
from loyal.protocol.permits import MOST_IDEMPOTENCY_BYTES, PermissionRequest
from loyal.roles import Outcome, PermissionQueue, Platform

PATH = "/v1/permissions"
MOST_REQUESTS = 1024
"""Queries in one call."""


class _Query(msgspec.Struct, forbid_unknown_fields=True):
    idempotency_key: str
    messages: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_MESSAGES)]


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    license: str
    requests: Annotated[list[_Query], msgspec.Meta(min_length=1, max_length=MOST_REQUESTS)]


_BODY = msgspec.json.Decoder(_Body)


@dataclass(frozen=True)
class BodyLimits:
    """What a body may take."""

    most_bytes: int
    seconds: float
    """For it to come in."""


@dataclass(frozen=True)
class Doors:
    """Who may come in, and how often."""

    keys: ApiKeys
    hosts: Buckets
    """One token a query, by host."""
    addresses: Buckets
    """One token a request, by address; here, a request with a wrong key or signature."""
    clock: Callable[[], int]
    """Unix seconds, for signed requests."""


class PermissionRoute:
    """The ASGI app of this one route. Raises Problem; belongs to one event loop."""

    def __init__(
        self,
        platform: Platform,
        queue: PermissionQueue,
        doors: Doors,
        metrics: Metrics,
        limits: BodyLimits,
    ) -> None:
        self._platform, self._queue, self._doors = platform, queue, doors
        self._metrics, self._limits = metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            raise Problem(405, "this route takes POST", "send it so", "", [(b"allow", b"POST")])
        scheme, _, credential = header(scope["headers"], b"authorization").partition(b" ")
        signs = scheme.lower() == b"loyal"
        host = None if signs else self._keyed(scope, scheme, credential)
        body = await read_limited(scope, receive, self._limits)
        if host is None:
            host = self._signed(scope, credential, body)
        try:
            license, requests = _requests(host, body)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise Problem(
                400, "the body does not have the form of one", "see docs/protocol.md"
            ) from None
        known = self._platform.state.licenses.get(license)
        if known is not None and known.host != host:
            self._doors.addresses.take(asker_of(scope.get("client")))
            raise Problem(403, "this license is another host's", "use your own license", "P1")
        wait = self._doors.hosts.take(host, len(requests))
        if wait:
            raise too_often(wait)
        outcomes = await self._queue.permit_many(requests)
        self._count(outcomes)
        answer = msgspec.json.encode({"receipts": [_fields(one) for one in outcomes]})
        await send_json(send, 200, answer, [(b"cache-control", b"no-store")])

    def _keyed(self, scope: Scope, scheme: bytes, key: bytes) -> bytes:
        """The host that has this API key."""
        host = None
        if scheme.lower() == b"bearer" and key:
            host = self._doors.keys.host_of(key.strip().decode("latin-1"))
        if host is None:
            raise self._stranger(scope, "no host has this key", "ask for a new key")
        return host

    def _signed(self, scope: Scope, credential: bytes, body: bytes) -> bytes:
        """The host that signed this request."""
        value = SCHEME + credential.strip().decode("latin-1")
        try:
            return caller(value, "POST", PATH, self._doors.clock(), body)
        except ProtocolError as error:
            raise self._stranger(scope, str(error), error.hint) from None

    def _stranger(self, scope: Scope, message: str, hint: str) -> Problem:
        wait = self._doors.addresses.take(asker_of(scope.get("client")))
        if wait:
            return too_often(wait)
        return Problem(401, message, hint, "", [(b"www-authenticate", b"Bearer, Loyal")])

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        refused = [one.rule or "form" for one in outcomes if isinstance(one, ProtocolError)]
        for kind, count in Counter(refused).items():
            self._metrics.permitted(kind, count)
        if len(refused) < len(outcomes):
            self._metrics.permitted("given", len(outcomes) - len(refused))


def _requests(host: bytes, body: bytes) -> tuple[bytes, list[PermissionRequest]]:
    """The license and the queries of a body; msgspec.DecodeError or ValueError where it is none."""
    asked = _BODY.decode(body)
    license = _bytes(asked.license, DIGEST_BYTES)
    return license, [
        PermissionRequest(
            host,
            license,
            tuple([_bytes(message, DIGEST_BYTES) for message in one.messages]),
            _bytes(one.idempotency_key),
        )
        for one in asked.requests
    ]


def _bytes(text: str, size: int | None = None) -> bytes:
    """Lower-case hexadecimal, of so many bytes or 1 to MOST_IDEMPOTENCY_BYTES. Faster than a
    pattern in the schema: `fromhex` takes capitals and space too, so the way back is compared."""
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise ValueError("not lower-case hexadecimal")
    if len(data) != size and (size or not 0 < len(data) <= MOST_IDEMPOTENCY_BYTES):
        raise ValueError("of another size")
    return data


async def read_limited(scope: Scope, receive: Receive, limits: BodyLimits) -> bytes:
    """The request's whole body. Problem 408, 413 or 415; ClientGone."""
    if header(scope["headers"], b"content-encoding") not in (b"", b"identity"):
        raise Problem(415, "the body is compressed", "send it without compression")
    try:
        async with asyncio.timeout(limits.seconds):
            return await read_body(receive, limits.most_bytes)
    except TimeoutError:
        raise Problem(408, "the body did not come in time", "send it faster") from None
    except Refused as refused:
        raise Problem(refused.status, refused.message, "send less at once") from None


def _fields(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, ProtocolError):
        error = error_fields(str(outcome), outcome.hint, outcome.rule)
        return {"error": {**error, "rule": outcome.rule}}
    return {"receipt": to_base64url(outcome)}


_REFUSALS = {
    "400": "The body does not have the form of one.",
    "401": "No host has this key, or signed this.",
    "403": "Another host's license.",
    "408": "Too slow.",
    "413": "Too long.",
    "415": "Compressed.",
    "429": "Too often.",
    "503": "Not durable; ask again.",
}
_DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def _list_of(items: dict[str, Any], most: int, words: str) -> dict[str, Any]:
    sizes = {"minItems": 1, "maxItems": most}
    return {"type": "array", "items": items, "description": words, **sizes}


def _record(properties: dict[str, Any], required: bool = True) -> dict[str, Any]:
    more = {"required": list(properties)} if required else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **more}


def _bodies() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of a request and of its answer."""
    key = {
        "type": "string",
        "pattern": f"^([0-9a-f]{{2}}){{1,{MOST_IDEMPOTENCY_BYTES}}}$",
        "description": "The same key and body cost once (P3).",
    }
    words = "Salted digest of each user message, in order."
    query = _record({"idempotency_key": key, "messages": _list_of(_DIGEST, MOST_MESSAGES, words)})
    asked = _list_of(query, MOST_REQUESTS, "One entry a query.")
    one = _record(
        {
            "receipt": {"type": "string", "description": "Base64url without padding."},
            "error": {"$ref": "#/components/schemas/ErrorFields"},
        },
        required=False,
    )
    answer = _record({"receipts": _list_of(one, MOST_REQUESTS, "In the order of the queries.")})
    return _record({"license": _DIGEST, "requests": asked}), answer


def openapi() -> dict[str, Any]:
    """This route's part of the OpenAPI page."""
    body, answer = _bodies()
    problem = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    good = {
        "description": "A receipt, or the rule that forbids it, for each query.",
        "content": {"application/json": {"schema": answer}},
    }
    refusals = {
        code: {"description": words, "content": problem} for code, words in _REFUSALS.items()
    }
    return {
        "post": {
            "summary": "Permissions for many queries of one license",
            "operationId": "permissions",
            "security": [{"host": []}, {"signed": []}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": good, **refusals},
        }
    }
