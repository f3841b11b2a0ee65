"""The platform's routes beside permissions, as their caller sees them (docs/protocol.md).

Reading is asked again where a failure may pass; a command is sent once, because whether it was
taken stands in the log, where its author looks. Everything is bounded: attempts, time, size. No
error shows what a command holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from loyal.app.platform_client import from_base64url, platform_url
from loyal.app.signed_request import authorization
from loyal.errors import EndpointError, LoyalError, ProtocolError, UsageError
from loyal.protocol import Command, Parameters, State, VerifierKey
from loyal.protocol.commands import sign_command
from loyal.protocol.note import from_base64
from loyal.roles.mirror import Mirror
from loyal.roles.verifier import Evidence
from loyal.signing import SigningKey

PAGE = 1_000
"""Entries of the log in one answer, at most."""
_HINT_UP = "look whether the platform is up and its address right"
_SHOWN = 200
_PASSING = frozenset({408, 425, 429})

S = TypeVar("S")
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""What a database holds."""


@dataclass(frozen=True)
class ApiPatience:
    """How long and how often the platform is asked."""

    attempts: int = 3
    """For what is only read."""
    wait_seconds: float = 0.2
    """Before the second attempt; doubled for the third."""
    timeout_seconds: float = 30.0
    most_bytes: int = 128 << 20
    """Longest answer: a thousand entries with a claim in each are below."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


@dataclass(frozen=True)
class About:
    """What a platform says of itself."""

    platform: bytes
    """Its public key, 32 bytes."""
    log: VerifierKey
    length: int
    """Entries in its log."""
    parameters: Parameters


@dataclass(frozen=True)
class KnownTokens:
    """What the log says of a license's allowance tokens (rules T)."""

    purchases: tuple[tuple[int, int, int], ...]
    """(first token, how many, Unix second from which they are ripe)."""
    reported_below: int
    """Above every token that was reported."""
    expires: int
    """Unix second at which the license ends, and with it the use of its tokens."""


class _About(msgspec.Struct):
    platform: str
    log: str
    log_key: str
    length: int
    parameters: dict[str, int]


class _Entries(msgspec.Struct):
    entries: list[str]


class _Hashes(msgspec.Struct):
    hashes: list[str]


class _Taken(msgspec.Struct):
    index: int
    events: list[dict[str, Any]]


class _Drawn(msgspec.Struct):
    number: int
    until: int
    key: str


class _Evidence(msgspec.Struct):
    key: str
    reply: str
    salt: str
    proof: str
    beacon: str


class _Account(msgspec.Struct):
    free_micro: int
    bonds: dict[str, int]


class _Purchase(msgspec.Struct):
    first: _Count
    count: _Count
    ripe: _Count


class _Tokens(msgspec.Struct):
    reported_below: _Count
    purchases: list[_Purchase]


class _License(msgspec.Struct):
    expires: int
    tokens: _Tokens


class _Error(msgspec.Struct):
    rule: str | None = None
    message: str = "the platform refuses this"
    hint: str = "ask the platform"


class _Refusal(msgspec.Struct):
    error: _Error


