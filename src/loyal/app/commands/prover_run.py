"""`loyal prover run` and `loyal prover bond`: take part in the lottery, ask the keys that are
drawn, claim. Left out: what a prover decides (loyal.roles.prover)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.key_files import FILE, KEY_OPTION, hex_id, secret_line
from loyal.app.platform_options import (
    BOND_OPTIONS,
    LOG_KEY_OPTION,
    PLATFORM_OPTION,
    Caller,
)
from loyal.app.platform_options import bond as bond_stake
from loyal.app.rounds import ONCE_OPTION, Pace, every_option, rounds
from loyal.app.terminal import Terminal, command
from loyal.errors import UsageError

if TYPE_CHECKING:
    from loyal.app.prover_client import ChatAsker


@command(
    "run",
    PLATFORM_OPTION,
    click.option("--host", required=True, metavar="URL", help="The host, as its users reach it."),
    click.option("--license", required=True, metavar="ID", help="The host's license."),
    KEY_OPTION,
    click.option(
        "--state", type=FILE, required=True, metavar="FOLDER",
        help="Where salt and reply are kept until they are claimed; made when it is not there.",
    ),
    click.option("--host-model", metavar="NAME", help="What the host calls its model."),
    click.option(
        "--host-api-key-file", type=FILE, metavar="FILE", help="An API key, as its users have."
    ),
    click.option(
        "--survival", type=float, default=1.0, show_default=True,
        help="Share of responses that the host's copy still gives, as you believe: below 1, a "
        "claim is made only where it is expected to pay.",
    ),
    click.option(
        "--most-pause", type=float, default=20.0, show_default=True, metavar="SECONDS",
        help="Longest pause before a question.",
    ),
    LOG_KEY_OPTION,
    every_option(60),
    ONCE_OPTION,
)  # fmt: skip
def run(terminal: Terminal, **options: Any) -> int:
    """Ask the host each drawn key, and claim what had no permission.

    Bond first: `loyal prover bond`. A restart goes on where it stopped. It runs until SIGTERM or
    Ctrl-C.
    """
    caller, license = Caller.take(options), hex_id(options["license"], "--license")
    if not 0 <= options["survival"] <= 1:
        raise UsageError("--survival is a share", hint="give 0 to 1")
    found = asyncio.run(_run(terminal, caller, license, options))
    terminal.result({"license": license.hex(), "prover": caller.key.public.hex(), "found": found})
    return 0


async def _run(terminal: Terminal, caller: Caller, license: bytes, options: dict[str, Any]) -> str:
    from loyal.app.platform_api import PlatformApi, PlatformDesk
    from loyal.roles.prover import IntentFile, Prover

    api, asker = PlatformApi(caller.platform, caller.key), _asker(options)
    prover = Prover(
        caller.key.public.data, license, PlatformDesk(api, caller.log), asker,
        IntentFile(Path(options["state"]), license), options["survival"],
    )  # fmt: skip
    found = "idle"

    async def one(now: int) -> None:
        nonlocal found
        before, found = found, await prover.step(now)
        if found != before:
            terminal.note(f"license {license.hex()[:16]}: {found}")

    try:
        await rounds(terminal, Pace(options["once"], options["every_seconds"]), one)
    finally:
        await asker.close()
        await api.close()
    return found


def _asker(options: dict[str, Any]) -> ChatAsker:
    from loyal.app.prover_client import AskerSettings, ChatAsker

    most, key = options["most_pause"], options["host_api_key_file"]
    return ChatAsker(
        AskerSettings(
            options["host"],
            options["host_model"],
            secret_line(key, "--host-api-key-file") if key else None,
            min(1.0, most),
            most,
        )
    )


@command("bond", *BOND_OPTIONS)
def bond(terminal: Terminal, **options: Any) -> int:
    """Put stake at risk, to be drawn as a prover."""
    return bond_stake(terminal, "prover", options)
