"""The plain records inside a vault, as canonical CBOR. Plain: nothing here may be written as it is.

Two levels: the payload holds each set, and each rule, as bytes of its own, so a save re-encodes
nothing that did not change. Picks and colors are not stored: the beacon gives them again; nor which
nouns a rule avoids: the rules beside it say so. A vault without rules is written as before there
were any. Left out on purpose: sealing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from loyal import encoding
from loyal.errors import DamagedVault, LoyalError, VaultError
from loyal.fingerprints.fingerprint import (
    Beacon,
    BeaconSource,
    Fingerprint,
    FingerprintSet,
    SetKind,
    draw,
)
from loyal.fingerprints.functional import FunctionalSet, Rule, Word
from loyal.fingerprints.functional import draw as draw_colors

PAYLOAD_VERSION = 1
RULES_VERSION = 2
"""Of a payload that holds rules too."""
OPENED_VERSION = 3
"""Of one that says which rules were opened as well."""
RULE_VERSION = 2
"""Of a functional set; its rows are [noun, salt, place among the marked or None]."""
SET_VERSION = 1
"""Of a set where each key has one response, its rows [key, candidates, salt, tag]."""
SEVERAL_VERSION = 2
"""Of a set where a key has more; its rows end in the number of responses."""

SHARED_VERSION = 3
"""Of a set that shares one draw; its rows are those of version 1."""

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """One key that was shown to somebody and is never asked again. Holds its place, not the key."""

    index: int
    """Place of the fingerprint in its set."""
    when: int
    """Unix seconds."""
    reason: str
    """Why; for instance "check of https://..."."""


@dataclass(frozen=True, repr=False)
class Payload:
    """What a vault's content says."""

    sets: Mapping[str, bytes]
    """Set id -> record of the set (see `decode_set`)."""
    spent: Mapping[str, tuple[Spent, ...]]
    """Set id -> what was spent of it, by place."""
    rules: Mapping[str, bytes] = field(default_factory=dict)
    """Id of a functional set -> its record (see `decode_rule`). Nothing of it is ever spent."""
    opened: Mapping[str, int] = field(default_factory=dict)
    """Id of a functional set of which keys were opened -> when first, Unix seconds."""


def encode_payload(payload: Payload) -> bytes:
    """Law: decode_payload(encode_payload(payload)) == payload, if only rules in it were opened."""
    spent: dict[str, encoding.Encodable] = {
        name: [[one.index, one.when, one.reason] for one in records]
        for name, records in payload.spent.items()
    }
    record: dict[str, encoding.Encodable] = {"sets": payload.sets, "spent": spent}
    if payload.rules:
        record["rules"] = payload.rules
        if payload.opened:
            record["opened"] = payload.opened
        version = OPENED_VERSION if payload.opened else RULES_VERSION
        return encoding.encode({**record, "version": version})
    return encoding.encode({**record, "version": PAYLOAD_VERSION})


def decode_payload(data: bytes) -> Payload:
    """Raises VaultError for another version, DamagedVault for anything else that is no payload."""
    return _decoded(data, (PAYLOAD_VERSION, RULES_VERSION, OPENED_VERSION), _payload)


def encode_set(fingerprints: FingerprintSet) -> bytes:
    """Law: decode_set(encode_set(fingerprints)) == fingerprints."""
    beacon = fingerprints.beacon
    several = any(one.count > 1 for one in fingerprints.fingerprints)
    version = SEVERAL_VERSION if several else SET_VERSION
    version = SHARED_VERSION if fingerprints.shared else version
    return encoding.encode(
        {
            "version": version,
            "kind": fingerprints.kind,
            "strategy": fingerprints.strategy,
            "model": fingerprints.model,
            "tokenizer_digest": fingerprints.tokenizer_digest,
            "created": fingerprints.created,
            "owner_secret": fingerprints.owner_secret,
            "beacon": None if beacon is None else [beacon.value, beacon.source],
            "host": fingerprints.host,
            "settings": fingerprints.settings,
            "fingerprints": [
                [one.key, one.candidates, one.salt, one.tag, *((one.count,) if several else ())]
                for one in fingerprints.fingerprints
            ],
        }
    )


def decode_set(data: bytes) -> FingerprintSet:
    """Raises VaultError for another version, DamagedVault for anything else that is no set."""
    return _decoded(data, (SET_VERSION, SEVERAL_VERSION, SHARED_VERSION), _set)


