"""`loyal registry`: models, their owners and their descent, for whoever publishes or challenges.
Left out: the rules (loyal.protocol.lineage), and how verifiers look at a challenge."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from loyal.app.key_files import FILE, KEY_OPTION, drawn_key, hex_id
from loyal.app.platform_options import (
    LOG_KEY_OPTION,
    PLATFORM_OPTION,
    Caller,
    log_key,
    state_of_log,
)
from loyal.app.report import Table
from loyal.app.state_views import model_fields
from loyal.app.terminal import Decorator, Terminal, command, facts
from loyal.app.weight_files import weights_digest
from loyal.errors import EndpointError, UsageError
from loyal.protocol import Command
from loyal.protocol.lineage import (
    ChallengeLineage,
    PublishModel,
    ReclaimBond,
    SettleLineage,
    model_id,
)

MODEL_OPTION: Decorator = click.option(
    "--model", required=True, metavar="HEX", help="The model's id in the registry."
)


@command(
    "key",
    click.option(
        "--key", type=FILE, required=True, metavar="FILE",
        help="The secret seed; drawn when the file is not there.",
    ),
)  # fmt: skip
def key(terminal: Terminal, **options: Any) -> int:
    """Print a key's public half, and draw the key where none is.

    The public half names a party: an owner, a publisher, a host, a prover, a verifier.
    """
    path: Path = options["key"]
    made = not path.exists()
    public = drawn_key(path, "--key").public.hex()
    if made:
        terminal.note(f"drew a new key into {path}; keep a copy")
    terminal.result({"party": public, "drawn": made})
    return 0


@command(
    "publish",
    PLATFORM_OPTION,
    KEY_OPTION,
    click.option(
        "--weights", type=FILE, metavar="FOLDER", help="The model: its weights' digest is taken."
    ),
    click.option("--digest", metavar="HEX", help="SHA-256 of the weights, in place of the folder."),
    click.option("--parent", metavar="HEX", help="The id of the model that it was made from."),
    click.option(
        "--root", default="00" * 32, metavar="HEX",
        help="The root of its lineage set, from 'loyal fingerprint commit'; zeros for none.",
    ),
    click.option(
        "--share", "shares", multiple=True, required=True, metavar="HEX=BPS",
        help="An owner and its part; may be repeated. All parts are 10000 together.",
    ),
)  # fmt: skip
def publish(terminal: Terminal, **options: Any) -> int:
    """Bring a model and its owners into the registry.

    It takes a bond from the free account; 'loyal registry bond-back' gives it back once the time to
    challenge is over.
    """
    caller = Caller.take(options)
    folder, digest = options["weights"], options["digest"]
    if (folder is None) == (digest is None):
        raise UsageError("weights are a folder or a digest", hint="give --weights or --digest")
    parent = options["parent"]
    made = PublishModel(
        caller.key.public.data,
        hex_id(digest, "--digest") if folder is None else weights_digest(folder),
        None if parent is None else hex_id(parent, "--parent"),
        hex_id(options["root"], "--root"),
        tuple(_share(one) for one in options["shares"]),
    )
    event = _submit(caller, made, "ModelPublished")
    terminal.result(
        {
            "model": model_id(made).hex(),
            "weights": made.weights.hex(),
            "publisher": made.author.hex(),
            "challenged_until": event.get("challenged_until"),
        }
    )
    return 0


@command(
    "show",
    PLATFORM_OPTION,
    click.option("--model", metavar="HEX", help="One model, with its owners and challenges."),
    LOG_KEY_OPTION,
)
def show(terminal: Terminal, **options: Any) -> int:
    """Show models: owners, parent, bond, challenges.

    Reads the whole log and checks it against its signed checkpoint.
    """
    state = asyncio.run(state_of_log(options["platform"], log_key(options["log_key"])))
    if options["model"] is None:
        found = [model_fields(state, name) for name in state.models]
        columns = ("model", "parent", "challenged_until", "bond_micro")
        rows = tuple(tuple(one[column] for column in columns) for one in found)
        terminal.result({"models": found}, [Table("models", columns, rows)])
        return 0
    name = hex_id(options["model"], "--model")
    if name not in state.models:
        raise UsageError("the log has no such model", hint="see `loyal registry show`")
    fields = model_fields(state, name)
    owners = Table("owners", ("owner", "share (bps)"), tuple(fields["shares_bps"].items()))
    columns = ("challenge", "ancestor", "until", "settled")
    rows = tuple(tuple(one[column] for column in columns) for one in fields["challenges"])
    terminal.result(fields, [facts(fields), owners, Table("challenges", columns, rows)])
    return 0


@command(
    "challenge",
    PLATFORM_OPTION,
    KEY_OPTION,
    MODEL_OPTION,
    click.option(
        "--ancestor", required=True, metavar="HEX", help="The id of your own, earlier model."
    ),
)
def challenge(terminal: Terminal, **options: Any) -> int:
    """Say as an owner that a model descends from yours.

    It takes a bond as large as the publisher's. The verifiers decide; who is wrong loses its bond.
    """
    caller = Caller.take(options)
    model, ancestor = hex_id(options["model"], "--model"), hex_id(options["ancestor"], "--ancestor")
    event = _submit(
        caller, ChallengeLineage(caller.key.public.data, model, ancestor), "LineageChallenged"
    )
    terminal.result(
        {
            "challenge": event.get("challenge"),
            "model": model.hex(),
            "ancestor": ancestor.hex(),
            "until": event.get("until"),
        }
    )
    return 0


@command(
    "settle",
    PLATFORM_OPTION,
    KEY_OPTION,
    click.option(
        "--challenge", required=True, metavar="HEX", help="The challenge's id; see 'show --model'."
    ),
)
def settle(terminal: Terminal, **options: Any) -> int:
    """Close a challenge that is decided, or whose time is over.

    Anybody may; a platform that serves does it too.
    """
    caller = Caller.take(options)
    name = hex_id(options["challenge"], "--challenge")
    event = _submit(caller, SettleLineage(caller.key.public.data, name), "LineageSettled")
    terminal.result(
        {"challenge": name.hex(), "found": event.get("found"), "parent": event.get("parent")}
    )
    return 0


@command("bond-back", PLATFORM_OPTION, KEY_OPTION, MODEL_OPTION)
def bond_back(terminal: Terminal, **options: Any) -> int:
    """Take a publisher's bond back.

    That is once nobody can challenge the model any more, and no challenge of it is open.
    """
    caller = Caller.take(options)
    model = hex_id(options["model"], "--model")
    event = _submit(caller, ReclaimBond(caller.key.public.data, model), "Moved")
    terminal.result({"model": model.hex(), "returned_micro": event.get("amount_micro")})
    return 0


def _share(text: str) -> tuple[bytes, int]:
    owner, _, share = text.partition("=")
    if not (share.isascii() and share.isdecimal() and len(share) <= 5):
        raise UsageError("--share is no part of an owner", hint="give HEX=BPS, 10000 is all of it")
    return hex_id(owner, "--share"), int(share)


def _submit(caller: Caller, wanted: Command, kind: str) -> Mapping[str, Any]:
    """Have a command taken, and give its event of this kind. ProtocolError, EndpointError."""
    events = asyncio.run(_events(caller, wanted))
    for one in events:
        if one.get("kind") == kind:
            return one
    raise EndpointError(
        "the platform does not say what came of it", hint="look at `loyal registry show`"
    )


async def _events(caller: Caller, wanted: Command) -> list[dict[str, Any]]:
    from loyal.app.platform_api import PlatformApi

    api = PlatformApi(caller.platform, caller.key)
    try:
        return await api.submit(wanted)
    finally:
        await api.close()
