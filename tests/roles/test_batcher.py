"""Queries share calls: how many, how soon, what a failure does, what is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from issuing import Issuer

from loyal.errors import EndpointError, ProtocolError, UsageError
from loyal.protocol import Receipt
from loyal.protocol.permits import PermissionRequest
from loyal.roles import Batcher, BatchLimits


def request(number: int) -> PermissionRequest:
    """Some request."""
    return PermissionRequest(bytes(32), bytes(32), (bytes(32),), number.to_bytes(4, "big"))


class Echo:
    """Gives each request's idempotency key back; waits until it may."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self.outcome: object = None

    async def permit(self, requests: Sequence[PermissionRequest]) -> list[bytes | ProtocolError]:
        """Note the call."""
        self.calls.append(len(requests))
        await self.go.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if isinstance(self.outcome, list):
            return self.outcome
        return [one.idempotency_key for one in requests]


async def turns() -> None:
    """Let every task run until it waits for something; the clock decides nothing."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_many_queries_share_calls_and_each_gets_its_own_receipt() -> None:
    issuer = Issuer()
    host = issuer.host()

    async def story() -> None:
        batcher = Batcher(issuer, BatchLimits(most=64))
        asked = [host.ask([f"question {number}"]) for number in range(200)]
        found = await asyncio.gather(*(batcher.permit(one.request) for one in asked))
        for data, one in zip(found, asked, strict=True):
            host.receive(data, one.request)
        assert sum(issuer.calls) == 200
        assert len(issuer.calls) <= 5
        sequences = sorted(Receipt.from_bytes(one).permission.sequence for one in found)
        assert sequences == list(range(200))
        await batcher.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_calls_are_pipelined_and_bounded() -> None:
    async def story() -> None:
        echo = Echo()
        echo.go.clear()
        batcher = Batcher(echo, BatchLimits(most=10, wait_seconds=0.0, calls=2))
        waiting = [asyncio.create_task(batcher.permit(request(n))) for n in range(55)]
        await turns()
        assert echo.calls == [10, 10]
        echo.go.set()
        found = await asyncio.gather(*waiting)
        assert found == [request(n).idempotency_key for n in range(55)]
        assert max(echo.calls) <= 10
        assert sum(echo.calls) == 55

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_lone_query_waits_no_longer_than_it_must() -> None:
    async def story() -> None:
        echo = Echo()
        batcher = Batcher(echo, BatchLimits(wait_seconds=0.0))
        assert await batcher.permit(request(7)) == request(7).idempotency_key
        assert echo.calls == [1]

    asyncio.run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize(
    "outcome",
    [EndpointError("down", hint="wait"), ValueError("planted"), [], [b"one", b"too many", b"!"]],
)
def test_a_broken_source_fails_everybody_at_once_and_then_works_again(outcome: object) -> None:
    async def story() -> None:
        echo = Echo()
        echo.outcome = outcome
        batcher = Batcher(echo)
        found = await asyncio.gather(
            batcher.permit(request(1)), batcher.permit(request(2)), return_exceptions=True
        )
        assert all(isinstance(one, EndpointError) for one in found)
        assert "planted" not in str(found)
        echo.outcome = None
        assert await batcher.permit(request(3))

    asyncio.run(asyncio.wait_for(story(), 60))


def test_one_refusal_is_its_own() -> None:
    async def story() -> None:
        echo = Echo()
        echo.outcome = [b"receipt", ProtocolError("used up", hint="renew", rule="L6")]
        batcher = Batcher(echo)
        good, bad = await asyncio.gather(
            batcher.permit(request(1)), batcher.permit(request(2)), return_exceptions=True
        )
        assert good == b"receipt"
        assert isinstance(bad, ProtocolError)
        assert bad.rule == "L6"

    asyncio.run(asyncio.wait_for(story(), 60))


def test_who_goes_away_is_not_asked_for() -> None:
    async def story() -> None:
        echo = Echo()
        batcher = Batcher(echo, BatchLimits(wait_seconds=0.01))
        gone, here = (asyncio.create_task(batcher.permit(request(n))) for n in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await here == request(1).idempotency_key
        assert echo.calls == [1]

    asyncio.run(asyncio.wait_for(story(), 60))


def test_the_queue_is_bounded_and_close_leaves_nobody_waiting() -> None:
    async def story() -> None:
        echo = Echo()
        echo.go.clear()
        limits = BatchLimits(most=1, calls=1, most_waiting=2)
        batcher = Batcher(echo, limits)
        waiting = [asyncio.create_task(batcher.permit(request(n))) for n in range(3)]
        await turns()
        with pytest.raises(EndpointError, match="too many"):
            await batcher.permit(request(9))
        await batcher.close()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, EndpointError) for one in ended)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_limits_are_limits() -> None:
    for wrong in ({"most": 0}, {"calls": 0}, {"most_waiting": 0}, {"wait_seconds": -1.0}):
        with pytest.raises(UsageError):
            BatchLimits(**wrong)  # type: ignore[arg-type]
