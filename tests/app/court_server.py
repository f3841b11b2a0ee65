"""A platform of `actors_stage` and a host of its license, over HTTP on one free port.

Commands, accounts, draws and evidence are the real `PlatformApp`'s. Only the log's own routes show
whatever stands on the shelf, seven entries a page, so that a test can forge it as a platform might.
The clock is the stage's, or the real one where that is later.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs

from actors_stage import Court, StageHost
from gateway_stage import serving as on_a_port
from shelf import KEYS

from loyal import merkle
from loyal.app.access import ApiKeys
from loyal.app.asgi import Receive, Scope, Send, read_body, send_json, to_json
from loyal.app.http import Parts, PlatformApp
from loyal.app.platform_client import to_base64url
from loyal.app.vault_desk import VaultDesk
from loyal.protocol.note import to_base64
from loyal.roles import PermissionQueue

MOST_BYTES = 1 << 20


@dataclass
class CourtServer:
    """Where both listen, and what the host was sent. An ASGI app around the platform's."""

    court: Court
    host: StageHost
    platform: str = ""
    url: str = ""
    """The host's `/v1`."""
    answers_by: str = "header"
    """header, or route: where the host puts its signed answer."""
    seen: list[tuple[dict[str, str], dict[str, object]]] = field(default_factory=list)
    """Headers and bodies of questions."""
    kept: dict[str, list[str]] = field(default_factory=dict)
    broken: int = 0
    """So many questions who the platform is are answered 503 first."""
    app: PlatformApp = field(init=False)

    @property
    def now(self) -> int:
        stage = self.court.stage
        stage.now = max(stage.now, int(time.time()))
        return stage.now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/v1/chat/completions":
            headers, body = await self.chat(scope, await read_body(receive, MOST_BYTES))
            status = 200 if body else 503
            await send_json(send, status, to_json(body), headers)
        elif path == "/v1/models":
            await send_json(send, 200, to_json({"data": [{"id": "the-model"}]}), [])
        elif path.startswith("/loyal/receipts/"):
            answers = self.kept[path.rpartition("/")[2]]
            await send_json(send, 200, to_json({"answers": answers}), [])
        elif path == "/v1/platform" and self.broken:
            self.broken -= 1
            await send_json(send, 503, b"{}", [])
        elif path.startswith("/v1/log/") and not self.court.shelf.notes:
            await send_json(send, 404, b"{}", [])
        elif path.startswith("/v1/log/"):
            query = parse_qs(scope["query_string"].decode())
            await send_json(send, 200, self.log(path, query), [])
        else:
            await self.app(scope, receive, send)
            self.learn()

    def log(self, path: str, query: dict[str, list[str]]) -> bytes:
        """What stands on the shelf."""
        shelf = self.court.shelf
        asked = {name: int(values[0]) for name, values in query.items()}
        if path.endswith("checkpoint"):
            return bytes(shelf.notes[-1])
        if path.endswith("entries"):
            start = asked["start"]
            page = shelf.log[start : min(asked["stop"], start + 7)]
            return to_json({"start": start, "entries": [to_base64url(one) for one in page]})
        proof = merkle.Tree(shelf.log[: asked["new"]]).consistency_proof(asked["old"])
        return to_json({"hashes": [to_base64(one) for one in proof]})

    def learn(self) -> None:
        """The claims that came in, with what their provers showed."""
        for name in self.court.state.claims.keys() - self.court.claims.keys():
            made = self.app.log.claim_of(name)
            assert made is not None
            self.court.claims[name] = made

    async def chat(self, scope: Scope, data: bytes) -> tuple[list[tuple[bytes, bytes]], Any]:
        """The host's answer; nothing where it is silent."""
        body = json.loads(data)
        headers = {name.decode().title(): value.decode() for name, value in scope["headers"]}
        self.seen.append((headers, body))
        heard = await self.host.ask(body["messages"][-1]["content"])
        if heard is None:
            return [], {}
        identity = f"{len(self.seen):032x}"
        answers = [to_base64url(one) for one in heard.answers]
        signed = [(b"loyal-request-id", identity.encode())]
        if answers and self.answers_by == "header":
            signed.append((b"loyal-answer", answers[0].encode()))
        self.kept[identity] = answers
        return signed, {"choices": [{"message": {"role": "assistant", "content": heard.reply}}]}


@contextmanager
def serving(court: Court, host: StageHost) -> Iterator[CourtServer]:
    """Serve from a thread of its own, so that a command can run its own loop."""
    server = CourtServer(court, host)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def work(folder: Path) -> None:
        async with PermissionQueue(court.platform, lambda: server.now) as queue:
            desk = VaultDesk([court.secret])
            desk.update(court.state)
            server.app = PlatformApp(
                Parts(
                    court.platform, queue, court.shelf, KEYS.log.verifier,
                    ApiKeys(folder / "api-keys"), desk, lambda: server.now,
                )
            )  # fmt: skip
            async with on_a_port(server) as url:
                server.platform, server.url = url, f"{url}/v1"
                ready.set()
                await stop.wait()

    with TemporaryDirectory() as name:
        thread = threading.Thread(target=lambda: loop.run_until_complete(work(Path(name))))
        thread.start()
        assert ready.wait(20)
        try:
            yield server
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()
