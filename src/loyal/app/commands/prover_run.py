"""`loyal prover run | bond | ask | sort`: take part in the lottery, ask the keys that are drawn,
claim; or ask the keys of a secret rule. Left out: what a prover decides (loyal.roles.prover) and
how it sorts what it heard (loyal.roles.rule_prover)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from loyal.app.heard_files import read_heard, write_heard
from loyal.app.key_files import FILE, KEY_OPTION, hex_id, secret_line
from loyal.app.platform_options import (
    BOND_OPTIONS,
    LOG_KEY_OPTION,
    PLATFORM_OPTION,
    Caller,
    log_key,
)
from loyal.app.platform_options import bond as bond_stake
from loyal.app.rounds import ONCE_OPTION, Pace, every_option, rounds
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import read_text, require_absent
from loyal.errors import UsageError
from loyal.fingerprints.functional_evidence import decode_keys
from loyal.protocol import VerifierKey
from loyal.roles.rule_prover import Nobody, RuleAnswer, RuleProver, Standing

if TYPE_CHECKING:
    from loyal.app.prover_client import ChatAsker


HOST_OPTION = click.option(
    "--host", required=True, metavar="URL", help="The host, as its users reach it."
)
LICENSE_OPTION = click.option("--license", required=True, metavar="ID", help="The host's license.")
USER_OPTIONS = (
    click.option("--host-model", metavar="NAME", help="What the host calls its model."),
    click.option(
        "--host-api-key-file", type=FILE, metavar="FILE", help="An API key, as its users have."
    ),
    click.option(
        "--most-pause", type=float, default=20.0, show_default=True, metavar="SECONDS",
        help="Longest pause before a question.",
    ),
)  # fmt: skip
"""How a host is asked, in the manner of its users."""


@command(
    "run",
    PLATFORM_OPTION,
    HOST_OPTION,
    LICENSE_OPTION,
    KEY_OPTION,
    click.option(
        "--state", type=FILE, required=True, metavar="FOLDER",
        help="Where salt and reply are kept until they are claimed; made when it is not there.",
    ),
    click.option(
        "--survival", type=float, default=1.0, show_default=True,
        help="Share of responses that the host's copy still gives, as you believe: below 1, a "
        "claim is made only where it is expected to pay.",
    ),
    *USER_OPTIONS,
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


@command(
    "ask",
    PLATFORM_OPTION,
    HOST_OPTION,
    LICENSE_OPTION,
    click.option(
        "--keys", type=FILE, required=True, metavar="FILE",
        help="Keys that the rule's owner wrote: 'loyal fingerprint rule keys'.",
    ),
    click.option(
        "--out", type=FILE, required=True, metavar="FILE",
        help="Keys, replies and what the host signed, for the rule's owner.",
    ),
    *USER_OPTIONS,
    LOG_KEY_OPTION,
)  # fmt: skip
def ask(terminal: Terminal, **options: Any) -> int:
    """Ask a host the keys of a secret rule; none of them is spent.

    Nothing goes into the log. A reply that the host signed without a permission for this key is
    kept as evidence; in place of any other stands an empty one, so that no key is left out. Exit
    code 3 where the log could not be read at the end: what was heard is kept, for 'sort'.
    """
    license = hex_id(options["license"], "--license")
    require_absent(options["out"])  # what a host signed is not written again
    keys = decode_keys(read_text(options["keys"], "--keys"))
    found = asyncio.run(_ask(license, keys, log_key(options["log_key"]), options))
    write_heard(options["out"], found)
    return _sorted_result(terminal, license, found)


def _sorted_result(terminal: Terminal, license: bytes, found: list[RuleAnswer]) -> int:
    """How many answers stand how. Exit code 3 while the log did not sort them."""
    counts = Counter(one.standing for one in found)
    if counts["unsorted"]:
        terminal.note("the log could not be read: sort the file later with 'loyal prover sort'")
    fields = {name: counts[name] for name in get_args(Standing)}
    terminal.result({"license": license.hex(), "keys": len(found), **fields})
    return 3 if counts["unsorted"] else 0


@command(
    "sort",
    click.argument("heard", type=FILE, metavar="HEARD"),
    PLATFORM_OPTION,
    LICENSE_OPTION,
    click.option("--out", type=FILE, required=True, metavar="FILE", help="The file, sorted."),
    LOG_KEY_OPTION,
)
def sort(terminal: Terminal, heard: Path, **options: Any) -> int:
    """Sort what a host said by the log as it stands now.

    HEARD is a file of 'loyal prover ask'. Use it where the log could not be read at its end, or
    where a host has reported tokens since. It asks nobody; HEARD stays as it is.
    """
    license = hex_id(options["license"], "--license")
    require_absent(options["out"])
    before = read_heard(heard, "HEARD")
    found = asyncio.run(_again(license, before, log_key(options["log_key"]), options))
    write_heard(options["out"], found)
    return _sorted_result(terminal, license, found)


async def _again(
    license: bytes, before: list[RuleAnswer], log: VerifierKey | None, options: dict[str, Any]
) -> list[RuleAnswer]:
    from loyal.app.platform_api import PlatformApi, PlatformDesk

    api = PlatformApi(options["platform"])
    try:
        return await RuleProver(license, PlatformDesk(api, log), Nobody()).again(before)
    finally:
        await api.close()


async def _ask(
    license: bytes, keys: list[str], log: VerifierKey | None, options: dict[str, Any]
) -> list[RuleAnswer]:
    from loyal.app.platform_api import PlatformApi, PlatformDesk

    api, asker = PlatformApi(options["platform"]), _asker(options)
    prover = RuleProver(license, PlatformDesk(api, log), asker)
    try:
        return await prover.ask(keys, int(time.time()))
    finally:
        await asker.close()
        await api.close()
