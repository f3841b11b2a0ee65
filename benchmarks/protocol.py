"""The figures of permissions and their store: `make bench-protocol`.

`python benchmarks/protocol.py STEP ...` runs single steps and replaces their rows in
results/protocol.json; `--small` runs short versions of them, prints their rows and writes nothing;
`show` prints the table. CPU is process time, kernel included. Rates are against the fdatasync rate
of the same folder, measured right before. The crash rig is the tests' own (tests/app/crash_rig.py).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import nacl.signing
from rich.console import Console

import deliveries
from loyal.app.store import SqlStore, open_store, open_undurable
from loyal.protocol import Permission, PermissionBatch, Receipt, events
from loyal.protocol.stake import Deposit
from loyal.roles import PermissionQueue, Platform
from loyal.signing import PublicKey, SigningKey
from rows import Row, put, show

sys.path[:0] = [str(deliveries.TESTS / "app"), str(deliveries.TESTS / "protocol")]

from crash_rig import (  # noqa: E402
    HOST,
    KEYS,
    NOW,
    Acknowledged,
    Audit,
    Load,
    audit,
    kill_under_load,
    pause,
    refused,
    request,
    seed,
)
from power_loss import torn_log  # noqa: E402

NAME = "protocol"
WAITERS = 64
BATCH = 256
PLENTY_MICRO = 10**13
PRICE_MICRO = 1_000


@dataclass(frozen=True)
class Size:
    """How much is done."""

    repeats: int = 2_000
    """Steps whose CPU is measured."""
    seconds: float = 10.0
    """Of load for a rate."""
    kills: int = 200
    deliveries: int = 1_000_000
    delivery_kills: int = 20


SMALL = Size(repeats=100, seconds=1.0, kills=10, deliveries=4_000, delivery_kills=2)


def _opened(folder: str, durable: bool = True) -> tuple[SqlStore, Platform, bytes]:
    """A store with one delivered license whose host can pay for everything."""
    url = f"sqlite:///{folder}/platform{'' if durable else '-undurable'}.db"
    store = open_store(url) if durable else open_undurable(url)
    license = seed(store)
    platform = Platform(store, KEYS)
    platform.submit(Deposit(platform.state.platform, HOST, PLENTY_MICRO), NOW)
    return store, platform, license


def fdatasync(folder: str, count: int = 300) -> list[float]:
    """Seconds of each of `count` flushes of 8 KiB, written over a file of 4 MiB from its beginning,
    as a write-ahead log is that has been in use."""
    took = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.pwrite(file.fileno(), os.urandom(4 << 20), 0)
        os.fsync(file.fileno())
        for place in range(count):
            os.pwrite(file.fileno(), os.urandom(8192), place * 8192)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return took


@dataclass(frozen=True)
class Loaded:
    """What many waiters got in a while."""

    count: int
    seconds: float
    cpu: float
    p99: float
    """Seconds that a permission took."""

    @property
    def rate(self) -> float:
        """Permissions a second."""
        return self.count / self.seconds


async def _load(platform: Platform, license: bytes, first: int, seconds: float) -> Loaded:
    """64 waiters, each asking again as soon as it has its receipt."""
    took: list[float] = []
    numbers = iter(range(first, 2**62))
    stop = time.perf_counter() + seconds

    async def wait(queue: PermissionQueue) -> None:
        for number in numbers:
            began = time.perf_counter()
            if began > stop:
                return
            await queue.permit(request(license, number))
            took.append(time.perf_counter() - began)

    async with PermissionQueue(platform, lambda: NOW) as queue:
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(wait(queue) for _ in range(WAITERS)))
        return Loaded(
            len(took), time.perf_counter() - began, time.process_time() - cpu,
            quantiles(took, n=100)[98],
        )  # fmt: skip


def cpu(size: Size) -> list[Row]:
    """CPU of a permission: alone, one a request among 64, and in batches of 256."""
    with tempfile.TemporaryDirectory() as folder:
        store, platform, license = _opened(folder)
        alone = _cpu(platform, license, 0, 1, size.repeats)
        batched = _cpu(platform, license, 10**6, BATCH, max(4, size.repeats // 20))
        among = asyncio.run(_load(platform, license, 10**9, size.seconds))
        store.close()
    each = among.cpu / among.count * 1e6
    return [
        Row("permit-cpu", "CPU of a durable permission, one a request, 64 at once", each, "µs", 90,
            "at_most", f"queue and event loop included; a step of one alone {alone:.0f} µs, of "
            "which two signatures and a flush's system time"),
        Row("batch-cpu", f"CPU of a durable permission in a batch of {BATCH}", batched, "µs", 25,
            "at_most", "best of 3 rounds; lookup of the keys, signing and SQLite included"),
        Row("batch-rate", f"durable permissions a core-second in batches of {BATCH}", 1e6 / batched,
            "/s", 40_000, "at_least", "1 / CPU of one"),
    ]  # fmt: skip


def _cpu(platform: Platform, license: bytes, first: int, width: int, steps: int) -> float:
    """Microseconds of CPU a permission, the best of three rounds."""
    found = []
    for start in range(first, first + 3 * width * steps, width * steps):
        asked = [
            [request(license, number) for number in range(at, at + width)]
            for at in range(start, start + width * steps, width)
        ]
        began = time.process_time()
        for one in asked:
            platform.permit(one, NOW)
        found.append((time.process_time() - began) / steps / width * 1e6)
    return min(found)


def durable(size: Size) -> list[Row]:
    """Durable permissions a second against the disk's flushes, and the same code without."""
    with tempfile.TemporaryDirectory() as folder:
        flushes = fdatasync(folder)
        store, platform, license = _opened(folder)
        found = asyncio.run(_load(platform, license, 0, size.seconds))
        store.close()
        flushes += fdatasync(folder)
        free, loose, other = _opened(folder, durable=False)
        without = asyncio.run(_load(loose, other, 0, size.seconds))
        free.close()
    rate, middle = len(flushes) / sum(flushes), median(flushes)
    how = (
        f"{found.rate:.0f}/s durable, {without.rate:.0f}/s without flushes; fdatasync of 8 KiB "
        f"{rate:.0f}/s, p50 {middle * 1e3:.2f} ms; {WAITERS} waiters, SQLite"
    )
    aim = min(40 * rate, 0.8 * without.rate)
    return [
        Row("durable-rate", "durable permissions a second over the smaller of 40 times the "
            "fdatasync rate and 80 % of the rate without flushes", found.rate / aim, "x", 1,
            "at_least", f"{found.rate / rate:.1f} times the fdatasync rate, "
            f"{found.rate / without.rate:.0%} of the rate without flushes; {how}"),
        Row("durable-p99", "p99 of a durable permission over fdatasync's p50",
            found.p99 / middle, "x", 12, "at_most", f"{found.p99 * 1e3:.1f} ms; {how}"),
    ]  # fmt: skip


