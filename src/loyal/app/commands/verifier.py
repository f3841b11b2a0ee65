"""`loyal verifier run` and `loyal verifier bond`: check claims, sign verdicts. Left out: what is
checked (loyal.roles.verifier)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from loyal.app.key_files import KEY_OPTION, hex_id
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
    from loyal.models import LanguageModel


@command(
    "run",
    PLATFORM_OPTION,
    KEY_OPTION,
    click.option("--license", metavar="ID", help="Claims on this license alone."),
    click.option(
        "--model", metavar="FOLDER",
        help="The copy that the license's host was given: its replies are checked too.",
    ),
    click.option(
        "--beacon", "beacons", multiple=True, metavar="LICENSE=HEX",
        help="What drew a license's set, where it is no root of the log; may be repeated.",
    ),
    click.option(
        "--believe-beacon", is_flag=True,
        help="Take the platform's word for a beacon that the log does not show.",
    ),
    LOG_KEY_OPTION,
    every_option(300),
    ONCE_OPTION,
)  # fmt: skip
def run(terminal: Terminal, **options: Any) -> int:
    """Check claims, and sign a verdict on what was checked.

    Where the evidence is not what the log names, nothing is signed. Bond first: `loyal verifier
    bond`. It runs until SIGTERM or Ctrl-C.
    """
    caller = Caller.take(options)
    beacons = dict(_beacon(one) for one in options["beacons"])
    model: LanguageModel | None = None
    if options["model"] is not None and options["license"] is None:
        raise UsageError("a model is one host's copy", hint="name its license with --license")
    if options["model"] is not None:
        from loyal.app.model_options import load_model

        model = load_model(terminal, options["model"])
    found = asyncio.run(_run(terminal, caller, model, beacons, options))
    terminal.result({"verifier": caller.key.public.hex(), **found})
    return 0


async def _run(
    terminal: Terminal,
    caller: Caller,
    model: LanguageModel | None,
    beacons: dict[bytes, bytes],
    options: dict[str, Any],
) -> dict[str, int]:
    from loyal.app.platform_api import PlatformApi, PlatformDesk
    from loyal.roles.verifier import Verifier

    api = PlatformApi(caller.platform, caller.key)
    desk, believes = PlatformDesk(api, caller.log), options["believe_beacon"]
    license = None if options["license"] is None else hex_id(options["license"], "--license")
    verifier = Verifier(caller.key.public.data, desk, model, license, beacons, believes)
    found: Counter[str] = Counter()
    told: dict[bytes, str] = {}

    async def one(now: int) -> None:
        for verdict in await verifier.step(now):
            if told.get(verdict.case) == verdict.why:  # it could not be checked before either
                continue
            told[verdict.case] = verdict.why
            found[verdict.result] += 1
            terminal.note(f"case {verdict.case.hex()}: {verdict.result} ({verdict.why})")

    try:
        await rounds(terminal, Pace(options["once"], options["every_seconds"]), one)
    finally:
        await api.close()
    return {name.replace(" ", "_"): found[name] for name in ("holds", "does not hold", "unchecked")}


def _beacon(text: str) -> tuple[bytes, bytes]:
    license, _, value = text.partition("=")
    try:
        return hex_id(license, "--beacon"), bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        raise UsageError("a beacon is not hexadecimal", hint="give LICENSE=HEX") from None


@command("bond", *BOND_OPTIONS)
def bond(terminal: Terminal, **options: Any) -> int:
    """Put stake at risk, to be heard as a verifier."""
    return bond_stake(terminal, "verifier", options)