class PlatformApi:
    """One caller of one platform. Opens its connections at the first call; close it at the end."""

    def __init__(
        self,
        url: str,
        key: SigningKey | None = None,
        patience: ApiPatience | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`key` signs commands and requests; None for who only reads. UsageError for no address."""
        self._root = platform_url(url).parent
        self._key, self._patience, self._clock = key, patience or ApiPatience(), clock
        self._platform: bytes | None = None
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"PlatformApi({self._root})"

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def about(self) -> About:
        """Who the platform is; nothing of it is proven. EndpointError."""
        found = await self._get("platform", _About)
        try:
            about = About(
                bytes.fromhex(found.platform),
                VerifierKey.from_text(found.log_key),
                found.length,
                _parameters(found.parameters),
            )
        except (ValueError, LoyalError):
            raise _unusable() from None
        if about.log.name != found.log or len(about.platform) != 32:
            raise _unusable()
        self._platform = about.platform
        return about

    async def checkpoint(self) -> bytes | None:
        """The log's newest signed checkpoint; None while the log is empty. EndpointError."""
        status, data = await self._read("log/checkpoint")
        if status == 404:
            return None
        _require(status, data)
        return data

    async def entries(self, start: int, stop: int) -> list[bytes]:
        """Entries [start, stop) of the log, in as many requests as it takes. EndpointError."""
        found: list[bytes] = []
        while start + len(found) < stop:
            begin = start + len(found)
            end = min(begin + PAGE, stop)
            page = (await self._get(f"log/entries?start={begin}&stop={end}", _Entries)).entries
            if not 0 < len(page) <= end - begin:
                raise _unusable()
            found += [_decoded(one, from_base64url) for one in page]
        return found

    async def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The RFC 6962 proof that the log of `new` entries grew out of the one of `old`."""
        found = await self._get(f"log/consistency?old={old}&new={new}", _Hashes)
        return tuple(_decoded(one, from_base64) for one in found.hashes)

    async def account(self, party: bytes) -> dict[str, int]:
        """Free money as `free`, and bonds by purpose, in millionths. EndpointError."""
        found = await self._get(f"accounts/{party.hex()}", _Account)
        return {"free": found.free_micro, **found.bonds}

    async def tokens(self, license: bytes) -> KnownTokens:
        """A license's allowance tokens. ProtocolError where there is no such license."""
        found = await self._get(f"licenses/{license.hex()}", _License)
        tokens = found.tokens
        purchases = tuple((one.first, one.count, one.ripe) for one in tokens.purchases)
        return KnownTokens(purchases, tokens.reported_below, found.expires)

    async def license_file(self, license: bytes) -> bytes:
        """The license file, unchecked. ProtocolError where there is none; EndpointError."""
        status, data = await self._read(f"licenses/{license.hex()}/file")
        _require(status, data)
        return data

    async def submit(self, command: Command) -> list[dict[str, Any]]:
        """Sign a command and have it taken: its events, durable.

        ProtocolError with the rule that forbids it; EndpointError where nobody knows, which the
        log says later.
        """
        if self._platform is None:
            await self.about()
        assert self._platform is not None
        number = time.time_ns()
        body = sign_command(self._signer(), self._platform, command, number).to_bytes()
        status, data = await self._once("POST", "commands", body)
        _require(status, data)
        return _json(data, _Taken).events

    async def drawn_key(self, license: bytes) -> str:
        """The key that is out to this caller: a secret. ProtocolError where none is."""
        return (await self._get(f"draws/{license.hex()}", _Drawn, signed=True)).key

    async def evidence(self, claim: bytes) -> Evidence:
        """A claim's evidence, for a verifier of its electorate. ProtocolError for anybody else."""
        found = await self._get(f"claims/{claim.hex()}/evidence", _Evidence, signed=True)
        return Evidence(
            found.key,
            found.reply,
            _decoded(found.salt, bytes.fromhex),
            _decoded(found.proof, from_base64url),
            _decoded(found.beacon, bytes.fromhex),
        )

    def _signer(self) -> SigningKey:
        if self._key is None:
            raise UsageError("this caller has no key to sign with", hint="pass a key")
        return self._key

    async def _get(self, path: str, kind: type[S], signed: bool = False) -> S:
        status, data = await self._read(path, signed)
        _require(status, data)
        return _json(data, kind)

    async def _read(self, path: str, signed: bool = False) -> tuple[int, bytes]:
        patience = self._patience
        for attempt in range(patience.attempts):
            try:
                status, data = await self._once("GET", path, signed=signed)
            except EndpointError:
                if attempt + 1 == patience.attempts:
                    raise
            else:
                passing = status in _PASSING or status >= 500
                if not passing or attempt + 1 == patience.attempts:
                    return status, data
            await patience.sleep(patience.wait_seconds * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _once(
        self, method: str, path: str, body: bytes | None = None, signed: bool = False
    ) -> tuple[int, bytes]:
        url = URL(f"{self._root}/{path}", encoded=True)
        headers = {} if body is None else {"Content-Type": "application/cbor"}
        if signed:
            headers["Authorization"] = authorization(
                self._signer(), method, url.raw_path_qs, int(self._clock())
            )
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=8, keepalive_timeout=4.0),
                timeout=aiohttp.ClientTimeout(total=self._patience.timeout_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return response.status, await self._body(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            slow = isinstance(error, TimeoutError)
            what = "did not answer in time" if slow else "could not be reached"
            raise EndpointError(f"the platform {what}", hint=_HINT_UP) from None

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > self._patience.most_bytes:
                raise _unusable()
        return bytes(data)


class PlatformDesk:
    """A `roles.verifier.EvidenceDesk` and `roles.descent.LineageDesk` over HTTP, with a copy of the
    log of its own."""

    def __init__(self, api: PlatformApi, log: VerifierKey | None = None) -> None:
        """`log`: whose checkpoints are believed; None takes the platform's word at first."""
        self._api, self._log = api, log
        self._mirror: Mirror | None = None

    async def read_on(self) -> State:
        """The state of the log, checked. EndpointError, LedgerError."""
        mirror = await self.mirror()
        note = await self._api.checkpoint()
        if note is not None:
            head = mirror.opened(note)
            mirror.take(head, await self._api.entries(mirror.size, head.size))
        return mirror.state

    async def submit(self, command: Command) -> None:
        """As `PlatformApi.submit`."""
        await self._api.submit(command)

    async def drawn_key(self, license: bytes) -> str:
        """As `PlatformApi.drawn_key`."""
        return await self._api.drawn_key(license)

    async def evidence(self, claim: bytes) -> Evidence:
        """As `PlatformApi.evidence`."""
        return await self._api.evidence(claim)

    def drew_between(self, license: bytes, beacon: bytes) -> bool:
        """As `Mirror.drew_between`; False before the log was read."""
        return self._mirror is not None and self._mirror.drew_between(license, beacon)

    def lineage_beacons(self, root: bytes, before: int) -> frozenset[bytes]:
        """As `Mirror.lineage_beacons`; empty before the log was read."""
        return frozenset() if self._mirror is None else self._mirror.lineage_beacons(root, before)

    async def mirror(self) -> Mirror:
        """The copy of the log, as far as it was read. EndpointError."""
        if self._mirror is None:
            about = await self._api.about()
            self._mirror = Mirror(about.platform, self._log or about.log, about.parameters)
        return self._mirror


def _parameters(given: dict[str, int]) -> Parameters:
    known = {one.name for one in fields(Parameters)}
    if not given.keys() <= known:
        raise _unusable()
    return Parameters(**given)


def _require(status: int, data: bytes) -> None:
    """EndpointError or ProtocolError for what is no success."""
    if status == 200:
        return
    if status in _PASSING or status >= 500 or 300 <= status < 400:
        raise EndpointError(f"the platform answered HTTP {status}", hint=_HINT_UP)
    try:
        error = msgspec.json.decode(data, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EndpointError(
            f"the platform answered HTTP {status}", hint="check the platform's address"
        ) from None
    raise ProtocolError(
        error.message[:_SHOWN], hint=error.hint[:_SHOWN], rule=(error.rule or "")[:8]
    )


def _json(data: bytes, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unusable() from None


def _decoded(text: str, read: Callable[[str], bytes]) -> bytes:
    try:
        return read(text)
    except (ValueError, LoyalError):
        raise _unusable() from None


def _unusable() -> EndpointError:
    return EndpointError(
        "the platform's answer cannot be used", hint="check that the address is the platform's"
    )
