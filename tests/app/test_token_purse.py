"""Tokens on disk: each is taken once, and what it went to is kept."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import stat
from pathlib import Path

import pytest

from loyal.app.token_purse import SqliteTokens
from loyal.errors import StorageError

NOW = 1_800_000_000
RIPE = NOW - 600
"""Ten minutes before, whatever the clocks."""


def bought(path: Path, *purchases: tuple[int, int, int], below: int = 0) -> SqliteTokens:
    purse = SqliteTokens(path)
    asyncio.run(purse.learn(purchases, below))
    return purse


def taken(purse: SqliteTokens, now: int = NOW) -> int | None:
    return asyncio.run(purse.take(now))


def test_tokens_go_in_order_and_then_there_is_none(tmp_path: Path) -> None:
    purse = bought(tmp_path / "t", (0, 2, RIPE), (2, 1, RIPE))
    assert asyncio.run(purse.left()) == 3
    assert [taken(purse) for _ in range(4)] == [0, 1, 2, None]
    assert asyncio.run(purse.left()) == 0
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o600
    purse.close()


def test_a_token_that_is_not_ripe_waits(tmp_path: Path) -> None:
    purse = bought(tmp_path / "t", (0, 1, RIPE), (1, 1, RIPE + 1))
    assert [taken(purse), taken(purse), taken(purse, NOW + 1)] == [0, None, 1]
    purse.close()


def test_nothing_is_taken_before_anything_is_known(tmp_path: Path) -> None:
    purse = SqliteTokens(tmp_path / "t")
    assert taken(purse) is None
    purse.close()


def test_a_new_file_begins_behind_what_was_reported(tmp_path: Path) -> None:
    purse = bought(tmp_path / "t", (0, 10, RIPE), below=7)
    assert taken(purse) == 7
    asyncio.run(purse.learn(((0, 10, RIPE),), 9))  # its own file knows better
    assert taken(purse) == 8
    purse.close()


def test_what_got_no_answer_is_taken_again_and_what_did_is_not(tmp_path: Path) -> None:
    purse = bought(tmp_path / "t", (0, 3, RIPE))
    first, second = taken(purse), taken(purse)
    assert (first, second) == (0, 1)
    asyncio.run(purse.bind(1, b"a" * 32))
    asyncio.run(purse.give_back(1))
    asyncio.run(purse.give_back(0))
    assert [taken(purse), taken(purse), taken(purse)] == [0, 2, None]
    with pytest.raises(StorageError, match="another answer"):
        asyncio.run(purse.bind(1, b"b" * 32))
    purse.close()


def test_uses_are_reported_once(tmp_path: Path) -> None:
    purse = bought(tmp_path / "t", (0, 3, RIPE))
    for number in range(3):
        assert taken(purse) == number
    for number in (2, 0):
        asyncio.run(purse.bind(number, bytes([number]) * 32))
    assert asyncio.run(purse.unreported(1)) == ((0, bytes(32)),)
    asyncio.run(purse.reported([0]))
    assert asyncio.run(purse.unreported(9)) == ((2, b"\2" * 32),)
    purse.close()


def test_two_programs_and_many_queries_share_no_token(tmp_path: Path) -> None:
    first = bought(tmp_path / "t", (0, 60, RIPE))
    second = SqliteTokens(tmp_path / "t")

    async def together() -> list[int | None]:
        return await asyncio.gather(*(one.take(NOW) for one in (first, second) * 35))

    found = asyncio.run(together())
    assert sorted(one for one in found if one is not None) == list(range(60))
    assert found.count(None) == 10
    first.close()
    second.close()


def take_until_killed(path: str, told: object) -> None:
    """A program that tells each token that it was given."""
    purse = SqliteTokens(Path(path))
    while (token := taken(purse)) is not None:
        told.send(token)  # type: ignore[attr-defined]


def test_after_a_kill_no_token_is_given_twice(tmp_path: Path) -> None:
    purse = bought(tmp_path / "t", (0, 100_000, RIPE))
    purse.close()
    told: list[int] = []
    spawn = multiprocessing.get_context("spawn")
    for wanted in (5, 23):
        reader, writer = spawn.Pipe(duplex=False)
        child = spawn.Process(target=take_until_killed, args=(str(tmp_path / "t"), writer))
        child.start()
        writer.close()
        told += [reader.recv() for _ in range(wanted)]
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        while True:
            try:
                told.append(reader.recv())
            except (EOFError, OSError):
                break
    assert len(set(told)) == len(told) >= 28


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("no database, but long enough to be read as one " * 40)
    with pytest.raises(StorageError, match="tokens"):
        SqliteTokens(tmp_path / "t")
    purse = bought(tmp_path / "u", (0, 1, RIPE))
    with sqlite3.connect(tmp_path / "u") as database:
        database.execute("DROP TABLE uses")
    with pytest.raises(StorageError, match="OperationalError"):
        taken(purse)
    purse.close()
