"""The platform goes away and comes back: the real one over HTTP, at an address that goes with it.

The host answers on tokens meanwhile, and no prover claims for it; what refuses is no outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import aiohttp.web
import pytest
from gateway_stage import API_KEY, ModelServer, Platform, Said, chat, held_port, outsiders, serving
from gateway_stage import Play as Door
from gateway_stage import play as played
from issuing import Issuer
from parties import PROVERS
from platform_stage import Played, playing_platform
from test_host_command import Files, running

from loyal.app.caretaker import Pace
from loyal.app.gateway import GatewayLimits, LoyalMiddleware
from loyal.app.platform_api import ApiPatience, KnownTokens, PlatformApi, PlatformDesk
from loyal.app.platform_client import PlatformClient, PlatformPatience, from_base64url
from loyal.app.prover_client import AskerSettings, ChatAsker
from loyal.app.receipts import SqliteReceipts
from loyal.app.token_desk import TokenDesk
from loyal.app.token_purse import SqliteTokens
from loyal.app.upstream import Upstream, UpstreamSettings
from loyal.errors import EndpointError, ProtocolError
from loyal.protocol import Command
from loyal.protocol.answers import Answer, SignedAnswer
from loyal.protocol.tokens import BuyTokens, ReportTokens, use_digest
from loyal.roles import Host
from loyal.roles.prover import Heard, IntentFile, Prover
from loyal.signing import Signed

PATIENCE = PlatformPatience(attempts=2, first_wait_seconds=0.001, timeout_seconds=5.0)
HASTE = ApiPatience(attempts=2, wait_seconds=0.001)
ASKED_ANEW = GatewayLimits(outage_seconds=0.0)
"""A platform that was out is asked again by the next query."""


class Line:
    """The platform's address, while there is one."""

    def __init__(self, app: object, port: int) -> None:
        self._app, self._port = app, port
        self._up = contextlib.AsyncExitStack()
        self.url = f"http://127.0.0.1:{port}"

    async def open(self) -> None:
        await self._up.enter_async_context(serving(self._app, self._port))

    async def close(self) -> None:
        await self._up.aclose()
        self._up = contextlib.AsyncExitStack()


@pytest.fixture
def port() -> Iterator[int]:
    with held_port() as held:
        yield held


@pytest.fixture
def nowhere(port: int) -> str:
    """The address of a platform that is out."""
    return f"http://127.0.0.1:{port}"


@dataclass
class Parts:
    """What a gateway on a stage is made of."""

    host: Host
    platform: str
    api_key: str
    purse: SqliteTokens | None
    limits: GatewayLimits = ASKED_ANEW


@contextlib.asynccontextmanager
async def gateway(parts: Parts, folder: Path) -> AsyncIterator[tuple[Door, ModelServer]]:
    """A gateway before a model server, with its receipts in the folder."""
    source = PlatformClient(parts.platform, parts.api_key, PATIENCE)
    async with outsiders() as (model, issuing), aiohttp.ClientSession() as http:
        server = Upstream(UpstreamSettings(model.url))
        with contextlib.closing(SqliteReceipts(folder / "receipts.db")) as kept:
            core = LoyalMiddleware(server, parts.host, source, kept, parts.limits, parts.purse)
            async with serving(core) as url:
                yield Door(model, issuing, url, kept, http), model
            await core.close()
            await source.close()
            await server.close()


async def stocked(play: Played, folder: Path, count: int) -> SqliteTokens:
    """A file with ripe tokens: the stage's clock moves on."""
    said = await play.do(BuyTokens(play.stage.id("host"), play.license, count))
    (bought,) = [one for one in said.json["events"] if one["kind"] == "TokensBought"]
    play.stage.now = bought["ripe"] + 601
    purse = SqliteTokens(folder / "tokens.db", play.license)
    await purse.learn(((bought["first"], bought["count"], bought["ripe"]),), 0)
    return purse


def answer_of(host: bytes, value: str) -> tuple[SignedAnswer, Answer]:
    signed = SignedAnswer(Signed.from_bytes(from_base64url(value)))
    return signed, signed.verify(host)


