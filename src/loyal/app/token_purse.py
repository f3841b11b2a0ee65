"""A host's allowance tokens on disk: which are there, and which answer each went to (rules T).

One SQLite file. A token is taken durably before its query goes anywhere, and its answer is noted
durably before the reply leaves, so that after a kill no token is used twice and every answer that
was given can be reported. Several processes may share the file. Left out: buying and reporting
(`token_desk`), and when a query goes on a token (`gateway`).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from loyal.errors import StorageError
from loyal.protocol.permission import SKEW_SECONDS

T = TypeVar("T")
BUSY_SECONDS = 10.0
"""How long another process may hold the file."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS purchases (
    first INTEGER PRIMARY KEY, count INTEGER NOT NULL, ripe INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS uses (
    number INTEGER PRIMARY KEY, answer BLOB, reported INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS returned (number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS beginning (number INTEGER NOT NULL);
"""
_NEXT = (
    "SELECT MAX(COALESCE((SELECT MAX(number) + 1 FROM uses), 0), (SELECT number FROM beginning))"
)


class SqliteTokens:
    """A `loyal.roles.TokenPurse` for one license. Close it when no query is under way."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file, for its owner alone. StorageError where it cannot."""
        self._path, self._one = path, threading.Lock()
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error

    async def learn(self, purchases: Sequence[tuple[int, int, int]], reported_below: int) -> None:
        """What the log says: (first token, how many, Unix second from which they are ripe) of each
        purchase, and a number above every token that was reported. A new file begins there: what
        it does not remember may have been used."""

        def work(database: sqlite3.Connection) -> None:
            if database.execute("SELECT number FROM beginning").fetchone() is None:
                database.execute("INSERT INTO beginning VALUES (?)", (reported_below,))
            database.executemany("INSERT OR IGNORE INTO purchases VALUES (?, ?, ?)", purchases)

        await self._durably(work)

    async def take(self, now: int) -> int | None:
        """A token that is ripe at `now` whatever the clocks, used from here on; None without one.

        StorageError where that cannot be made durable: the token is then not to be used.
        """
        return await self._durably(lambda database: _take(database, now - SKEW_SECONDS))

    async def bind(self, token: int, answer: bytes) -> None:
        """The token went to this answer (`use_digest`, 32 bytes), for good. StorageError."""

        def work(database: sqlite3.Connection) -> None:
            sql = "UPDATE uses SET answer = ? WHERE number = ? AND answer IS NULL"
            if database.execute(sql, (answer, token)).rowcount != 1:
                raise StorageError(
                    f"token {token} stands for another answer", hint="use a token once"
                )

        await self._durably(work)

    async def give_back(self, token: int) -> None:
        """The token's query got no answer: it may be taken again. StorageError."""

        def work(database: sqlite3.Connection) -> None:
            sql = "DELETE FROM uses WHERE number = ? AND answer IS NULL"
            if database.execute(sql, (token,)).rowcount:
                database.execute("INSERT OR IGNORE INTO returned VALUES (?)", (token,))

        await self._durably(work)

    async def unreported(self, most: int) -> tuple[tuple[int, bytes], ...]:
        """(token, answer) of uses that were not reported yet, the lowest first."""
        sql = (
            "SELECT number, answer FROM uses WHERE answer IS NOT NULL AND NOT reported "
            "ORDER BY number LIMIT ?"
        )
        return tuple(
            await self._durably(lambda database: database.execute(sql, (most,)).fetchall())
        )

    async def reported(self, numbers: Sequence[int]) -> None:
        """The log has the uses of these tokens."""
        sql = "UPDATE uses SET reported = 1 WHERE number = ?"
        rows = [(one,) for one in numbers]
        await self._durably(lambda database: _nothing(database.executemany(sql, rows)))

    async def left(self) -> int:
        """Tokens that were bought and not taken, ripe or not."""
        return await self._durably(_left)

    def close(self) -> None:
        """Close the file."""
        with self._one:
            self._database.close()

    async def _durably(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._transaction, work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with self._one, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                return work(self._database)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> StorageError:
        return StorageError(
            f"the tokens in {self._path} cannot be read or written ({type(error).__name__})",
            hint="look whether the disk is full, and whose the file is",
        )

    def __repr__(self) -> str:
        return f"SqliteTokens({self._path})"


def _take(database: sqlite3.Connection, ripe_at: int) -> int | None:
    number = database.execute("SELECT MIN(number) FROM returned").fetchone()[0]
    if number is None:
        number = database.execute(_NEXT).fetchone()[0]
    if number is None:  # nothing was learned yet
        return None
    sql = "SELECT 1 FROM purchases WHERE first <= ? AND ? < first + count AND ripe <= ?"
    if database.execute(sql, (number, number, ripe_at)).fetchone() is None:
        return None
    database.execute("DELETE FROM returned WHERE number = ?", (number,))
    database.execute("INSERT INTO uses (number) VALUES (?)", (number,))
    return int(number)


def _left(database: sqlite3.Connection) -> int:
    bought = database.execute("SELECT COALESCE(MAX(first + count), 0) FROM purchases").fetchone()[0]
    following = database.execute(_NEXT).fetchone()[0]
    returned = database.execute("SELECT COUNT(*) FROM returned").fetchone()[0]
    return max(0, int(bought) - int(following or 0)) + int(returned)


def _nothing(_: object) -> None:
    return None
