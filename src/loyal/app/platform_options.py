"""Options and small steps that the commands of provers and verifiers share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import click

from loyal.app.key_files import KEY_OPTION, signing_key
from loyal.app.terminal import Decorator, Terminal
from loyal.errors import LedgerError, UsageError
from loyal.protocol import State, VerifierKey
from loyal.protocol.stake import MOST_MICRO
from loyal.signing import SigningKey

PLATFORM_OPTION: Decorator = click.option(
    "--platform", required=True, metavar="URL", help="The platform's address."
)
LOG_KEY_OPTION: Decorator = click.option(
    "--log-key",
    metavar="KEY",
    help="The log's verifier key, name+hash+base64; without it the platform's word is taken.",
)
AMOUNT_OPTION: Decorator = click.option(
    "--amount-micro",
    type=click.IntRange(1, MOST_MICRO),
    required=True,
    metavar="N",
    help="Stake to bond, in millionths, from the free account.",
)
BOND_OPTIONS: tuple[Decorator, ...] = (PLATFORM_OPTION, KEY_OPTION, AMOUNT_OPTION)


@dataclass(frozen=True, repr=False)
class Caller:
    """Who acts, where, and whose log is believed."""

    platform: str
    key: SigningKey
    log: VerifierKey | None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Caller:
        """Of a command's options. UsageError."""
        return cls(
            options["platform"],
            signing_key(options["key"], "--key"),
            log_key(options.get("log_key")),
        )


def log_key(text: str | None) -> VerifierKey | None:
    """Of `--log-key`; UsageError for any other text."""
    if text is None:
        return None
    try:
        return VerifierKey.from_text(text)
    except LedgerError as error:
        raise UsageError(f"--log-key is none: {error}", hint="copy it whole") from None


async def state_of_log(platform: str, log: VerifierKey | None) -> State:
    """What a platform's whole log says, checked. EndpointError, LedgerError."""
    from loyal.app.platform_api import PlatformApi, PlatformDesk

    api = PlatformApi(platform)
    try:
        return await PlatformDesk(api, log).read_on()
    finally:
        await api.close()


def bond(terminal: Terminal, purpose: str, options: dict[str, Any]) -> int:
    """Bond stake for a purpose, and say what the account then holds."""
    caller, amount = Caller.take(options), options["amount_micro"]
    account = asyncio.run(_bond(caller, purpose, amount))
    fields = {
        "party": caller.key.public.hex(),
        "purpose": purpose,
        "bonded_micro": account.get(purpose, 0),
        "free_micro": account["free"],
    }
    terminal.result(fields)
    return 0


async def _bond(caller: Caller, purpose: str, amount: int) -> dict[str, int]:
    from loyal.app.platform_api import PlatformApi
    from loyal.protocol.stake import Bond

    api = PlatformApi(caller.platform, caller.key)
    try:
        await api.submit(Bond(caller.key.public.data, purpose, amount))
        return await api.account(caller.key.public.data)
    finally:
        await api.close()
