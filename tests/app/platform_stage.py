"""A real platform on a stage: a real store, real rules, real HTTP on a free port.

Left out: what is asked of it (test_platform_http.py and its neighbors).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from actors_stage import CANDIDATES, COUNT, usage_set
from community import on, signed
from gateway_stage import serving
from parties import PROVERS, VERIFIERS, Stage
from shelf import KEYS
from yarl import URL

from loyal.app.access import ApiKeys
from loyal.app.caretaker import Caretaker, Pace
from loyal.app.http import HttpLimits, Parts, PlatformApp
from loyal.app.platform_client import PlatformClient, PlatformPatience
from loyal.app.signed_request import authorization
from loyal.app.store import open_store
from loyal.app.vault_desk import VaultDesk
from loyal.fingerprints import Beacon, FingerprintSet, fingerprint
from loyal.protocol import Checkpoint, Terms
from loyal.protocol.licenses import CommitUsage, DeliverModel
from loyal.protocol.rules import Command
from loyal.roles import Host, PermissionQueue, Platform


@dataclass
class Answer:
    """One response."""

    status: int
    headers: Any
    body: bytes
    json: Any

    @property
    def rule(self) -> str | None:
        """Of an error."""
        error = self.json["error"]
        assert set(error) == {"rule", "message", "hint"}
        assert error["message"]
        assert error["hint"]
        return str(error["rule"]) if error["rule"] else None


@dataclass
class Played:
    """The platform, up."""

    url: str
    platform: Platform
    parts: Parts
    app: PlatformApp
    stage: Stage
    license: bytes
    api_key: str
    http: aiohttp.ClientSession
    store: Any
    secret: FingerprintSet

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        """One request."""
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, **more) as got:
            body = await got.read()
            kind = got.content_type
            return Answer(
                got.status, got.headers, body, await got.json() if kind.endswith("json") else None
            )

    async def get(self, path: str, role: str | None = None) -> Answer:
        """Read a route, signed by a role."""
        headers = {}
        if role is not None:
            headers["Authorization"] = authorization(
                self.stage.key(role), "GET", path, self.stage.now
            )
        return await self.ask("GET", path, headers=headers)

    async def do(self, command: Command) -> Answer:
        """Send a command under its author's signature."""
        data = signed(self.stage, command).to_bytes()
        headers = {"Content-Type": "application/cbor"}
        return await self.ask("POST", "/v1/commands", data=data, headers=headers)

    async def permit(self, body: Any, key: str | None = None) -> Answer:
        """Ask for permissions with the host's key, or another one."""
        headers = {"Authorization": f"Bearer {self.api_key if key is None else key}"}
        how = {"data": body} if isinstance(body, bytes) else {"json": body}
        return await self.ask("POST", "/v1/permissions", headers=headers, **how)

    def query(self, number: int = 0, message: int = 0) -> dict[str, Any]:
        """A permission request's entry."""
        return {"idempotency_key": f"{number:032x}", "messages": [f"{message:064x}"]}

    def host(self) -> Host:
        """The license's host."""
        license = self.platform.state.licenses[self.license]
        key, terms = self.stage.key("host"), Terms.from_bytes(license.terms)
        return Host(key, terms, KEYS.identity.public, clock=lambda: self.stage.now)

    def client(self, key: str | None = None) -> PlatformClient:
        """The client that hosts use."""
        patience = PlatformPatience(first_wait_seconds=0.001, timeout_seconds=5.0)
        return PlatformClient(self.url, key or self.api_key, patience)

    def caretaker(self, pace: Pace | None = None) -> Caretaker:
        """What the platform does unasked."""
        return Caretaker(self.parts, self.app.log, pace)


def settled(platform: Platform, **terms: object) -> tuple[Stage, bytes, FingerprintSet]:
    """Verifiers, provers, a model, and a delivered license with a real usage set, drawn."""
    stage = on(platform)
    stage.enroll("verifier", *VERIFIERS)
    stage.enroll("prover", *PROVERS)
    stage.fund("owner", "member", "host")
    license = stage.sign(stage.terms(stage.publish("owner", "the model"), **terms))
    undrawn, vault = usage_set(), stage.id("platform")
    stage.do(CommitUsage(vault, license, undrawn.root, COUNT, CANDIDATES))
    note = platform.checkpoint
    assert note is not None
    drawn = fingerprint.draw(undrawn, Beacon(Checkpoint.from_text(note.text).root))
    stage.do(DeliverModel(vault, license, b"M.oml".ljust(32, b".")))
    return stage, license, drawn


@contextlib.asynccontextmanager
async def played(
    folder: Path, limits: HttpLimits | None = None, url: str | None = None, **terms: object
) -> AsyncIterator[Played]:
    """The platform with one delivered license, and the vault's desk; on a database of the folder
    where no other is named."""
    store = open_store(url or f"sqlite:///{folder / 'platform.db'}")
    with contextlib.closing(store):
        platform = Platform(store, KEYS)
        setting = settled(platform, **terms)
        async with up(folder, platform, store, setting, limits) as play:
            yield play


@contextlib.asynccontextmanager
async def up(
    folder: Path,
    platform: Platform,
    store: Any,
    setting: tuple[Stage, bytes, FingerprintSet],
    limits: HttpLimits | None = None,
) -> AsyncIterator[Played]:
    """A platform that is settled, over HTTP."""
    stage, license, secret = setting
    keys = ApiKeys(folder / "api-keys")
    api_key = keys.draw(stage.id("host"))
    desk = VaultDesk([secret])
    async with PermissionQueue(platform, lambda: stage.now) as queue:
        parts = Parts(
            platform, queue, store, KEYS.log.verifier, keys, desk, lambda: stage.now,
            limits or HttpLimits(),
        )  # fmt: skip
        app = PlatformApp(parts)
        async with serving(app) as url, aiohttp.ClientSession() as http:
            yield Played(url, platform, parts, app, stage, license, api_key, http, store, secret)


def playing_platform(
    folder: Path, story: Callable[[Played], Coroutine[Any, Any, None]], **more: Any
) -> None:
    """Run one story before a platform, to its end."""

    async def whole() -> None:
        async with played(folder, **more) as play:
            await story(play)

    asyncio.run(asyncio.wait_for(whole(), 60))
