"""`loyal platform`: make one, give hosts keys, credit money, serve until it is told to stop.

Holds the options and the start and stop of the parts. Left out: what the routes do
(loyal.app.http), TLS (a proxy in front), and more than one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from loyal.app import listening
from loyal.app.access import ApiKeys
from loyal.app.key_files import FILE, hex_id
from loyal.app.listening import listen_option, new_loop, open_door, parse_address, url_of
from loyal.app.platform_folder import PlatformFolder
from loyal.app.platform_operator import OPERATOR_OPTIONS, Operator
from loyal.app.terminal import Decorator, Terminal, command
from loyal.app.vaults import OPENING_OPTIONS, Access, open_vault
from loyal.errors import UsageError
from loyal.protocol import Parameters
from loyal.protocol.stake import MOST_MICRO, Deposit

FOLDER_OPTION: Decorator = click.option(
    "--folder", type=FILE, required=True, metavar="DIR", help="The platform's folder."
)


@command(
    "init",
    FOLDER_OPTION,
    click.option(
        "--origin", metavar="NAME", help="The log's name, such as example.com/log; else drawn."
    ),
    settings=True,
)
def init(terminal: Terminal, **options: Any) -> int:
    """Make a platform: its secret keys, its settings.

    The community's parameters come from --recipe and --set, by name (docs/protocol.md); they hold
    for the whole log. Keep copies of the two key files: who loses them cannot go on with the log.
    """
    from loyal import config

    parameters = config.load(Parameters, terminal.recipe, terminal.overrides)
    folder = PlatformFolder(options["folder"])
    keys = folder.make(options["origin"], parameters)
    terminal.result(
        {
            "platform": keys.identity.public.hex(),
            "log": keys.log.name,
            "log_key": str(keys.log.verifier),
            "folder": str(folder.path),
        }
    )
    return 0


@command(
    "key",
    FOLDER_OPTION,
    click.option("--host", required=True, metavar="HEX", help="The host's public key."),
    click.option("--revoke", is_flag=True, help="Take all keys of this host back instead."),
)
def key(terminal: Terminal, **options: Any) -> int:
    """Give a host an API key, or take its keys back.

    The key is shown once; the folder keeps its hash alone. A running platform knows it at once.
    """
    folder = PlatformFolder(options["folder"])
    folder.settings()
    host = hex_id(options["host"], "--host")
    keys = ApiKeys(folder.api_keys)
    if options["revoke"]:
        terminal.result({"host": host.hex(), "revoked": keys.revoke(host)})
    else:
        terminal.result({"host": host.hex(), "key": keys.draw(host)})
    return 0


@command(
    "credit",
    *OPERATOR_OPTIONS,
    click.option("--party", required=True, metavar="HEX", help="Whose money came in."),
    click.option(
        "--amount-micro",
        type=click.IntRange(1, MOST_MICRO),
        required=True,
        help="How much, in millionths.",
    ),
)
def credit(terminal: Terminal, **options: Any) -> int:
    """Credit money that came in from outside to a party's free account."""
    operator = Operator.take(options)
    party, amount = hex_id(options["party"], "--party"), options["amount_micro"]
    platform = operator.folder.keys().identity.public.data
    asyncio.run(operator.submit([Deposit(platform, party, amount)]))
    terminal.result({"party": party.hex(), "credited_micro": amount})
    return 0


