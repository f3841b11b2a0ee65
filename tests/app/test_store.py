"""The store, the same tests on SQLite and PostgreSQL: whole or not at all, once, found again."""

from __future__ import annotations

import contextlib
import copy
import itertools
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from crash_rig import KEYS, NOW, Acknowledged, Load, audit, refused, request, seed

from loyal.app import dialects
from loyal.app.dialects import DIALECTS, driver_url
from loyal.app.schema import VERSION_TABLE, metadata, migrate
from loyal.app.store import SqlStore, open_store, open_undurable
from loyal.errors import ProtocolError, StorageError
from loyal.protocol import Receipt
from loyal.roles import Change, GivenReceipt, Platform


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    """An empty store."""
    made = open_store(url)
    yield made
    made.close()


def kept(number: int) -> GivenReceipt:
    """A receipt that no platform gave."""
    return GivenReceipt(b"l" * 32, b"key %d" % number, b"b" * 32, 0, b"receipt %d" % number)


def change(first: int, *numbers: int) -> Change:
    """Two entries and some receipts."""
    receipts = tuple(map(kept, numbers))
    return Change(first, (b"entry %d" % first, b"another"), receipts, b"note %d" % first)


@contextlib.contextmanager
def engine_of(url: str) -> Iterator[sa.Engine]:
    """Somebody else's way into the database."""
    engine = sa.create_engine(driver_url(url))
    yield engine
    engine.dispose()


def run(url: str, *statements: str) -> None:
    """Change the database behind the store's back."""
    with engine_of(url) as engine, engine.begin() as connection:
        for one in statements:
            connection.exec_driver_sql(one)


def test_what_was_committed_is_found_after_opening_anew(url: str) -> None:
    store = open_store(url)
    assert store.heads().length == 0
    assert store.heads().stored is None
    assert store.commit(change(0, 1, 2))
    assert store.commit(change(2, 3))
    store.close()
    again = open_store(url)
    heads = again.heads()
    assert (heads.length, heads.stored) == (4, b"note 2")
    assert list(again.entries(0, 4)) == [b"entry 0", b"another", b"entry 2", b"another"]
    names = [(b"l" * 32, b"key %d" % number) for number in (1, 3, 4)]
    assert sorted(again.find([*names, names[0]])) == [kept(1), kept(3)]
    assert again.find([]) == []
    again.close()


def test_a_change_is_whole_or_not_at_all(store: SqlStore) -> None:
    assert store.commit(change(0, 1))
    before = store.heads()
    with pytest.raises(StorageError):
        store.commit(change(2, 2, 3, 1))
    assert store.heads() == before
    assert store.find([(b"l" * 32, b"key 2"), (b"l" * 32, b"key 3")]) == []
    with pytest.raises(StorageError):
        list(store.entries(0, 4))
    assert store.commit(change(2, 2, 3))


@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_place_that_is_not_the_next_one_is_not_written(store: SqlStore, first: int) -> None:
    assert store.commit(change(0, 1))
    assert not store.commit(change(first, 2))
    assert store.heads().length == 2
    assert store.find([(b"l" * 32, b"key 2")]) == []


