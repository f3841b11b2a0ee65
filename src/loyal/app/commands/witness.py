"""`loyal witness run`: cosign a log's checkpoints as long as it only grows. Left out: what may be
cosigned (loyal.protocol.witness), and the file (loyal.app.witness_file)."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.key_files import FILE, KEY_OPTION, signing_key
from loyal.app.platform_options import LOG_KEY_OPTION, log_key
from loyal.app.rounds import ONCE_OPTION, Pace, every_option, rounds
from loyal.app.terminal import Terminal, command
from loyal.errors import LedgerError, UsageError
from loyal.protocol import KeyKind, NoteSigner, VerifierKey

if TYPE_CHECKING:
    from loyal.app.witness_file import Seen


@command(
    "run",
    click.option("--log", required=True, metavar="URL", help="The address of the log's platform."),
    KEY_OPTION,
    click.option(
        "--name", default="witness", show_default=True, metavar="NAME",
        help="The witness's name in its lines, such as example.com/witness.",
    ),
    click.option(
        "--state", type=FILE, required=True, metavar="FILE",
        help="What was cosigned; the cosigned note stands beside it (.note), evidence too.",
    ),
    LOG_KEY_OPTION,
    every_option(60),
    ONCE_OPTION,
)  # fmt: skip
def run(terminal: Terminal, **options: Any) -> int:
    """Cosign a log's checkpoints as long as it only grows.

    A fork ends the command with exit code 1 and leaves evidence beside the state; a log that shows
    less than before is refused, and so is a state that another witness uses. It runs until SIGTERM
    or Ctrl-C.
    """
    key = signing_key(options["key"], "--key")
    try:
        signer = NoteSigner(options["name"], key, KeyKind.COSIGNATURE)
    except LedgerError as error:
        raise UsageError(f"--name is none: {error}", hint="such as example.com/witness") from None
    seen = asyncio.run(_run(terminal, signer, options))
    fields = {
        "witness": str(signer.verifier),
        **(asdict(seen) if seen is not None else {"size": 0, "new": False}),
        "note": f"{options['state']}.note",
    }
    terminal.result(fields)
    return 0


async def _run(terminal: Terminal, signer: NoteSigner, options: dict[str, Any]) -> Seen | None:
    from loyal.app.platform_api import PlatformApi
    from loyal.app.witness_file import Watcher, WitnessFile

    api, given, once = PlatformApi(options["log"]), log_key(options["log_key"]), options["once"]

    async def find_key() -> VerifierKey:
        return given or (await api.about()).log

    file = WitnessFile(Path(options["state"]))
    watcher = Watcher(signer, api, file, find_key)
    last: Seen | None = None

    async def one(now: int) -> None:
        nonlocal last
        try:
            last = await watcher.look(now)
        except LedgerError as error:
            if once or error.reason != "size":
                raise
            terminal.note(f"refused: {error}")
            return
        if last.new:
            terminal.note(f"cosigned {last.size} entries")

    try:
        with file.held():
            await rounds(terminal, Pace(once, options["every_seconds"]), one)
    finally:
        await api.close()
    return last
