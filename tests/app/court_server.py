"""A platform of `actors_stage` and a host of its license, over HTTP on free ports.

The routes are those of docs/protocol.md; behind them stand the real `Platform`, `Custodian`,
`Host` and `caller`. The clock is the stage's, or the real one where that is later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from actors_stage import Court, StageHost
from aiohttp import web
from shelf import KEYS

from loyal import merkle
from loyal.app.platform_client import to_base64url
from loyal.app.signed_request import caller
from loyal.errors import LoyalError, ProtocolError
from loyal.protocol import events as e
from loyal.protocol.commands import SignedCommand
from loyal.protocol.disputes import MakeClaim
from loyal.protocol.note import to_base64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class CourtServer:
    """Where both listen, and what the host was sent."""

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
    """So many reading requests to the platform are answered 503 first."""

    @property
    def now(self) -> int:
        stage = self.court.stage
        stage.now = max(stage.now, int(time.time()))
        return stage.now

    async def commands(self, request: web.Request) -> web.StreamResponse:
        try:
            signed = SignedCommand.from_bytes(await request.read())
        except LoyalError as error:
            return refusal(400, error)
        index = len(self.court.shelf.log)
        try:
            events = self.court.platform.submit(signed, self.now)
        except ProtocolError as error:
            return refusal(422, error)
        for one in events:
            if isinstance(one, e.Claimed):
                assert isinstance(signed.command, MakeClaim)
                self.court.claims[one.claim] = signed.command
        shown = [{"kind": type(one).__name__} for one in events]
        return web.json_response({"index": index, "events": shown})

    async def about(self, request: web.Request) -> web.StreamResponse:
        if self.broken:
            self.broken -= 1
            return web.Response(status=503)
        fields = {
            "platform": KEYS.identity.public.hex(),
            "log": KEYS.log.name,
            "log_key": str(KEYS.log.verifier),
            "length": len(self.court.shelf.log),
            "parameters": asdict(self.court.state.parameters),
        }
        return web.json_response(fields)

    async def checkpoint(self, request: web.Request) -> web.StreamResponse:
        if not self.court.shelf.notes:
            return web.Response(status=404)
        return web.Response(body=self.court.shelf.notes[-1], content_type="text/plain")

    async def entries(self, request: web.Request) -> web.StreamResponse:
        start, stop = int(request.query["start"]), int(request.query["stop"])
        page = self.court.shelf.log[start : min(stop, start + 7)]
        return web.json_response({"start": start, "entries": [to_base64url(one) for one in page]})

    async def consistency(self, request: web.Request) -> web.StreamResponse:
        old, new = int(request.query["old"]), int(request.query["new"])
        proof = merkle.Tree(self.court.shelf.log[:new]).consistency_proof(old)
        return web.json_response({"hashes": [to_base64(one) for one in proof]})

    async def account(self, request: web.Request) -> web.StreamResponse:
        party, state = bytes.fromhex(request.match_info["party"]), self.court.state
        bonds = {one: state.balance(e.bond(one, party)) for one in ("prover", "verifier")}
        free = state.balance(e.free(party))
        return web.json_response({"free_micro": free, "bonds": bonds, "last_number": 0})

    async def drawn(self, request: web.Request) -> web.StreamResponse:
        license = bytes.fromhex(request.match_info["license"])
        asked = self.caller(request)
        drawn = self.court.state.licenses[license].drawn
        if drawn is None or drawn.prover != asked:
            return refusal(403, ProtocolError("no key is out to you", hint="wait", rule="C1"))
        key = self.court.custodian.key(license, drawn.number)
        return web.json_response({"number": drawn.number, "until": drawn.until, "key": key})

    async def evidence(self, request: web.Request) -> web.StreamResponse:
        name = bytes.fromhex(request.match_info["claim"])
        claim, made = self.court.state.claims[name], self.court.claims[name]
        if self.caller(request) not in dict(claim.made.electorate) or claim.opened is None:
            return refusal(403, ProtocolError("not for you", hint="bond first", rule="V1"))
        fields = {
            "key": made.key,
            "reply": made.reply,
            "salt": made.salt.hex(),
            "proof": to_base64url(self.court.custodian.open(made.license, made.key)),
            "beacon": self.court.custodian.beacon(made.license).hex(),
        }
        return web.json_response(fields)

    def caller(self, request: web.Request) -> bytes:
        value = request.headers.get("Authorization", "")
        return caller(value, request.method, request.rel_url.raw_path_qs, int(time.time()))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((dict(request.headers), body))
        heard = await self.host.ask(body["messages"][-1]["content"])
        if heard is None:
            return web.Response(status=503)
        message = {"role": "assistant", "content": heard.reply}
        identity = f"{len(self.seen):032x}"
        headers = {"Loyal-Request-Id": identity}
        answers = [to_base64url(one) for one in heard.answers]
        if answers and self.answers_by == "header":
            headers["Loyal-Answer"] = answers[0]
        self.kept[identity] = answers
        return web.json_response({"choices": [{"message": message}]}, headers=headers)

    async def models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": "the-model"}]})

    async def receipts(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"answers": self.kept[request.match_info["id"]]})


def refusal(status: int, error: LoyalError) -> web.Response:
    """An error as the API says it."""
    rule = getattr(error, "rule", "") or None
    fields = {"rule": rule, "message": str(error), "hint": error.hint}
    return web.json_response({"error": fields}, status=status)


def application(server: CourtServer) -> web.Application:
    """Both sets of routes; they do not meet."""
    app = web.Application()
    gets: dict[str, Handler] = {
        "/v1/platform": server.about,
        "/v1/log/checkpoint": server.checkpoint,
        "/v1/log/entries": server.entries,
        "/v1/log/consistency": server.consistency,
        "/v1/accounts/{party}": server.account,
        "/v1/draws/{license}": server.drawn,
        "/v1/claims/{claim}/evidence": server.evidence,
        "/v1/models": server.models,
        "/loyal/receipts/{id}": server.receipts,
    }
    app.add_routes([web.get(path, handler) for path, handler in gets.items()])
    app.add_routes([web.post("/v1/commands", server.commands)])
    app.add_routes([web.post("/v1/chat/completions", server.chat)])
    return app


@contextmanager
def serving(court: Court, host: StageHost) -> Iterator[CourtServer]:
    """Serve from a thread of its own, so that a command can run its own loop."""
    server = CourtServer(court, host)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def work() -> None:
        runner = web.AppRunner(application(server))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        server.platform = f"http://127.0.0.1:{port}"
        server.url = f"{server.platform}/v1"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
    thread.start()
    assert ready.wait(20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