def test_racing_writers_never_share_a_place(url: str) -> None:
    stores = [open_store(url) for _ in range(4)]
    written: list[int] = []

    def write(store: SqlStore, names: Iterator[int]) -> None:
        for number in itertools.islice(names, 15):
            while not store.commit(change(first := store.heads().length, number)):
                pass
            written.append(first)

    threads = [
        threading.Thread(target=write, args=(store, itertools.count(1000 * index)))
        for index, store in enumerate(stores)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(written) == list(range(0, 120, 2))
    for store in stores:
        store.close()


def test_the_tables_are_what_the_code_says(url: str) -> None:
    open_store(url).close()
    with engine_of(url) as engine, engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        migrate(connection, "base")
        assert not set(sa.inspect(connection).get_table_names()) & set(metadata.tables)
        migrate(connection)
        migrate(connection)
        assert compare_metadata(context, metadata) == []


def test_a_newer_database_is_left_alone(url: str) -> None:
    open_store(url).close()
    run(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StorageError, match="newer loyal") as caught:
        open_store(url)
    assert "upgrade" in caught.value.hint


def test_another_programs_tables_are_left_alone(url: str) -> None:
    run(url, "CREATE TABLE entries (x INTEGER)")
    with pytest.raises(StorageError, match="did not make"):
        open_store(url)


class Locked:
    """A cursor of SQLite that finds the database locked so many times."""

    def __init__(self, times: int, code: int) -> None:
        self.left, self.code = times, code

    def execute(self, _: str) -> None:
        """Fails at once, whatever the time to wait."""
        if self.left:
            self.left -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error


def test_a_database_that_another_one_opens_now_is_waited_for() -> None:
    """Of several at once SQLite lets all but one fail without waiting."""
    cursor = Locked(2, sqlite3.SQLITE_BUSY)
    dialects._sqlite_wal(cursor)
    assert cursor.left == 0
    with pytest.raises(sqlite3.OperationalError):
        dialects._sqlite_wal(Locked(2, sqlite3.SQLITE_READONLY))


def test_opening_at_the_same_time_makes_the_tables_once(url: str) -> None:
    found: list[object] = []

    def opening() -> None:
        try:
            open_store(url).close()
            found.append("opened")
        except StorageError as error:
            found.append(error)

    threads = [threading.Thread(target=opening) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == ["opened"] * 4


def test_commits_that_would_not_last_are_refused(url: str) -> None:
    store = open_undurable(url)
    kind = driver_url(url).get_backend_name()
    assert store.heads().length == 0
    with pytest.raises(StorageError, match="durable"):
        DIALECTS[kind].check(store._held.driver_connection)
    store.close()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("mysql://localhost/x", "of the kind mysql"),
        ("no url", "not the URL"),
        ("sqlite://", "durable"),
        ("sqlite:////nowhere/at/all/x.db", "unable to open"),
        ("postgresql://nobody@127.0.0.1:1/x", "database says"),
    ],
)
def test_a_database_that_cannot_serve_is_one_line(wrong: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        open_store(wrong)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_file_of_another_program_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StorageError, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/x.db")


def test_a_full_disk_leaves_memory_and_file_as_they_were(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/x.db")
    license = seed(store)
    platform = Platform(store, KEYS)
    pages = store._held.driver_connection.execute("PRAGMA page_count").fetchone()[0]
    store._held.driver_connection.execute(f"PRAGMA max_page_count={pages}")
    before = copy.deepcopy(platform.state)
    asked = [request(license, number) for number in range(200)]
    with pytest.raises(StorageError, match="full"):
        platform.permit(asked, NOW)
    assert platform.state == before
    assert all(isinstance(one, bytes) for one in platform.permit(asked, NOW))
    store.close()


def test_a_replay_gives_the_living_state(store: SqlStore) -> None:
    license = seed(store)
    platform = Platform(store, KEYS)
    for start in range(0, 60, 20):
        platform.permit([request(license, number) for number in range(start, start + 20)], NOW)
    assert Platform(store, KEYS).state == platform.state
    assert platform.state.licenses[license].permitted == 60


def test_one_key_races_to_one_receipt(url: str) -> None:
    first = open_store(url)
    license = seed(first)
    found: list[dict[int, bytes]] = [{} for _ in range(8)]

    def ask(answers: dict[int, bytes]) -> None:
        store = open_store(url)
        platform = Platform(store, KEYS)
        for number in range(25):
            (answer,) = platform.permit([request(license, number)], NOW)
            assert isinstance(answer, bytes)
            answers[number] = answer
        store.close()

    threads = [threading.Thread(target=ask, args=(one,)) for one in found]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found[0]) == 25
    assert all(one == found[0] for one in found)
    last = Platform(first, KEYS)
    assert last.state.licenses[license].permitted == 25
    (other,) = last.permit([request(license, 3, body=4)], NOW)
    assert isinstance(other, ProtocolError)
    assert other.rule == "P3"
    first.close()


def test_a_quota_is_exact_whoever_asks(url: str) -> None:
    first = open_store(url)
    license = seed(first, most_inferences=50)
    given: list[int] = []
    refusals: list[str] = []

    def ask(start: int) -> None:
        store = open_store(url)
        platform = Platform(store, KEYS)
        for number in range(start, start + 30, 5):
            asked = [request(license, one) for one in range(number, number + 5)]
            for answer in platform.permit(asked, NOW):
                if isinstance(answer, ProtocolError):
                    refusals.append(answer.rule)
                else:
                    given.append(Receipt.from_bytes(answer).permission.sequence)
        store.close()

    threads = [threading.Thread(target=ask, args=(100 * one,)) for one in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(given) == list(range(50))
    assert refusals == ["L6"] * 70
    first.close()


def test_two_processes_share_a_log(url: str) -> None:
    store = open_store(url)
    license = seed(store)
    store.close()
    loads = [Load(url, 0, stop=300), Load(url, 150, stop=450)]
    children = [subprocess.Popen(one.command(), stdout=subprocess.PIPE) for one in loads]
    told = Acknowledged()
    for child in children:
        for line in child.communicate(timeout=120)[0].splitlines():
            told.add(line)
        assert child.returncode == 0
    found = audit(url, told, license)
    assert found.clean
    assert found.permissions == found.receipts == len(told.receipts) == 450


def test_a_log_that_lost_its_end_is_refused(url: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    store = open_store(url, mark)
    license = seed(store)
    platform = Platform(store, KEYS)
    size = platform.state.length
    platform.permit([request(license, 0)], NOW)
    store.close()
    run(
        url,
        f"DELETE FROM entries WHERE place >= {size}",
        f"DELETE FROM checkpoints WHERE size > {size}",
        "DELETE FROM receipts",
    )
    store = open_store(url, mark)
    with pytest.raises(Exception, match="were signed") as caught:
        Platform(store, KEYS)
    assert caught.value.reason == "size"  # type: ignore[attr-defined]
    store.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("DELETE FROM entries WHERE place = 5", "StorageError"),
        ("DELETE FROM checkpoints", "size"),
        ("UPDATE entries SET data = (SELECT data FROM entries WHERE place = 1) WHERE place = 0",
         "malformed"),
        ("UPDATE entries SET data = (SELECT data FROM entries WHERE place = 0)"
         " WHERE place = (SELECT MAX(place) FROM entries)", "root"),
    ],
)  # fmt: skip
def test_a_log_that_was_changed_is_refused(url: str, damage: str, reason: str) -> None:
    store = open_store(url)
    seed(store)
    store.close()
    assert refused(url) == ""
    run(url, damage)
    assert refused(url) == reason
