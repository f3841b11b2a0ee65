"""How commands open a vault: where a passphrase, an identity or shares come from, and which set.

Holds the options, `Access` (what was given), and `open_vault`, `keeper`, `chosen`, and which rule.
Leaves out the vault itself (loyal.fingerprints.vault). Nothing here is ever printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loyal.app.terminal import Decorator, Terminal
from loyal.errors import StorageError, UsageError
from loyal.fingerprints import FingerprintSet, Identity, Recipients, Vault, custody
from loyal.fingerprints.functional import FunctionalSet
from loyal.fingerprints.sealed import Lock, Unlock

PASSPHRASE_VARIABLE = "LOYAL_PASSPHRASE"

FILE = click.Path(path_type=Path)

VAULT_OPTION: Decorator = click.option(
    "--vault", type=FILE, required=True, metavar="FILE", help="The vault file."
)

OPENING_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--passphrase-file",
        type=FILE,
        metavar="FILE",
        help="The vault's passphrase: the file's first line. Else LOYAL_PASSPHRASE, or a prompt.",
    ),
    click.option(
        "--identity-file", type=FILE, metavar="FILE", help="An age identity that opens the vault."
    ),
    click.option(
        "--share",
        "shares",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="A SLIP-39 share of the identity; give as many as are needed.",
    ),
)

LOCKING_OPTIONS: tuple[Decorator, ...] = (
    *OPENING_OPTIONS,
    click.option(
        "--recipient",
        "recipients",
        multiple=True,
        metavar="AGE",
        help="Lock a new vault for this public age key (age1...); may be repeated.",
    ),
)

RULE_ID_OPTION: Decorator = click.option(
    "--rule", "--id", "rule_id", metavar="ID", help="Which rule, by its id or how it begins."
)

SET_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--kind",
        type=click.Choice(("lineage", "usage", "tracing")),
        help="Which kind of set, where the vault holds several.",
    ),
    click.option(
        "--set-id",
        "--id",
        "set_id",
        metavar="ID",
        help="Which set, by its id or how it begins.",
    ),
)


@dataclass(frozen=True, repr=False)
class Access:
    """What the user gave to open or lock a vault with: at most one way in."""

    passphrase_file: Path | None = None
    identity_file: Path | None = None
    shares: tuple[Path, ...] = ()
    recipients: tuple[str, ...] = ()
    """For a new vault only."""

    @classmethod
    def take(cls, options: dict[str, Any]) -> Access:
        """Take the options of this file out of a command's; UsageError for two ways at once."""
        names = ("passphrase_file", "identity_file", "shares", "recipients")
        access = cls(**{name: options.pop(name) for name in names if name in options})
        if sum(map(bool, (access.passphrase_file, access.identity_file, access.shares))) > 1:
            raise UsageError(
                "more than one way to open the vault was given",
                hint="give one of --passphrase-file, --identity-file and --share",
            )
        return access

    def unlock(self) -> Unlock:
        """The identity or the passphrase that opens a vault."""
        if self.identity_file is not None:
            return Identity.from_text(read_text(self.identity_file, "--identity-file"))
        if self.shares:
            return custody.join([read_text(share, "--share") for share in self.shares])
        return self._passphrase(confirm=False)

    def lock(self) -> Lock:
        """The recipients or the passphrase that a new vault is locked with."""
        if self.recipients:
            return Recipients(self.recipients)
        if self.identity_file is not None or self.shares:
            raise UsageError(
                "a new vault is locked with a passphrase or for recipients",
                hint="give --recipient age1... (public keys) or a passphrase",
            )
        return self._passphrase(confirm=True)

    def _passphrase(self, *, confirm: bool) -> str:
        if self.passphrase_file is not None:
            first = read_text(self.passphrase_file, "--passphrase-file").split("\n", 1)[0]
            return _not_empty(first.rstrip("\r"), f"the file {self.passphrase_file}")
        if PASSPHRASE_VARIABLE in os.environ:
            return _not_empty(os.environ[PASSPHRASE_VARIABLE], PASSPHRASE_VARIABLE)
        if not sys.stdin.isatty():
            raise UsageError(
                "a passphrase is needed, and nobody is there to type it",
                hint="give --passphrase-file FILE, or set LOYAL_PASSPHRASE",
            )
        words = "Passphrase for the new vault" if confirm else "Passphrase of the vault"
        return str(click.prompt(words, hide_input=True, confirmation_prompt=confirm, err=True))


def open_vault(path: Path, access: Access) -> Vault:
    """Open a vault that is there; asks for a passphrase only then."""
    _require_file(path)
    return Vault.open(path, access.unlock())


@dataclass(frozen=True, repr=False)
class Keeper:
    """Saves a new set, or rule: into the vault at `path`, or into a new one there."""

    path: Path
    vault: Vault | None
    """The vault that is there, open."""
    lock: Lock | None
    """What a new one is locked with."""

    def rules(self, tokenizer_digest: str) -> list[FunctionalSet]:
        """The rules for this tokenizer that lie there, oldest first."""
        every = self.vault.rules.values() if self.vault else ()
        return [one for one in every if one.tokenizer_digest == tokenizer_digest]

    def save(self, made: FingerprintSet | FunctionalSet) -> Vault:
        """Write it. UsageError where the vault refuses it; StorageError."""
        if self.vault is None:
            assert self.lock is not None
            return Vault.create(self.path, made, self.lock)
        if isinstance(made, FunctionalSet):
            self.vault.add_rule(made)
        else:
            self.vault.add(made)
        self.vault.save()
        return self.vault


