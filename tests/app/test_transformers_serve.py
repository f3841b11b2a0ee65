"""The gateway before `transformers serve` with the real default model (slow): chat and streams."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import openai
import pytest
from gateway_stage import API_KEY, Play, outsiders, play, serving

from loyal.app.gateway import LoyalMiddleware
from loyal.app.platform_client import PlatformClient
from loyal.app.receipts import SqliteReceipts
from loyal.app.upstream import Upstream, UpstreamSettings
from loyal.models import library
from loyal.protocol.answers import message_digest

QUESTION = "What is the capital of France?"


@contextlib.contextmanager
def transformers_serve(model: Path) -> Iterator[str]:
    """The address of a server of this model folder, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with subprocess.Popen(
        command, env=offline, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                assert running.poll() is None, "transformers serve stopped"
                with (
                    contextlib.suppress(urllib.error.URLError, ConnectionError),
                    urllib.request.urlopen(f"{url}/health", timeout=5),
                ):
                    break
                time.sleep(0.2)
            yield url
        finally:
            running.terminate()


@pytest.mark.slow
def test_the_default_model_is_served_with_permissions(tmp_path: Path) -> None:
    model = library.fetch("smollm2-135m-instruct")

    async def story(url: str) -> None:
        async with outsiders(None) as (stub, issuing), aiohttp.ClientSession() as http:
            server = Upstream(UpstreamSettings(url))
            source = PlatformClient(issuing.url, API_KEY)
            with contextlib.closing(SqliteReceipts(tmp_path / "receipts.db")) as receipts:
                gateway = LoyalMiddleware(server, issuing.issuer.host(), source, receipts)
                async with serving(gateway) as address:
                    await asked(Play(stub, issuing, address, receipts, http), str(model))
                await gateway.close()
                await source.close()
                await server.close()

    with transformers_serve(model) as url:
        play(story(url))


async def asked(stage: Play, model: str) -> None:
    """A chat and a stream, by OpenAI's own client and by hand."""
    client = openai.AsyncOpenAI(base_url=f"{stage.url}/v1", api_key="user-key")
    messages = [{"role": "user", "content": QUESTION}]
    async with client:
        whole = await client.chat.completions.with_raw_response.create(
            model=model, messages=messages, temperature=0, max_tokens=12
        )
        reply = whole.parse().choices[0].message.content
        permission, answer = stage.verified(
            whole.headers["Loyal-Receipt"], whole.headers["Loyal-Answer"]
        )
        assert answer is not None
        assert "Paris" in reply
        assert answer.reply == message_digest(reply)
        assert permission.covers(QUESTION, answer.salts)
    body = {"model": model, "messages": messages, "stream": True, "temperature": 0, "max_tokens": 8}
    said = await stage.post(body)
    lines = [one[6:] for one in said.body.decode().splitlines() if one.startswith("data: ")]
    pieces = [json.loads(one) for one in lines if one != "[DONE]"]
    text = "".join(one["choices"][0]["delta"].get("content") or "" for one in pieces)
    assert "Paris" in text
    kept = await stage.receipt(said.headers["Loyal-Request-Id"])
    permission, answer = stage.verified(kept["receipt"], kept["answers"][0])
    assert answer is not None
    assert answer.reply == message_digest(text)
    assert permission.covers(QUESTION, answer.salts)
