"""The durable store: SQLite in a file by default, PostgreSQL by URL, the same behavior on both.

    from loyal.app.store import open_store

    store = open_store("sqlite:///platform.db")             # or postgresql://user@host/database
    platform = Platform(store, keys)

SQLite runs with a write-ahead log and synchronous=FULL, PostgreSQL with synchronous_commit; opening
checks both, and brings the tables to this version. One writer is let in at a time, and a change is
written only where its first place is the next one, so no two processes give one place, and with it
no sequence number, twice. docs/store.md says what a crash, a power loss and a lost disk can take.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from loyal.app.dialects import DIALECTS, HEADS, LENGTH, LOCK_SECONDS, Dialect, driver_url
from loyal.app.head_mark import HeadMark
from loyal.app.schema import entries, migrate
from loyal.errors import LoyalError, StorageError
from loyal.roles import Change, GivenReceipt, Heads, Name

PAGE = 10_000
"""Entries that a replay reads at once."""


def open_store(url: str, mark: str | os.PathLike[str] | None = None) -> SqlStore:
    """Open or make the store at `url`.

    `mark` names the file that remembers the newest checkpoint apart from the database; for SQLite
    it stands beside it (`NAME-head`), for PostgreSQL there is none by default. StorageError where
    the database is not there, is another program's, or would not keep what it was given.
    """
    return _open(url, mark, durable=True)


def open_undurable(url: str) -> SqlStore:
    """The same without any flush, to measure what durability costs and what it saves. It loses what
    it acknowledged when the power fails."""
    return _open(url, None, durable=False)


def _open(url: str, mark: str | os.PathLike[str] | None, durable: bool) -> SqlStore:
    target = driver_url(url)
    kind = target.get_backend_name()
    dialect = DIALECTS[kind]
    waits = {"timeout": LOCK_SECONDS} if kind == "sqlite" else {"connect_timeout": LOCK_SECONDS}
    if mark is None and kind == "sqlite" and target.database:
        mark = f"{target.database}-head"
    with _plain_errors(kind):
        try:
            engine = sa.create_engine(target, connect_args=waits)
        except ModuleNotFoundError as error:
            raise StorageError(
                f"this database needs the package {error.name}",
                hint="pip install 'loyal[postgres]'",
            ) from error
        sa.event.listen(engine, "connect", lambda driver, _: dialect.connected(driver, durable))
        try:
            if durable:
                with engine.connect() as connection:
                    dialect.check(connection.connection.driver_connection)
            with engine.begin() as connection:
                connection.exec_driver_sql(dialect.begin)
                migrate(connection)
            return SqlStore(engine, dialect, HeadMark(Path(mark)) if mark is not None else None)
        except BaseException:
            engine.dispose()
            raise


class SqlStore:
    """A `loyal.roles.Store` in a database. Threads may share it; they write one after another."""

    def __init__(self, engine: sa.Engine, dialect: Dialect, mark: HeadMark | None) -> None:
        """Of an engine whose tables are there; `open_store` makes one."""
        self._engine, self._dialect, self._mark = engine, dialect, mark
        self._held: sa.PoolProxiedConnection | None = None
        self._one = threading.Lock()

    def heads(self) -> Heads:
        """See `loyal.roles.Store`. The outside mark is read first: it is never ahead."""
        outside = self._mark.read() if self._mark else None
        with self._driver() as (held, cursor):
            cursor.execute(HEADS)
            length, stored = cursor.fetchone()
            held.rollback()
        return Heads(length, stored, outside)

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """See `loyal.roles.Store`. Reads pages of its own; rows never change."""
        for first in range(start, stop, PAGE):
            last = min(first + PAGE, stop)
            query = (
                sa.select(entries.c.place, entries.c.data)
                .where(entries.c.place >= first, entries.c.place < last)
                .order_by(entries.c.place)
            )
            with _plain_errors(self._engine.dialect.name), self._engine.connect() as connection:
                rows = connection.execute(query).all()
            if [place for place, _ in rows] != list(range(first, last)):
                raise StorageError(
                    f"entries between {first} and {last} are missing from the log",
                    hint="stop: bring back a whole copy of the database",
                )
            yield from (data for _, data in rows)

    def find(self, names: Iterable[Name]) -> list[GivenReceipt]:
        """See `loyal.roles.Store`."""
        with self._driver() as (held, cursor):
            found = self._dialect.find(cursor, names)
            held.rollback()
        return found

    def commit(self, change: Change) -> bool:
        """See `loyal.roles.Store`."""
        with self._driver() as (held, cursor):
            cursor.execute(self._dialect.begin)
            cursor.execute(LENGTH)
            if cursor.fetchone()[0] != change.first:
                held.rollback()
                return False
            self._dialect.write(cursor, change)
            held.commit()
            if self._mark:
                self._mark.write(change.size, change.note)
        return True

    def close(self) -> None:
        """Let go of the database; the mark is flushed."""
        with self._one:
            if self._held is not None:
                self._held.close()
            self._engine.dispose()
            if self._mark:
                self._mark.close()

    @contextmanager
    def _driver(self) -> Iterator[tuple[sa.PoolProxiedConnection, Any]]:
        """The held connection and a cursor of it, for this thread alone.

        A connection that failed is thrown away with whatever it had begun, so that the next step
        begins on a fresh one.
        """
        with self._one, _plain_errors(self._engine.dialect.name):
            held = self._held = self._held or self._engine.raw_connection()
            cursor = held.cursor()
            try:
                yield held, cursor
            except BaseException:
                self._held = None
                with suppress(Exception):
                    cursor.close()
                held.invalidate()
                raise
            cursor.close()


@contextmanager
def _plain_errors(kind: str) -> Iterator[None]:
    """Whatever a driver raises, as one StorageError in one line."""
    try:
        yield
    except LoyalError:
        raise
    except Exception as error:
        origin = getattr(error, "orig", None) or error
        if type(origin).__module__.split(".")[0] not in ("sqlite3", "psycopg", "sqlalchemy"):
            raise
        words = (str(origin).strip() or type(origin).__name__).splitlines()[0]
        raise StorageError(f"the database says: {words}", hint=_hint(kind, words)) from error


def _hint(kind: str, words: str) -> str:
    known = {
        "full": "free some space on its disk and ask again; what was acknowledged is intact",
        "locked": "another program holds the database; stop it, or wait and ask again",
        "unable to open": "check that its folder exists and may be written to",
        "not a database": "the file is another program's, or damaged; name another path",
        "malformed": "the file is damaged; bring back a whole copy, with its write-ahead log",
        "readonly": "check who owns the file and its folder",
        "disk I/O": "check the disk, then restart: a flush that failed is not repeated",
    }
    for sign, hint in known.items():
        if sign in words:
            return hint
    if kind == "postgresql":
        return "check that the server runs and the URL is right, then ask again"
    return "check the file and its disk, then ask again"
