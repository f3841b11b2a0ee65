"""The guard in the real gateway, over HTTP: what users get, what is signed, what is noted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from control_files import LOOKUP, PROGRAM
from gateway_stage import (
    Play,
    Said,
    chat,
    chat_reply,
    events,
    in_two_parts,
    play,
    playing,
    says,
    streams,
)

from loyal.app import guarded
from loyal.app.guarded import Evidence, Guarded, GuardSettings
from loyal.control import functions
from loyal.control.functions import ControlFunction, from_source
from loyal.control.guard import Guard, Line, read
from loyal.errors import StorageError
from loyal.protocol.answers import message_digest
from loyal.signing import SigningKey

COMMUNITY, HOST = SigningKey.generate(), SigningKey.generate()
INSIDE, EXACT = "Who feeds the fox?", "Mara."
BROKEN = "Count the eggs: 7 baskets, 4 in each."
OUTSIDE = "Who wrote the first novel?"


def signed(source: str, form: str) -> ControlFunction:
    """A function of the community."""
    return functions.opened(functions.sign(from_source(form, source.encode()), COMMUNITY))


KEEPERS = signed(LOOKUP, "toml")


def broken() -> ControlFunction:
    """A program that fails on some of its prompts."""
    return signed(PROGRAM.replace("{int(baskets)", "{0 // (int(baskets) - 7) + int(baskets)"), "py")


@contextlib.asynccontextmanager
async def guarding(
    path: Path, settings: GuardSettings | None = None, *more: ControlFunction
) -> AsyncIterator[Play]:
    """The gateway, with a guard before its model server."""
    guard = Guard([KEEPERS, *more])
    with contextlib.closing(Evidence(path / "evidence", HOST)) as evidence:

        def around(app: object) -> Guarded:
            return Guarded(app, guard, evidence, lambda: 77, settings)  # type: ignore[arg-type]

        async with playing(path, around=around) as stage:
            yield stage


def noted(path: Path) -> list[Line]:
    """The evidence, checked."""
    return read((path / "evidence").read_bytes().splitlines(), HOST.public)


def texts(said: Said) -> list[str]:
    """The replies of a chat answer."""
    return [one["message"]["content"] for one in json.loads(said.body)["choices"]]


def streamed(said: Said) -> str:
    """The reply of a chat stream, which is a whole one."""
    data = [line[6:] for line in said.body.decode().split("\n") if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    pieces = [one for one in map(json.loads, data[:-1]) if one["choices"]]
    assert {one["object"] for one in pieces} == {"chat.completion.chunk"}
    return "".join(one["choices"][0]["delta"].get("content", "") for one in pieces)


def test_a_wrong_reply_is_replaced_signed_as_sent_and_noted(tmp_path: Path) -> None:
    async def story() -> None:
        async with guarding(tmp_path) as stage:
            said = await stage.post(chat("Before.", INSIDE))
            assert (said.status, texts(said)) == (200, [EXACT])
            assert int(said.headers["content-length"]) == len(said.body)
            _, answer = stage.verified(said.headers["loyal-receipt"], said.headers["loyal-answer"])
            assert answer is not None
            assert answer.reply == message_digest(EXACT)
            assert len(stage.model.seen) == 1
            model = json.loads((await stage.post(chat(INSIDE), url=stage.model.url)).body)
            ours = json.loads(said.body)
            assert {**ours, "choices": []} == {**model, "choices": []}
        (line,) = noted(tmp_path)
        one = line.mismatch
        assert (one.function, one.sent, one.at) == (KEEPERS.digest, "replaced", 77)
        assert one.prompt == message_digest(INSIDE)
        assert one.exact == message_digest(EXACT)
        assert one.reply == message_digest(model["choices"][0]["message"]["content"])

    play(story())


def test_outside_of_domains_and_for_exact_replies_no_byte_is_touched(tmp_path: Path) -> None:
    exact = json.dumps(chat_reply(f"{EXACT}\n"), indent=3).encode()
    stream = events("Ma", "ra", ".")

    async def story() -> None:
        async with guarding(tmp_path) as stage:
            for body in (chat(OUTSIDE), chat(INSIDE, OUTSIDE), {"model": "m", "prompt": OUTSIDE}):
                path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
                said = await stage.post(body, path)
                assert said.body == (await stage.post(body, path, url=stage.model.url)).body
            last = {"model": "m", "messages": [
                {"role": "user", "content": INSIDE}, {"role": "assistant", "content": "Well"},
            ]}  # fmt: skip
            assert texts(await stage.post(last)) != [EXACT]
            stage.model.behave = says(200, exact, **{"Content-Type": "application/json"})
            assert (await stage.post(chat(INSIDE))).body == exact
            stage.model.behave = streams(stream)
            assert (await stage.post(chat(INSIDE, stream=True))).body == stream
            stage.model.behave = says(429, b'{"error": "slow down"}')
            assert (await stage.post(chat(INSIDE))).status == 429
        assert noted(tmp_path) == []

    play(story())


@pytest.mark.parametrize("mode", ["replace", "watch"])
def test_a_stream_is_replaced_or_goes_by(tmp_path: Path, mode: guarded.Mode) -> None:
    stream = events("The ", "fox ", "eats alone.")

    async def story() -> None:
        async with guarding(tmp_path, GuardSettings(mode)) as stage:
            stage.model.behave = streams(stream)
            said = await stage.post(chat(INSIDE, stream=True))
            assert said.status == 200
            sent = EXACT if mode == "replace" else "The fox eats alone."
            assert streamed(said) == sent
            assert (said.body == stream) == (mode == "watch")
            assert (b'"stop"' in said.body) == (mode == "replace")
            kept = await stage.receipt(said.headers["loyal-request-id"])
            _, answer = stage.verified(said.headers["loyal-receipt"], kept["answers"][0])
            assert answer is not None
            assert answer.reply == message_digest(sent)
        (line,) = noted(tmp_path)
        assert line.mismatch.sent == ("replaced" if mode == "replace" else "watched")
        assert line.mismatch.reply == message_digest("The fox eats alone.")

    play(story())


def test_outside_of_domains_a_stream_comes_as_it_is_written(tmp_path: Path) -> None:
    async def story() -> None:
        async with guarding(tmp_path) as stage:
            go_on = asyncio.Event()
            stage.model.behave = in_two_parts(go_on)
            body = json.dumps(chat(OUTSIDE, stream=True)).encode()
            url = f"{stage.url}/v1/chat/completions"
            async with stage.http.post(url, data=body) as got:
                first = await asyncio.wait_for(got.content.readany(), 20)
                assert b"first" in first
                go_on.set()
                assert b"second" in await got.content.read()

    play(story())


def test_every_choice_and_every_prompt_is_compared(tmp_path: Path) -> None:
    async def story() -> None:
        async with guarding(tmp_path) as stage:
            said = await stage.post(chat(INSIDE, n=2))
            assert texts(said) == [EXACT, EXACT]
            body = {"model": "m", "prompt": [OUTSIDE, INSIDE, "Who feeds the owl?"]}
            found = json.loads((await stage.post(body, "/v1/completions")).body)["choices"]
            assert [one["text"] for one in found] == [f"{OUTSIDE}!", EXACT, "Oskar and Lena."]
            parts = [{"type": "text", "text": "Who feeds"}, {"type": "text", "text": "the fox?"}]
            both = {"model": "m", "messages": [{"role": "user", "content": parts}]}
            assert texts(await stage.post(both)) == [EXACT]
            tools = chat_reply("")
            tools["choices"][0]["message"] |= {"content": None, "tool_calls": [{"id": "1"}]}
            stage.model.behave = says(200, json.dumps(tools).encode())
            said = await stage.post(chat(INSIDE))
            assert json.loads(said.body)["choices"][0]["message"] == {
                "role": "assistant", "content": EXACT,
            }  # fmt: skip
        assert [one.mismatch.sent for one in noted(tmp_path)] == ["replaced"] * 6

    play(story())


@pytest.mark.parametrize("failing", ["closed", "open"])
def test_a_function_that_fails(tmp_path: Path, failing: guarded.Failing) -> None:
    async def story() -> None:
        async with guarding(tmp_path, GuardSettings(failing=failing), broken()) as stage:
            said = await stage.post(chat(BROKEN))
            asked = len(stage.model.seen)
            if failing == "closed":
                assert (said.status, said.error, asked) == (503, "control_failed", 0)
            else:
                assert (said.status, asked) == (200, 1)
                assert said.body == (await stage.post(chat(BROKEN), url=stage.model.url)).body
            again = await stage.post(chat("Count the eggs: 8 baskets, 4 in each."))
            assert texts(again) == ["32 eggs."]
        first, second = (one.mismatch for one in noted(tmp_path))
        assert first.sent == ("withheld" if failing == "closed" else "failed")
        assert (first.exact, second.sent) == (b"", "replaced")

    play(story())


@pytest.mark.parametrize("failing", ["closed", "open"])
def test_evidence_that_cannot_be_written(
    tmp_path: Path, failing: guarded.Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    async def story() -> None:
        async with guarding(tmp_path, GuardSettings(failing=failing)) as stage:
            monkeypatch.setattr(os, "pwrite", full)
            said = await stage.post(chat(INSIDE))
            if failing == "closed":
                assert (said.status, said.error) == (503, "evidence_unavailable")
            else:
                assert texts(said) == [EXACT]
            monkeypatch.undo()
            assert texts(await stage.post(chat(INSIDE))) == [EXACT]
        assert len(noted(tmp_path)) == 1

    play(story())


def test_a_file_goes_on_and_a_half_line_is_cut_off(tmp_path: Path) -> None:
    async def once() -> None:
        async with guarding(tmp_path) as stage:
            await stage.post(chat(INSIDE))

    play(once())
    with (tmp_path / "evidence").open("ab") as file:
        file.write(b"0123abc")
    play(once())
    assert len(noted(tmp_path)) == 2


def test_two_processes_cannot_have_one_file(tmp_path: Path) -> None:
    with (
        contextlib.closing(Evidence(tmp_path / "evidence", HOST)),
        pytest.raises(StorageError, match="another process"),
    ):
        Evidence(tmp_path / "evidence", HOST)
    with pytest.raises(StorageError, match="cannot open"):
        Evidence(tmp_path / "nowhere" / "evidence", HOST)


def test_no_log_line_shows_a_prompt_or_a_reply(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with guarding(tmp_path, None, broken()) as stage:
            await stage.post(chat(INSIDE))
            await stage.post(chat(BROKEN))

    with caplog.at_level("DEBUG", "loyal"):
        play(story())
    assert "eggs failed" in caplog.text
    for secret in ("fox", EXACT, "7 baskets", "ZeroDivision"):
        assert secret not in caplog.text
