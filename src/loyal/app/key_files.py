"""Secrets that commands read from files: a seed that signs, an API key, a license.

Nothing read here is ever printed; errors name the option, not what the file holds.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import click

from loyal.app.terminal import Decorator
from loyal.encoding import atomic_write
from loyal.errors import SignatureError, UsageError
from loyal.signing import SigningKey

FILE = click.Path(path_type=Path)
MOST_BYTES = 1 << 20

KEY_OPTION: Decorator = click.option(
    "--key",
    type=FILE,
    required=True,
    metavar="FILE",
    help="The secret seed, 64 hexadecimal digits; only its owner may read the file.",
)


def signing_key(path: Path, option: str) -> SigningKey:
    """The key of a seed file. UsageError for a file that others may read, or without a seed."""
    text = secret_line(path, option)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(
            f"others may read the file of {option}", hint=f"chmod 600 {path}, or draw a new key"
        )
    try:
        return SigningKey.from_seed(bytes.fromhex(text))
    except (ValueError, SignatureError):
        raise UsageError(
            f"the file of {option} does not hold a seed", hint="it is 64 hexadecimal digits"
        ) from None


def drawn_key(path: Path, option: str) -> SigningKey:
    """The key of a seed file; drawn into it where there is none. UsageError as `signing_key`."""
    if path.exists():
        return signing_key(path, option)
    key = SigningKey.generate()
    atomic_write(path, f"{key.seed().hex()}\n".encode(), private=True)
    return key


def secret_line(path: Path, option: str) -> str:
    """The first line of a file. UsageError where there is none."""
    text = file_bytes(path, option).decode("utf-8", "replace").strip()
    if not text:
        raise UsageError(f"the file of {option} is empty", hint="write the key into it")
    return text.splitlines()[0].strip()


def file_bytes(path: Path, option: str) -> bytes:
    """A file's bytes, a MiB at most. UsageError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise UsageError(
            f"cannot read the file of {option}: {reason}", hint="check the path and its owner"
        ) from None


def hex_id(text: str, option: str) -> bytes:
    """32 bytes of 64 hexadecimal digits; UsageError for any other text."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != 32:
        raise UsageError(f"{option} is not an id", hint="it is 64 hexadecimal digits")
    return data
