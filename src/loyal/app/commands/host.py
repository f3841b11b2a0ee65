"""`loyal host serve`: the gateway in front of a model server, until it is told to stop.

Holds the options and the start and stop of the parts. Left out: what the gateway does
(loyal.app.gateway), TLS and more than one process (a proxy in front).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loyal.app.key_files import FILE, file_bytes, secret_line, signing_key
from loyal.app.terminal import Terminal, command
from loyal.errors import UsageError
from loyal.roles.host import Host, SignedLicense

GRACE_SECONDS = 30
"""How long replies under way may take after the signal to stop."""


@dataclass(frozen=True, repr=False)
class _Serving:
    """What the options say."""

    host: Host
    upstream: str
    upstream_key: str | None
    platform: str
    platform_key: str
    receipts: Path
    address: str
    port: int


@command(
    "serve",
    click.option(
        "--upstream", required=True, metavar="URL", help="The OpenAI-compatible model server."
    ),
    click.option(
        "--upstream-key-file",
        type=FILE,
        metavar="FILE",
        help="The model server's API key, in place of the caller's.",
    ),
    click.option("--platform", required=True, metavar="URL", help="Where permissions come from."),
    click.option(
        "--platform-key-file",
        type=FILE,
        required=True,
        metavar="FILE",
        help="The API key that the platform gave this host.",
    ),
    click.option(
        "--host-key",
        type=FILE,
        required=True,
        metavar="FILE",
        help="The host's secret seed, 64 hexadecimal digits; only its owner may read the file.",
    ),
    click.option(
        "--license",
        "license_file",
        type=FILE,
        required=True,
        metavar="FILE",
        help="The license file: the terms, the platform's key, both signatures.",
    ),
    click.option(
        "--receipts",
        type=FILE,
        required=True,
        metavar="FILE",
        help="Where receipts are kept; made when it is not there.",
    ),
    click.option(
        "--listen",
        default="127.0.0.1:8080",
        show_default=True,
        metavar="ADDRESS:PORT",
        help="Where users ask; port 0 takes a free one.",
    ),
)
def serve(terminal: Terminal, **options: Any) -> int:
    """Answer users under a license, each query with its permission.

    The receipt and the host's signature come with each reply. Any OpenAI client works against the
    address it prints, unchanged. It runs until SIGTERM or Ctrl-C, and ends the replies under way
    first.
    """
    serving = _take(options)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_serve(terminal, serving))
    terminal.result({"stopped": True, "receipts": str(serving.receipts)})
    return 0


def _take(options: dict[str, Any]) -> _Serving:
    license = SignedLicense.from_bytes(file_bytes(options["license_file"], "--license"))
    terms = license.verify()
    host = Host(signing_key(options["host_key"], "--host-key"), terms, license.platform)
    address, _, port = options["listen"].rpartition(":")
    if not address or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError("--listen is not an address and a port", hint="such as 127.0.0.1:8080")
    key_file = options["upstream_key_file"]
    return _Serving(
        host,
        options["upstream"],
        secret_line(key_file, "--upstream-key-file") if key_file else None,
        options["platform"],
        secret_line(options["platform_key_file"], "--platform-key-file"),
        options["receipts"],
        address.strip("[]"),
        int(port),
    )


async def _serve(terminal: Terminal, serving: _Serving) -> None:
    import uvicorn

    from loyal.app.gateway import LoyalMiddleware
    from loyal.app.platform_client import PlatformClient
    from loyal.app.receipts import SqliteReceipts
    from loyal.app.upstream import Upstream, UpstreamSettings

    upstream = Upstream(UpstreamSettings(serving.upstream, serving.upstream_key))
    source = PlatformClient(serving.platform, serving.platform_key)
    with _listening(serving) as door, contextlib.closing(SqliteReceipts(serving.receipts)) as kept:
        gateway = LoyalMiddleware(upstream, serving.host, source, kept)
        server = uvicorn.Server(
            uvicorn.Config(
                gateway,
                lifespan="off",
                access_log=False,  # the paths of receipts are secrets of those who asked
                log_level="warning",
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        address, port = door.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        terminal.note(f"license {serving.host.license.hex()}")
        terminal.note(f"listening on http://{shown}:{port}/v1")
        try:
            with _signals():
                await server.serve([door])
        finally:
            await gateway.close()
            await source.close()
            await upstream.close()


def _listening(serving: _Serving) -> socket.socket:
    family = socket.AF_INET6 if ":" in serving.address else socket.AF_INET
    try:
        return socket.create_server((serving.address, serving.port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "no such address"
        raise UsageError(
            f"cannot listen on {serving.address}:{serving.port}: {reason}",
            hint="choose another --listen, or stop what listens there",
        ) from None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # it is not built for every system
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


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
