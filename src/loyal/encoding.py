"""The one canonical byte form of a record, its digest, the one safe way to write a file, and JSON
that every reader takes alike (`read_json`).

The form is deterministic CBOR (RFC 8949, section 4.2.1) over the values that a signed record may
hold: None, bool, int of 64 bits, str, bytes, list or tuple, and dict with text keys. Equal values
have equal bytes, and `decode` takes those bytes alone: `encode(decode(data)) == data` for
everything that it accepts. cbor2 sorts keys shortest first (RFC 7049); for text keys, the only
ones allowed, that is the bytewise order of RFC 8949 too.

Left out on purpose: floats (no float enters a signed record), tags, sets, dates, and Unicode
normalization: two spellings of one text are two texts.
"""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import cbor2

from loyal.errors import EncodingError, StorageError

Value: TypeAlias = "bool | int | str | bytes | list[Value] | dict[str, Value] | None"
"""What `decode` gives."""

Encodable: TypeAlias = (
    "bool | int | str | bytes | Sequence[Encodable] | Mapping[str, Encodable] | None"
)
"""What `encode` takes: the types of Value and tuples; at run time no subclass of them."""

MAX_DEPTH = 32
"""Lists and maps nest no deeper, so that no input can exhaust the stack."""

_LOWEST, _HIGHEST = -(2**64), 2**64 - 1  # what CBOR holds without a bignum tag
_ATOMS = frozenset({bool, type(None), bytes, str})
_TEXT = frozenset({str})
_HINT_VALUE = "Use None, bool, 64-bit int, str, bytes, list, tuple and dict with text keys only."
_HINT_BYTES = "The record was damaged, or something else than loyal wrote it; get it again."


def encode(value: Encodable) -> bytes:
    """The canonical bytes of `value`; a tuple becomes a list.

    Raises EncodingError for a float, any other type, an int beyond 64 bits, a lone surrogate, or
    more than MAX_DEPTH levels.
    """
    _check(value)
    return encode_checked(value)


def encode_checked(value: object) -> bytes:
    """`encode` for a value whose kinds the caller has seen to: half the time of a short record."""
    try:
        return cbor2.dumps(value, canonical=True)
    except (cbor2.CBOREncodeError, UnicodeEncodeError) as error:
        raise EncodingError(
            "text with a lone surrogate has no canonical form", hint=_HINT_VALUE
        ) from error


