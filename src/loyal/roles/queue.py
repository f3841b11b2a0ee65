"""Many at the door, one step: requests that come together share a transaction and its flush.

A flush of a disk takes milliseconds, a permission microseconds, so what arrives while one step is
being made durable makes up the next. `permit` returns only when its step is durable; a step that
fails, fails for everybody in it. When the queue is idle, it waits for as many requests as came last
time, because those are likely to come again at once, and for `most_wait_seconds` at most: one
client alone waits for nobody.

Blocking work runs in one thread, so that the loop goes on collecting. The clock is an argument.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from loyal.errors import Overloaded, ProtocolError, UsageError
from loyal.protocol import Command, Event, State
from loyal.protocol.commands import SignedCommand
from loyal.protocol.permission import MOST_LEAVES
from loyal.protocol.permits import PermissionRequest
from loyal.roles.platform import Outcome, Platform, Taken

T = TypeVar("T")


@dataclass(frozen=True)
class QueueSettings:
    """How requests are gathered."""

    most_wait_seconds: float = 0.002
    """How long an idle queue waits for those who are likely to come: half a slow disk's flush."""
    most_requests: int = 1024
    """In one step."""
    most_waiting: int = 16_384
    """At the door; who comes then is refused with Overloaded."""

    def __post_init__(self) -> None:
        sound = 0 < self.most_requests <= MOST_LEAVES and self.most_waiting > 0
        if not sound or not 0 <= self.most_wait_seconds <= 60:
            raise UsageError(
                f"a step takes 1 to {MOST_LEAVES} requests, a wait 0 to 60 seconds",
                hint="the defaults are 1,024 requests, 16,384 waiting and 0.002 seconds",
            )


@dataclass
class _Call:
    """Requests of one caller, who waits for all of them: one promise, however many."""

    promise: asyncio.Future[Sequence[Outcome]]
    outcomes: list[Any]
    left: int
    """Requests without an outcome."""

    def take(self, place: int, outcome: Outcome) -> None:
        """One request's outcome. The caller may have gone."""
        self.outcomes[place] = outcome
        self.left -= 1
        if not self.left and not self.promise.done():
            self.promise.set_result(self.outcomes)

    def fail(self, error: BaseException) -> None:
        """A step failed that held one of the requests: none has an outcome then."""
        if self.promise.done():
            return
        if isinstance(error, Exception):
            self.promise.set_exception(error)
        else:
            self.promise.cancel()


class PermissionQueue:
    """The door to one platform, for one event loop: `async with PermissionQueue(...) as queue`."""

    def __init__(
        self,
        platform: Platform,
        clock: Callable[[], int],
        settings: QueueSettings | None = None,
    ) -> None:
        """`clock` gives Unix seconds."""
        self._platform, self._clock = platform, clock
        self._settings = settings or QueueSettings()
        self._waiting: list[tuple[PermissionRequest, _Call, int]] = []
        self._enough = asyncio.Event()
        self._wanted = 1
        self._closing = False
        self._thread: ThreadPoolExecutor | None = None
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PermissionQueue:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loyal-commit")
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take nobody new, finish all who wait, and stop."""
        self._closing = True
        self._enough.set()
        assert self._worker is not None
        assert self._thread is not None
        try:
            await self._worker
        finally:
            self._thread.shutdown()

    async def permit(self, request: PermissionRequest) -> bytes:
        """The receipt's canonical bytes, durable.

        Raises ProtocolError where the request gets none, StorageError where the step could not be
        made durable (ask again with the same idempotency key), Overloaded where too many wait.
        """
        (outcome,) = await self.permit_many([request])
        if isinstance(outcome, ProtocolError):
            raise outcome
        return outcome

    async def permit_many(self, requests: Sequence[PermissionRequest]) -> Sequence[Outcome]:
        """For each request its receipt's canonical bytes, durable, or why it gets none; in order.

        StorageError where a step could not be made durable (ask again for all, with the same
        idempotency keys); Overloaded, and nothing was done, where there is no room for all.
        """
        self._require_room(len(requests))
        if not requests:
            return ()
        promise: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        call = _Call(promise, [None] * len(requests), len(requests))
        self._waiting.extend((one, call, place) for place, one in enumerate(requests))
        if len(self._waiting) >= self._wanted:
            self._enough.set()
        return await promise

    async def read(self, view: Callable[[State], T]) -> T:
        """As `Platform.read`, without holding up the loop."""
        return await self._alone(lambda: self._platform.read(view))

    async def submit(self, command: Command | SignedCommand) -> tuple[Event, ...]:
        """A command's events, durable; between two steps of permissions. ProtocolError,
        StorageError."""
        return (await self.take(command)).events

    async def take(self, command: Command | SignedCommand) -> Taken:
        """The same as `submit`, with the place in the log."""
        return await self._alone(lambda: self._platform.take(command, self._clock()))

    async def _alone(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise _no_room(0)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _require_room(self, count: int) -> None:
        waiting = len(self._waiting)
        full = waiting + count > self._settings.most_waiting
        if self._closing or self._worker is None or full:
            raise _no_room(waiting)

    async def _work(self) -> None:
        try:
            while True:
                await self._gather()
                if not self._waiting:
                    return
                most = self._settings.most_requests
                taken, self._waiting = self._waiting[:most], self._waiting[most:]
                await self._step(taken)
                self._wanted = len(taken)
        finally:
            # Only where the worker itself was cancelled is anybody left.
            self._closing = True
            for _, call, _ in self._waiting:
                call.promise.cancel()

    async def _gather(self) -> None:
        """Return when a step should begin, or with nobody waiting when the queue closes."""
        if not self._waiting and not self._closing:
            wanted, self._wanted = self._wanted, 1
            self._enough.clear()
            await self._enough.wait()
            self._wanted = wanted
        if len(self._waiting) >= self._wanted or self._closing:
            return
        self._enough.clear()
        try:
            async with asyncio.timeout(self._settings.most_wait_seconds):
                await self._enough.wait()
        except TimeoutError:
            return

    async def _step(self, taken: list[tuple[PermissionRequest, _Call, int]]) -> None:
        requests = [request for request, _, _ in taken]
        loop = asyncio.get_running_loop()
        try:
            outcomes = await loop.run_in_executor(
                self._thread, self._platform.permit, requests, self._clock()
            )
        except BaseException as error:
            # Whatever it was, nobody may be left waiting, and nobody may take it for a permission.
            for _, call, _ in taken:
                call.fail(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, call, place), outcome in zip(taken, outcomes, strict=True):
            call.take(place, outcome)


def _no_room(waiting: int) -> Overloaded:
    return Overloaded(
        f"{waiting} requests wait already, or the platform is stopping",
        hint="ask again in a moment, with the same idempotency key",
    )
