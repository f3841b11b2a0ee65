"""What was acknowledged survives kill -9 under load, and a power loss that takes what is unflushed.

The long run (two hundred kills) is benchmarks/protocol.py, with the same rig. What the simulated
power loss covers stands in power_loss.py.
"""

from __future__ import annotations

import fcntl
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from crash_rig import (
    HERE,
    KEYS,
    NOW,
    Acknowledged,
    Load,
    audit,
    kill_under_load,
    pause,
    refused,
    request,
    seed,
)
from databases import emptied
from power_loss import torn_log

from loyal.app.head_mark import SLOT_BYTES, HeadMark
from loyal.app.store import open_store
from loyal.errors import StorageError
from loyal.roles import Platform


def begun(url: str) -> bytes:
    """A seeded store, closed; gives the license."""
    store = open_store(url)
    license = seed(store)
    store.close()
    return license


def test_nothing_acknowledged_is_lost_to_kill_9(url: str) -> None:
    license, told, source = begun(url), Acknowledged(), random.Random(5)
    for _ in range(4):
        kill_under_load(Load(url, told.next), 5, pause(source), told)
        found = audit(url, told, license)
        assert found.clean, found
        assert found.permissions == found.receipts >= len(told.receipts)
    assert len(told.receipts) > 50


def test_the_server_itself_may_be_killed(postgres: object) -> None:
    url = emptied(postgres)
    license, told = begun(url), Acknowledged()
    kill_under_load(Load(url), 40, 0.02, told)
    postgres.get_postmaster_info().process.kill()  # type: ignore[attr-defined]
    postgres.get_postmaster_info().process.wait(20)  # type: ignore[attr-defined]
    for _ in range(50):
        try:
            postgres.ensure_postgres_running()  # type: ignore[attr-defined]
            break
        except Exception:
            # Its children hold the shared memory until they have seen that it is gone.
            continue
    found = audit(url, told, license)
    assert found.clean, found
    assert found.receipts >= 40


