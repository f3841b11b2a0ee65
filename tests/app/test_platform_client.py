"""The platform over HTTP: its form, what is asked again, what is given up, what is not believed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from gateway_stage import API_KEY, Platform, outsiders, play
from issuing import Issuer

from loyal.app.platform_client import (
    PlatformClient,
    PlatformPatience,
    from_base64url,
    platform_url,
    to_base64url,
)
from loyal.errors import EndpointError, ProtocolError, UsageError
from loyal.protocol.permits import PermissionRequest


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Note the wait and return at once."""
        self.waits.append(seconds)


@contextlib.asynccontextmanager
async def asking(
    key: str = API_KEY, platform: Platform | None = None, **patience: object
) -> AsyncIterator[tuple[PlatformClient, Platform, Clock]]:
    """A client and the platform that it asks."""
    clock = Clock()
    async with outsiders(platform) as (_, up):
        client = PlatformClient(up.url, key, PlatformPatience(sleep=clock.sleep, **patience))  # type: ignore[arg-type]
        try:
            yield client, up, clock
        finally:
            await client.close()


def requests(platform: Platform, count: int = 1) -> list[PermissionRequest]:
    """What a host asks for."""
    host = platform.issuer.host()
    return [host.ask([f"question {n}", "and"]).request for n in range(count)]


def test_the_form_is_the_documents(tmp_path: object) -> None:
    async def story() -> None:
        async with asking() as (client, platform, _):
            asked = requests(platform, 3)
            found = await client.permit(asked)
            host = platform.issuer.host()
            for data, one in zip(found, asked, strict=True):
                assert isinstance(data, bytes)
                host.receive(data, one)
            assert json.loads(platform.bodies[0]) == {
                "license": platform.issuer.license.hex(),
                "requests": [
                    {
                        "idempotency_key": one.idempotency_key.hex(),
                        "messages": [digest.hex() for digest in one.messages],
                    }
                    for one in asked
                ],
            }

    play(story())


@pytest.mark.parametrize("failures", [[500], [429, 503], [408, 502, 504]])
def test_a_failure_that_may_pass_is_asked_again_with_the_same_keys(failures: list[int]) -> None:
    async def story() -> None:
        async with asking() as (client, platform, clock):
            platform.failures = list(failures)
            assert await client.permit(requests(platform))
            assert len(set(platform.bodies)) == 1
            assert len(platform.bodies) == len(clock.waits) + 1 == len(failures) + 1
            assert sum(clock.waits) <= 0.1 + 0.2 + 0.4

    play(story())


def test_an_answer_that_is_lost_costs_once() -> None:
    async def story() -> None:
        async with asking() as (client, platform, _):
            platform.lost = 2
            asked = requests(platform, 2)
            found = await client.permit(asked)
            assert platform.calls == [2, 2, 2]
            for data, one in zip(found, asked, strict=True):
                assert isinstance(data, bytes)
                platform.issuer.host().receive(data, one)
            license = platform.issuer.stage.state.licenses[platform.issuer.license]
            assert license.permitted == 2

    play(story())


@pytest.mark.parametrize(
    ("failures", "asked"), [([500] * 9, 4), ([401], 1), ([403], 1), ([404], 1), ([302], 1)]
)
def test_it_is_given_up_in_one_line(failures: list[int], asked: int) -> None:
    async def story() -> None:
        async with asking() as (client, platform, _):
            platform.failures = list(failures)
            with pytest.raises(EndpointError) as caught:
                await client.permit(requests(platform))
            assert len(platform.bodies) == asked
            assert API_KEY not in f"{caught.value} {caught.value.hint} {client!r}"

    play(story())


def test_a_wrong_key_and_a_dead_platform_are_said() -> None:
    async def story() -> None:
        async with asking("another-key") as (client, platform, _):
            with pytest.raises(EndpointError, match="401"):
                await client.permit(requests(platform))
        async with asking() as (client, platform, clock):
            client_of_nobody = PlatformClient(
                "http://127.0.0.1:9", API_KEY, PlatformPatience(attempts=2, sleep=clock.sleep)
            )
            with pytest.raises(EndpointError, match="could not be reached"):
                await client_of_nobody.permit(requests(platform))
            await client_of_nobody.close()

    play(story())


BROKEN = (
    b"",
    b"[]",
    b"\xff",
    b'{"receipts": []}',
    b'{"receipts": [{}]}',
    b'{"receipts": [{"receipt": "a b"}]}',
    b'{"receipts": [{"receipt": 7}]}',
    b'{"receipts": [{"receipt": "AAAA"}, {"receipt": "AAAA"}]}',
    b'{"receipts": ' + b"[" * 100_000,
    b"x" * 2_000_000,
)


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:40]))
def test_an_answer_that_is_none_is_not_believed(body: bytes) -> None:
    async def story() -> None:
        async with asking(most_bytes=1_000_000) as (client, platform, _):
            platform.broken = body
            with pytest.raises(EndpointError):
                await client.permit(requests(platform))

    play(story())


def test_a_refusal_carries_its_rule() -> None:
    async def story() -> None:
        platform = Platform(Issuer(most_inferences=1))
        async with asking(platform=platform) as (client, _, _clock):
            good, refusal = await client.permit(requests(platform, 2))
            assert isinstance(good, bytes)
            assert isinstance(refusal, ProtocolError)
            assert (refusal.rule, "used up" in str(refusal)) == ("L6", True)
            long = {"rule": "L" * 99, "message": "x\ny" * 999, "hint": "h" * 999}
            platform.broken = json.dumps({"receipts": [{"error": long}]}).encode()
            (cut,) = await client.permit(requests(platform))
            assert isinstance(cut, ProtocolError)
            assert len(str(cut)) <= 200
            assert "\n" not in str(cut)

    play(story())


def test_one_call_is_for_one_license() -> None:
    async def story() -> None:
        async with asking() as (client, _, _clock):
            mixed = [PermissionRequest(bytes(32), bytes([n]) * 32, (), b"k") for n in range(2)]
            for wrong in (mixed, []):
                with pytest.raises(UsageError):
                    await client.permit(wrong)

    play(story())


def test_addresses_and_keys_are_checked() -> None:
    assert str(platform_url("https://p.example")) == "https://p.example/v1/permissions"
    assert str(platform_url("http://p/a/v1/")) == "http://p/a/v1/permissions"
    for wrong in ("", "p.example", "ftp://p", "http://u:p@h", "http://[x"):
        with pytest.raises(UsageError):
            platform_url(wrong)
    for key in ("", "a b", "a\n", "\u00e9"):
        with pytest.raises(UsageError):
            PlatformClient("http://p", key)
    with pytest.raises(UsageError):
        PlatformPatience(attempts=0)


def test_base64url_goes_there_and_back() -> None:
    for data in (b"", b"a", b"\xff\xfe\xfd", bytes(range(256))):
        assert from_base64url(to_base64url(data)) == data
    assert from_base64url("YQ==") == b"a"
    for wrong in ("a", "+/+/", "a b=", "\u00e9"):
        with pytest.raises(ValueError, match="base64url"):
            from_base64url(wrong)
    assert asyncio.iscoroutinefunction(PlatformClient.permit)