def encode_rule(made: FunctionalSet) -> bytes:
    """Law: decode_rule(encode_rule(made)) == made."""
    beacon = made.beacon
    return encoding.encode(
        {
            "version": RULE_VERSION,
            "rule": made.rule,
            "outcomes": made.outcomes,
            "words": [[one.text, one.salt, one.place] for one in made.words],
            "model": made.model,
            "tokenizer_digest": made.tokenizer_digest,
            "created": made.created_seconds,
            "beacon": None if beacon is None else [beacon.value, beacon.source],
        }
    )


def decode_rule(data: bytes) -> FunctionalSet:
    """Raises VaultError for another version, DamagedVault for anything else that is no rule, or is
    one over another list of nouns."""
    return _decoded(data, (RULE_VERSION,), _rule)


def unreadable() -> DamagedVault:
    """The error for content that decrypts but is not what loyal writes."""
    return DamagedVault(
        "the vault's content is not what loyal writes",
        hint="open it with the version of loyal that wrote it, or restore it from a copy",
    )


def _decoded(
    data: bytes, versions: tuple[int, ...], read: Callable[[dict[str, encoding.Value]], T]
) -> T:
    try:
        record = encoding.decode(data)
        if not isinstance(record, dict):
            raise unreadable()
        if type(record["version"]) is int and record["version"] not in versions:
            raise VaultError(
                f"the vault holds a record of version {record['version']}, this loyal reads "
                f"{versions[-1]}",
                hint="upgrade loyal",
            )
        return read(record)
    except VaultError:
        raise
    except (LoyalError, KeyError, TypeError, ValueError, AttributeError):
        raise unreadable() from None


def _payload(record: dict[str, encoding.Value]) -> Payload:
    sets = cast("dict[str, bytes]", record["sets"])
    spent = cast("dict[str, list[tuple[int, int, str]]]", record["spent"])
    version = cast(int, record["version"])
    rules = cast("dict[str, bytes]", record["rules"] if version >= RULES_VERSION else {})
    opened = cast("dict[str, int]", record["opened"] if version >= OPENED_VERSION else {})
    if not all(type(one) is bytes for one in (*sets.values(), *rules.values())):
        raise unreadable()
    if not all(name in rules and type(when) is int for name, when in opened.items()):
        raise unreadable()
    shown = {name: tuple(Spent(*row) for row in rows) for name, rows in spent.items()}
    return Payload(dict(sets), shown, dict(rules), dict(opened))


def _set(record: dict[str, encoding.Value]) -> FingerprintSet:
    rows = cast("list[list[encoding.Value]]", record["fingerprints"])
    fields = 5 if record["version"] == SEVERAL_VERSION else 4
    if any(len(row) != fields for row in rows):
        raise unreadable()
    undrawn = FingerprintSet(
        kind=cast(SetKind, record["kind"]),
        strategy=cast(str, record["strategy"]),
        model=cast(str, record["model"]),
        tokenizer_digest=cast(str, record["tokenizer_digest"]),
        fingerprints=tuple(
            Fingerprint(
                cast(str, row[0]),
                tuple(cast("list[str]", row[1])),
                cast(bytes, row[2]),
                cast(bytes, row[3]),
                count=cast(int, row[4]) if fields == 5 else 1,
                shared=record["version"] == SHARED_VERSION,
            )
            for row in rows
        ),
        created=cast(int, record["created"]),
        owner_secret=cast(bytes, record["owner_secret"]),
        host=cast("str | None", record["host"]),
        settings=cast("dict[str, str | int]", record["settings"]),
    )
    if record["beacon"] is None:
        return undrawn
    value, source = cast("tuple[bytes, BeaconSource]", record["beacon"])
    return draw(undrawn, Beacon(value, source))


def _rule(record: dict[str, encoding.Value]) -> FunctionalSet:
    rows = cast("list[tuple[str, bytes, int | None]]", record["words"])
    beacon = cast("tuple[bytes, BeaconSource] | None", record["beacon"])
    kinds = ([str, bytes, int], [str, bytes, type(None)])
    if any([type(one) for one in row] not in kinds for row in rows):
        raise unreadable()
    made = FunctionalSet(
        rule=cast(Rule, record["rule"]),
        outcomes=tuple(cast("list[str]", record["outcomes"])),
        words=tuple(Word(*row) for row in rows),
        model=cast(str, record["model"]),
        tokenizer_digest=cast(str, record["tokenizer_digest"]),
        created_seconds=cast(int, record["created"]),
    )
    return made if beacon is None else draw_colors(made, Beacon(*beacon))
