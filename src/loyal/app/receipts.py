"""A host's receipts on disk: one SQLite file, durable before a reply is sent.

One thread owns the file. It takes whatever waits, writes it in one transaction and then tells the
askers, so that many queries share one flush of the disk. A killed process loses nothing that it had
said is kept; the next one opens the file and goes on.

Left out: deleting. A receipt is the host's defense for as long as a claim can be made.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loyal import encoding
from loyal.errors import EncodingError, LoyalError, StorageError
from loyal.roles.host import KeptReceipt

MOST_TOGETHER = 512
"""Jobs in one transaction."""
LAZY_SECONDS = 0.05
"""How long answers, which nobody waits for, wait for a receipt to share its flush."""
BUSY_SECONDS = 10.0
"""How long another process may hold the file."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS receipts (
    id TEXT PRIMARY KEY,
    receipt BLOB NOT NULL,
    salts BLOB NOT NULL,
    answers BLOB,
    complete INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""

Work = Callable[[sqlite3.Connection], "KeptReceipt | None"]
Future = asyncio.Future["KeptReceipt | None"]


@dataclass(frozen=True)
class _Job:
    work: Work
    outcome: Future | None
    """Who waits; None for nobody."""


@dataclass(frozen=True)
class _Done:
    job: _Job
    result: KeptReceipt | LoyalError | None


class SqliteReceipts:
    """A `ReceiptStore`. Belongs to one event loop; close it when no query is under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._database = _open(path)
        self._thread = threading.Thread(target=self._run, name="loyal-receipts", daemon=True)
        self._thread.start()

    async def keep(self, request_id: str, kept: KeptReceipt) -> None:
        """Returns once the receipt and its salts are on the disk; StorageError when they cannot."""
        row = (request_id, kept.receipt, encoding.encode(kept.salts))
        sql = "INSERT INTO receipts (id, receipt, salts) VALUES (?, ?, ?)"
        await self._ask(lambda database: _nothing(database.execute(sql, row)))

    def answered(self, request_id: str, answers: tuple[bytes, ...], complete: bool) -> None:
        """Adds the answers with the next transaction; nobody waits for it."""
        row = (encoding.encode(answers), int(complete), request_id)
        sql = "UPDATE receipts SET answers = ?, complete = ? WHERE id = ?"
        self._jobs.put(_Job(lambda database: _nothing(database.execute(sql, row)), None))

    async def find(self, request_id: str) -> KeptReceipt | None:
        """What is kept of a query; StorageError where the file cannot be read."""
        return await self._ask(lambda database: _find(database, request_id))

    def close(self) -> None:
        """Write what waits, and close the file."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    async def _ask(self, work: Work) -> KeptReceipt | None:
        if not self._thread.is_alive():
            raise StorageError(f"{self._path} is closed", hint="open the receipts again")
        outcome: Future = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, outcome))
        return await outcome

    def _run(self) -> None:
        while jobs := self._gather():
            _tell(self._together(jobs))
        self._database.close()

    def _gather(self) -> list[_Job]:
        """The jobs of the next transaction: as soon as somebody waits, what is there; else what
        comes in a short while. Empty where there is nothing more to come."""
        first = self._jobs.get()
        if first is None:
            return []
        jobs, waits = [first], first.outcome is not None
        until = time.monotonic() + LAZY_SECONDS
        while len(jobs) < MOST_TOGETHER:
            left = 0.0 if waits else until - time.monotonic()
            try:
                job = self._jobs.get(left > 0, max(left, 0.0))
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # to be met again, behind these
                break
            jobs.append(job)
            waits = waits or job.outcome is not None
        return jobs

    def _together(self, jobs: list[_Job]) -> list[_Done]:
        try:
            with self._database:  # one transaction: all of it is on the disk, or none
                self._database.execute("BEGIN IMMEDIATE")
                return [_Done(job, job.work(self._database)) for job in jobs]
        except (sqlite3.Error, EncodingError, OSError) as error:
            failure = StorageError(
                f"the receipts in {self._path} could not be written or read "
                f"({type(error).__name__})",
                hint="look whether the disk is full, and whose the file is",
            )
            return [_Done(job, failure) for job in jobs]


def _tell(done: list[_Done]) -> None:
    """One call into the event loop for all of them."""
    waiting = [one for one in done if one.job.outcome is not None]
    if not waiting:
        return

    def tell() -> None:
        for one in waiting:
            outcome = one.job.outcome
            if outcome is None or outcome.done():  # who asked went away
                continue
            if isinstance(one.result, LoyalError):
                outcome.set_exception(one.result)
            else:
                outcome.set_result(one.result)

    future = waiting[0].job.outcome
    loop = future.get_loop() if future is not None else None
    if loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(tell)


def _open(path: Path) -> sqlite3.Connection:
    try:
        # Only the owner reads it: salts open what the platform is not to see.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(_SCHEMA)
        return database
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"cannot open the receipts in {path}",
            hint="name a file in a folder that you may write to, or one that 'loyal host serve' "
            "made",
        ) from error


def _find(database: sqlite3.Connection, request_id: str) -> KeptReceipt | None:
    sql = "SELECT receipt, salts, answers, complete FROM receipts WHERE id = ?"
    row = database.execute(sql, (request_id,)).fetchone()
    if row is None:
        return None
    receipt, salts, answers, complete = row
    return KeptReceipt(receipt, _list(salts), _list(answers), bool(complete))


def _list(data: bytes | None) -> tuple[bytes, ...]:
    value = encoding.decode(data) if data is not None else []
    items = value if isinstance(value, list) else []
    return tuple(one for one in items if isinstance(one, bytes))


def _nothing(_: object) -> None:
    return None
