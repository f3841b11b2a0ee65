"""`loyal host serve` as a process: it answers, stops gracefully, survives SIGKILL, refuses well."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from gateway_stage import API_KEY, ModelServer, Platform, chat, chat_reply, events, outsiders, play
from issuing import Issuer
from stage import Run

from loyal.app.platform_client import from_base64url
from loyal.protocol import SignedAnswer
from loyal.signing import Signed


def today() -> Platform:
    """A platform by the real clock, as the process that is tested has no other."""
    return Platform(Issuer(int(time.time())))


@dataclass
class Files:
    """What a host has on disk."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, platform: Platform) -> Files:
        """Written for the stage's host."""
        issuer = platform.issuer
        (folder / "host.key").write_text(issuer.stage.key("host").seed().hex() + "\n")
        (folder / "host.key").chmod(0o600)
        (folder / "platform.key").write_text(f"{API_KEY}\n")
        (folder / "license").write_bytes(issuer.license_file().to_bytes())
        return cls(folder)

    def options(self, model: str, platform: str, listen: str = "127.0.0.1:0") -> list[str]:
        """The command's options."""
        given = {
            "upstream": model, "platform": platform, "listen": listen,
            "platform-key-file": self.folder / "platform.key",
            "host-key": self.folder / "host.key",
            "license": self.folder / "license",
            "receipts": self.folder / "receipts.db",
        }  # fmt: skip
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


@contextlib.asynccontextmanager
async def running(
    files: Files, model: ModelServer, platform: Platform
) -> AsyncIterator[tuple[Process, str]]:
    """The command as a process, and its address."""
    options = files.options(model.url, platform.url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loyal", "host", "serve", *options, "--json", stdout=PIPE, stderr=PIPE
    )
    try:
        assert process.stderr is not None
        while not (line := await process.stderr.readline()).startswith(b"listening on "):
            assert line, "it ended before it listened"
        yield process, line.decode().split()[-1].removesuffix("/v1")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_ends_what_is_under_way(tmp_path: Path, stop: signal.Signals) -> None:
    async def story() -> None:
        async with outsiders(today()) as (model, platform), aiohttp.ClientSession() as http:
            go = asyncio.Event()

            async def behave(request: web.Request) -> web.StreamResponse:
                if b"stream" not in await request.read():
                    return web.json_response(chat_reply("hello"))
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await response.prepare(request)
                await response.write(events("first", done=False))
                await go.wait()
                await response.write(events("last"))
                return response

            model.behave = behave
            files = Files.of(tmp_path, platform)
            async with running(files, model, platform) as (process, url):
                chats = f"{url}/v1/chat/completions"
                async with http.post(chats, json=chat("hello")) as got:
                    assert got.status == 200
                    answer = from_base64url(got.headers["Loyal-Answer"])
                    host = platform.issuer.stage.id("host")
                    assert SignedAnswer(Signed.from_bytes(answer)).verify(host)
                async with http.post(chats, json=chat("hello", stream=True)) as got:
                    await got.content.readany()
                    process.send_signal(stop)
                    await asyncio.sleep(0.2)
                    go.set()
                    assert await got.content.read() == events("last")
                out, err = await asyncio.wait_for(process.communicate(), 20)
                assert process.returncode == 0
                assert json.loads(out)["stopped"] is True
                assert b"Traceback" not in err

    play(story())


def test_receipts_survive_sigkill(tmp_path: Path) -> None:
    async def story() -> None:
        async with outsiders(today()) as (model, platform), aiohttp.ClientSession() as http:
            files, kept = Files.of(tmp_path, platform), {}
            for _ in range(2):
                async with running(files, model, platform) as (process, url):
                    for number in range(5):
                        body = chat(f"question {number}")
                        async with http.post(f"{url}/v1/chat/completions", json=body) as got:
                            kept[got.headers["Loyal-Request-Id"]] = got.headers["Loyal-Receipt"]
                    process.send_signal(signal.SIGKILL)
                    await process.wait()
            async with running(files, model, platform) as (_, url):
                for request_id, receipt in kept.items():
                    async with http.get(f"{url}/loyal/receipts/{request_id}") as got:
                        assert (await got.json())["receipt"] == receipt
            assert len(kept) == 10

    play(story())


def test_a_wrong_start_is_refused_in_one_line(tmp_path: Path, run: Run) -> None:
    files = Files.of(tmp_path, Platform())
    good = ["host", "serve", *files.options("http://127.0.0.1:9", "http://127.0.0.1:9")]

    def refused(words: str, *options: str) -> None:
        done = run(*good, *options)
        assert (done.code, words in done.err) == (2, True), done.err
        assert "Traceback" not in done.err

    other = tmp_path / "other"
    refused("--host-key: No such file", "--host-key", str(other))
    other.write_text("xyz")
    refused("others may read", "--host-key", str(other))
    other.chmod(0o600)
    refused("does not hold a seed", "--host-key", str(other))
    refused("address", "--upstream", "nonsense")
    refused("address", "--platform", "nonsense")
    refused("--listen is not", "--listen", "here")
    refused("--listen is not", "--listen", "127.0.0.1:99999")
    other.write_text("\n")
    refused("is empty", "--platform-key-file", str(other))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused("cannot listen", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    other.write_bytes(b"no license")
    assert run(*good, "--license", other).code == 1
    stranger = tmp_path / "stranger"
    stranger.write_text("ab" * 32)
    stranger.chmod(0o600)
    assert "another host's" in run(*good, "--host-key", stranger).err
    assert "ab" * 32 not in run(*good, "--host-key", stranger, "--json").err


def test_answers_in_two_pieces_do_not_wait_for_their_caller() -> None:
    """asyncio looks at the protocol that a socket names before it turns Nagle's algorithm off."""
    from loyal.app.listening import Address, open_door, url_of

    with open_door(Address("127.0.0.1", 0)) as door:
        assert door.proto == socket.IPPROTO_TCP
        with socket.create_connection(door.getsockname()), door.accept()[0] as answered:
            assert answered.proto == socket.IPPROTO_TCP
        assert url_of(door) == f"http://127.0.0.1:{door.getsockname()[1]}"