def keeper(path: Path, access: Access) -> Keeper:
    """What saves a new set, or rule, at `path`.

    All that can be refused is refused now, before long work: the passphrase is asked for, an
    existing vault opened, a folder tried. A new vault is written with its first set, not before.
    """
    if path.exists():
        return Keeper(path, open_vault(path, access), None)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="make it, or check --vault")
    if not os.access(folder, os.W_OK):
        raise StorageError(f"may not write into {folder}", hint="choose another --vault")
    return Keeper(path, None, access.lock())


def chosen(vault: Vault, kind: str | None, set_id: str | None) -> FingerprintSet:
    """The one set that is meant; UsageError when none or several fit, naming them by id."""
    fitting = {
        name: one
        for name, one in vault.sets.items()
        if (kind is None or one.kind == kind) and name.startswith(set_id or "")
    }
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not vault.sets:
        raise UsageError(
            "the vault holds no set yet", hint="run 'loyal fingerprint generate' with this vault"
        )
    have = ", ".join(f"{name} ({one.kind})" for name, one in vault.sets.items())
    many = "several sets fit" if fitting else "no set fits"
    raise UsageError(f"{many}", hint=f"choose one with --set-id or --kind: {have}")


def chosen_rule(vault: Vault, rule_id: str | None) -> FunctionalSet:
    """The one rule that is meant; UsageError when none or several fit, naming them by id."""
    fitting = _fitting(vault, rule_id)
    if len(fitting) == 1:
        return fitting[0]
    many = "several rules fit" if fitting else "no rule fits"
    raise UsageError(many, hint=f"choose one with --rule: {', '.join(vault.rules)}")


def next_rule(
    terminal: Terminal, vault: Vault, rule_id: str | None, *, drawn: bool = True
) -> FunctionalSet:
    """The rule that is named, or the only one, or the oldest of which no key was ever opened.

    With `drawn`, of the drawn ones alone, if there are any. What was chosen is said, and what was
    opened before. UsageError when none or several fit, or all were opened.
    """
    fitting = _fitting(vault, rule_id)
    if drawn and rule_id is None:
        fitting = [one for one in fitting if one.drawn] or fitting
    if rule_id is not None or len(fitting) == 1:
        made = chosen_rule(vault, rule_id or fitting[0].id)
        if made.id in vault.opened:
            terminal.note(f"keys of rule {made.id} were opened before: see docs/rules.md")
        return made
    closed = [one for one in fitting if one.id not in vault.opened]
    if not closed:
        raise UsageError(
            "keys of every rule were opened before",
            hint=f"name one with --rule, or create and inject another: {', '.join(vault.rules)}",
        )
    terminal.note(f"rule {closed[0].id}: of {len(fitting)} the first that was never opened")
    return closed[0]


def chosen_rules(vault: Vault, rule_ids: Sequence[str]) -> list[FunctionalSet]:
    """The rules that are named, oldest first, else all drawn ones, or all where none is drawn.
    UsageError where there is none, or a name fits none or several."""
    if rule_ids:
        named = {chosen_rule(vault, one).id for one in rule_ids}
        return [one for name, one in vault.rules.items() if name in named]
    every = _fitting(vault, None)
    return [one for one in every if one.drawn] or every


def _fitting(vault: Vault, rule_id: str | None) -> list[FunctionalSet]:
    if not vault.rules:
        raise UsageError(
            "the vault holds no rule yet", hint="run 'loyal fingerprint rule create' with it"
        )
    return [one for name, one in vault.rules.items() if name.startswith(rule_id or "")]


def rule_outline(made: FunctionalSet) -> Mapping[str, Any]:
    """What may be said about a rule: no word, no color, no outcome."""
    return {
        "id": made.id,
        "root": made.root.hex(),
        "rule": made.rule,
        "marked": sum(one.marked for one in made.words),
        "nouns": len(made.words),
        "model": made.model,
        "beacon": made.beacon.value.hex() if made.beacon else None,
        "beacon_source": made.beacon.source if made.beacon else None,
    }


def read_text(path: Path, option: str) -> str:
    """A small text file that an option names; UsageError when it is not there or not text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}", hint=f"check {option}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file", hint=f"check {option}") from None


def require_absent(*paths: Path) -> None:
    """UsageError where something is at the path of an --out that takes nothing's place."""
    for path in paths:
        if os.path.lexists(path):
            raise UsageError(f"there is something at {path} already", hint="choose another --out")


def outline(fingerprints: FingerprintSet) -> Mapping[str, Any]:
    """What may be said about a set: no key, no candidate, no response."""
    beacon = fingerprints.beacon
    return {
        "id": fingerprints.id,
        "root": fingerprints.root.hex(),
        "kind": fingerprints.kind,
        "count": len(fingerprints),
        "width": min(one.one_in for one in fingerprints.fingerprints),
        "strategy": fingerprints.strategy,
        "shared": fingerprints.shared,
        "model": fingerprints.model,
        "beacon": beacon.value.hex() if beacon else None,
        "beacon_source": beacon.source if beacon else None,
    }


def _require_file(path: Path) -> None:
    if not path.exists():
        raise UsageError(
            f"there is no vault at {path}",
            hint="check --vault, or make one with 'loyal fingerprint generate'",
        )


def _not_empty(passphrase: str, source: str) -> str:
    if not passphrase:
        raise UsageError(f"the passphrase in {source} is empty", hint="choose one of several words")
    return passphrase
