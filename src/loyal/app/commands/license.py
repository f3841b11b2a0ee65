"""`loyal license`: a host asks for one, the platform signs it and delivers the model, the host gets
its file. Left out: the rules (loyal.protocol.licenses), and the model itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, get_args

import click

from loyal.app.key_files import FILE, drawn_key, file_bytes, hex_id
from loyal.app.license_request import LicenseRequest, command_of
from loyal.app.platform_operator import OPERATOR_OPTIONS, Operator
from loyal.app.platform_options import PLATFORM_OPTION
from loyal.app.terminal import Decorator, Terminal, command
from loyal.app.weight_files import weights_digest
from loyal.encoding import atomic_write
from loyal.errors import EndpointError, ProtocolError, UsageError
from loyal.protocol.licenses import CommitUsage, DeliverModel, Kind, Terms
from loyal.roles import SignedLicense

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
