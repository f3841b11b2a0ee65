"""A command that does a little every while until it is told to stop, or once.

A failure that may pass is said on stderr and tried again in the next round. A log that is not what
was signed, and a wrong call, end the command: nobody should act on such a log.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import click

from loyal.app.terminal import Decorator, Terminal
from loyal.errors import EndpointError, ProtocolError, StorageError, UsageError

ONCE_OPTION: Decorator = click.option("--once", is_flag=True, help="One round, and stop.")


def every_option(seconds: int) -> Decorator:
    """`--every`, with this default."""
    return click.option(
        "--every",
        "every_seconds",
        type=float,
        default=float(seconds),
        show_default=True,
        metavar="SECONDS",
        help="Between rounds, about; each wait is drawn from half to one and a half of it.",
    )


@dataclass(frozen=True)
class Pace:
    """How often."""

    once: bool
    every_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.every_seconds <= 86_400:
            raise UsageError("a wait is above 0 and up to a day", hint="the default does")


async def rounds(terminal: Terminal, pace: Pace, one: Callable[[int], Awaitable[None]]) -> None:
    """Call `one` with the Unix seconds, again and again, until SIGTERM or SIGINT, or once.

    With `once` any error is raised. Else EndpointError, ProtocolError and StorageError are said
    and passed over; every other one is raised.
    """
    if pace.once:
        await one(int(time.time()))
        return
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for asked in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(asked, stopped.set)
    rng = random.SystemRandom()
    stop = asyncio.create_task(stopped.wait())
    while not stopped.is_set():
        work = asyncio.ensure_future(one(int(time.time())))
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():  # what an actor has begun, it takes up again from its file
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
            break
        try:
            work.result()
        except (EndpointError, ProtocolError, StorageError) as error:
            terminal.note(f"error: {error}; {error.hint}")
        with suppress(TimeoutError):
            async with asyncio.timeout(pace.every_seconds * rng.uniform(0.5, 1.5)):
                await asyncio.shield(stop)
    stop.cancel()
