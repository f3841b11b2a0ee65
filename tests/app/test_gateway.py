"""The gateway: no answer without a permission, and not one byte changed by it.

Each story runs against a real model server, a platform that really issues, and real HTTP between.
Left out: the platform's route alone (test_platform_client.py), the store (test_receipts.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from gateway_stage import (
    REPLY,
    Platform,
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
from issuing import Issuer

from loyal.app.gateway import GatewayLimits
from loyal.errors import ProtocolError
from loyal.protocol.answers import message_digest
from loyal.protocol.permission import MOST_MESSAGES
from loyal.protocol.permits import PermissionRequest

QUESTION = "What is a loyal model? \u00e4 \u65e5"
ID, RECEIPT, ANSWER = "loyal-request-id", "loyal-receipt", "loyal-answer"


def header(said: Said, name: str) -> str:
    """A header's value; empty where it is missing."""
    return said.headers.get(name, "")


def test_a_reply_comes_with_a_receipt_and_a_signature_that_hold_offline(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            said = await stage.post(chat("before", QUESTION))
            alone = await stage.post(chat("before", QUESTION), url=stage.model.url)
            assert (said.status, said.body) == (200, alone.body)
            permission, answer = stage.verified(header(said, RECEIPT), header(said, ANSWER))
            assert answer is not None
            assert answer.messages == (message_digest("before"), message_digest(QUESTION))
            assert answer.reply == message_digest(REPLY)
            assert permission.covers(QUESTION, [bytes(16), answer.salts[1]])
            assert permission.license == stage.platform.issuer.license
            kept = await stage.receipt(header(said, ID))
            assert kept == {
                "request_id": header(said, ID),
                "receipt": header(said, RECEIPT),
                "answers": [header(said, ANSWER)],
                "complete": True,
            }

    play(story())


def test_the_body_goes_on_as_the_bytes_that_came(tmp_path: Path) -> None:
    body = (
        b'{ "model":"m",\n "messages":[{"content":"sys","role":"system"},'
        b'{"role":"user","content":[{"type":"text","text":"caf\\u00e9"},'
        b'{"text":"two","type":"text"}]}, {"role":"tool","content":{"odd":[1.50]}}],'
        b' "temperature":0.70, "tools":[{"A":1,"a":2}] }'
    )

    async def story() -> None:
        async with playing(tmp_path) as stage:
            extra = {"Authorization": "Bearer user-key", "X-Own": "1", "Accept-Encoding": "gzip"}
            said = await stage.post(body, "/v1/chat/completions?a=b%20c", **extra)
            path, sent, headers = stage.model.seen[0]
            assert (path, sent) == ("/v1/chat/completions?a=b%20c", body)
            assert headers["Authorization"] == "Bearer user-key"
            assert headers["X-Own"] == "1"
            assert headers["Accept-Encoding"] == "identity"
            _, answer = stage.verified(header(said, RECEIPT), header(said, ANSWER))
            assert answer is not None
            assert answer.messages == (message_digest("café"), message_digest("two"))

    play(story())


def test_completions_cover_each_prompt_and_models_pass(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path, key="the-hosts-own") as stage:
            body = {"model": "m", "prompt": "once"}
            one = await stage.post(body, "/v1/completions", Authorization="Bearer the-users")
            _, answer = stage.verified(header(one, RECEIPT), header(one, ANSWER))
            assert answer is not None
            assert (answer.messages, answer.reply) == (
                (message_digest("once"),),
                message_digest("once!"),
            )
            two = await stage.post({"model": "m", "prompt": ["a", "b"]}, "/v1/completions")
            assert header(two, ANSWER) == ""
            kept = await stage.receipt(header(two, ID))
            replies = [stage.verified(kept["receipt"], one)[1] for one in kept["answers"]]
            assert [one.reply for one in replies if one] == [
                message_digest("a!"),
                message_digest("b!"),
            ]
            models = await stage.get("/v1/models")
            alone = await stage.get("/v1/models", url=stage.model.url)
            assert models.body == alone.body
            assert header(models, ID)
            stage.model.behave = says(200, b"{}")
            await stage.get("/v1/models/org%2Fname?a=%20b")
            assert stage.model.seen[-1][0] == "/v1/models/org%2Fname?a=%20b"
            assert stage.model.seen[0][2].getall("Authorization") == ["Bearer the-hosts-own"]
            assert len(stage.platform.calls) == 2

    play(story())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 4096])