def crash(size: Size) -> list[Row]:
    """kill -9 under load; every fifth time on a recorded disk, with its unflushed end torn."""
    source, wrong, told_all, cuts, caught = random.Random(11), [], 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/platform.db"
        store = open_store(url)
        license = seed(store)
        Platform(store, KEYS).submit(Deposit(KEYS.identity.public.data, HOST, PLENTY_MICRO), NOW)
        store.close()
        told = Acknowledged()
        for number in range(size.kills):
            if number % 5 == 4:
                found, cut, refusals = _power_loss(source)
                cuts, caught = cuts + cut, caught + refusals
            else:
                kill_under_load(Load(url, told.next), 5, pause(source), told)
                found = audit(url, told, license)
            wrong.append(found)
        told_all = len(told.receipts)
    red = _red()
    how = f"{size.kills} kills, {told_all} acknowledged in one log, every fifth a power loss"

    def count(name: str) -> int:
        return sum(getattr(one, name) for one in wrong)

    return [
        Row("crash-lost", "acknowledged permissions lost", count("lost") + count("changed"), "",
            0, "at_most", how),
        Row("crash-duplicates", "sequence numbers given twice or left out", count("duplicates"),
            "", 0, "at_most", how),
        Row("crash-smaller", "signed trees that are smaller after a crash", count("smaller"), "",
            0, "at_most", how),
        Row("crash-cut", "logs cut before their last flush that are refused",
            100 * caught / cuts if cuts else None, "%", 100, "at_least", f"{cuts} cuts"),
        Row("crash-red", "acknowledged permissions lost to a power loss with synchronous=OFF",
            red.lost, "", 1, "at_least", "the same check without flushes must turn red"),
    ]  # fmt: skip