@command(
    "serve",
    FOLDER_OPTION,
    click.option(
        "--store", metavar="URL", help="Another database, such as postgresql://user@host/name."
    ),
    listen_option("127.0.0.1:8090", "Where hosts and others ask; port 0 takes a free one."),
    click.option(
        "--metrics-listen",
        metavar="ADDRESS:PORT",
        help="Where Prometheus asks, such as 127.0.0.1:9090; without it, nowhere.",
    ),
    click.option("--vault", type=FILE, metavar="FILE", help="The vault whose keys are drawn."),
    click.option(
        "--license",
        "licenses",
        multiple=True,
        metavar="HEX",
        help="Draw keys for this license alone; may be repeated. Else for all with a set there.",
    ),
    click.option(
        "--draw-seconds",
        type=click.IntRange(min=0),
        default=4 * 3600,
        show_default=True,
        help="Seconds between two draws of one license, at least.",
    ),
    click.option(
        "--pass-seconds",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        help="Seconds between two looks at what is due.",
    ),
    *OPENING_OPTIONS,
)
def serve(terminal: Terminal, **options: Any) -> int:
    """Serve the platform: permissions, commands, the log.

    With --vault it also draws keys, opens leaves, and gives both to whom the rules name. It settles
    what is due either way. It runs until SIGTERM or Ctrl-C, and ends what is under way first. One
    JSON object a request goes to stderr, permissions that were given aside: metrics count those.
    """
    access = Access.take(options)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        length = runner.run(_serve(terminal, access, options))
    terminal.result({"stopped": True, "log_length": length})
    return 0


async def _serve(terminal: Terminal, access: Access, options: dict[str, Any]) -> int:
    from loyal.app.caretaker import Caretaker, Pace
    from loyal.app.http import Parts, PlatformApp
    from loyal.app.metrics import Metrics
    from loyal.app.store import open_store
    from loyal.roles import PermissionQueue, Platform

    folder = PlatformFolder(options["folder"])
    settings, keys = folder.settings(), folder.keys()
    desk = _desk(options["vault"], options["licenses"], access)
    address, metrics = parse_address(options["listen"]), Metrics()
    store = open_store(options["store"] or folder.store_url)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(store))
        door = stack.enter_context(open_door(address))
        if options["metrics_listen"] is not None:
            told_at = parse_address(options["metrics_listen"], "--metrics-listen")
            terminal.note(f"metrics at {stack.enter_context(metrics.told_at(told_at))}")
        stack.enter_context(_json_lines())
        platform = Platform(store, keys, settings.parameters)

        def clock() -> int:
            return int(time.time())

        async with PermissionQueue(platform, clock) as queue:
            api_keys = ApiKeys(folder.api_keys)
            parts = Parts(
                platform, queue, store, keys.log.verifier, api_keys, desk, clock, metrics=metrics
            )
            app = PlatformApp(parts)
            await asyncio.to_thread(app.log.read_on)
            pace = Pace(options["pass_seconds"], options["draw_seconds"])
            caretaker = asyncio.create_task(Caretaker(parts, app.log, pace).run())
            terminal.note(f"platform {keys.identity.public.hex()}")
            terminal.note(f"listening on {url_of(door)}")
            try:
                await listening.serve(app, door)
            finally:
                caretaker.cancel()
                await asyncio.wait([caretaker])
        return platform.state.length


def _desk(vault: Path | None, licenses: tuple[str, ...], access: Access) -> Any:
    from loyal.app.vault_desk import VaultDesk

    only = frozenset(hex_id(one, "--license") for one in licenses)
    if vault is None:
        if only or access != Access():
            raise UsageError("there is no vault to draw from", hint="give --vault FILE too")
        return VaultDesk()
    desk = VaultDesk(open_vault(vault, access).sets.values(), only or None)
    if not len(desk):
        raise UsageError(
            "the vault has no usage set that was drawn",
            hint="run 'loyal fingerprint commit' on a usage set first",
        )
    return desk


@contextlib.contextmanager
def _json_lines() -> Iterator[None]:
    """The logs of `loyal` and of the server as JSON on stderr, for as long as it serves."""
    from loyal.app.http import JsonLines

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger(name) for name in ("loyal", "uvicorn")]
    before = [(one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(logging.INFO if one.name == "loyal" else logging.WARNING)
        one.propagate = False
    try:
        yield
    finally:
        for one, (level, propagate) in zip(loggers, before, strict=True):
            one.removeHandler(handler)
            one.setLevel(level)
            one.propagate = propagate
