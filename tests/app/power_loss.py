"""A disk that forgets, under the SQLite that this process uses: what was not flushed is lost.

`record(folder)` registers a VFS that passes every call on to SQLite's own, and keeps in `folder`,
for each database file and write-ahead log, what a power loss would leave: a write reaches the copy
only when `xSync` on its file has succeeded. So the copy is what the program really flushed, and a
program that does not flush has nothing there.

What this covers: everything since the last flush of a file is lost, all of it, which is the worst
that a truthful disk does to a file that is appended to; the write-ahead log may instead be given
any part of its unflushed end (`torn_log`), as when the kernel had written some of it. What it does
not: disks that lie about a flush, sectors torn inside flushed data, names lost from a folder that
was not flushed, and files that SQLite opens in other ways (shared memory, which is rebuilt).

The VFS is patched through ctypes, so it works where Python's sqlite3 uses a shared libsqlite3.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sqlite3
from collections.abc import Callable
from pathlib import Path

_OPEN_FLAGS = 0x00000100 | 0x00080000
"""SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_WAL."""

_OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
)
_WRITE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


_LIVING: list[Recorder] = []
"""SQLite keeps their addresses, so nothing may collect them."""


class _Vfs(ctypes.Structure):
    """sqlite3_vfs (sqlite.org/c3ref/vfs.html), with the calls that are passed on as they are."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_bytes", ctypes.c_int),
        ("most_path", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("open", ctypes.c_void_p),
        ("others", ctypes.c_void_p * 15),
    )


class _Methods(ctypes.Structure):
    """sqlite3_io_methods (sqlite.org/c3ref/io_methods.html)."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("close", ctypes.c_void_p),
        ("read", ctypes.c_void_p),
        ("write", ctypes.c_void_p),
        ("truncate", ctypes.c_void_p),
        ("sync", ctypes.c_void_p),
        ("others", ctypes.c_void_p * 13),
    )


class _File(ctypes.Structure):
    _fields_ = (("methods", ctypes.POINTER(_Methods)),)


class Recorder:
    """The registered VFS. It lives as long as the process."""

    def __init__(self, folder: Path, library: ctypes.CDLL) -> None:
        library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
        library.sqlite3_vfs_register.argtypes = [ctypes.POINTER(_Vfs), ctypes.c_int]
        self.folder = folder
        self.flushes = 0
        self._pending: dict[int, list[tuple[int, bytes | None]]] = {}
        self._copies: dict[int, Path] = {}
        self._patched: dict[int, _Methods] = {}
        self._kept: list[object] = []
        theirs = library.sqlite3_vfs_find(None)
        self._vfs = _Vfs.from_buffer_copy(theirs.contents)
        self._open = _OPEN(theirs.contents.open)
        self._vfs.name, self._vfs.next = b"recorder", None
        self._vfs.open = self._pointer(_OPEN, self._opened)
        library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)

    def _pointer(self, kind: type, function: Callable[..., int]) -> int:
        """A C function that is not collected."""
        made = kind(function)
        self._kept.append(made)
        return ctypes.cast(made, ctypes.c_void_p).value or 0

    def _opened(self, vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
        # The name is passed on as the pointer that it is: SQLite keeps it as long as the file.
        code = self._open(vfs, name, file, flags, out)
        if code or name is None or not flags & _OPEN_FLAGS:
            return code
        header = _File.from_address(file)
        address = ctypes.addressof(header.methods.contents)
        if address not in self._patched:
            self._patched[address] = self._patch(header.methods.contents)
        header.methods = ctypes.pointer(self._patched[address])
        self._pending[file] = []
        self._copies[file] = self.folder / Path(ctypes.string_at(name).decode()).name
        return code

    def _patch(self, theirs: _Methods) -> _Methods:
        """The same methods, with writes remembered and flushes carried out on the copy."""
        ours = _Methods.from_buffer_copy(theirs)
        write, truncate, sync = _WRITE(theirs.write), _TRUNCATE(theirs.truncate), _SYNC(theirs.sync)

        def written(file: int, data: int, count: int, offset: int) -> int:
            code = write(file, data, count, offset)
            if not code:
                self._pending[file].append((offset, ctypes.string_at(data, count)))
            return code

        def truncated(file: int, size: int) -> int:
            code = truncate(file, size)
            if not code:
                self._pending[file].append((size, None))
            return code

        def flushed(file: int, flags: int) -> int:
            code = sync(file, flags)
            if not code:
                self._flush(file)
            return code

        ours.write = self._pointer(_WRITE, written)
        ours.truncate = self._pointer(_TRUNCATE, truncated)
        ours.sync = self._pointer(_SYNC, flushed)
        return ours

    def _flush(self, file: int) -> None:
        """What was written to a file so far would survive now."""
        self.flushes += 1
        path = self._copies[file]
        path.touch()
        with path.open("r+b") as copy:
            for offset, data in self._pending[file]:
                if data is None:
                    copy.truncate(offset)
                else:
                    copy.seek(offset)
                    copy.write(data)
        self._pending[file] = []


def record(folder: Path) -> Recorder | None:
    """Register the recorder as SQLite's default; None where Python brings an SQLite of its own."""
    name = ctypes.util.find_library("sqlite3")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    library.sqlite3_libversion.restype = ctypes.c_char_p
    if library.sqlite3_libversion().decode() != sqlite3.sqlite_version:
        return None
    folder.mkdir(exist_ok=True)
    recorder = Recorder(folder, library)
    _LIVING.append(recorder)
    probe = sqlite3.connect(folder / "probe.db")
    probe.execute("CREATE TABLE probe (x)")
    probe.close()
    (folder / "probe.db").unlink()
    return recorder if recorder.flushes else None


def torn_log(flushed: Path, real: Path, cut: int) -> None:
    """Give the surviving write-ahead log its unflushed end, up to byte `cut` of the real one.

    SQLite starts the log anew from its beginning when it was copied into the database; bytes that
    the survivor holds beyond the cut stay as they are.
    """
    data = real.read_bytes()[:cut]
    rest = flushed.read_bytes()[len(data) :] if flushed.exists() else b""
    flushed.write_bytes(data + rest)
