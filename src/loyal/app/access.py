"""Who may ask, and how often: API keys of hosts, and token buckets.

A key is drawn here, shown once, and kept as its SHA-256 alone: it has 256 random bits, so that no
slow hash is needed. The file is read again when it changes, so that a new key works at once. Left
out: requests that are signed (`signed_request`), and what may be asked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loyal.encoding import atomic_write
from loyal.errors import StorageError, UsageError

PREFIX = "loyal-"
KEY_BYTES = 32
MOST_BUCKETS = 65_536
"""Who is remembered at once; whose bucket is full again is forgotten first."""


class ApiKeys:
    """Hosts by the hash of their key, from a file of lines `HOST SHA256`, both in hexadecimal."""

    def __init__(self, path: Path) -> None:
        """Read when first asked. A file that is not there holds no key."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._hosts: dict[str, bytes] = {}

    def host_of(self, key: str) -> bytes | None:
        """The host that a key was given to, its public key, 32 bytes; None for any other text."""
        self._read_on()
        digest = _digest(key)
        host = None
        for known, owner in self._hosts.items():
            if hmac.compare_digest(known, digest):
                host = owner
        return host

    def draw(self, host: bytes) -> str:
        """A new key for a host: shown now and never again. Older ones stay."""
        self._read_on()
        key = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode().rstrip("=")
        lines = [f"{owner.hex()} {digest}\n" for digest, owner in self._hosts.items()]
        lines.append(f"{host.hex()} {_digest(key)}\n")
        atomic_write(self._path, "".join(lines).encode(), private=True)
        return key

    def revoke(self, host: bytes) -> int:
        """Take all keys of a host back; gives how many there were."""
        self._read_on()
        left = {digest: owner for digest, owner in self._hosts.items() if owner != host}
        lines = [f"{owner.hex()} {digest}\n" for digest, owner in left.items()]
        atomic_write(self._path, "".join(lines).encode(), private=True)
        return len(self._hosts) - len(left)

    def __len__(self) -> int:
        self._read_on()
        return len(self._hosts)

    def _read_on(self) -> None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            self._seen, self._hosts = None, {}
            return
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen != self._seen:
            self._hosts = _parse(self._path.read_text("ascii", "replace"))
            self._seen = seen

    def __repr__(self) -> str:
        return f"ApiKeys({len(self._hosts)} keys)"


def _parse(text: str) -> dict[str, bytes]:
    hosts = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or line.startswith("#"):
            continue
        try:
            host, digest = (bytes.fromhex(one) for one in parts)
        except ValueError:
            host = digest = b""
        if len(host) != 32 or len(digest) != 32:
            raise StorageError(
                f"line {number} of the API keys is none",
                hint="it is a host's public key and the SHA-256 of its key, in hexadecimal",
            )
        hosts[digest.hex()] = host
    return hosts


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Rate:
    """How much one asker may ask for."""

    per_second: float
    burst: float
    """At once, after a pause."""

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise UsageError("a rate is above 0", hint="raise it, and the burst to at least 1")


class Buckets:
    """A token bucket for each asker. Belongs to one thread."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that never run back."""
        self._rate, self._clock = rate, clock
        self._levels: dict[object, tuple[float, float]] = {}

    def take(self, asker: object, tokens: float = 1.0) -> float:
        """0 where the tokens were there, else the seconds until they are; nothing is then taken.

        More tokens than the burst are let in at a full bucket, and paid off before the next ones.
        """
        now, rate = self._clock(), self._rate
        level, before = self._levels.get(asker, (rate.burst, now))
        level = min(rate.burst, level + (now - before) * rate.per_second)
        needed = min(tokens, rate.burst)
        if level < needed:
            self._levels[asker] = level, now
            return (needed - level) / rate.per_second
        if asker not in self._levels and len(self._levels) >= MOST_BUCKETS:
            self._forget(now)
        self._levels[asker] = level - tokens, now
        return 0.0

    def _forget(self, now: float) -> None:
        rate = self._rate
        self._levels = {
            asker: (level, before)
            for asker, (level, before) in self._levels.items()
            if level + (now - before) * rate.per_second < rate.burst
        }
        while len(self._levels) >= MOST_BUCKETS:
            del self._levels[next(iter(self._levels))]


def asker_of(client: object) -> str:
    """An ASGI client's address as an asker: IPv6 by its /64, which one customer has whole."""
    host = client[0] if isinstance(client, (tuple, list)) and client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 6:
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