@dataclass
class AskingAsItGoes:
    """The platform goes away in the very moment in which a prover asks."""

    line: Line
    asker: ChatAsker
    heard: Heard | None = None

    async def ask(self, message: str) -> Heard | None:
        await self.line.close()
        self.heard = await self.asker.ask(message)
        return self.heard


@pytest.mark.parametrize("reports", [True, False])
def test_a_key_that_is_asked_in_an_outage_gives_no_claim(
    tmp_path: Path, port: int, reports: bool
) -> None:
    async def story(play: Played) -> None:
        stage, line = play.stage, Line(play.app, port)
        purse = await stocked(play, tmp_path, 3)
        await line.open()
        await play.caretaker(Pace(draw_seconds=0)).once()
        drawn = play.platform.state.licenses[play.license].drawn
        assert drawn is not None
        role = next(one for one in PROVERS if stage.id(one) == drawn.prover)
        apis = [
            PlatformApi(line.url, stage.key(one), HASTE, lambda: stage.now)
            for one in (role, "host")
        ]
        desk = TokenDesk(apis[1], stage.id("host"), play.license, purse)
        async with gateway(Parts(play.host(), line.url, play.api_key, purse), tmp_path) as (
            door, _,
        ):  # fmt: skip
            before = await door.post(chat("before"))
            assert (before.status, "Loyal-Receipt" in before.headers) == (200, True)
            asker = ChatAsker(AskerSettings(door.url, most_pause_seconds=0, least_pause_seconds=0))
            going = AskingAsItGoes(line, asker)
            files = IntentFile(tmp_path / "prover", play.license)
            prover = Prover(drawn.prover, play.license, PlatformDesk(apis[0]), going, files)
            with pytest.raises(EndpointError):  # it was answered, and has nobody to tell
                await prover.step(stage.now)
            with pytest.raises(EndpointError):
                await desk.look()
            await line.open()
            assert going.heard is not None
            signed = SignedAnswer(Signed.from_bytes(going.heard.answers[0]))
            assert signed.verify(stage.id("host")).token == 0
            assert await prover.step(stage.now) == "waiting"  # T3: the host may still report
            if reports:
                assert await desk.look() == 1
                reported = (await PlatformDesk(apis[1]).read_on()).licenses[play.license].reported
                assert reported == {0: use_digest(signed)}
            stage.wait(stage.parameters.report_seconds + 1)
            assert await prover.step(stage.now) == ("clear" if reports else "claimed")
            after = await door.post(chat("after"))
            assert (after.status, "Loyal-Receipt" in after.headers) == (200, True)
            await asker.close()
        assert len(play.platform.state.claims) == (0 if reports else 1)
        assert await purse.left() == 2
        await line.close()
        for api in apis:
            await api.close()
        purse.close()

    playing_platform(tmp_path, story)


def test_two_queries_at_once_and_a_new_start_share_no_token(tmp_path: Path, nowhere: str) -> None:
    """What was bought is known from the file alone: the platform is out all the while."""

    async def story(play: Played) -> None:
        (await stocked(play, tmp_path, 3)).close()
        found: list[int | None] = []
        statuses: list[int] = []
        for _ in range(2):
            purse = SqliteTokens(tmp_path / "tokens.db", play.license)
            host = play.host()
            async with gateway(Parts(host, nowhere, play.api_key, purse), tmp_path) as (door, _m):
                said: Sequence[Said] = await asyncio.gather(
                    *(door.post(chat(f"question {number}")) for number in range(2))
                )
            for one in said:
                statuses.append(one.status)
                if one.status == 200:
                    value = one.headers["Loyal-Answer"]
                    found.append(answer_of(play.stage.id("host"), value)[1].token)
            purse.close()
        assert sorted(statuses) == [200, 200, 200, 503]
        assert sorted(one for one in found if one is not None) == [0, 1, 2]

    playing_platform(tmp_path, story)


