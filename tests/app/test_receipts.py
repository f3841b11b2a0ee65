"""Receipts on disk: durable before they are said to be kept, whole after SIGKILL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from loyal.app import receipts as room
from loyal.app.receipts import SqliteReceipts
from loyal.errors import StorageError
from loyal.roles import KeptReceipt

KEPT = KeptReceipt(b"a receipt", (bytes(16), b"s" * 16))


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "receipts.db"
        with contextlib.closing(SqliteReceipts(path)) as store:
            await store.keep("a", KEPT)
            assert await store.find("a") == KEPT
            assert await store.find("b") is None
            store.answered("a", (b"one", b"two"), True)
            answered = KeptReceipt(KEPT.receipt, KEPT.salts, (b"one", b"two"), True)
            assert await store.find("a") == answered
            store.answered("unknown", (b"x",), True)
        with contextlib.closing(SqliteReceipts(path)) as store:
            assert await store.find("a") == answered
            assert await store.find("unknown") is None
        with pytest.raises(StorageError, match="closed"):
            await store.find("a")

    asyncio.run(story())


def test_many_share_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    together = SqliteReceipts._together
    monkeypatch.setattr(
        SqliteReceipts,
        "_together",
        lambda store, jobs: sizes.append(len(jobs)) or together(store, jobs),
    )

    async def story() -> None:
        with contextlib.closing(SqliteReceipts(tmp_path / "receipts.db")) as store:
            await asyncio.gather(*(store.keep(str(n), KEPT) for n in range(300)))
            assert sum(sizes) == 300
            assert len(sizes) < 100
            assert all([await store.find(str(n)) for n in range(300)])

    asyncio.run(story())


def test_an_id_is_kept_once_and_a_failure_is_said(tmp_path: Path) -> None:
    async def story() -> None:
        with contextlib.closing(SqliteReceipts(tmp_path / "receipts.db")) as store:
            await store.keep("a", KEPT)
            with pytest.raises(StorageError, match="IntegrityError"):
                await store.keep("a", KeptReceipt(b"another", ()))
            assert await store.find("a") == KEPT

    asyncio.run(story())


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "receipts.db"
    SqliteReceipts(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(b"not a database, but a letter" * 100)
    for path in (other, tmp_path / "no" / "folder", tmp_path):
        with pytest.raises(StorageError):
            SqliteReceipts(path)
    assert other.read_bytes() == b"not a database, but a letter" * 100


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from loyal.app.receipts import SqliteReceipts
    from loyal.roles import KeptReceipt

    async def one(store, number):
        await store.keep(f"{number:032x}", KeptReceipt(b"receipt %d" % number, (bytes(16),)))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

    async def main():
        store = SqliteReceipts(Path(sys.argv[1]))
        start = int(sys.argv[2])
        for number in range(start, start + 100_000, 8):
            await asyncio.gather(*(one(store, number + n) for n in range(8)))

    asyncio.run(main())
"""


def test_sigkill_loses_nothing_that_was_said_to_be_kept(tmp_path: Path) -> None:
    path, said = tmp_path / "receipts.db", []
    for start in (0, 1_000_000, 2_000_000):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(40)]
            os.kill(writer.pid, signal.SIGKILL)
            lines += [one for one in writer.stdout if one.endswith("\n")]
        said += [int(one) for one in lines]

    async def story() -> None:
        with contextlib.closing(SqliteReceipts(path)) as store:
            for number in said:
                kept = await store.find(f"{number:032x}")
                assert kept is not None
                assert kept.receipt == b"receipt %d" % number

    asyncio.run(story())
    assert len(said) >= 120
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_commits_are_flushed(tmp_path: Path) -> None:
    database = room._open(tmp_path / "receipts.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)
    database.close()
