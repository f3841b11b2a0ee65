"""`loyal host serve`: the gateway in front of a model server, until it is told to stop.

Holds the options and the start and stop of the parts. Left out: what the gateway does
(loyal.app.gateway), TLS and more than one process (a proxy in front).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app import listening
from loyal.app.key_files import FILE, file_bytes, hex_id, secret_line, signing_key
from loyal.app.listening import Address, listen_option, new_loop, open_door, parse_address, url_of
from loyal.app.terminal import Terminal, command
from loyal.errors import UsageError
from loyal.roles.host import Host, SignedLicense
from loyal.signing import PublicKey

if TYPE_CHECKING:
    from loyal.app.asgi import App
    from loyal.app.guarded import GuardSettings
    from loyal.app.token_purse import SqliteTokens
    from loyal.control import ControlFunction


@dataclass(frozen=True, repr=False)
class _Serving:
    """What the options say."""

    host: Host
    upstream: str
    upstream_key: str | None
    platform: str
    platform_key: str | None
    receipts: Path
    address: Address
    tokens: Path | None
    guarding: Guarding | None


@dataclass(frozen=True)
class Guarding:
    """How the community's functions are held beside the model."""

    functions: tuple[ControlFunction, ...]
    evidence: Path
    settings: GuardSettings


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
        metavar="FILE",
        help="The API key that the platform gave this host; without one the host key signs.",
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
        "--tokens",
        type=FILE,
        metavar="FILE",
        help="Where prepaid tokens are kept, for an outage of the platform (loyal license tokens); "
        "made when it is not there. One file for a license, never two.",
    ),
    click.option(
        "--control",
        multiple=True,
        metavar="FILE",
        help="A signed control function to hold replies to (loyal control sign); may be repeated.",
    ),
    click.option(
        "--control-signer",
        metavar="HEX",
        help="The community's public key, which signed every function of --control.",
    ),
    click.option(
        "--control-evidence",
        type=FILE,
        metavar="FILE",
        help="Where replies that differ are noted (loyal control guard); made if it is not there.",
    ),
    click.option(
        "--control-mode",
        type=click.Choice(["replace", "watch"]),
        default="replace",
        show_default=True,
        help="Send the function's reply in place of one that differs, or only note it.",
    ),
    click.option(
        "--control-failing",
        type=click.Choice(["closed", "open"]),
        default="closed",
        show_default=True,
        help="Where a function fails: no reply, or the model's.",
    ),
    listen_option("127.0.0.1:8080", "Where users ask; port 0 takes a free one."),
)
def serve(terminal: Terminal, **options: Any) -> int:
    """Answer users under a license, each query with its permission.

    The receipt and the host's signature come with each reply. Any OpenAI client works against the
    address it prints, unchanged. It runs until SIGTERM or Ctrl-C, and ends the replies under way
    first.
    """
    serving = _take(options)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(terminal, serving))
    terminal.result({"stopped": True, "receipts": str(serving.receipts)})
    return 0


def _take(options: dict[str, Any]) -> _Serving:
    license = SignedLicense.from_bytes(file_bytes(options["license_file"], "--license"))
    terms = license.verify()
    host = Host(signing_key(options["host_key"], "--host-key"), terms, license.platform)
    key_file, platform_key = options["upstream_key_file"], options["platform_key_file"]
    return _Serving(
        host,
        options["upstream"],
        secret_line(key_file, "--upstream-key-file") if key_file else None,
        options["platform"],
        secret_line(platform_key, "--platform-key-file") if platform_key else None,
        options["receipts"],
        parse_address(options["listen"]),
        options["tokens"],
        _guarding(options),
    )


def _guarding(options: dict[str, Any]) -> Guarding | None:
    """The options of --control; the functions are validated. UsageError for half of them."""
    files, signer = options["control"], options["control_signer"]
    evidence = options["control_evidence"]
    if not files and signer is None and evidence is None:
        return None
    if not files or signer is None or evidence is None:
        raise UsageError(
            "a guard has functions, their signer and a file",
            hint="give --control, --control-signer and --control-evidence",
        )
    from loyal.app.guarded import GuardSettings
    from loyal.control import functions
    from loyal.control.validate import validate

    public = PublicKey(hex_id(signer, "--control-signer"))
    found = tuple(functions.load(one, public) for one in files)
    validate(found)
    settings = GuardSettings(options["control_mode"], options["control_failing"])
    return Guarding(found, evidence, settings)


async def _serve(terminal: Terminal, serving: _Serving) -> None:
    from loyal.app.gateway import LoyalMiddleware
    from loyal.app.platform_client import PlatformClient
    from loyal.app.receipts import SqliteReceipts
    from loyal.app.token_purse import SqliteTokens
    from loyal.app.upstream import Upstream, UpstreamSettings

    upstream = Upstream(UpstreamSettings(serving.upstream, serving.upstream_key))
    source = PlatformClient(serving.platform, serving.platform_key or serving.host.key)
    with (
        open_door(serving.address) as door,
        contextlib.closing(SqliteReceipts(serving.receipts)) as kept,
        contextlib.ExitStack() as stack,
    ):
        purse = None
        if serving.tokens is not None:
            purse = SqliteTokens(serving.tokens, serving.host.license)
        served = stack.enter_context(_guarded(upstream, serving))
        gateway = LoyalMiddleware(served, serving.host, source, kept, purse=purse)
        terminal.note(f"license {serving.host.license.hex()}")
        terminal.note(f"listening on {url_of(door)}/v1")
        try:
            async with _reporting(serving, purse):
                await listening.serve(gateway, door)
        finally:
            await gateway.close()
            await source.close()
            await upstream.close()


@contextlib.contextmanager
def _guarded(app: App, serving: _Serving) -> Iterator[App]:
    """The model server behind its guard, where there is one."""
    from loyal.app.guarded import Evidence, Guarded
    from loyal.control.guard import Guard

    if serving.guarding is None:
        yield app
        return
    guarding, host = serving.guarding, serving.host
    guard = Guard(guarding.functions)
    with contextlib.closing(Evidence(guarding.evidence, host.key)) as evidence:
        yield Guarded(app, guard, evidence, host.clock, guarding.settings)


@contextlib.asynccontextmanager
async def _reporting(serving: _Serving, purse: SqliteTokens | None) -> AsyncIterator[None]:
    """Tokens are learned and reported meanwhile; the file is closed at the end."""
    from loyal.app.platform_api import PlatformApi
    from loyal.app.token_desk import TokenDesk

    if purse is None:
        yield
        return
    api, host = PlatformApi(serving.platform, serving.host.key), serving.host
    desk = TokenDesk(api, host.key.public.data, host.license, purse)
    task = asyncio.create_task(desk.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await desk.finish()
        await api.close()
        purse.close()
