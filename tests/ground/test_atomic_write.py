"""`atomic_write`: whatever step fails, or is the last before a crash, one whole file remains."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loyal.encoding import atomic_write
from loyal.errors import StorageError

OLD, NEW = b"old" * 1000, b"new" * 1000
STEPS = ["open", "write", "fchmod", "fsync", "close", "replace"]


def fail(monkeypatch: pytest.MonkeyPatch, step: str, call: int, error: BaseException) -> None:
    """Let call number `call` (from 0) of os.<step> raise `error`."""
    true: Callable[..., Any] = getattr(os, step)
    calls = 0

    def failing(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            if step == "close":
                true(*args, **named)
            raise error
        return true(*args, **named)

    monkeypatch.setattr(os, step, failing)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, OLD)
    assert path.read_bytes() == OLD
    atomic_write(str(path), NEW)
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("before", [None, OLD], ids=["fresh", "replacing"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failing_step_leaves_the_old_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: bytes | None,
    step: str,
    error: BaseException,
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    fail(monkeypatch, step, 0, error)
    expected = StorageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        atomic_write(path, NEW, private=True)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_bytes() == before
    if isinstance(caught.value, StorageError):
        assert "Free some space" in caught.value.hint


def test_a_disk_that_fills_up_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    true, room = os.write, 1000

    def full(descriptor: int, data: memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = true(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError):
        atomic_write(path, NEW)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: true(descriptor, data[:7]))
    atomic_write(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


@pytest.mark.parametrize(("code", "refused"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_the_folder_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, refused: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    fail(monkeypatch, "fsync", 1, OSError(code, "no"))
    if refused:
        with pytest.raises(StorageError):
            atomic_write(path, NEW)
    else:
        atomic_write(path, NEW)
    assert path.read_bytes() == NEW
    assert os.listdir(tmp_path) == ["file"]


CRASH = """
import os, sys
from loyal.encoding import atomic_write
path, step, moment = sys.argv[1:]
true = getattr(os, step)
def crash(*args, **named):
    if moment == "halfway":
        true(args[0], args[1][:1000])
    if moment == "after":
        true(*args, **named)
    os._exit(9)
setattr(os, step, crash)
atomic_write(path, b"new" * 1000, private=True)
"""


@pytest.mark.parametrize(
    ("step", "moment", "remains"),
    [
        ("write", "before", OLD),
        ("write", "halfway", OLD),
        ("write", "after", OLD),
        ("fsync", "before", OLD),
        ("fsync", "after", OLD),
        ("replace", "before", OLD),
        ("replace", "after", NEW),
    ],
)
def test_a_process_that_dies(tmp_path: Path, step: str, moment: str, remains: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    done = subprocess.run([sys.executable, "-c", CRASH, str(path), step, moment], check=False)
    assert done.returncode == 9
    assert path.read_bytes() == remains
    atomic_write(path, b"next")
    assert path.read_bytes() == b"next"


def test_modes(tmp_path: Path) -> None:
    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    path = tmp_path / "file"
    umask = os.umask(0o022)
    try:
        atomic_write(path, OLD)
        assert mode(path) == 0o644
        atomic_write(path, OLD, private=True)
        assert mode(path) == 0o600
        atomic_write(path, NEW)
        assert mode(path) == 0o600
        path.chmod(0o666)
        atomic_write(path, NEW)
        assert mode(path) == 0o666
    finally:
        os.umask(umask)


def test_a_link_is_followed(tmp_path: Path) -> None:
    link, path = tmp_path / "link", tmp_path / "folder" / "file"
    path.parent.mkdir()
    link.symlink_to(path)
    atomic_write(link, NEW)
    assert link.is_symlink()
    assert path.read_bytes() == NEW


@pytest.mark.parametrize(
    "name", ["nowhere/file", "file/below", "folder", "x" * 300, "loop", "a\0b", "\ud800"]
)
def test_paths_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(StorageError) as caught:
        atomic_write(tmp_path / name, NEW)
    assert caught.value.hint
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "file").read_bytes() == OLD


def test_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("\U0001f600" * 63)
    atomic_write(path, NEW)
    assert path.read_bytes() == NEW


def test_pieces_make_one_file_and_a_failing_piece_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, iter([OLD, b"", NEW]))
    assert path.read_bytes() == OLD + NEW

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the source broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        atomic_write(path, broken())
    assert path.read_bytes() == OLD + NEW
    assert list(tmp_path.iterdir()) == [path]
