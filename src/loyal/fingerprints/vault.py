"""The one place where fingerprints are kept: an encrypted file, with what was spent of them.

A vault holds sets by their id and a record of every key that was shown to somebody, when and why.
Lineage, usage and tracing sets lie apart: whoever asks names the kind, and never gets another.
Functional sets, rules, lie beside them; nothing of a rule is ever spent, but it is noted when keys
of one were first opened. Rules for one tokenizer avoid each other's words (`functional.together`).
A save locks the file's neighbor (`<name>.lock`), takes in what other processes saved meanwhile,
and replaces the file in one step, so no spent key is lost and a crash leaves the old or the new.

Left out on purpose: the file format (`sealed`), identities and shares (`custody`), and where a
passphrase comes from (the command line's). POSIX only, for the file lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from loyal import encoding
from loyal.errors import ModelError, StorageError, UsageError, VaultError
from loyal.fingerprints.fingerprint import Fingerprint, FingerprintSet, SetKind
from loyal.fingerprints.functional import FunctionalSet, require_apart, together
from loyal.fingerprints.records import (
    Payload,
    Spent,
    decode_payload,
    decode_rule,
    decode_set,
    encode_payload,
    encode_rule,
    encode_set,
    unreadable,
)
from loyal.fingerprints.sealed import Envelope, Lock, Unlock

MAX_REASON = 200


class Vault:
    """An open vault. Changes live in memory until `save`, except for `take`, which saves itself."""

    def __init__(self, path: Path, envelope: Envelope) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._envelope = envelope
        self._sets: dict[str, FingerprintSet] = {}
        self._bytes: dict[str, bytes] = {}
        self._spent: dict[str, dict[int, Spent]] = {}
        self._rules: dict[str, FunctionalSet] = {}
        self._opened: dict[str, int] = {}

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        fingerprints: FingerprintSet | FunctionalSet | None,
        lock: Lock,
    ) -> Vault:
        """A new file, mode 0600, locked by a passphrase or for recipients; empty without a set.

        Raises UsageError if something is at `path` already, StorageError if the disk refuses.
        """
        vault = cls(Path(path), Envelope.new(lock))
        if isinstance(fingerprints, FunctionalSet):
            vault.add_rule(fingerprints)
        elif fingerprints is not None:
            vault.add(fingerprints)
        with _locked(vault.path):
            if vault.path.exists():
                raise UsageError(
                    f"there is something at {vault.path} already",
                    hint="choose another path, or open that vault and add to it",
                )
            vault._write()
        return vault

    @classmethod
    def open(cls, path: str | os.PathLike[str], unlock: Unlock) -> Vault:
        """Raises UsageError (nothing there), WrongPassphrase, DamagedVault, VaultError."""
        data = _read(Path(path))
        vault = cls(Path(path), Envelope.open(data, unlock))
        vault._merge(vault._envelope.unseal(data))
        return vault

    @property
    def sets(self) -> Mapping[str, FingerprintSet]:
        """Set id -> set, oldest first; read only."""
        ordered = sorted(self._sets.items(), key=lambda item: (item[1].created, item[0]))
        return MappingProxyType(dict(ordered))

    def get(self, kind: SetKind, set_id: str | None = None) -> FingerprintSet:
        """The set with this id, or the only one of this kind; never one of another kind.

        Raises UsageError if there is none, or several and no id.
        """
        found = [name for name, one in self._sets.items() if one.kind == kind]
        if set_id is not None and set_id in found:
            return self._sets[set_id]
        if set_id is not None or len(found) != 1:
            raise UsageError(
                f"the vault has {len(found)} {kind} sets and cannot tell which is meant",
                hint=f"name one of: {', '.join(found)}" if found else f"generate a {kind} set",
            )
        return self._sets[found[0]]

    def add(self, fingerprints: FingerprintSet) -> str:
        """Put a new set in; gives its id. UsageError if the vault has it, or one of its keys."""
        if fingerprints.id in self._sets:
            raise UsageError("the vault has this set already", hint="use replace to change it")
        self._require_fresh(fingerprints)
        self._put(fingerprints, encode_set(fingerprints))
        return fingerprints.id

    def replace(self, fingerprints: FingerprintSet) -> None:
        """Take a set that went on: drawn, or assigned to its host.

        Raises UsageError if the vault has no set of this root, VaultError if the stored one has
        another beacon or host: both are settled once.
        """
        if fingerprints.id not in self._sets:
            raise UsageError("the vault has no set with this root", hint="use add for a new set")
        merged = _further(self._sets[fingerprints.id], fingerprints)
        self._put(merged, encode_set(merged))

    @property
    def rules(self) -> Mapping[str, FunctionalSet]:
        """Id -> functional set, oldest first, each with what it avoids; read only."""
        ordered = sorted(self._rules.items(), key=lambda item: (item[1].created_seconds, item[0]))
        groups: dict[str, list[FunctionalSet]] = {}
        for _, made in ordered:
            groups.setdefault(made.tokenizer_digest, []).append(made)
        found = {made.id: made for some in groups.values() for made in together(some)}
        return MappingProxyType({name: found[name] for name, _ in ordered})

    def add_rule(self, made: FunctionalSet) -> str:
        """Put a new rule in; gives its id. UsageError if the vault has it, or a rule for the same
        tokenizer with one of its words or with outcomes like its own."""
        if made.id in self._rules:
            raise UsageError("the vault has this rule already", hint="use replace_rule to draw it")
        _require_apart(made, self._rules.values())
        self._rules[made.id] = made
        return made.id

    @property
    def opened(self) -> Mapping[str, int]:
        """Id of each rule of which keys were opened -> when first, Unix seconds; read only."""
        return MappingProxyType(self._opened)

    def note_opened(self, rule_id: str, now: int) -> None:
        """Note that keys of a rule are opened at `now` (Unix seconds); the first time stays.
        UsageError for a rule that the vault lacks, or no time."""
        if rule_id not in self._rules or now < 0:
            raise UsageError(
                "a rule of the vault is opened at a time", hint="pass its id and unix seconds"
            )
        self._opened[rule_id] = min(now, self._opened.get(rule_id, now))

    def replace_rule(self, made: FunctionalSet) -> None:
        """Take a rule that was drawn. UsageError if the vault has none of this root, VaultError if
        the stored one has another beacon: it is drawn once."""
        if made.id not in self._rules:
            raise UsageError("the vault has no rule with this root", hint="use add_rule for it")
        self._rules[made.id] = _drawn(self._rules[made.id], made)

    def require_tokenizer(self, digest: str) -> None:
        """ModelError unless every set was made for the tokenizer with this SHA-256 (hex)."""
        every: dict[str, FingerprintSet | FunctionalSet] = {**self._sets, **self._rules}
        for name, one in every.items():
            if one.tokenizer_digest != digest:
                raise ModelError(
                    f"set {name} was made for {one.model}, and this model's tokenizer is another",
                    hint=f"pass {one.model} or a model that descends from it",
                )

    def spent(self, set_id: str) -> tuple[Spent, ...]:
        """What was spent of a set, by place in it. UsageError if there is no such set."""
        self._require(set_id)
        return tuple(spent for _, spent in sorted(self._spent[set_id].items()))

    def unspent(self, kind: SetKind, set_id: str | None = None) -> tuple[Fingerprint, ...]:
        """The fingerprints of one set (see `get`) that were never shown, in the set's order."""
        chosen = self.get(kind, set_id)
        spent = self._spent[chosen.id]
        return tuple(one for i, one in enumerate(chosen.fingerprints) if i not in spent)

    def spend(self, set_id: str, keys: Iterable[str], now: int, reason: str) -> None:
        """Note that keys were shown at `now` (unix seconds). All of them, or none on an error.

        UsageError for a key that the set lacks, VaultError for one that is spent already. Another
        process may spend the same key before `save`; `take` rules that out.
        """
        chosen = self._require(set_id)
        if now < 0 or not 0 < len(reason) <= MAX_REASON:
            raise UsageError(
                "a spent key needs a time and a reason",
                hint=f"pass unix seconds and at most {MAX_REASON} characters",
            )
        places = [chosen.positions.get(key.strip(), -1) for key in keys]
        if -1 in places:
            raise UsageError("the set has no such key", hint="pass keys of this very set")
        if len(set(places)) != len(places) or self._spent[set_id].keys() & set(places):
            raise VaultError(
                "a key is spent already, and a key is asked once", hint="take an unspent one"
            )
        self._spent[set_id].update({i: Spent(i, now, reason) for i in places})

    def take(
        self, kind: SetKind, count: int, now: int, reason: str, set_id: str | None = None
    ) -> tuple[Fingerprint, ...]:
        """Spend the next `count` unspent fingerprints of a set, save, and hand them out.

        No two processes ever get the same one. VaultError if fewer are left; nothing is spent then.
        """
        if count < 1:
            raise UsageError("nothing is asked for", hint="take one or more")
        with _locked(self.path):
            self._refresh()
            left = self.unspent(kind, set_id)
            if len(left) < count:
                raise VaultError(
                    f"{len(left)} unspent fingerprints are left, {count} are asked for",
                    hint="ask for fewer, or generate and inject a new set",
                )
            taken = left[:count]
            self.spend(self.get(kind, set_id).id, (one.key for one in taken), now, reason)
            self._write()
        return taken

    def save(self) -> None:
        """Write the file, having taken in what others saved since. The lock is not computed anew.

        Raises VaultError if another process settled a set differently, StorageError if the disk
        refuses; the old file is then intact.
        """
        with _locked(self.path):
            self._refresh()
            self._write()

    def __repr__(self) -> str:
        pairs = sum(map(len, self._sets.values()))
        return f"Vault({len(self._sets)} sets, {pairs} fingerprints, {len(self._rules)} rules)"

    def _require(self, set_id: str) -> FingerprintSet:
        if set_id not in self._sets:
            raise UsageError(
                "the vault has no such set", hint=f"its sets: {', '.join(self._sets) or 'none'}"
            )
        return self._sets[set_id]

    def _require_fresh(self, fingerprints: FingerprintSet) -> None:
        if any(fingerprints.positions.keys() & one.positions.keys() for one in self._sets.values()):
            raise UsageError(
                "another set in the vault has one of these keys",
                hint="generate fresh keys: a key serves in one set only",
            )

    def _put(self, fingerprints: FingerprintSet, data: bytes) -> None:
        self._sets[fingerprints.id] = fingerprints
        self._bytes[fingerprints.id] = data
        self._spent.setdefault(fingerprints.id, {})

    def _write(self) -> None:
        spent = {name: self.spent(name) for name in self._sets}
        rules = {name: encode_rule(made) for name, made in self._rules.items()}
        data = self._envelope.seal(encode_payload(Payload(self._bytes, spent, rules, self._opened)))
        encoding.atomic_write(self.path, data, private=True)

    def _refresh(self) -> None:
        """Take in the file as it is now; one that was moved away is written anew."""
        if self.path.exists():
            self._merge(self._envelope.unseal(_read(self.path)))

    def _merge(self, payload: bytes) -> None:
        """Join a stored payload into memory: all sets of both, all spent keys, earliest record."""
        stored = decode_payload(payload)
        for name, data in stored.sets.items():
            if self._bytes.get(name) == data:
                continue
            theirs = decode_set(data)
            if theirs.id != name:
                raise unreadable()
            mine = self._sets.get(name)
            if mine is None:
                self._require_fresh(theirs)
                self._put(theirs, data)
            else:
                merged = _further(mine, theirs)
                self._put(merged, encode_set(merged))
        new = [rule for name, rule in self._rules.items() if name not in stored.rules]
        for name, data in stored.rules.items():
            rule = decode_rule(data)
            if rule.id != name:
                raise unreadable()
            if name not in self._rules:
                _require_apart(rule, new)
            self._rules[name] = _drawn(self._rules.get(name, rule), rule)
        for name, when in stored.opened.items():
            self.note_opened(name, when)
        for name, records in stored.spent.items():
            if any(one.index not in range(len(self._sets.get(name, ()))) for one in records):
                raise unreadable()
            known = self._spent[name]
            for one in records:
                known[one.index] = min(one, known.get(one.index, one), key=lambda it: it.when)


