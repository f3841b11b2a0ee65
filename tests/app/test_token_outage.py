"""The platform is out: a host goes on with prepaid tokens, and reports them when it is back.

The platform is the real one over HTTP; the outage is a port at which nobody listens.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from gateway_stage import ModelServer, Said, chat, events, outsiders, serving, streams
from gateway_stage import Play as Door
from platform_stage import Played, playing_platform

from loyal.app.gateway import LoyalMiddleware
from loyal.app.platform_api import PlatformApi, PlatformDesk
from loyal.app.platform_client import PlatformClient, PlatformPatience, from_base64url
from loyal.app.receipts import SqliteReceipts
from loyal.app.token_desk import TokenDesk
from loyal.app.token_purse import SqliteTokens
from loyal.app.upstream import Upstream, UpstreamSettings
from loyal.errors import ProtocolError
from loyal.protocol.answers import Answer, SignedAnswer, message_digest
from loyal.protocol.tokens import BuyTokens, ReportTokens, use_digest
from loyal.signing import Signed

PATIENCE = PlatformPatience(attempts=1, timeout_seconds=2.0)


@contextlib.asynccontextmanager
async def gateway(
    play: Played, folder: Path, purse: SqliteTokens | None, out: bool = True
) -> AsyncIterator[tuple[Door, ModelServer]]:
    """A gateway whose platform is out, or not."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        nowhere = f"http://127.0.0.1:{door.getsockname()[1]}"
    host = replace(play.host(), clock=lambda: play.stage.now)
    source = PlatformClient(nowhere if out else play.url, play.api_key, PATIENCE)
    async with outsiders(None) as (model, issuing), aiohttp.ClientSession() as http:
        server = Upstream(UpstreamSettings(model.url))
        with contextlib.closing(SqliteReceipts(folder / "receipts.db")) as receipts:
            core = LoyalMiddleware(server, host, source, receipts, purse=purse)
            async with serving(core) as url:
                yield Door(model, issuing, url, receipts, http), model
            await core.close()
            await source.close()
            await server.close()


def desk_of(play: Played, purse: SqliteTokens) -> tuple[PlatformApi, TokenDesk]:
    api = PlatformApi(play.url, play.stage.key("host"), clock=lambda: play.stage.now)
    return api, TokenDesk(api, play.stage.id("host"), play.license, purse)


async def buy(play: Played, count: int) -> None:
    """Tokens, ripe at once: the stage's clock moves on."""
    said = await play.do(BuyTokens(play.stage.id("host"), play.license, count))
    (bought,) = [one for one in said.json["events"] if one["kind"] == "TokensBought"]
    play.stage.now = bought["ripe"] + 601


def signed(play: Played, said: Said) -> tuple[SignedAnswer, Answer]:
    answer = SignedAnswer(Signed.from_bytes(from_base64url(said.headers["Loyal-Answer"])))
    return answer, answer.verify(play.stage.id("host"))


def test_queries_go_on_tokens_and_are_reported_later(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        await buy(play, 2)
        purse = SqliteTokens(tmp_path / "tokens.db")
        api, desk = desk_of(play, purse)
        assert await desk.look() == 0
        async with gateway(play, tmp_path, purse) as (door, model):
            said = await door.post(chat("What is a loyal model?"))
            assert said.status == 200
            assert "Loyal-Receipt" not in said.headers
            whole, answer = signed(play, said)
            assert (answer.token, answer.receipt, answer.time) == (0, None, play.stage.now)
            assert answer.messages == (message_digest("What is a loyal model?"),)
            kept = json.loads(
                (await door.get(f"/loyal/receipts/{said.headers['Loyal-Request-Id']}")).body
            )
            assert kept["receipt"] is None
            assert kept["answers"] == [said.headers["Loyal-Answer"]]
            model.behave = streams(events("in ", "pieces"))
            stream = await door.post(chat("And now?", stream=True))
            assert stream.status == 200
            last = await door.post(chat("A third"))
            assert (last.status, last.error) == (503, "platform_unavailable")
        assert await desk.look() == 2
        assert await desk.look() == 0
        state = await PlatformDesk(api).read_on()  # audited: the rules run again over the log
        reported = state.licenses[play.license].reported
        assert reported[0] == use_digest(whole)
        assert set(reported) == {0, 1}
        await api.close()
        purse.close()

    playing_platform(tmp_path, story)


def test_a_query_without_an_answer_costs_no_token(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        await buy(play, 1)
        purse = SqliteTokens(tmp_path / "tokens.db")
        api, desk = desk_of(play, purse)
        await desk.look()
        async with gateway(play, tmp_path, purse) as (door, model):
            good = model.behave

            async def broken(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
                return aiohttp.web.Response(status=500, body=b"{}")

            model.behave = broken
            assert (await door.post(chat("a query"))).status == 500
            model.behave = good
            assert (await door.post(chat("a query"))).status == 200
        await api.close()
        purse.close()

    playing_platform(tmp_path, story)


def test_a_platform_that_answers_is_asked_and_one_that_refuses_costs_no_token(
    tmp_path: Path,
) -> None:
    async def story(play: Played) -> None:
        await buy(play, 1)
        purse = SqliteTokens(tmp_path / "tokens.db")
        api, desk = desk_of(play, purse)
        await desk.look()
        async with gateway(play, tmp_path, purse, out=False) as (door, _):
            said = await door.post(chat("a query"))
            assert said.status == 200
            assert signed(play, said)[1].token is None
            play.stage.now += 400 * 86_400  # the license has expired: a refusal is no outage
            refused = await door.post(chat("a query"))
            assert (refused.status, refused.error) == (503, "permission_refused")
        assert await purse.left() == 1
        await api.close()
        purse.close()

    playing_platform(tmp_path, story)


def test_without_tokens_an_outage_is_said(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        for purse in (None, SqliteTokens(tmp_path / "tokens.db")):
            async with gateway(play, tmp_path, purse) as (door, model):
                said = await door.post(chat("a query"))
                assert (said.status, said.error) == (503, "platform_unavailable")
                assert not model.seen
        assert purse is not None
        purse.close()

    playing_platform(tmp_path, story)


def test_a_report_whose_answer_was_lost_is_done(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        await buy(play, 3)
        purse = SqliteTokens(tmp_path / "tokens.db")
        api, desk = desk_of(play, purse)
        await desk.look()
        uses = []
        for _ in range(3):
            token = await purse.take(play.stage.now)
            assert token is not None
            await purse.bind(token, bytes([token + 1]) * 32)
            uses.append((token, bytes([token + 1]) * 32))
        await api.submit(ReportTokens(play.stage.id("host"), play.license, (uses[1],)))
        assert await desk.look() == 3
        state = await PlatformDesk(api).read_on()
        assert state.licenses[play.license].reported == dict(uses)
        with pytest.raises(ProtocolError):
            await api.tokens(b"x" * 32)
        await api.close()
        purse.close()

    playing_platform(tmp_path, story)
