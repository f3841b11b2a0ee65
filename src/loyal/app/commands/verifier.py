"""`loyal verifier run` and `loyal verifier bond`: check claims and lineage challenges, sign
verdicts. Left out: what is checked (loyal.roles.verifier, loyal.roles.descent)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.key_files import FILE, KEY_OPTION, hex_id
from loyal.app.lineage_files import Folders, proofs_in, proofs_of
from loyal.app.platform_options import (
    BOND_OPTIONS,
    LOG_KEY_OPTION,
    PLATFORM_OPTION,
    Caller,
)
from loyal.app.platform_options import bond as bond_stake
from loyal.app.rounds import ONCE_OPTION, Pace, every_option, rounds
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import OPENING_OPTIONS, Access, open_vault
from loyal.errors import UsageError

if TYPE_CHECKING:
    from loyal.fingerprints import Proof
    from loyal.models import LanguageModel
    from loyal.roles.verifier import Verdict


@command(
    "run",
    PLATFORM_OPTION,
    KEY_OPTION,
    click.option("--license", metavar="ID", help="Claims on this license alone."),
    click.option(
        "--model", type=FILE, metavar="FOLDER",
        help="The copy that the license's host was given: its replies are checked too.",
    ),
    click.option(
        "--challenged", type=FILE, multiple=True, metavar="FOLDER",
        help="A model whose lineage is challenged, as its publisher gives it out; may be repeated.",
    ),
    click.option(
        "--opened", type=FILE, multiple=True, metavar="DIR",
        help="Leaves that a challenger opened, from 'loyal fingerprint prove'; may be repeated.",
    ),
    click.option(
        "--vault", type=FILE, metavar="FILE", help="Your own vault: its lineage sets are asked."
    ),
    *OPENING_OPTIONS,
    click.option(
        "--beacon", "beacons", multiple=True, metavar="ID=HEX",
        help="What drew the set of a license, or of a challenge, where it is no root of the log; "
        "may be repeated.",
    ),
    click.option(
        "--believe-beacon", is_flag=True,
        help="Take the platform's word for a license's beacon that the log does not show.",
    ),
    LOG_KEY_OPTION,
    every_option(300),
    ONCE_OPTION,
)  # fmt: skip
def run(terminal: Terminal, **options: Any) -> int:
    """Check cases, and sign a verdict on what was checked.

    Cases are claims, appeals, and lineage challenges. Of a challenge it needs the challenged model
    (--challenged) and the lineage set of the earlier one (--opened or --vault). Where the evidence
    is not what the log names, nothing is signed. Bond first: `loyal verifier bond`. It runs until
    SIGTERM or Ctrl-C.
    """
    caller, access = Caller.take(options), Access.take(options)
    case = _Case(
        None if options["license"] is None else hex_id(options["license"], "--license"),
        options["model"],
        Folders(terminal, options["challenged"]),
        _proofs(options["opened"], options["vault"], access),
        dict(_beacon(one) for one in options["beacons"]),
    )
    if case.model is not None and case.license is None:
        raise UsageError("a model is one host's copy", hint="name its license with --license")
    found = asyncio.run(_run(terminal, caller, case, options))
    terminal.result({"verifier": caller.key.public.hex(), **found})
    return 0


@dataclass(frozen=True, repr=False)
class _Case:
    """What the verifier brings."""

    license: bytes | None
    model: Path | None
    challenged: Folders
    proofs: tuple[Proof, ...]
    beacons: dict[bytes, bytes]


async def _run(
    terminal: Terminal, caller: Caller, case: _Case, options: dict[str, Any]
) -> dict[str, int]:
    from loyal.app.platform_api import PlatformApi, PlatformDesk
    from loyal.roles.descent import DescentVerifier
    from loyal.roles.verifier import Verifier

    api = PlatformApi(caller.platform, caller.key)
    desk, name = PlatformDesk(api, caller.log), caller.key.public.data
    believes, beacons = options["believe_beacon"], case.beacons
    claims: Verifier | None = None
    descent = DescentVerifier(name, desk, case.challenged.model, case.proofs, beacons)
    told = _Told(terminal)

    async def one(now: int) -> None:
        nonlocal claims
        if claims is None:  # the log says which copy the host was given
            copy = await _copy(terminal, case, desk)
            claims = Verifier(name, desk, copy, case.license, beacons, believes)
        told.hear(await claims.step(now))
        told.hear(await descent.step(now))

    try:
        await rounds(terminal, Pace(options["once"], options["every_seconds"]), one)
    finally:
        await api.close()
    return told.fields


async def _copy(terminal: Terminal, case: _Case, desk: Any) -> LanguageModel | None:
    """The host's copy. UsageError where it has not the weights that were delivered."""
    if case.model is None:
        return None
    assert case.license is not None
    state = await desk.read_on()
    license = state.licenses.get(case.license)
    if license is None or license.weights is None:
        raise UsageError("no model was delivered under this license", hint="check --license")
    found: LanguageModel | None = await asyncio.to_thread(
        Folders(terminal, (case.model,)).model, license.weights
    )
    if found is None:
        raise UsageError(
            "--model has not the weights that were delivered under this license",
            hint="take the copy that the platform delivered, or leave --model out",
        )
    return found


class _Told:
    """What was said of cases, each once."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._said: dict[bytes, str] = {}
        self._count: Counter[str] = Counter()

    def hear(self, verdicts: Iterable[Verdict]) -> None:
        """Say what is new."""
        for one in verdicts:
            if self._said.get(one.case) == one.why:  # it could not be checked before either
                continue
            self._said[one.case] = one.why
            self._count[one.result] += 1
            counted = f": {one.counted}" if one.counted else ""
            self._terminal.note(f"case {one.case.hex()}: {one.result} ({one.why}){counted}")

    @property
    def fields(self) -> dict[str, int]:
        """How many of each result."""
        names = ("holds", "does not hold", "unchecked")
        return {name.replace(" ", "_"): self._count[name] for name in names}


def _proofs(folders: tuple[Path, ...], vault: Path | None, access: Access) -> tuple[Proof, ...]:
    found = [one for folder in folders for one in proofs_in(folder)]
    if vault is not None:
        found += proofs_of(open_vault(vault, access).sets.values())
    elif access != Access():
        raise UsageError("there is no vault to open", hint="give --vault FILE too")
    return tuple(found)


def _beacon(text: str) -> tuple[bytes, bytes]:
    name, _, value = text.partition("=")
    try:
        return hex_id(name, "--beacon"), bytes.fromhex(value.removeprefix("0x"))
    except ValueError:
        raise UsageError("a beacon is not hexadecimal", hint="give ID=HEX") from None


@command("bond", *BOND_OPTIONS)
def bond(terminal: Terminal, **options: Any) -> int:
    """Put stake at risk, to be heard as a verifier."""
    return bond_stake(terminal, "verifier", options)
