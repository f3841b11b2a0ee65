"""What commands that serve share: the door they listen at, and a stop that ends well.

Holds the `--listen` option, the socket, the event loop and `serve`. Left out: what is served, TLS
(a proxy in front), and more than one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from loyal.app.terminal import Decorator
from loyal.errors import UsageError

GRACE_SECONDS = 30
"""How long answers under way may take after the signal to stop."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int
    """0 takes a free one."""


def listen_option(default: str, words: str) -> Decorator:
    """The option `--listen`."""
    return click.option(
        "--listen", default=default, show_default=True, metavar="ADDRESS:PORT", help=words
    )


def parse_address(text: str, option: str = "--listen") -> Address:
    """Of an option; UsageError for what is no address and port."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"{option} is not an address and a port", hint="such as 127.0.0.1:8080")
    return Address(host.strip("[]"), int(port))


def open_door(address: Address) -> socket.socket:
    """A socket that listens there. UsageError where it may not.

    asyncio sends small packets at once (TCP_NODELAY) only where a socket names its protocol, which
    `create_server` does not; else an answer in two pieces waits 40 ms for its caller.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        door = socket.create_server(tuple(address), family=family, backlog=2048)
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, door.detach())
    except (OSError, UnicodeError) as error:
        raise cannot_listen(address, error, "--listen") from None


def cannot_listen(address: Address, error: OSError | UnicodeError, option: str) -> UsageError:
    """The error of an address that is taken, or not this machine's."""
    reason = "no such address"
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror):
        reason = os.strerror(error.errno or 0)
    return UsageError(
        f"cannot listen on {address.host}:{address.port}: {reason}",
        hint=f"choose another {option}, or stop what listens there",
    )


def url_of(door: socket.socket) -> str:
    """The address that others reach the door at, as http."""
    host, port = door.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def new_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop that there is here."""
    try:
        import uvloop
    except ImportError:  # it is not built for every system
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def serve(app: Any, door: socket.socket) -> None:
    """Serve an ASGI app until SIGTERM or Ctrl-C; what is under way is then ended first."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,  # paths may be secrets of those who asked
            log_level="warning",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    with _signals(), _rare_collections():
        await server.serve([door])


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """The garbage collector leaves alone what was there at the start, and comes by more rarely: it
    took 7 % of a batch of permissions. Requests make hardly any cycles."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """uvicorn stops gracefully at a signal and then raises it again: a stop that was asked for is
    no failure."""
    asked = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(one, lambda *_: None) for one in asked]
    try:
        yield
    finally:
        for one, handler in zip(asked, before, strict=True):
            signal.signal(one, handler)
