"""The queue: many share a step, nobody hears of it before it is durable, nobody is forgotten."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable

import pytest
from community import opened, request
from parties import Stage
from shelf import Gate, Shelf, fail_once, reopened

from loyal.errors import Overloaded, ProtocolError, StorageError, UsageError
from loyal.protocol import Receipt
from loyal.protocol.permits import PermissionRequest
from loyal.protocol.stake import Deposit
from loyal.roles import PermissionQueue, Platform, QueueSettings

Asked = Callable[[int], PermissionRequest]


def story(
    body: Callable[[Shelf, PermissionQueue, Asked], Awaitable[None]],
    settings: QueueSettings | None = None,
    **terms: object,
) -> tuple[Shelf, Platform, Stage]:
    """Run a body with an open queue; the shelf and the platform as it left them."""
    shelf, platform, stage, license = opened(**terms)

    async def run() -> None:
        async with PermissionQueue(platform, lambda: stage.now, settings) as queue:
            await body(shelf, queue, lambda number: request(stage, license, number))

    asyncio.run(run())
    assert reopened(shelf).state == platform.state
    return shelf, platform, stage


def test_those_who_come_together_share_a_step() -> None:
    async def body(_: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        for start in range(0, 640, 64):
            numbers = range(start, start + 64)
            found = await asyncio.gather(*(queue.permit(asked(one)) for one in numbers))
            sequences = [Receipt.from_bytes(one).permission.sequence for one in found]
            assert sorted(sequences) == list(numbers)

    shelf, _, _ = story(body)
    assert sum(shelf.commits) == 640
    assert len(shelf.commits) <= 20


def test_nobody_hears_of_it_before_it_is_durable() -> None:
    async def body(shelf: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        gate = shelf.before = Gate()
        first = asyncio.create_task(queue.permit(asked(0)))
        await asyncio.to_thread(gate.reached.wait, 20)
        later = [asyncio.create_task(queue.permit(asked(one))) for one in range(1, 9)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in (first, *later))
        assert shelf.kept == {}
        gate.opened.set()
        await asyncio.gather(first, *later)
        assert shelf.commits == [1, 8], "what came during the first step made up the second"

    story(body)


def test_a_failed_step_fails_for_all_in_it_and_only_for_them() -> None:
    async def body(shelf: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        before = copy.deepcopy(queue._platform.state)
        fail_once(shelf, "before")
        together = (queue.permit(asked(one)) for one in range(5))
        found = await asyncio.gather(*together, return_exceptions=True)
        failed = [one for one in found if isinstance(one, StorageError)]
        assert failed
        if len(failed) == 5:
            assert queue._platform.state == before
        again = await asyncio.gather(*(queue.permit(asked(one)) for one in range(5)))
        assert len(set(again)) == 5

    shelf, _, _ = story(body)
    assert len(shelf.kept) == 5


def test_a_refusal_is_its_own() -> None:
    async def body(_: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        together = (queue.permit(asked(one)) for one in range(5))
        found = await asyncio.gather(*together, return_exceptions=True)
        assert [getattr(one, "rule", "") for one in found] == ["", "", "", "L6", "L6"]
        assert isinstance(found[3], ProtocolError)

    story(body, most_inferences=3)


def test_the_same_request_at_once_is_one_permission() -> None:
    async def body(_: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        found = await asyncio.gather(*(queue.permit(asked(1)) for _ in range(40)))
        assert len(set(found)) == 1

    shelf, _, _ = story(body)
    assert sum(shelf.commits) == 1


def test_a_full_queue_says_so() -> None:
    async def body(shelf: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        gate = shelf.before = Gate()
        tasks = [asyncio.create_task(queue.permit(asked(0)))]
        await asyncio.to_thread(gate.reached.wait, 20)
        tasks += [asyncio.create_task(queue.permit(asked(one))) for one in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await queue.permit(asked(3))
        gate.opened.set()
        await asyncio.gather(*tasks)
        await queue.permit(asked(3))

    story(body, QueueSettings(most_waiting=2))


def test_who_gave_up_does_not_stop_the_others() -> None:
    async def body(shelf: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        gate = shelf.before = Gate()
        tasks = [asyncio.create_task(queue.permit(asked(one))) for one in range(3)]
        await asyncio.to_thread(gate.reached.wait, 20)
        tasks[1].cancel()
        gate.opened.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[1], asyncio.CancelledError)
        assert isinstance(await queue.permit(asked(1)), bytes)

    story(body)


def test_closing_serves_those_who_wait_and_nobody_else() -> None:
    shelf, platform, stage, license = opened()

    async def run() -> None:
        queue = PermissionQueue(platform, lambda: stage.now)
        with pytest.raises(Overloaded):
            await queue.permit(request(stage, license, 0))
        async with queue:
            tasks = [
                asyncio.create_task(queue.permit(request(stage, license, one))) for one in range(9)
            ]
            await asyncio.sleep(0)
        assert all(isinstance(one.result(), bytes) for one in tasks)
        with pytest.raises(Overloaded):
            await queue.permit(request(stage, license, 10))

    asyncio.run(run())
    assert sum(shelf.commits) == 9


def test_a_worker_that_is_cancelled_leaves_nobody_waiting() -> None:
    shelf, platform, stage, license = opened()

    async def cancelled() -> None:
        gate = shelf.before = Gate()
        async with PermissionQueue(platform, lambda: stage.now) as queue:
            first = asyncio.create_task(queue.permit(request(stage, license, 0)))
            await asyncio.to_thread(gate.reached.wait, 20)
            later = asyncio.create_task(queue.permit(request(stage, license, 1)))
            await asyncio.sleep(0)
            assert queue._worker is not None
            queue._worker.cancel()
            found = await asyncio.gather(first, later, return_exceptions=True)
            assert [type(one) for one in found] == [asyncio.CancelledError] * 2
            with pytest.raises(Overloaded):
                await queue.permit(request(stage, license, 2))
            gate.opened.set()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    (again,) = reopened(shelf).permit([request(stage, license, 0)], stage.now)
    assert isinstance(again, bytes)


def test_commands_go_through_the_same_door() -> None:
    async def body(_: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        command = Deposit(queue._platform.state.platform, b"h" * 32, 5)
        events, _ = await asyncio.gather(queue.submit(command), queue.permit(asked(0)))
        assert events[0].amount_micro == 5

    story(body)


def test_an_idle_queue_waits_for_as_many_as_came_last_time() -> None:
    async def body(shelf: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        async def late(number: int) -> None:
            await asyncio.sleep(0.01 * (number % 8))
            await queue.permit(asked(number))

        gate = shelf.before = Gate()
        first = [asyncio.create_task(queue.permit(asked(one))) for one in range(100, 108)]
        await asyncio.to_thread(gate.reached.wait, 20)
        gate.opened.set()
        await asyncio.gather(*first)
        shelf.commits.clear()
        await asyncio.gather(*(queue.permit(asked(one)) for one in range(200, 208)))
        await asyncio.gather(*(late(one) for one in range(8)))
        assert shelf.commits[-1] == 8, "they came one by one, and shared a step"

    story(body, QueueSettings(most_wait_seconds=5.0))


def test_one_client_alone_waits_for_nobody() -> None:
    async def body(_: Shelf, queue: PermissionQueue, asked: Asked) -> None:
        began = time.monotonic()
        for number in range(20):
            await queue.permit(asked(number))
        assert time.monotonic() - began < 10, "twenty waits of two seconds would be forty"

    story(body, QueueSettings(most_wait_seconds=2.0))


@pytest.mark.parametrize(
    "wrong", [{"most_requests": 0}, {"most_requests": 5000}, {"most_wait_seconds": -1.0}]
)
def test_settings_that_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        QueueSettings(**wrong)  # type: ignore[arg-type]