class PowerLoss:
    """A child that is killed on a disk that forgets: what it had written, and what survives."""

    def __init__(self, folder: Path, durable: bool, waiters: int = 16) -> None:
        self.real, self.survivor = folder / "platform.db", folder / "shadow" / "platform.db"
        self.survivor.parent.mkdir()
        self.license = begun(f"sqlite:///{self.real}")
        shutil.copy(self.real, self.survivor)
        self.told = Acknowledged()
        load = Load(f"sqlite:///{self.real}", 0, waiters, self.survivor.parent, durable)
        kill_under_load(load, 30, 0.05, self.told)
        self.log = self.real.with_name("platform.db-wal")
        self.flushed_log = self.survivor.with_name("platform.db-wal")

    @property
    def url(self) -> str:
        """The database after the power is back."""
        return f"sqlite:///{self.survivor}"


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where Python's sqlite3 does not use the system's library; children alone register it."""
    folder = tmp_path_factory.mktemp("probe")
    script = f"import power_loss, pathlib; assert power_loss.record(pathlib.Path({str(folder)!r}))"
    command = [sys.executable, "-c", script]
    if subprocess.run(command, cwd=HERE, capture_output=True, check=False).returncode:
        pytest.skip("Python brings an SQLite of its own here: its writes cannot be recorded")


@pytest.mark.usefixtures("recorder")
def test_nothing_acknowledged_is_lost_to_a_power_loss(tmp_path: Path) -> None:
    lost = PowerLoss(tmp_path, durable=True)
    found = audit(lost.url, lost.told, lost.license)
    assert found.clean, found
    assert found.receipts >= 30


@pytest.mark.usefixtures("recorder")
def test_without_flushes_a_power_loss_turns_the_test_red(tmp_path: Path) -> None:
    lost = PowerLoss(tmp_path, durable=False)
    found = audit(lost.url, lost.told, lost.license)
    assert found.lost >= 30
    assert found.smaller == 1
    assert not found.clean


@pytest.mark.usefixtures("recorder")
def test_a_log_torn_beyond_its_last_flush_loses_nothing(tmp_path: Path) -> None:
    lost = PowerLoss(tmp_path, durable=True)
    flushed, whole = lost.flushed_log.read_bytes(), lost.log.read_bytes()
    start = next(
        (i for i, (a, b) in enumerate(zip(flushed, whole, strict=False)) if a != b), len(flushed)
    )
    for number, cut in enumerate({start, (start + len(whole)) // 2, len(whole) - 1, len(whole)}):
        trial = tmp_path / f"trial {number}"
        shutil.copytree(lost.survivor.parent, trial)
        torn_log(trial / lost.flushed_log.name, lost.log, cut)
        found = audit(f"sqlite:///{trial}/platform.db", lost.told, lost.license)
        assert found.clean, (cut, found)


def test_a_log_cut_before_its_last_flush_is_refused(tmp_path: Path) -> None:
    license, told = begun(url := f"sqlite:///{tmp_path}/platform.db"), Acknowledged()
    kill_under_load(Load(url), 60, 0.02, told)
    whole = (tmp_path / "platform.db-wal").read_bytes()
    source = random.Random(7)
    cuts = [0, 32, *(source.randrange(len(whole) * 9 // 10) for _ in range(6))]
    for number, cut in enumerate(cuts):
        trial = tmp_path / f"trial {number}"
        trial.mkdir()
        for name in ("platform.db", "platform.db-head"):
            shutil.copy(tmp_path / name, trial / name)
        (trial / "platform.db-wal").write_bytes(whole[:cut])
        assert refused(f"sqlite:///{trial}/platform.db") == "size", cut
        (trial / "platform.db-head").unlink()
        (trial / "platform.db-wal").unlink(missing_ok=True)
    assert audit(url, told, license).clean


def test_without_its_mark_a_cut_log_looks_whole(tmp_path: Path) -> None:
    """Why the mark is there; and what a witness is for where the mark is lost too."""
    license, told = begun(url := f"sqlite:///{tmp_path}/platform.db"), Acknowledged()
    kill_under_load(Load(url), 60, 0.02, told)
    log = tmp_path / "platform.db-wal"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    (tmp_path / "platform.db-head").unlink()
    assert audit(url, told, license).lost > 0


def test_the_mark_keeps_the_largest_of_two_slots(tmp_path: Path) -> None:
    mark = HeadMark(tmp_path / "mark")
    assert mark.read() is None
    for size in (3, 5, 4):
        mark.write(size, b"note %d" % size)
    assert mark.read() == b"note 5"
    mark.write(6, b"note 6")
    mark.close()
    assert HeadMark(tmp_path / "mark").read() == b"note 6"


@pytest.mark.parametrize(("torn", "left"), [((1,), b"note 3"), ((0,), b"note 5"), ((0, 1), None)])
def test_a_torn_slot_costs_the_newest_note_alone(
    tmp_path: Path, torn: tuple[int, ...], left: bytes | None
) -> None:
    path = tmp_path / "mark"
    mark = HeadMark(path)
    for size in (3, 5):
        mark.write(size, b"note %d" % size)
    data = bytearray(path.read_bytes())
    for slot in torn:
        data[slot * SLOT_BYTES + 45] ^= 1
    path.write_bytes(data)
    if left is None:
        with pytest.raises(StorageError, match="damaged"):
            mark.read()
    else:
        assert mark.read() == left
    mark.close()


def test_a_mark_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    HeadMark(path).write(3, b"note 3")
    whole, found = path.read_bytes(), list[bytes | None]()
    mark = HeadMark(path)
    with path.open("r+b") as writer:  # another process, half way through its first slot
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.truncate(0)
        writer.write(whole[:20])
        writer.flush()
        reader = threading.Thread(target=lambda: found.append(mark.read()))
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
        writer.write(whole[20:])
        writer.flush()
        fcntl.flock(writer, fcntl.LOCK_UN)
    reader.join(20)
    assert found == [b"note 3"]


def test_a_mark_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        HeadMark(tmp_path / "no folder" / "mark")


def test_the_mark_is_never_ahead_of_the_database(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/x.db")
    license = seed(store)
    platform = Platform(store, KEYS)
    store._held.driver_connection.execute("PRAGMA max_page_count=1")  # type: ignore[union-attr]
    with pytest.raises(StorageError):
        platform.permit([request(license, number) for number in range(200)], NOW)
    heads = store.heads()
    assert heads.outside == heads.stored
    store.close()