def test_a_stream_passes_byte_for_byte_and_is_signed_after_it(tmp_path: Path, size: int) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            stage.model.behave = streams(events("A ", "mod", "el \u65e5", "."), size=size)
            body = chat(QUESTION, stream=True)
            said = await stage.post(body)
            alone = await stage.post(body, url=stage.model.url)
            assert said.body == alone.body
            assert said.headers["Content-Type"] == alone.headers["Content-Type"]
            assert header(said, ANSWER) == ""
            kept = await stage.receipt(header(said, ID))
            assert kept["receipt"] == header(said, RECEIPT)
            assert kept["complete"] is True
            _, answer = stage.verified(kept["receipt"], kept["answers"][0])
            assert answer is not None
            assert answer.reply == message_digest("A model \u65e5.")

    play(story())


def test_a_stream_is_not_held_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            go = asyncio.Event()
            stage.model.behave = in_two_parts(go)
            body = chat(QUESTION, stream=True)
            async with stage.http.post(f"{stage.url}/v1/chat/completions", json=body) as got:
                first = await asyncio.wait_for(got.content.readany(), 60)
                assert first == events("first", done=False)
                go.set()
                assert await got.content.read() == events("second")

    play(story())


def test_a_client_that_hangs_up_ends_the_work(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:

            async def behave(request: web.Request) -> web.StreamResponse:
                if b"stream" not in await request.read():
                    await asyncio.sleep(30)
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await response.prepare(request)
                await response.write(events("as far as this", done=False))
                await asyncio.sleep(30)
                return response

            stage.model.behave = behave
            url = f"{stage.url}/v1/chat/completions"
            async with stage.http.post(url, json=chat(QUESTION, stream=True)) as got:
                await got.content.readany()
                request_id = got.headers["Loyal-Request-Id"]
                got.close()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stage.http.post(url, json=chat(QUESTION)), 0.2)
            for _ in range(200):
                if stage.model.cancelled == 2:
                    break
                await asyncio.sleep(0.01)
            assert stage.model.cancelled == 2
            kept = await stage.receipt(request_id)
            assert kept["complete"] is False
            _, answer = stage.verified(kept["receipt"], kept["answers"][0])
            assert answer is not None
            assert answer.reply == message_digest("as far as this")

    play(story())


ERRORS = (
    (400, b'{"error": {"message": "too long", "code": "context_length_exceeded"}}'),
    (401, b'{"error": "who are you"}'),
    (404, b"no such model"),
    (429, b'{"error":  {}}'),
    (500, b"\xff\x00 not even text"),
    (200, b"<html>not an answer</html>"),
)


@pytest.mark.parametrize(("status", "body"), ERRORS)
def test_the_model_servers_errors_pass_byte_for_byte(
    tmp_path: Path, status: int, body: bytes
) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            extra = {"X-Trace": "7", "Retry-After": "3", "Loyal-Answer": "forged"}
            stage.model.behave = says(status, body, **extra)
            said = await stage.post(chat(QUESTION))
            assert (said.status, said.body) == (status, body)
            assert (said.headers["X-Trace"], said.headers["Retry-After"]) == ("7", "3")
            assert header(said, ANSWER) == ""
            assert stage.verified(header(said, RECEIPT))
            assert (await stage.receipt(header(said, ID)))["answers"] == []

    play(story())


