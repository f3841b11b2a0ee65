"""`loyal license`: a host asks for one, the platform signs it and delivers the model, the host gets
its file. Left out: the rules (loyal.protocol.licenses), and the model itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, get_args

import click

from loyal.app.key_files import FILE, drawn_key, file_bytes, hex_id, signing_key
from loyal.app.license_request import LicenseRequest, command_of
from loyal.app.platform_operator import OPERATOR_OPTIONS, Operator
from loyal.app.platform_options import PLATFORM_OPTION
from loyal.app.terminal import Decorator, Terminal, command
from loyal.app.weight_files import weights_digest
from loyal.encoding import atomic_write
from loyal.errors import EndpointError, ProtocolError, UsageError
from loyal.protocol.licenses import CommitUsage, DeliverModel, Kind, Terms
from loyal.protocol.permission import SKEW_SECONDS
from loyal.protocol.tokens import MOST_TOKENS, BuyTokens
from loyal.roles import SignedLicense
from loyal.signing import SigningKey

DAY_SECONDS = 86_400
LICENSE_OPTION: Decorator = click.option(
    "--license", required=True, metavar="HEX", help="The license's id."
)
OUT_OPTION: Decorator = click.option(
    "--out", type=FILE, required=True, metavar="FILE", help="The file to write."
)


@command(
    "request",
    click.option(
        "--host-key",
        type=FILE,
        required=True,
        metavar="FILE",
        help="The host's secret seed; drawn when the file is not there.",
    ),
    click.option("--model", required=True, metavar="HEX", help="The model's id in the registry."),
    click.option(
        "--kind",
        type=click.Choice(get_args(Kind)),
        default="pay_per_use",
        show_default=True,
        help="How it is paid.",
    ),
    click.option(
        "--price-micro",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Millionths a query, or for the whole period of a subscription.",
    ),
    click.option(
        "--inferences",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Permissions in all; 0 sets no limit.",
    ),
    click.option(
        "--days",
        type=click.IntRange(min=1, max=36_500),
        default=30,
        show_default=True,
        help="How long it runs.",
    ),
    click.option(
        "--stake-micro",
        type=click.IntRange(min=1),
        required=True,
        help="Millionths that the host has in escrow, and loses.",
    ),
    click.option("--allowed", default="", metavar="TEXT", help="The purpose, for people."),
    click.option(
        "--denied-word",
        "denied",
        multiple=True,
        metavar="WORD",
        help="A prompt with this word gets no permission; may be repeated.",
    ),
    click.option(
        "--constitution",
        default="00" * 32,
        metavar="HEX",
        help="Digest of the constitution in force; zeros for none.",
    ),
    OUT_OPTION,
)
def request(terminal: Terminal, **options: Any) -> int:
    """Sign the terms of a license as its host, into a file for the platform."""
    path: Path = options["host_key"]
    made = not path.exists()
    host = drawn_key(path, "--host-key")
    terms = Terms(
        hex_id(options["model"], "--model"),
        host.public.data,
        options["kind"],
        options["price_micro"],
        options["inferences"],
        int(time.time()) + options["days"] * DAY_SECONDS,
        options["stake_micro"],
        options["allowed"],
        tuple(options["denied"]),
        hex_id(options["constitution"], "--constitution"),
    )
    if made:
        terminal.note(f"drew a new key into {path}; keep a copy")
    atomic_write(options["out"], LicenseRequest.of(terms, host).to_bytes())
    terminal.result({**_shown(terms), "file": str(options["out"])})
    return 0


@command(
    "sign",
    *OPERATOR_OPTIONS,
    click.option(
        "--request", type=FILE, required=True, metavar="FILE", help="The host's signed terms."
    ),
    click.option("--out", type=FILE, metavar="FILE", help="Write the license file too."),
)
def sign(terminal: Terminal, **options: Any) -> int:
    """Sign a host's terms as the platform, and bring the license into the log.

    The stake moves into escrow in the same step, from the host's free account. Look at the terms
    first: they are printed before anything is signed.
    """
    operator = Operator.take(options)
    asked = LicenseRequest.from_bytes(file_bytes(options["request"], "--request"))
    shown = _shown(asked.terms)
    for name, value in shown.items():
        terminal.note(f"{name} {value}")
    license = asked.countersign(operator.folder.keys().identity)
    asyncio.run(operator.submit([command_of(license)]))
    if options["out"] is not None:
        atomic_write(options["out"], license.to_bytes())
    terminal.result(shown)
    return 0


@command(
    "commit",
    *OPERATOR_OPTIONS,
    LICENSE_OPTION,
    click.option("--root", required=True, metavar="HEX", help="The root of the host's usage set."),
    click.option("--count", type=int, required=True, help="Keys in the set."),
    click.option(
        "--candidates",
        type=int,
        required=True,
        help="Candidates a response: the width that generate prints.",
    ),
)
def commit(terminal: Terminal, **options: Any) -> int:
    """Commit to a host's own fingerprints, before its model is made and delivered.

    'loyal fingerprint commit' prints the root. Draw the responses with a beacon that comes after
    this step: a checkpoint of the log, or a later block hash.
    """
    operator = Operator.take(options)
    platform = operator.folder.keys().identity.public.data
    license, root = hex_id(options["license"], "--license"), hex_id(options["root"], "--root")
    usage = CommitUsage(platform, license, root, options["count"], options["candidates"])
    asyncio.run(operator.submit([usage]))
    terminal.result({"license": license.hex(), "root": root.hex(), "keys": options["count"]})
    return 0


@command(
    "deliver",
    *OPERATOR_OPTIONS,
    LICENSE_OPTION,
    click.option(
        "--weights", required=True, metavar="HEX|FOLDER",
        help="SHA-256 of the host's M.oml, or the folder that holds it.",
    ),
)  # fmt: skip
def deliver(terminal: Terminal, **options: Any) -> int:
    """Note that a host was given its own model: permissions begin."""
    operator = Operator.take(options)
    platform = operator.folder.keys().identity.public.data
    license = hex_id(options["license"], "--license")
    folder = Path(options["weights"])
    weights = weights_digest(folder) if folder.is_dir() else hex_id(options["weights"], "--weights")
    asyncio.run(operator.submit([DeliverModel(platform, license, weights)]))
    terminal.result({"license": license.hex(), "weights": weights.hex()})
    return 0


@command("download", PLATFORM_OPTION, LICENSE_OPTION, OUT_OPTION)
def download(terminal: Terminal, **options: Any) -> int:
    """Get the license file that `loyal host serve` reads, and check both signatures."""
    name = hex_id(options["license"], "--license")
    data = asyncio.run(_file(options["platform"], name))
    license = SignedLicense.from_bytes(data)
    terms = license.verify()
    if terms.license_id != name:
        raise EndpointError(
            "the platform sent another license", hint="check the address and the id"
        )
    atomic_write(options["out"], data)
    terminal.result(
        {**_shown(terms), "platform": license.platform.hex(), "file": str(options["out"])}
    )
    return 0


@command(
    "tokens",
    PLATFORM_OPTION,
    click.option(
        "--host-key", type=FILE, required=True, metavar="FILE", help="The host's secret seed."
    ),
    LICENSE_OPTION,
    click.option(
        "--count",
        type=click.IntRange(1, MOST_TOKENS),
        required=True,
        help="How many queries they are for.",
    ),
)
def tokens(terminal: Terminal, **options: Any) -> int:
    """Buy allowance tokens: queries that are paid beforehand, for an outage of the platform.

    They cost what permissions cost, count among the inferences, and are not paid back. They may be
    used from the second that is printed as ripe until the license expires. 'loyal host serve
    --tokens FILE' uses and reports them.
    """
    key = signing_key(options["host_key"], "--host-key")
    wanted = BuyTokens(key.public.data, hex_id(options["license"], "--license"), options["count"])
    bought = asyncio.run(_bought(options["platform"], key, wanted))
    terminal.result({"license": wanted.license.hex(), **bought})
    return 0


async def _bought(url: str, key: SigningKey, wanted: BuyTokens) -> dict[str, Any]:
    """The tokens' numbers, and the Unix seconds between which they may be used.

    ProtocolError, EndpointError; UsageError, before anything is paid, for tokens that would ripen
    behind the license's end.
    """
    from loyal.app.platform_api import PlatformApi

    api = PlatformApi(url, key)
    try:
        expires = (await api.tokens(wanted.license)).expires
        ripening = (await api.about()).parameters.ripening_seconds
        if time.time() + ripening + SKEW_SECONDS > expires:
            raise UsageError(
                f"tokens ripen for {ripening} seconds, and the license ends before that",
                hint="buy them at the beginning of a license",
            )
        try:
            events = await api.submit(wanted)
        except EndpointError as error:
            raise _unsure(f"{error}; the tokens may be bought all the same") from None
    finally:
        await api.close()
    for event in events:
        if event.get("kind") == "TokensBought":
            shown: dict[str, Any] = {name: event.get(name) for name in ("first", "count", "ripe")}
            return {**shown, "expires": expires}
    raise _unsure("the platform does not say what came of it")


def _unsure(message: str) -> EndpointError:
    return EndpointError(
        message, hint="look at 'tokens' in the platform's /v1/licenses/ID before you buy again"
    )


async def _file(url: str, license: bytes) -> bytes:
    from loyal.app.platform_api import PlatformApi

    api = PlatformApi(url)
    try:
        return await api.license_file(license)
    except ProtocolError as error:
        raise UsageError(str(error), hint=error.hint) from None
    finally:
        await api.close()


def _shown(terms: Terms) -> dict[str, Any]:
    return {
        "license": terms.license_id.hex(),
        "host": terms.host.hex(),
        "model": terms.model.hex(),
        "kind": terms.kind,
        "price_micro": terms.price_micro,
        "inferences": terms.most_inferences,
        "expires": terms.expires,
        "stake_micro": terms.stake_micro,
        "allowed": terms.allowed,
        "denied_words": ", ".join(terms.denied_words),
    }
