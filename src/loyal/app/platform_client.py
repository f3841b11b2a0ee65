"""The platform over HTTP: many permissions in one request (docs/protocol.md, The permission route).

A failure that may pass is asked again with the same idempotency keys, so that a query costs once
however often it is asked. Everything is bounded: attempts, time, the answer's size. No error shows
the API key; the platform never sees a message, so none could show one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec
from yarl import URL

from loyal.app.signed_request import authorization
from loyal.errors import EndpointError, ProtocolError, UsageError
from loyal.protocol.permits import PermissionRequest
from loyal.signing import SigningKey

ROUTE = "v1/permissions"
_HINT_UP = "look whether the platform is up and its address right"
_TO_URL = bytes.maketrans(b"+/", b"-_")
_SHOWN = 200
"""Letters of a refusal's text that are passed on."""


@dataclass(frozen=True)
class PlatformPatience:
    """How long and how often the platform is asked before a query is given up."""

    attempts: int = 4
    first_wait_seconds: float = 0.1
    """Before the second attempt; doubled for each further one, cut by jitter to at least half."""
    longest_wait_seconds: float = 2.0
    timeout_seconds: float = 5.0
    """For one attempt."""
    most_bytes: int = 16 << 20
    """Longest answer that is read: 4,096 receipts are far below."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    """Unix seconds, for requests that the host signs."""
    rng: random.Random = field(default_factory=random.SystemRandom, compare=False)

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.timeout_seconds <= 0 or self.most_bytes < 1:
            raise UsageError(
                "the platform needs at least one attempt, and a time and size above zero",
                hint="raise attempts, timeout_seconds or most_bytes",
            )


class _Item(msgspec.Struct):
    idempotency_key: str
    messages: list[str]


class _Request(msgspec.Struct):
    license: str
    requests: list[_Item]


class _Error(msgspec.Struct):
    rule: str = ""
    message: str = "the platform refuses this query"
    hint: str = "ask the platform"


class _Outcome(msgspec.Struct):
    receipt: str | None = None
    error: _Error | None = None


class _Answer(msgspec.Struct):
    receipts: list[_Outcome]


_ANSWER = msgspec.json.Decoder(_Answer)


class _Again(Exception):
    """A failure that may pass."""

    def __init__(self, failure: EndpointError, wait_seconds: float = 0.0) -> None:
        super().__init__(str(failure))
        self.failure, self.wait_seconds = failure, wait_seconds


class PlatformClient:
    """A `PermissionSource`. Opens its connections at the first call; close it at the end."""

    def __init__(
        self, url: str, credential: str | SigningKey, patience: PlatformPatience | None = None
    ) -> None:
        """With the host's API key, or with its own key, which then signs each request."""
        self._url = platform_url(url)
        self._key = credential if isinstance(credential, SigningKey) else None
        api_key = "signs" if isinstance(credential, SigningKey) else credential
        if not api_key or not all(0x21 <= ord(letter) <= 0x7E for letter in api_key):
            raise UsageError(
                "the platform's API key is empty or has white space or characters outside ASCII",
                hint="pass the key alone, without quotes or a line break",
            )
        self._headers = {"Content-Type": "application/json"}
        if self._key is None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._patience = patience or PlatformPatience()
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"PlatformClient({self._url})"

    async def permit(self, requests: Sequence[PermissionRequest]) -> list[bytes | ProtocolError]:
        """For each request its receipt's bytes, or the platform's refusal, in order.

        EndpointError when the platform cannot be asked; UsageError for more than one license.
        """
        if len({one.license for one in requests}) != 1:
            raise UsageError("one call is for one license", hint="ask for each on its own")
        items = [
            _Item(one.idempotency_key.hex(), [digest.hex() for digest in one.messages])
            for one in requests
        ]
        body = msgspec.json.encode(_Request(requests[0].license.hex(), items))
        patience = self._patience
        for attempt in range(1, patience.attempts + 1):
            try:
                return _read(await self._once(body), len(requests))
            except _Again as again:
                if (
                    attempt == patience.attempts
                    or again.wait_seconds > patience.longest_wait_seconds
                ):
                    raise EndpointError(
                        f"{again.failure} ({attempt} attempts)", hint=again.failure.hint
                    ) from None
                wait = min(
                    patience.first_wait_seconds * 2 ** (attempt - 1), patience.longest_wait_seconds
                )
                wait *= patience.rng.uniform(0.5, 1.0)
                await patience.sleep(max(wait, again.wait_seconds))
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _once(self, body: bytes) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Shorter than servers keep idle connections, so that none is used while it closes.
                connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=4.0),
                timeout=aiohttp.ClientTimeout(total=self._patience.timeout_seconds),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        signs = {}
        if self._key is not None:
            now = int(self._patience.clock())
            signs["Authorization"] = authorization(self._key, "POST", f"/{ROUTE}", now, body)
        try:
            async with self._session.post(
                self._url, data=body, headers=signs, allow_redirects=False
            ) as response:
                data = await self._body(response)
                self._check(response)
                return data
        except (aiohttp.ClientError, TimeoutError) as error:
            slow = isinstance(error, TimeoutError)
            what = "did not answer in time" if slow else "could not be reached"
            raise _Again(EndpointError(f"the platform {what}", hint=_HINT_UP)) from None

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > self._patience.most_bytes:
                raise _unusable("it is too long")
        return bytes(data)

    def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status == 200:
            return
        if status in (408, 425, 429) or status >= 500:
            failure = EndpointError(f"the platform answered HTTP {status}", hint=_HINT_UP)
            raise _Again(failure, _seconds(response.headers.get("Retry-After")))
        key = "check the API key of the platform, and that the license is this host's"
        raise EndpointError(
            f"the platform answered HTTP {status}",
            hint=key if status in (401, 403) else "check the platform's address",
        )


