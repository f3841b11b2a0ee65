"""No log, error or file of the gateway shows a prompt, a reply or a key, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from gateway_stage import (
    API_KEY,
    Platform,
    Said,
    chat,
    chat_reply,
    events,
    playing,
    says,
    streams,
)
from issuing import Issuer

from loyal.app.gateway import GatewayLimits

PROMPT, REPLY = "planted prompt xylophone", "planted reply marimba"
USER_KEY, UPSTREAM_KEY = "planted-user-key", "planted-upstream-key"
SECRETS = ("xylophone", "marimba", USER_KEY, UPSTREAM_KEY, API_KEY)


async def hangs(_: web.Request) -> web.StreamResponse:
    """Take longer than anybody waits."""
    await asyncio.sleep(30)
    return web.Response()


async def _everything_goes_wrong(folder: Path) -> list[Said]:
    """Two good replies, and then each failure once; gives what the failures said."""
    errors: list[Said] = []
    limits = GatewayLimits(most_bytes=4000, most_reply_bytes=4000)
    platform = Platform(Issuer(most_inferences=8))
    async with playing(folder, limits, platform, key=UPSTREAM_KEY, silence_seconds=0.2) as stage:

        async def ask(body: object) -> bytes:
            errors.append(await stage.post(body, Authorization=f"Bearer {USER_KEY}"))
            return errors[-1].body

        stage.model.behave = says(200, json.dumps(chat_reply(REPLY)).encode())
        assert REPLY.encode() in await ask(chat(PROMPT))
        stage.model.behave = streams(events(REPLY))
        assert REPLY.encode() in await ask(chat(PROMPT, stream=True))
        errors.clear()
        stage.model.behave = streams(events(REPLY), whole=False)
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(chat(PROMPT, stream=True))
        for behave in (says(200, b"x" * 5000 + REPLY.encode()), hangs):
            stage.model.behave = behave
            await ask(chat(PROMPT))
        for wrong in (
            json.dumps(chat(PROMPT)).encode()[:-1],
            {"messages": [{"role": "user", "content": {"text": PROMPT}}]},
            {"messages": [{"role": "user", "content": PROMPT, "Content": PROMPT}]},
            chat(PROMPT + " spell"),
            chat(PROMPT * 1000),
        ):
            await ask(wrong)
        platform.failures = [500] * 4
        await ask(chat(PROMPT))
        platform.broken = PROMPT.encode()
        await ask(chat(PROMPT))
        platform.broken = None
        for _ in range(4):  # until the license's inferences are used up
            await ask(chat(PROMPT))
    return errors


def test_nothing_that_was_planted_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said = asyncio.run(asyncio.wait_for(_everything_goes_wrong(tmp_path), 60))
    assert {one.status for one in said} >= {400, 403, 413, 502, 503, 504}
    printed = capsys.readouterr()
    shown = caplog.text + printed.out + printed.err
    shown += "".join(f"{one.headers} {one.body!r}" for one in said)
    files = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    for secret in SECRETS:
        assert secret not in shown
        assert secret.encode() not in files
    for code in ("platform_unavailable", "permission_refused (L6)", "purpose_refused"):
        assert code in caplog.text
