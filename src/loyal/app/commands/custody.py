"""`loyal fingerprint info | split | join`: what a vault holds, and who can open it together.

A community's vault is locked for the public half of an identity (`generate --recipient age1...`)
and opens with the identity, or with enough of its shares. Left out: sending shares to members.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from loyal.app.report import Table
from loyal.app.terminal import Terminal, command, facts
from loyal.app.vaults import (
    FILE,
    OPENING_OPTIONS,
    VAULT_OPTION,
    Access,
    open_vault,
    outline,
    read_text,
    require_absent,
    rule_outline,
)
from loyal.encoding import atomic_write
from loyal.fingerprints import FingerprintSet, Identity, Vault
from loyal.fingerprints import custody as shares_of


@command("info", VAULT_OPTION, *OPENING_OPTIONS)
def info(terminal: Terminal, **options: Any) -> int:
    """Show what a vault holds, without its secrets."""
    vault = open_vault(options["vault"], Access.take(options))
    sets = [_describe(vault, one) for one in vault.sets.values()]
    rules = [
        {
            **rule_outline(one),
            "created": _date(one.created_seconds),
            "opened": _date(vault.opened[name]) if name in vault.opened else None,
        }
        for name, one in vault.rules.items()
    ]
    count = sum(one["count"] for one in sets)
    fields = {"path": str(vault.path), "count": count, "sets": sets, "rules": rules}
    tables = [facts(one, title=f"Set {one['id']}") for one in sets]
    tables += [facts(one, title=f"Rule {one['id']}") for one in rules]
    terminal.result(fields, tables or [facts(fields)])
    return 0


def _describe(vault: Vault, one: FingerprintSet) -> dict[str, Any]:
    spent = len(vault.spent(one.id))
    return {
        **outline(one),
        "host": one.host,
        "created": _date(one.created),
        "spent": spent,
        "unspent": len(one) - spent,
        **{f"setting_{name}": value for name, value in sorted(one.settings.items())},
    }


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@command(
    "split",
    click.option("--threshold", type=int, required=True, metavar="K", help="Shares that open."),
    click.option("--members", type=int, required=True, metavar="N", help="Shares to make."),
    click.option("--out", type=FILE, required=True, metavar="DIR", help="Folder for the shares."),
    click.option(
        "--identity-file",
        type=FILE,
        metavar="FILE",
        help="Split this identity; without it a new one, of which only the shares are kept.",
    ),
)
def split(terminal: Terminal, **options: Any) -> int:
    """Split an age identity into k-of-n shares.

    Each share file goes to one member. The printed recipient is public: lock a vault for it with
    'loyal fingerprint generate --recipient'.
    """
    source: Path | None = options["identity_file"]
    given = read_text(source, "--identity-file") if source else None
    identity = Identity.from_text(given) if given is not None else Identity.generate()
    shares = shares_of.split(identity, options["threshold"], options["members"])
    out: Path = options["out"]
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"share-{place}-of-{len(shares)}.txt" for place in range(1, len(shares) + 1)]
    require_absent(*paths)
    for path, share in zip(paths, shares, strict=True):
        atomic_write(path, f"{share}\n".encode(), private=True)
    terminal.note("give each member one file, and keep none: too few of them open nothing")
    fields = {
        "recipient": identity.recipient,
        "threshold": options["threshold"],
        "members": len(shares),
        "shares": [str(path) for path in paths],
    }
    rows = tuple((path.name, str(path)) for path in paths)
    terminal.result(fields, [facts(fields), Table("Shares", ("share", "file"), rows)])
    return 0


@command(
    "join",
    click.option(
        "--share",
        "shares",
        type=FILE,
        multiple=True,
        required=True,
        metavar="FILE",
        help="A share file; give as many as are needed.",
    ),
    click.option("--out", type=FILE, required=True, metavar="FILE", help="The identity file."),
)
def join(terminal: Terminal, **options: Any) -> int:
    """Bring shares together into the identity again.

    The file opens the vault alone: to open it once, pass the shares with --share instead.
    """
    out: Path = options["out"]
    require_absent(out)
    identity = shares_of.join([read_text(share, "--share") for share in options["shares"]])
    text = f"# public key: {identity.recipient}\n{identity.text}\n"
    atomic_write(out, text.encode(), private=True)
    terminal.result({"recipient": identity.recipient, "identity": str(out)})
    return 0
