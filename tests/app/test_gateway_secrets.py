"""No log, error or file of the gateway shows a prompt, a reply or a key, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest
from gateway_stage import (
    API_KEY,
    Platform,
    Said,
    chat,
    chat_reply,
    events,
    play,
    playing,
    says,
    streams,
)
from issuing import Issuer

from loyal.app.gateway import GatewayLimits

PROMPT, REPLY = "planted prompt xylophone", "planted reply marimba"
USER_KEY, UPSTREAM_KEY = "planted-user-key", "planted-upstream-key"
SECRETS = ("xylophone", "marimba", USER_KEY, UPSTREAM_KEY, API_KEY)


def test_nothing_that_was_planted_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    limits = GatewayLimits(most_bytes=4000, most_reply_bytes=4000)

    async def story() -> list[Said]:
        platform = Platform(Issuer(most_inferences=8))
        async with playing(
            tmp_path, limits, platform, key=UPSTREAM_KEY, silence_seconds=0.2
        ) as stage:
            errors: list[Said] = []

            async def ask(body: object) -> None:
                said = await stage.post(body, Authorization=f"Bearer {USER_KEY}")
                errors.append(said)

            good = json.dumps(chat_reply(REPLY)).encode()
            stage.model.behave = says(200, good)
            await ask(chat(PROMPT))
            assert errors.pop().body == good
            stage.model.behave = streams(events(REPLY))
            await ask(chat(PROMPT, stream=True))
            assert REPLY.encode() in errors.pop().body
            stage.model.behave = streams(events(REPLY), whole=False)
            with pytest.raises(Exception, match="payload"):
                await ask(chat(PROMPT, stream=True))
            stage.model.behave = says(200, b"x" * 5000 + REPLY.encode())
            await ask(chat(PROMPT))

            async def hangs(_: object) -> None:
                await asyncio.sleep(30)

            stage.model.behave = hangs  # type: ignore[assignment]
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
            for _ in range(4):
                await ask(chat(PROMPT))
            return errors

    said: list[Said] = []

    async def whole() -> None:
        said.extend(await story())

    play(whole())
    assert {one.status for one in said} >= {400, 403, 413, 502, 503, 504}
    printed = capsys.readouterr()
    shown = caplog.text + printed.out + printed.err
    shown += "".join(f"{one.headers} {one.body!r}" for one in said)
    files = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    for secret in SECRETS:
        assert secret not in shown
        assert secret.encode() not in files
    assert "platform_unavailable" in caplog.text