def _require_apart(made: FunctionalSet, others: Iterable[FunctionalSet]) -> None:
    """UsageError where a rule for the same tokenizer has a word or an outcome of this one."""
    digest = made.tokenizer_digest
    require_apart(made, [one for one in others if one.tokenizer_digest == digest])


def _drawn(mine: FunctionalSet, theirs: FunctionalSet) -> FunctionalSet:
    """The one of two states of a rule that is drawn; VaultError if they were drawn differently."""
    if mine.drawn and theirs.drawn and mine.beacon != theirs.beacon:
        raise VaultError(
            f"rule {mine.id} already has another beacon",
            hint="open the vault again; a rule is drawn once",
        )
    return mine if mine.drawn else theirs


def _further(mine: FingerprintSet, theirs: FingerprintSet) -> FingerprintSet:
    """The state of a set after both; VaultError if they settled it differently."""
    for a, b in ((mine.beacon, theirs.beacon), (mine.host, theirs.host)):
        if a is not None and b is not None and a != b:
            raise VaultError(
                f"set {mine.id} already has another beacon or host",
                hint="open the vault again; a set is drawn and assigned once",
            )
    drawn = mine if mine.drawn else theirs
    return replace(drawn, host=mine.host or theirs.host)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the vault's lock file, waiting for whoever holds it. It is never removed: another
    process may be waiting on that very file."""
    try:
        target = Path(os.path.realpath(path))
        lock = target.with_name(target.name + ".lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"cannot lock {path}: {error.strerror}", hint="choose a folder that you may write to"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"there is no vault at {path}", hint="check the path, or generate one"
        ) from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder", hint="name the vault file in it") from None
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}", hint="check the file's permissions"
        ) from None