def test_each_of_several_replies_takes_a_token_of_its_own(tmp_path: Path, nowhere: str) -> None:
    async def story(play: Played) -> None:
        purse = await stocked(play, tmp_path, 3)
        parts = Parts(play.host(), nowhere, play.api_key, purse)
        async with gateway(parts, tmp_path) as (door, _):
            said = await door.post(chat("a query", n=4))
            assert (said.status, said.error, await purse.left()) == (503, "platform_unavailable", 3)
            said = await door.post(chat("a query", n=2))
            assert said.status == 200
            kept = await door.receipt(said.headers["Loyal-Request-Id"])
        found = [answer_of(play.stage.id("host"), one) for one in kept["answers"]]
        assert len({answer.token for _, answer in found}) == 2
        uses = {answer.token: use_digest(signed) for signed, answer in found}
        assert dict(await purse.unreported(9)) == uses
        assert await purse.left() == 1
        purse.close()

    playing_platform(tmp_path, story)


def test_no_token_is_used_once_the_license_has_ended(tmp_path: Path, nowhere: str) -> None:
    async def story(play: Played) -> None:
        purse = await stocked(play, tmp_path, 1)
        host = play.host()
        late = replace(host, clock=lambda: host.terms.expires + 1)
        async with gateway(Parts(late, nowhere, play.api_key, purse), tmp_path) as (
            door, model,
        ):  # fmt: skip
            said = await door.post(chat("a query"))
            assert (said.status, said.error) == (503, "platform_unavailable")
            assert not model.seen
        assert await purse.left() == 1
        with pytest.raises(ProtocolError) as caught:
            late.answer(["a query"], "a reply", None, (), token=0)
        assert caught.value.rule == "L5"
        last = replace(host, clock=lambda: host.terms.expires)
        assert last.answer(["a query"], "a reply", None, (), token=0)
        purse.close()

    playing_platform(tmp_path, story)


@pytest.mark.parametrize(
    ("status", "goes_on"), [(401, False), (403, False), (404, False), (429, False),
                            (500, True), (502, True), (503, True)],
)  # fmt: skip
def test_only_an_outage_costs_a_token(tmp_path: Path, status: int, goes_on: bool) -> None:
    async def story() -> None:
        async with outsiders(Platform()) as (_, platform):
            host = platform.issuer.host()
            purse = SqliteTokens(tmp_path / "tokens.db", host.license)
            await purse.learn(((0, 9, 0),), 0)
            async with gateway(Parts(host, platform.url, API_KEY, purse), tmp_path) as (door, _m):
                platform.failures = [status] * PATIENCE.attempts
                said = await door.post(chat("a query"))
                assert said.status == (200 if goes_on else 503)
                assert await purse.left() == (8 if goes_on else 9)
                platform.failures = []
                for _ in range(3):  # it is back
                    again = await door.post(chat("a query"))
                    assert (again.status, "Loyal-Receipt" in again.headers) == (200, True)
            assert await purse.left() == (8 if goes_on else 9)
            purse.close()

    played(story())


def test_in_an_outage_the_platform_is_not_asked_for_each_query(tmp_path: Path) -> None:
    async def story() -> None:
        async with outsiders(Platform()) as (_, platform):
            host = platform.issuer.host()
            purse = SqliteTokens(tmp_path / "tokens.db", host.license)
            await purse.learn(((0, 6, 0),), 0)
            long = GatewayLimits(outage_seconds=3_600.0)
            platform.failures = [503] * 99
            async with gateway(Parts(host, platform.url, API_KEY, purse, long), tmp_path) as (
                door, _m,
            ):  # fmt: skip
                for _ in range(6):
                    assert (await door.post(chat("a query"))).status == 200
                assert len(platform.bodies) == PATIENCE.attempts
                assert (await door.post(chat("a query"))).status == 503  # none is left
                assert len(platform.bodies) == 2 * PATIENCE.attempts
                platform.failures = []
                assert (await door.post(chat("a query"))).status == 200
            purse.close()

    played(story())