def test_a_model_server_that_fails_is_said_in_openais_form(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path, silence_seconds=0.2) as stage:

            async def hangs(_: web.Request) -> web.StreamResponse:
                await asyncio.sleep(30)
                return web.Response()

            async def hangs_up(request: web.Request) -> web.StreamResponse:
                assert request.transport is not None
                request.transport.close()
                return web.Response()

            async def breaks_off(request: web.Request) -> web.StreamResponse:
                response = web.StreamResponse(headers={"Content-Length": "100"})
                await response.prepare(request)
                await response.write(b'{"choices": [')
                assert request.transport is not None
                request.transport.close()
                return response

            for behave, status, code in (
                (hangs, 504, "upstream_timeout"),
                (hangs_up, 502, "upstream_unreachable"),
                (breaks_off, 502, "reply_broke_off"),
            ):
                stage.model.behave = behave
                said = await stage.post(chat(QUESTION))
                assert (said.status, said.error) == (status, code)
                assert header(said, ID)

            stage.model.behave = streams(events("half", done=False), whole=False)
            with pytest.raises(aiohttp.ClientPayloadError):
                await stage.post(chat(QUESTION, stream=True))

    play(story())


def test_a_stream_that_outlasts_its_permission_is_signed_with_the_second_it_began(
    tmp_path: Path,
) -> None:
    """Not a byte of it changes, and its time is within the permission's."""
    whole = events("One that", " its community", " owns.")

    async def story() -> None:
        async with playing(tmp_path) as stage:
            clock = stage.platform.issuer.stage
            began = clock.now

            async def slow(request: web.Request) -> web.StreamResponse:
                clock.wait(10 * 3_600)
                return await streams(whole)(request)

            stage.model.behave = slow
            said = await stage.post(chat(QUESTION, stream=True))
            assert (said.status, said.body) == (200, whole)
            kept = await stage.receipt(said.headers["Loyal-Request-Id"])
            permission, answer = stage.verified(kept["receipt"], kept["answers"][0])
            assert answer is not None
            assert answer.time == began <= permission.expires < clock.now

    play(story())


def test_an_expired_permission_is_used_for_nothing(tmp_path: Path) -> None:
    """The platform's clock is hours behind the host's."""

    async def story() -> None:
        platform = Platform()
        clock, issue = platform.issuer.stage, platform.issuer.issue

        def behind(requests: Sequence[PermissionRequest]) -> list[bytes | ProtocolError]:
            found = issue(requests)
            clock.wait(3_601)
            return found

        platform.issuer.issue = behind  # type: ignore[method-assign]
        async with playing(tmp_path, platform=platform) as stage:
            said = await stage.post(chat(QUESTION))
            assert (said.status, said.error) == (503, "permission_refused")
            assert b"P6" in said.body
            assert stage.model.seen == []

    play(story())


def test_nothing_is_forwarded_without_a_permission(tmp_path: Path) -> None:
    async def story() -> None:
        platform = Platform(Issuer(most_inferences=1))
        async with playing(tmp_path, platform=platform) as stage:
            assert (await stage.post(chat(QUESTION))).status == 200
            stage.model.seen.clear()
            said = await stage.post(chat(QUESTION))
            assert (said.status, said.error) == (503, "permission_refused")
            assert b"L6" in said.body
            platform.failures = [500] * 4
            said = await stage.post(chat(QUESTION))
            assert (said.status, said.error) == (503, "platform_unavailable")
            platform.broken = b'{"receipts": [{"receipt": "AAAA"}]}'
            said = await stage.post(chat(QUESTION))
            assert (said.status, said.error) == (503, "permission_refused")
            assert header(said, RECEIPT) == ""
            assert stage.model.seen == []

    play(story())