def decode(data: bytes) -> Value:
    """The value whose canonical bytes are `data`.

    Raises EncodingError, and nothing else, for any other bytes: trailing, cut, not the shortest
    form, indefinite lengths, unsorted or repeated keys, tags, floats, undefined.
    """
    try:
        value = cbor2.loads(
            data,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except Exception as error:
        # cbor2 resolves tags before we can refuse them, and what those raise is not all its own.
        raise EncodingError("these bytes are not canonical CBOR", hint=_HINT_BYTES) from error
    # Shared references (tag 29) can blow a few bytes up into a value of exponential size. A
    # canonical item takes at least a byte, so more items than bytes end the walk.
    _check(value, most=len(data))
    if encode_checked(value) != data:
        raise EncodingError("these bytes are not canonical CBOR", hint=_HINT_BYTES)
    return cast(Value, value)


def digest(value: Encodable, purpose: str) -> bytes:
    """SHA-256 (32 bytes) over the length of `purpose` (2 bytes, big-endian), it, and the value.

    The purpose keeps digests apart: no value under one purpose has the digest of another's.
    Raises EncodingError for an empty purpose or one over 65,535 bytes.
    """
    return hashlib.sha256(frame(purpose) + encode(value)).digest()


@lru_cache(maxsize=1024)
def frame(purpose: str) -> bytes:
    """The purpose as a prefix that no other purpose's prefix begins with: 2 bytes of length, it."""
    text = purpose.encode("utf-8", "surrogatepass")
    if not 0 < len(text) < 2**16:
        raise EncodingError(
            "a purpose is 1 to 65,535 bytes long", hint="Name what the bytes are used for."
        )
    return len(text).to_bytes(2, "big") + text


def atomic_write(
    path: str | os.PathLike[str], data: bytes | Iterable[bytes], *, private: bool = False
) -> None:
    """Replace the file at `path` by `data`, or leave it as it is: never anything between.

    Data may come in pieces, one after the other; what their iterator raises leaves the file as it
    is. The data goes to a temporary file in the same folder, is flushed to the disk, and takes the
    name in one rename. A symbolic link is followed. `private` makes the file readable by its
    owner alone (0600); otherwise a file that exists keeps its mode. Raises StorageError when the
    disk refuses; a temporary file is then not left behind (only a killed process leaves one).
    """
    try:
        target = Path(os.path.realpath(path))
        os.fsencode(target)
    except ValueError as error:
        raise StorageError(
            "this path cannot name a file", hint="Choose a path without null bytes."
        ) from error
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            _write_new(temporary, data, 0o600 if private else _mode_of(target))
            os.replace(temporary, target)
            _flush_folder(folder)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(folder)
    except OSError as error:
        raise _storage_error(target, error) from error


def read_json(text: str) -> Any:
    """The value of a JSON text; ValueError for what readers take differently: a name that stands
    twice in an object (RFC 8259, section 4), and NaN and Infinity, which only some know."""
    return json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return table


def require_place(path: str | os.PathLike[str]) -> None:
    """StorageError where `atomic_write` would find no place, for whoever first works for hours: no
    folder, one that may not be written to, or a folder at the path itself."""
    target = Path(os.path.realpath(path))
    code = 0
    if target.is_dir():
        code = errno.EISDIR
    elif not target.parent.is_dir():
        code = errno.ENOTDIR if target.parent.exists() else errno.ENOENT
    elif not os.access(target.parent, os.W_OK | os.X_OK):
        code = errno.EACCES
    if code:
        raise _storage_error(target, OSError(code, os.strerror(code)))


def _check(value: object, most: int | None = None) -> None:
    """Refuse what has no canonical form, and a value of more than `most` items.

    Level by level. A list of atoms alone, as most are, is seen as a whole: a set of its types.
    """
    level: list[Any] = [value]
    for depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        count = 0
        for item in level:
            kind = type(item)
            if kind in _ATOMS:
                continue
            if kind is int:
                if not _LOWEST <= item <= _HIGHEST:
                    raise EncodingError("an integer does not fit in 64 bits", hint=_HINT_VALUE)
                continue
            if kind is dict:
                if not _TEXT.issuperset(map(type, item)):
                    raise EncodingError("a key of a map is not text", hint=_HINT_VALUE)
                parts = item.values()
            elif kind is list or kind is tuple:
                parts = item
            else:
                raise EncodingError(f"a {kind.__name__} has no canonical form", hint=_HINT_VALUE)
            count += len(parts)
            if most is not None and count > most:
                raise EncodingError("these bytes are not canonical CBOR", hint=_HINT_BYTES)
            if not _ATOMS.issuperset(map(type, parts)):
                below.extend(parts)
        if not below and not (count and depth == MAX_DEPTH):
            return
        level = below
    raise EncodingError(f"lists and maps nest deeper than {MAX_DEPTH}", hint=_HINT_VALUE)


def _mode_of(target: Path) -> int | None:
    try:
        return stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        return None


def _write_new(path: Path, data: bytes | Iterable[bytes], mode: int | None) -> None:
    """Write a file that must not exist yet, down to the disk. mode None: what umask allows."""
    created = 0o666 if mode is None else 0o600
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, created)
    try:
        for piece in (data,) if isinstance(data, bytes) else data:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        if mode is not None:
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(descriptor: int) -> None:
    """Make the rename last. Some network file systems have no such call; then it is as it is."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _storage_error(target: Path, error: OSError) -> StorageError:
    hint = {
        errno.ENOSPC: "Free some space on that disk and run it again; no file was cut short.",
        errno.EDQUOT: "Free some of your quota and run it again; no file was cut short.",
        errno.ENOENT: "Make the folder first, or choose another path.",
        errno.ENOTDIR: "Choose a path whose folders are folders.",
        errno.EISDIR: "That is a folder; name a file inside it.",
        errno.EACCES: "Choose a path that you may write to.",
        errno.EPERM: "Choose a path that you may write to.",
        errno.EROFS: "Choose a path on a disk that is not read-only.",
    }.get(error.errno or 0, "Check the disk and run it again; no file was cut short.")
    return StorageError(f"cannot write {target}: {error.strerror or error}", hint=hint)