def test_a_host_that_is_killed_uses_no_token_twice(tmp_path: Path) -> None:
    """`loyal host serve` as a process, its platform out, with SIGKILL between."""

    async def story() -> None:
        platform = Platform(Issuer(int(time.time())))
        async with outsiders(platform) as (model, _), aiohttp.ClientSession() as http:
            files = Files.of(tmp_path, platform)
            purse = SqliteTokens(tmp_path / "tokens.db", platform.issuer.license)
            await purse.learn(((0, 5, 0),), 0)
            purse.close()
            files.more = ("--tokens", str(tmp_path / "tokens.db"))
            platform.failures = [503] * 999
            found: list[int | None] = []
            last = 200
            for _ in range(2):
                async with running(files, model, platform) as (process, url):
                    for number in range(3):
                        body = chat(f"question {number}")
                        async with http.post(f"{url}/v1/chat/completions", json=body) as got:
                            last = got.status
                            if last == 200:
                                value = got.headers["Loyal-Answer"]
                                host = platform.issuer.stage.id("host")
                                found.append(answer_of(host, value)[1].token)
                    process.send_signal(signal.SIGKILL)
                    await process.wait()
            assert (sorted(one for one in found if one is not None), last) == ([*range(5)], 503)
        with contextlib.closing(
            SqliteTokens(tmp_path / "tokens.db", platform.issuer.license)
        ) as purse:
            assert [number for number, _ in await purse.unreported(9)] == [*range(5)]

    played(story())


class Hurried(PlatformApi):
    """A platform that has the first uses already, and lets a few commands through at a time."""

    def __init__(self, known: KnownTokens, has: set[int], most: int) -> None:
        super().__init__("http://127.0.0.1:9")
        self.known, self.has, self.most, self.left = known, has, most, most

    async def tokens(self, license: bytes) -> KnownTokens:
        self.left = self.most
        return self.known

    async def submit(self, command: Command) -> list[dict[str, object]]:
        assert isinstance(command, ReportTokens)
        if not self.left:
            raise EndpointError("the platform answered HTTP 429", hint="later")
        self.left -= 1
        numbers = {number for number, _ in command.uses}
        if numbers & self.has:
            raise ProtocolError("this token was reported before", hint="once", rule="T2")
        self.has |= numbers
        return []


def test_reports_go_on_from_where_they_stopped(tmp_path: Path) -> None:
    async def story() -> None:
        license = b"license".ljust(32, b".")
        purse = SqliteTokens(tmp_path / "tokens.db", license)
        await purse.learn(((0, 40, 0),), 0)
        for _ in range(40):
            token = await purse.take(1_800_000_000)
            assert token is not None
            await purse.bind(token, bytes(32))
        api = Hurried(KnownTokens(((0, 40, 0),), 0, 0), set(range(30)), most=11)
        desk = TokenDesk(api, bytes(32), license, purse)
        looks = 0
        while await purse.unreported(1):
            looks += 1
            with contextlib.suppress(EndpointError):
                await desk.look()
            assert looks < 9
        assert api.has == set(range(40))
        purse.close()

    asyncio.run(story())


def test_a_desk_goes_on_after_any_failure(tmp_path: Path) -> None:
    """Else the first surprise would end the reports of a host that serves on."""

    async def story() -> None:
        license = b"license".ljust(32, b".")
        purse = SqliteTokens(tmp_path / "tokens.db", license)
        api = Hurried(KnownTokens(((0, 2**70, 0),), 0, 0), set(), most=9)
        task = asyncio.create_task(TokenDesk(api, bytes(32), license, purse, 0.01).run())
        await asyncio.sleep(0.1)
        assert not task.done()
        api.known = KnownTokens(((0, 7, 0),), 0, 0)
        while await purse.left() != 7:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        await TokenDesk(api, bytes(32), license, purse).finish()
        purse.close()

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_platform_that_tells_no_sound_tokens_is_not_believed(tmp_path: Path) -> None:
    async def story() -> None:
        for first, count in ((-1, 2), (0, 2**70), (0, "two")):
            view = {
                "expires": 1,
                "tokens": {
                    "reported_below": 0,
                    "purchases": [{"first": first, "count": count, "ripe": 0}],
                },
            }
            async with outsiders() as (model, _):

                async def behave(
                    _: aiohttp.web.Request, body: str = json.dumps(view)
                ) -> aiohttp.web.StreamResponse:
                    return aiohttp.web.Response(text=body, content_type="application/json")

                model.behave = behave
                api = PlatformApi(model.url, patience=HASTE)
                with pytest.raises(EndpointError, match="cannot be used"):
                    await api.tokens(bytes(32))
                await api.close()

    played(story())