def platform_url(text: str) -> URL:
    """The permission route below a platform's address; UsageError where it is no http address."""
    hint = "give an address like https://platform.example.com"
    try:
        url = URL(text)
    except ValueError:
        raise UsageError("the platform's address cannot be read", hint=hint) from None
    if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
        raise UsageError("the platform's address is not a plain http or https one", hint=hint)
    path = url.path.rstrip("/").removesuffix("/v1")
    return url.with_path(f"{path}/{ROUTE}").with_query(None).with_fragment(None)


def to_base64url(data: bytes) -> str:
    """RFC 4648, section 5, without padding: fit for a header and a URL."""
    text = binascii.b2a_base64(data, newline=False)  # half the time of base64's own function
    return text.translate(_TO_URL).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """The bytes, padded or not; ValueError for any text that `to_base64url` does not write."""
    plain = text.rstrip("=")
    try:
        data = base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64url") from error
    if to_base64url(data) != plain:
        raise ValueError("not base64url")
    return data


def _read(data: bytes, count: int) -> list[bytes | ProtocolError]:
    try:
        outcomes = _ANSWER.decode(data).receipts
        found = [_outcome(one) for one in outcomes]
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _unusable("it does not have the form of one") from None
    if len(found) != count:
        raise _unusable("it is for another number of queries")
    return found


def _outcome(one: _Outcome) -> bytes | ProtocolError:
    if one.receipt is not None:
        return from_base64url(one.receipt)
    if one.error is None:
        raise ValueError("neither a receipt nor an error")
    error = one.error
    return ProtocolError(error.message[:_SHOWN], hint=error.hint[:_SHOWN], rule=error.rule[:8])


def _seconds(value: str | None) -> float:
    try:
        return max(0.0, float(value or 0))
    except ValueError:
        return 0.0


def _unusable(what: str) -> EndpointError:
    return EndpointError(
        f"the platform's answer cannot be used: {what}",
        hint="check that the address is the platform's",
    )