def _power_loss(source: random.Random) -> tuple[Audit, int, int]:
    """One recorded child: its audit at a random cut of the unflushed end; cuts before, refused."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told, license = _recorded(folder, durable=True)
        shadow = folder / "shadow"
        whole = folder / "platform.db-wal"
        flushed = (shadow / whole.name).read_bytes()
        data = whole.read_bytes()
        begun = next(
            (i for i, (a, b) in enumerate(zip(flushed, data, strict=False)) if a != b), len(flushed)
        )
        torn_log(shadow / whole.name, whole, source.randint(begun, len(data)))
        found = audit(f"sqlite:///{shadow}/platform.db", told, license)
        trial = folder / "trial"
        trial.mkdir()
        for part in ("platform.db", "platform.db-head"):
            shutil.copy(folder / part, trial / part)
        (trial / whole.name).write_bytes(data[: source.randrange(len(data) // 2)])
        return found, 1, int(refused(f"sqlite:///{trial}/platform.db") == "size")


def _recorded(folder: Path, durable: bool) -> tuple[Acknowledged, bytes]:
    """A child on a disk that forgets, killed."""
    url, shadow = f"sqlite:///{folder}/platform.db", folder / "shadow"
    store = open_store(url)
    license = seed(store)
    store.close()
    shadow.mkdir()
    shutil.copy(folder / "platform.db", shadow / "platform.db")
    told = Acknowledged()
    kill_under_load(Load(url, 0, 16, shadow, durable), 60, 0.05, told)
    return told, license


def _red() -> Audit:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told, license = _recorded(folder, durable=False)
        return audit(f"sqlite:///{folder}/shadow/platform.db", told, license)


def million(size: Size) -> list[Row]:
    """A million deliveries, repeated, out of order, killed: one invoice, one log, one count."""
    with tempfile.TemporaryDirectory() as folder:
        store, platform, license = _opened(folder)
        free = events.free(HOST)
        before = platform.state.balance(free)
        store.close()
        url = f"sqlite:///{folder}/platform.db"
        began = time.monotonic()
        kills = deliveries.deliver(url, 3, size.deliveries, size.delivery_kills)
        took = time.monotonic() - began
        store = open_store(url)
        state = Platform(store, KEYS).state
        invoice = (before - state.balance(free)) // PRICE_MICRO
        logged = sum(
            one.count
            for one in map(events.decode_event, store.entries(0, state.length))
            if isinstance(one, events.BatchIssued)
        )
        store.close()
        permitted = state.licenses[license].permitted
    expected = deliveries.distinct(3, size.deliveries)
    off = sum(abs(one - expected) for one in (invoice, logged, permitted))
    how = (
        f"{size.deliveries} deliveries, {kills} kills: invoice {invoice}, log {logged}, distinct "
        f"keys {expected}; {took:.0f} s, {size.deliveries / took:.0f} deliveries/s"
    )
    return [Row("deliveries", "queries by which invoice, log and keys differ", off, "", 0,
                "at_most", how)]  # fmt: skip


def receipt(size: Size) -> list[Row]:
    """Checking a receipt offline against one bare Ed25519 verification."""
    key = SigningKey.generate()
    leaves = [
        Permission(HOST, b"l" * 32, b"v" * 32, (number.to_bytes(32, "big"),), number, NOW)
        for number in range(BATCH)
    ]
    public = PublicKey(key.public.data)
    bare, message = nacl.signing.VerifyKey(public.data), b"m" * 100
    signature = nacl.signing.SigningKey(key.seed()).sign(message).signature
    single = PermissionBatch.issue(leaves[:1], 5, NOW, key).receipt(0)
    batched = PermissionBatch.issue(leaves, 5, NOW, key).receipt(77)
    data = batched.to_bytes()
    reference = _best(lambda: bare.verify(message, signature), size)
    times = {
        "single": _best(lambda: single.verify(public), size) / reference,
        "batched": _best(lambda: batched.verify(public), size) / reference,
    }
    wire = _best(lambda: Receipt.from_bytes(data).verify(public), size) / reference
    how = (
        f"a bare verification takes {reference:.1f} µs; from bytes, decoding included, "
        f"{wire:.2f} times; a receipt has {len(single.to_bytes())} bytes alone, {len(data)} of 256"
    )
    return [
        Row("receipt-single", "checking a receipt of its own batch, in bare verifications",
            times["single"], "x", 1.3, "at_most", how),
        Row("receipt-batched", f"checking a receipt of {BATCH}, in bare verifications",
            times["batched"], "x", 1.3, "at_most", how),
    ]  # fmt: skip


def _best(action: Callable[[], object], size: Size) -> float:
    """Microseconds of CPU, the best of ten rounds."""
    found = []
    for _ in range(10):
        began = time.process_time()
        for _ in range(size.repeats):
            action()
        found.append((time.process_time() - began) / size.repeats * 1e6)
    return min(found)


STEPS: dict[str, Callable[[Size], list[Row]]] = {
    "receipt": receipt, "cpu": cpu, "durable": durable, "crash": crash, "million": million,
}  # fmt: skip


def main() -> None:
    """Run the steps that are asked for; all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)}; show prints alone")
    parser.add_argument("--small", action="store_true", help="short versions, nothing is written")
    parser.add_argument("--deliveries", type=int, default=Size().deliveries)
    given = parser.parse_args()
    if set(given.steps) - {*STEPS, "show"}:
        parser.error(f"the steps are {', '.join(STEPS)} and show")
    size = SMALL if given.small else Size(deliveries=given.deliveries)
    for step in given.steps or STEPS:
        if step == "show":
            continue
        rows = STEPS[step](size)
        if given.small:
            for row in rows:
                Console(width=150).print(f"{row.id}: {row.value} {row.unit} ({row.how})")
        else:
            put(NAME, rows)
    if not given.small:
        show(NAME)


if __name__ == "__main__":
    sys.exit(main())
