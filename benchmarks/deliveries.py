"""Deliveries as a careless network makes them: repeated, late, out of order, and cut off by kills.

`stream(seed, total)` is the same on every run, so that a child that was killed goes on where it
was, some way back: `python benchmarks/deliveries.py URL SEED TOTAL FIRST` is that child. It serves
each delivery through the queue and writes its place to a pipe when its receipt is durable.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS / "app"), str(TESTS / "protocol")]

from crash_rig import KEYS, NOW, request  # noqa: E402

from loyal.app.store import open_store  # noqa: E402
from loyal.roles import PermissionQueue, Platform  # noqa: E402

REPEATED = 0.25
"""Of all deliveries, that many are repeated: four fifths soon after, the rest any time later."""
SOON = 2_000
BLOCK = 512
"""Deliveries are shuffled within blocks of so many."""
WAITERS = 256


def stream(seed: int, total: int) -> Iterator[int]:
    """Query numbers in the order in which they are delivered."""
    source, fresh, block = random.Random(seed), 0, []
    for _ in range(total):
        if fresh and source.random() < REPEATED:
            first = max(0, fresh - SOON) if source.random() < 0.8 else 0
            block.append(source.randrange(first, fresh))
        else:
            block.append(fresh)
            fresh += 1
        if len(block) == BLOCK:
            source.shuffle(block)
            yield from block
            block = []
    yield from block


def distinct(seed: int, total: int) -> int:
    """Idempotency keys among them."""
    return len(set(stream(seed, total)))


def deliver(url: str, seed: int, total: int, kills: int) -> int:
    """Deliver everything, killing the child (SIGKILL) about `kills` times; how often it was."""
    source, reached, done = random.Random(seed + 1), 0, 0
    while reached < total:
        first = max(0, reached - 2 * WAITERS)
        command = [sys.executable, __file__, url, str(seed), str(total), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            if done < kills:
                target = reached + source.randint(total // (2 * kills + 2), total // (kills + 1))
                for line in islice(child.stdout, max(1, target - first)):
                    reached = max(reached, int(line) + 1)
                timer = threading.Timer(
                    source.uniform(0, 0.05), child.send_signal, [signal.SIGKILL]
                )
                timer.start()
            for line in child.stdout:
                reached = max(reached, int(line) + 1) if line.endswith(b"\n") else reached
            code = child.wait()
            if code == -signal.SIGKILL:
                done += 1
            elif code:
                raise SystemExit(f"the child stopped by itself with {code}")
            else:
                return done
    return done


async def serve(url: str, seed: int, total: int, first: int) -> None:
    """The child."""
    store = open_store(url)
    platform = Platform(store, KEYS)
    (license,) = platform.state.licenses
    places = enumerate(islice(stream(seed, total), first, None), first)
    async with PermissionQueue(platform, lambda: NOW) as queue:

        async def wait() -> None:
            for place, number in places:
                await queue.permit(request(license, number))
                os.write(1, b"%d\n" % place)

        await asyncio.gather(*(wait() for _ in range(WAITERS)))
    store.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], *map(int, sys.argv[2:])))