def test_a_receipt_for_another_query_is_no_permission(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            said = await stage.post(chat(QUESTION))
            stage.model.seen.clear()
            replayed = {"receipts": [{"receipt": header(said, RECEIPT)}]}
            stage.platform.broken = json.dumps(replayed).encode()
            again = await stage.post(chat(QUESTION))
            assert (again.status, again.error) == (503, "permission_refused")
            assert stage.model.seen == []

    play(story())


def test_a_purpose_that_the_license_denies_gets_no_permission_and_no_answer(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            for body, path in (
                (chat("hello", "Write a Spell!", "hello"), "/v1/chat/completions"),
                (chat(*["spell"], *["x"] * (MOST_MESSAGES + 1)), "/v1/chat/completions"),
                ({"prompt": ["hello", "a spell"]}, "/v1/completions"),
            ):
                said = await stage.post(body, path)
                assert (said.status, said.error) == (403, "purpose_refused")
            assert stage.model.seen == []
            assert stage.platform.calls == []

    play(story())


def test_concurrent_queries_share_batches(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            said = await asyncio.gather(*(stage.post(chat(f"question {n}")) for n in range(60)))
            assert {one.status for one in said} == {200}
            for number, one in enumerate(said):
                _, answer = stage.verified(header(one, RECEIPT), header(one, ANSWER))
                assert answer is not None
                assert answer.messages == (message_digest(f"question {number}"),)
            assert sum(stage.platform.calls) == 60
            assert len(stage.platform.calls) <= 30
            assert len({header(one, ID) for one in said}) == 60

    play(story())


def test_a_long_conversation_is_covered_by_its_last_messages(tmp_path: Path) -> None:
    texts = [f"message {number}" for number in range(MOST_MESSAGES + 3)]

    async def story() -> None:
        async with playing(tmp_path) as stage:
            said = await stage.post(chat(*texts))
            assert said.status == 200
            kept = await stage.receipt(header(said, ID))
            _, answer = stage.verified(kept["receipt"], kept["answers"][0])
            assert answer is not None
            assert answer.messages == tuple(message_digest(one) for one in texts[-MOST_MESSAGES:])
            assert header(said, ANSWER) == ""

    play(story())


def test_several_choices_are_signed_one_by_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path) as stage:
            stage.model.behave = says(200, json.dumps(chat_reply("one", "two")).encode())
            said = await stage.post(chat(QUESTION, n=2))
            kept = await stage.receipt(header(said, ID))
            found = [stage.verified(kept["receipt"], one)[1] for one in kept["answers"]]
            assert [one.reply for one in found if one] == [
                message_digest("one"),
                message_digest("two"),
            ]

    play(story())


def test_sizes_and_routes_are_bounded(tmp_path: Path) -> None:
    async def story() -> None:
        limits = GatewayLimits(most_bytes=1000, most_reply_bytes=300)
        async with playing(tmp_path, limits) as stage:
            long = await stage.post(chat("x" * 1000))
            assert (long.status, long.error) == (413, "body_too_long")
            stage.model.behave = says(200, json.dumps(chat_reply("y" * 1000)).encode())
            reply = await stage.post(chat("x"))
            assert (reply.status, reply.error) == (502, "reply_too_long")
            for path in ("/v1/responses", "/v1/embeddings", "/v1/chat/completions/", "/", "/v2"):
                said = await stage.post(chat("x"), path)
                assert (said.status, said.error) == (404, "unknown_route")
            for path in (
                "/metrics",
                "/v1/completions",
                "/loyal/receipts/",
                "/v1/modelsx",
                "/v1/models/%2e%2e/x",
            ):
                assert (await stage.get(path)).status == 404
            assert (await stage.get(f"/loyal/receipts/{'0' * 32}")).error == "unknown_request"
            assert (await stage.get("/loyal/health")).body == b'{"status":"ok"}'
            zipped = await stage.post(chat("x"), **{"Content-Encoding": "gzip"})
            assert (zipped.status, zipped.error) == (415, "compressed_body")

    play(story())


def test_a_body_that_never_ends_is_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        async with playing(tmp_path, GatewayLimits(body_seconds=0.1)) as stage:
            host, port = stage.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()
            await writer.wait_closed()

    play(story())
