"""What differs between SQLite and PostgreSQL, each as one value: how to make sure that a commit
lasts, how to let one writer in, and how to write and find many rows at once.

The few statements of the hot path are written out and run on the driver's own connection: compiling
them through SQLAlchemy costs more than they do.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from loyal.errors import StorageError
from loyal.roles import Change, GivenReceipt, Name

LOCK_SECONDS = 30
"""How long a writer waits for another one."""
_ADVISORY = 0x6C6F79616C
"""The number of PostgreSQL's advisory lock, one a database: `loyal` in ASCII."""

Cursor = Any
"""A DB-API cursor of either driver."""


@dataclass(frozen=True)
class Dialect:
    """How one kind of database is used."""

    connected: Callable[[Any, bool], None]
    """Set a new driver connection up; with False, commits need not last (for measuring only)."""
    check: Callable[[Any], None]
    """StorageError if a commit on this driver connection would not be durable."""
    begin: str
    """Begins a transaction that no other writer has beside it."""
    write: Callable[[Cursor, Change], None]
    """Insert a change's rows."""
    find: Callable[[Cursor, Iterable[Name]], list[GivenReceipt]]
    """The receipts under these names."""


LENGTH = "SELECT COALESCE(MAX(place) + 1, 0) FROM entries"
HEADS = f"SELECT ({LENGTH}), (SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1)"


def _sqlite_connected(driver: Any, durable: bool) -> None:
    driver.isolation_level = None  # transactions begin where we say so
    cursor = driver.cursor()
    _sqlite_wal(cursor)
    cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
    cursor.execute("PRAGMA fullfsync=ON")  # macOS: a plain fsync stops at the drive's cache
    cursor.execute("PRAGMA checkpoint_fullfsync=ON")
    cursor.execute("PRAGMA wal_autocheckpoint=4000")  # 16 MiB: fewer flushes of the database
    cursor.execute("PRAGMA cache_size=-65536")  # 64 MiB: the index of many receipts stays in
    cursor.close()


def _sqlite_wal(cursor: Cursor) -> None:
    """The write-ahead log. Of several who open a new database at once, SQLite tells all but one at
    once that it is locked, whatever the time to wait: it fears that they wait for one another."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _sqlite_check(driver: Any) -> None:
    cursor = driver.cursor()
    mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
    level = cursor.execute("PRAGMA synchronous").fetchone()[0]
    cursor.close()
    if mode != "wal" or level < 2:
        raise StorageError(
            f"SQLite cannot make commits durable here: journal {mode}, synchronous {level}",
            hint="put the database in a file on a local disk, not in memory or on a network share",
        )


def _sqlite_write(cursor: Cursor, change: Change) -> None:
    cursor.executemany("INSERT INTO entries VALUES (?, ?)", enumerate(change.entries, change.first))
    cursor.executemany("INSERT INTO receipts VALUES (?, ?, ?, ?, ?)", change.receipts)
    cursor.execute("INSERT INTO checkpoints VALUES (?, ?)", (change.size, change.note))


def _sqlite_find(cursor: Cursor, names: Iterable[Name]) -> list[GivenReceipt]:
    # One list of keys a license: for pairs in a list SQLite uses no index and reads everything.
    asked: dict[bytes, list[bytes]] = {}
    for license, key in set(names):
        asked.setdefault(license, []).append(key)
    found: list[GivenReceipt] = []
    for license, keys in asked.items():
        marks = ", ".join("?" * len(keys))
        cursor.execute(
            f"SELECT * FROM receipts WHERE license = ? AND idempotency_key IN ({marks})",
            (license, *keys),
        )
        found += map(GivenReceipt._make, cursor.fetchall())
    return found


def _postgres_connected(driver: Any, durable: bool) -> None:
    with driver.cursor() as cursor:
        cursor.execute("SET default_transaction_isolation = 'read committed'")
        cursor.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        if not durable:
            cursor.execute("SET synchronous_commit = off")
        elif cursor.execute("SHOW synchronous_commit").fetchone()[0] == "off":
            cursor.execute("SET synchronous_commit = on")
    driver.commit()


def _postgres_check(driver: Any) -> None:
    with driver.cursor() as cursor:
        names = ("fsync", "full_page_writes", "synchronous_commit")
        values = {name: cursor.execute(f"SHOW {name}").fetchone()[0] for name in names}
    driver.rollback()
    lost = [name for name, value in values.items() if value == "off"]
    if lost:
        raise StorageError(
            f"PostgreSQL does not make commits durable: {', '.join(lost)} is off",
            hint=f"set {lost[0]} = on in postgresql.conf and reload the server",
        )


def _postgres_write(cursor: Cursor, change: Change) -> None:
    places = list(range(change.first, change.size))
    cursor.execute(
        "INSERT INTO entries SELECT * FROM unnest(%s::bigint[], %s::bytea[])",
        (places, list(change.entries)),
        binary=True,
    )
    if change.receipts:
        cursor.execute(
            "INSERT INTO receipts SELECT * FROM unnest"
            "(%s::bytea[], %s::bytea[], %s::bytea[], %s::bigint[], %s::bytea[])",
            [list(column) for column in zip(*change.receipts, strict=True)],
        )
    cursor.execute("INSERT INTO checkpoints VALUES (%s, %s)", (change.size, change.note))


def _postgres_find(cursor: Cursor, names: Iterable[Name]) -> list[GivenReceipt]:
    columns = [list(column) for column in zip(*set(names), strict=True)] or [[], []]
    cursor.execute(
        "SELECT receipts.* FROM receipts JOIN unnest(%s::bytea[], %s::bytea[])"
        " AS asked (license, idempotency_key) USING (license, idempotency_key)",
        columns,
    )
    return list(map(GivenReceipt._make, cursor.fetchall()))


DIALECTS = {
    "sqlite": Dialect(
        _sqlite_connected, _sqlite_check, "BEGIN IMMEDIATE", _sqlite_write, _sqlite_find
    ),
    "postgresql": Dialect(
        _postgres_connected,
        _postgres_check,
        f"SELECT pg_advisory_xact_lock({_ADVISORY})",
        _postgres_write,
        _postgres_find,
    ),
}


def driver_url(text: str) -> sa.URL:
    """The URL with the driver that loyal uses; StorageError for any other kind of database."""
    try:
        url = sa.make_url(text)
        kind = url.get_backend_name()
        kind = "postgresql" if kind == "postgres" else kind
    except sa.exc.ArgumentError as error:
        raise StorageError("this is not the URL of a database", hint=_HINT_URL) from error
    if kind not in DIALECTS:
        raise StorageError(f"loyal keeps nothing in a database of the kind {kind}", hint=_HINT_URL)
    return url.set(drivername="postgresql+psycopg" if kind == "postgresql" else "sqlite+pysqlite")


_HINT_URL = "write sqlite:///path/to/file.db, or postgresql://user@host/database"
