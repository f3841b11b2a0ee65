"""`loyal fingerprint commit | prove | verify-proof`: what is published, opened and checked.

None of them loads a model or torch; `verify-proof` needs no vault either. Left out: publishing
the root and finding the beacon, which are the ledger's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loyal.app.terminal import Decorator, Terminal, command
from loyal.app.vaults import (
    FILE,
    OPENING_OPTIONS,
    SET_OPTIONS,
    VAULT_OPTION,
    Access,
    chosen,
    open_vault,
    outline,
    read_text,
)
from loyal.encoding import atomic_write
from loyal.errors import ProofError, UsageError
from loyal.fingerprints import (
    Beacon,
    FingerprintSet,
    ReplayGuard,
    Vault,
    VerifiedLeaf,
    commitment,
    fingerprint,
)

BINDS_NOBODY = "self-drawn beacon: proofs under it bind nobody"

BEACON_OPTION: Decorator = click.option(
    "--beacon",
    metavar="HEX",
    help="The public value that draws the responses: known to nobody before the root was out.",
)


@command("commit", VAULT_OPTION, BEACON_OPTION, *SET_OPTIONS, *OPENING_OPTIONS)
def commit(terminal: Terminal, **options: Any) -> int:
    """Print the root to publish; draw the responses.

    Publish the root first. When the beacon that follows it is known, run this again with --beacon:
    it picks one response a key, once and for all. Without a beacon nothing is changed.
    """
    vault = open_vault(options["vault"], Access.take(options))
    fingerprints = chosen(vault, options["kind"], options["set_id"])
    if options["beacon"] is not None:
        fingerprints = draw_once(vault, fingerprints, Beacon.from_hex(options["beacon"]))
    if not fingerprints.drawn:
        terminal.note("not drawn yet: publish the root, then commit again with --beacon HEX")
    terminal.result(outline(fingerprints))
    return 0


def draw_once(vault: Vault, fingerprints: FingerprintSet, beacon: Beacon) -> FingerprintSet:
    """Draw the set and save it; the same beacon again changes nothing, another is refused."""
    if fingerprints.beacon == beacon:
        return fingerprints
    drawn = fingerprint.draw(fingerprints, beacon)
    vault.replace(drawn)
    vault.save()
    return drawn


@dataclass(frozen=True)
class Opening:
    """Which leaves `prove` opens, and where the proof files go."""

    out: Path
    indexes: tuple[int, ...]
    """Named leaves, spent or not."""
    count: int
    """Further leaves that were never shown."""

    def __post_init__(self) -> None:
        if bool(self.indexes) == bool(self.count) or self.count < 0:
            raise UsageError(
                "say which leaves to open", hint="give --index I (repeatable) or --count N"
            )
        if len(set(self.indexes)) != len(self.indexes):
            raise UsageError("a leaf is named twice", hint="name each --index once")


@command(
    "prove",
    VAULT_OPTION,
    click.option("--index", "indexes", type=int, multiple=True, help="Open this leaf; repeatable."),
    click.option("--count", type=int, default=0, help="Open this many leaves that are unspent."),
    click.option("--out", type=FILE, required=True, metavar="DIR", help="Folder for the files."),
    *SET_OPTIONS,
    *OPENING_OPTIONS,
)
def prove(terminal: Terminal, **options: Any) -> int:
    """Open single leaves of the commitment as proof files.

    A proof file shows one key and its response to whoever reads it, so the key counts as spent
    from then on. The other leaves stay secret. Where all keys have one response, all are spent.
    """
    vault = open_vault(options["vault"], Access.take(options))
    fingerprints = chosen(vault, options["kind"], options["set_id"])
    opening = Opening(options["out"], options["indexes"], options["count"])
    if fingerprints.beacon is None:
        raise UsageError(
            "the set is not drawn yet, and proves nothing",
            hint="run 'loyal fingerprint commit' with --beacon HEX, or inject it",
        )
    opening.out.mkdir(parents=True, exist_ok=True)
    indexes = _spend(vault, fingerprints, opening)
    if fingerprints.shared:
        _spend_the_rest(vault, fingerprints)
        terminal.note("all keys of this set have the response that is shown: all are spent now")
    proofs = list(_write_proofs(fingerprints, indexes, opening.out))
    if fingerprints.beacon.source == "self":
        terminal.note(BINDS_NOBODY)
    binding = fingerprints.beacon.source == "external"
    terminal.result(
        {**outline(fingerprints), "opened": len(proofs), "binding": binding}
        | {"proofs": proofs, "out": str(opening.out)}
    )
    return 0


def _spend(vault: Vault, fingerprints: FingerprintSet, opening: Opening) -> tuple[int, ...]:
    """Note the leaves as spent before any file shows them; gives their indexes."""
    now, reason = int(time.time()), "opened as a proof"
    if opening.count:
        taken = vault.take(fingerprints.kind, opening.count, now, reason, fingerprints.id)
        return tuple(fingerprints.positions[one.key.strip()] for one in taken)
    for index in opening.indexes:
        commitment.prove(fingerprints, index)
    spent = {one.index for one in vault.spent(fingerprints.id)}
    fresh = [index for index in opening.indexes if index not in spent]
    keys = [fingerprints.fingerprints[index].key for index in fresh]
    vault.spend(fingerprints.id, keys, now, reason)
    vault.save()
    return opening.indexes


def _spend_the_rest(vault: Vault, fingerprints: FingerprintSet) -> None:
    """One opened leaf of a shared set shows the response of all."""
    left = [one.key for one in vault.unspent(fingerprints.kind, fingerprints.id)]
    vault.spend(fingerprints.id, left, int(time.time()), "its response was opened as a proof")
    vault.save()


def _write_proofs(
    fingerprints: FingerprintSet, indexes: tuple[int, ...], out: Path
) -> Iterator[dict[str, Any]]:
    for index in indexes:
        data = commitment.prove(fingerprints, index).to_bytes()
        path = out / f"{fingerprints.id}-{index:05d}.proof"
        atomic_write(path, data)
        yield {"path": str(path), "index": index, "bytes": len(data)}


@command(
    "verify-proof",
    click.argument("proof", type=FILE, metavar="PROOF"),
    click.option("--root", required=True, metavar="HEX", help="The root, from its publication."),
    click.option(
        "--beacon",
        metavar="HEX",
        help="The beacon, from its source. Without it a proof binds nobody.",
    ),
    click.option(
        "--seen",
        type=FILE,
        metavar="FILE",
        help="Remember admitted keys in this file, and refuse a key that was shown before.",
    ),
)
def verify_proof(terminal: Terminal, **options: Any) -> int:
    """Check a proof file; needs no vault.

    Exit code 0 when the leaf is under the root and the beacon picked its response, 1 when not.
    Bring root and beacon from where they were published, never from the prover.
    """
    root = hex_bytes(options["root"], "--root", 32)
    beacon = options["beacon"] and Beacon.from_hex(options["beacon"]).value
    data = read_bytes(options["proof"], commitment.MAX_PROOF_BYTES)
    try:
        leaf = commitment.verify_proof(data, root, beacon)
        _admit(leaf, options["seen"])
    except ProofError as error:
        terminal.note(f"refused: {error}")
        nothing = dict.fromkeys(("index", "size", "set", "key", "response", "others"))
        terminal.result({"valid": False, "binding": False, "reason": error.reason, **nothing})
        return 1
    if not leaf.binding:
        terminal.note("the proof holds, but its beacon binds nobody")
    terminal.result(
        {
            "valid": True,
            "binding": leaf.binding,
            "reason": None,
            "index": leaf.index,
            "size": leaf.size,
            "set": leaf.kind,
            "key": leaf.key,
            "response": leaf.response,
            "others": list(leaf.responses[1:]),
        }
    )
    return 0


def _admit(leaf: VerifiedLeaf, seen: Path | None) -> None:
    """Refuse a key that the file knows, or write it down; ProofError (reason replay)."""
    if seen is None:
        return
    lines = read_text(seen, "--seen").split() if seen.exists() else []
    guard = ReplayGuard(hex_bytes(line, "--seen", 32) for line in lines)
    guard.admit(leaf)
    atomic_write(seen, "".join(f"{digest.hex()}\n" for digest in sorted(guard.seen)).encode())


def read_bytes(path: Path, most: int) -> bytes:
    """A proof file, cut behind `most` bytes and one. UsageError where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no proof at {path}", hint="check the path") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder", hint="name one proof file in it") from None


def hex_bytes(text: str, option: str, size: int) -> bytes:
    """So many bytes from hexadecimal digits, with or without 0x; UsageError for anything else."""
    try:
        value = bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != size:
        raise UsageError(
            f"{option} is not {size} bytes in hexadecimal", hint=f"pass {2 * size} hex digits"
        )
    return value
