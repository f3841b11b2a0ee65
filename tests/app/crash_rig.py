"""A platform under load in a process of its own, to be killed, and the check of what it left.

The child serves permissions through the queue and writes each receipt to a pipe after it has it:
who reads a receipt there was told that it is durable. `audit` opens what is left and counts what
must not be: acknowledged receipts that are lost or differ, sequence numbers given twice, and a tree
that is smaller than one that was signed. benchmarks/protocol.py runs the same rig 200 times.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "protocol")]

import power_loss  # noqa: E402
from parties import key_of, licensed  # noqa: E402

from loyal.app.store import SqlStore, open_store, open_undurable  # noqa: E402
from loyal.errors import LoyalError  # noqa: E402
from loyal.merkle import Frontier  # noqa: E402
from loyal.protocol import Checkpoint, NoteSigner, Receipt  # noqa: E402
from loyal.protocol.checkpoint import sign_checkpoint  # noqa: E402
from loyal.protocol.events import BatchIssued, decode_event, encode_event  # noqa: E402
from loyal.protocol.permits import PermissionRequest  # noqa: E402
from loyal.roles import Change, PermissionQueue, Platform, PlatformKeys  # noqa: E402

KEYS = PlatformKeys(key_of("platform"), NoteSigner("example.com/log", key_of("log")))
NOW = 1_800_000_000
HOST = key_of("host").public.data


def seed(store: SqlStore, **terms: object) -> bytes:
    """Write a community with one delivered license as the log's beginning; gives the license."""
    stage, license = licensed(**terms)
    entries = tuple(map(encode_event, stage.log))
    head = Frontier().extend(entries)
    checkpoint = Checkpoint(KEYS.log.name, head.size, head.root())
    note = sign_checkpoint(checkpoint, KEYS.log).note
    assert store.commit(Change(0, entries, (), note.to_bytes()))
    return license


def request(license: bytes, number: int, body: int | None = None) -> PermissionRequest:
    """What the host asks for its query of this number."""
    message = (number if body is None else body).to_bytes(32, "big")
    return PermissionRequest(HOST, license, (message,), number.to_bytes(16, "big"))


@dataclass
class Load:
    """What a child does."""

    url: str
    first: int = 0
    """The number of its first query; others follow."""
    waiters: int = 16
    shadow: Path | None = None
    """Where to keep what a power loss would leave."""
    durable: bool = True
    stop: int = 2**62
    """The number after its last query."""

    def command(self) -> list[str]:
        """How the child is started."""
        words = [sys.executable, str(Path(__file__).resolve()), self.url]
        words += ["--first", str(self.first), "--waiters", str(self.waiters)]
        words += ["--stop", str(self.stop)]
        words += ["--shadow", str(self.shadow)] if self.shadow else []
        return words + ([] if self.durable else ["--undurable"])


@dataclass
class Acknowledged:
    """Receipts by query number, as the pipe gave them."""

    receipts: dict[int, bytes] = field(default_factory=dict)
    changed: int = 0
    """Queries that got another receipt the second time."""

    def add(self, line: bytes) -> None:
        """One line of the pipe; a line that was cut by the kill was not read by anybody."""
        number, _, rest = line.strip().partition(b" ")
        receipt = bytes.fromhex(rest.decode())
        self.changed += self.receipts.setdefault(int(number), receipt) != receipt

    @property
    def next(self) -> int:
        """Where the next child begins: some way back, so that queries in doubt are asked again."""
        return max(0, max(self.receipts, default=0) - 40)


def kill_under_load(load: Load, after: int, seconds: float, told: Acknowledged) -> None:
    """Run a child, and kill it (SIGKILL) `seconds` after its `after`-th acknowledgment."""
    with subprocess.Popen(load.command(), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for line in itertools.islice(child.stdout, after):
            told.add(line)
        timer = threading.Timer(seconds, child.send_signal, [signal.SIGKILL])
        timer.start()
        for line in child.stdout:
            if line.endswith(b"\n"):
                told.add(line)
        child.wait()
        timer.join()


@dataclass(frozen=True)
class Audit:
    """What is left, and what must not be."""

    lost: int
    """Acknowledged receipts that are gone or differ."""
    duplicates: int
    """Sequence numbers or log places given twice, or left out."""
    smaller: int
    """1 where the signed tree is smaller than one that was acknowledged."""
    permissions: int
    """In the log."""
    receipts: int
    """In the store."""

    changed: int
    """Queries that got two receipts."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.duplicates or self.smaller or self.changed)


def audit(url: str, told: Acknowledged, license: bytes) -> Audit:
    """Open the store as the next platform would, and count. LoyalError where that is refused."""
    store = open_store(url)
    try:
        platform = Platform(store, KEYS)
        names = [(license, number.to_bytes(16, "big")) for number in told.receipts]
        found: dict[int, bytes] = {}
        for start in range(0, len(names), 4096):
            for one in store.find(names[start : start + 4096]):
                found[int.from_bytes(one.idempotency_key, "big")] = one.receipt
        lost = sum(found.get(number) != one for number, one in told.receipts.items())
        places = [Receipt.from_bytes(one).header.log_index for one in told.receipts.values()]
        length = platform.state.length
        kept, sequences = _sequences(store)
        given = sum(_counts(store, length))
        gaps = sum(count != 1 for count in sequences.values())
        gaps += len(sequences) != platform.state.licenses[license].permitted
        smaller = int(max(places, default=-1) >= length)
        return Audit(lost, gaps, smaller, given, kept, told.changed)
    finally:
        store.close()


def _sequences(store: SqlStore) -> tuple[int, Counter[int]]:
    with store._engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT receipt FROM receipts").all()
    found = Counter(Receipt.from_bytes(bytes(one[0])).permission.sequence for one in rows)
    return len(rows), found


def _counts(store: SqlStore, length: int) -> Iterator[int]:
    for data in store.entries(0, length):
        event = decode_event(data)
        if isinstance(event, BatchIssued):
            yield event.count


def refused(url: str) -> str:
    """The reason that opening the log is refused for; empty where it is not."""
    store = open_store(url)
    try:
        Platform(store, KEYS)
    except LoyalError as error:
        return getattr(error, "reason", type(error).__name__)
    finally:
        store.close()
    return ""


async def serve(load: Load) -> None:
    """The child: ask for one permission after the other, by many waiters at once, until killed."""
    if load.shadow is not None:
        assert power_loss.record(load.shadow) is not None
    store = open_store(load.url) if load.durable else open_undurable(load.url)
    platform = Platform(store, KEYS)
    (license,) = platform.state.licenses
    numbers = iter(range(load.first, load.stop))
    async with PermissionQueue(platform, lambda: NOW) as queue:

        async def wait() -> None:
            for number in numbers:
                receipt = await queue.permit(request(license, number))
                os.write(1, b"%d %s\n" % (number, receipt.hex().encode()))

        await asyncio.gather(*(wait() for _ in range(load.waiters)))
    store.close()


def main() -> None:
    """Be the child."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--first", type=int)
    parser.add_argument("--stop", type=int)
    parser.add_argument("--waiters", type=int)
    parser.add_argument("--shadow", type=Path)
    parser.add_argument("--undurable", action="store_true")
    given = parser.parse_args()
    load = Load(
        given.url, given.first, given.waiters, given.shadow, not given.undurable, given.stop
    )
    asyncio.run(serve(load))


def pause(source: random.Random) -> float:
    """How long a child lives on after its first acknowledgments, seconds."""
    return source.uniform(0.0, 0.08)


if __name__ == "__main__":
    main()
