"""Many queries, one call to the platform: permissions are asked for in batches, several at a time.

A query waits `wait_seconds` at most for company; while `calls` calls are under way, those that come
gather and share the next one. Everything is bounded: a batch, the calls, the queries that wait.
Left out: asking again after a failure, which is the source's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from loyal.errors import EndpointError, LoyalError, ProtocolError, UsageError
from loyal.protocol.permits import PermissionRequest
from loyal.roles.host import PermissionSource


@dataclass(frozen=True)
class BatchLimits:
    """How queries share calls."""

    most: int = 256
    """Queries in one call."""
    wait_seconds: float = 0.002
    """How long a query waits for others when a call could go out at once."""
    calls: int = 4
    """Calls under way at the same time."""
    most_waiting: int = 4096
    """Queries that wait for a call; one more is refused at once."""

    def __post_init__(self) -> None:
        if min(self.most, self.calls, self.most_waiting) < 1 or self.wait_seconds < 0:
            raise UsageError(
                "a batch, its calls and its queue hold at least one", hint="raise the limit"
            )


@dataclass(eq=False)
class _Waiting:
    request: PermissionRequest
    outcome: asyncio.Future[bytes]


class Batcher:
    """Gathers queries for a `PermissionSource`. Belongs to one event loop."""

    def __init__(self, source: PermissionSource, limits: BatchLimits | None = None) -> None:
        self._source = source
        self._limits = limits or BatchLimits()
        self._waiting: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def permit(self, request: PermissionRequest) -> bytes:
        """The receipt's bytes. ProtocolError where the platform refuses this query, EndpointError
        where it cannot be asked or too many wait."""
        if len(self._waiting) >= self._limits.most_waiting:
            raise EndpointError(
                "too many queries wait for a permission",
                hint="ask again later, or look whether the platform is slow",
            )
        loop = asyncio.get_running_loop()
        one = _Waiting(request, loop.create_future())
        self._waiting.append(one)
        if len(self._waiting) >= self._limits.most:
            self._send()
        elif self._timer is None and len(self._calls) < self._limits.calls:
            self._timer = loop.call_later(self._limits.wait_seconds, self._send)
        return await one.outcome

    async def close(self) -> None:
        """Give up what is under way; whoever waits gets an EndpointError."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        _fail(self._waiting, _stopped())
        self._waiting.clear()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and len(self._calls) < self._limits.calls:
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < self._limits.most:
                one = self._waiting.popleft()
                if not one.outcome.done():  # else: who asked went away
                    batch.append(one)
            if batch:
                call = asyncio.get_running_loop().create_task(self._call(batch))
                self._calls.add(call)
                call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._send()

    async def _call(self, batch: list[_Waiting]) -> None:
        try:
            results = await self._source.permit([one.request for one in batch])
        except LoyalError as error:
            _fail(batch, error)
            return
        except asyncio.CancelledError:
            _fail(batch, _stopped())
            raise
        except Exception as error:  # a broken source must not leave anybody waiting
            _fail(batch, _unusable(f"asking failed with {type(error).__name__}"))
            return
        if len(results) != len(batch):
            _fail(batch, _unusable("it answered another number of requests"))
            return
        for one, result in zip(batch, results, strict=True):
            if one.outcome.done():
                continue
            if isinstance(result, ProtocolError):
                one.outcome.set_exception(result)
            else:
                one.outcome.set_result(result)


def _fail(batch: list[_Waiting] | deque[_Waiting], error: LoyalError) -> None:
    for one in batch:
        if not one.outcome.done():
            one.outcome.set_exception(error)


def _stopped() -> EndpointError:
    return EndpointError("the host is stopping", hint="ask again once it runs")


def _unusable(what: str) -> EndpointError:
    return EndpointError(
        f"the platform's answer cannot be used: {what}", hint="look into the platform's log"
    )
