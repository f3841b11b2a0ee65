"""The figures of the permission route over HTTP: CPU of a durable permission, key and signature.

The platform (`loyal platform serve`, real rules, SQLite, logs to a file) is a process of its own,
and so is the client of raw sockets; CPU is the platform process's own, kernel included, read from
the system before and after. Rows go to results/protocol.json.
`python benchmarks/permission_route.py --dry` measures and writes no row.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import deliveries
from gateway import usage
from loyal.app.access import ApiKeys
from loyal.app.signed_request import authorization
from loyal.app.store import open_store
from loyal.protocol.stake import Deposit
from loyal.roles import Platform
from loyal.signing import SigningKey
from rows import Row, put, show

sys.path[:0] = [str(deliveries.TESTS / "app"), str(deliveries.TESTS / "protocol")]

from crash_rig import HOST, KEYS, NOW, seed  # noqa: E402
from parties import key_of  # noqa: E402

NAME = "protocol"
TOGETHER = 64
"""Connections, each with one request under way."""
BATCH = 256

SERVER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from crash_rig import KEYS
from loyal.app import listening
from loyal.app.access import ApiKeys, Rate
from loyal.app.commands.platform import _json_lines
from loyal.app.http import HttpLimits, Parts, PlatformApp
from loyal.app.listening import Address, new_loop, open_door
from loyal.app.store import open_store
from loyal.roles import PermissionQueue, Platform
import time

folder = Path(sys.argv[1])
store = open_store(f"sqlite:///{folder}/platform.db")
platform = Platform(store, KEYS)

async def main():
    clock = lambda: int(time.time())
    async with PermissionQueue(platform, clock) as queue:
        limits = HttpLimits(host=Rate(1e9, 1e9))
        app = PlatformApp(Parts(platform, queue, store, KEYS.log.verifier,
                                ApiKeys(folder / "api-keys"), clock=clock, limits=limits))
        door = open_door(Address("127.0.0.1", 0))
        print(door.getsockname()[1], flush=True)
        await listening.serve(app, door)

with asyncio.Runner(loop_factory=new_loop) as runner, _json_lines():
    runner.run(main())
"""


@dataclass(frozen=True)
class Setting:
    """A platform that is up, and a license on it."""

    port: int
    pid: int
    license: bytes
    api_key: str
    key: SigningKey


@contextlib.contextmanager
def platform() -> Iterator[Setting]:
    """The platform in a process of its own."""
    tests = [str(deliveries.TESTS / "app"), str(deliveries.TESTS / "protocol")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(f"sqlite:///{folder}/platform.db")
        license = seed(store)
        Platform(store, KEYS).submit(Deposit(KEYS.identity.public.data, HOST, 10**13), NOW)
        store.close()
        api_key = ApiKeys(folder / "api-keys").draw(HOST)
        command = [sys.executable, "-c", SERVER, str(folder), *tests]
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as running,
        ):
            try:
                assert running.stdout is not None
                port = int(running.stdout.readline())
                yield Setting(port, running.pid, license, api_key, key_of("host"))
            finally:
                running.terminate()


def requests(at: Setting, first: int, count: int, width: int, signs: bool) -> list[bytes]:
    """Whole HTTP requests, made before the clock runs."""
    found, now = [], int(time.time())
    for number in range(first, first + count):
        queries = [
            {"idempotency_key": f"{number * width + one:032x}", "messages": [f"{number:064x}"]}
            for one in range(width)
        ]
        body = json.dumps({"license": at.license.hex(), "requests": queries}).encode()
        value = (
            authorization(at.key, "POST", "/v1/permissions", now, body)
            if signs
            else f"Bearer {at.api_key}"
        )
        head = f"POST /v1/permissions HTTP/1.1\r\nHost: x\r\nAuthorization: {value}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        found.append(head.encode() + body)
    return found


async def send(port: int, asked: list[bytes], together: int) -> None:
    """All requests over so many connections; each answer must be a receipt."""

    async def one(mine: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in mine:
            writer.write(request)
            said = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert said.startswith(b"http/1.1 200"), said
            length = int(said.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            assert b'"error"' not in body, body
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one(asked[start::together]) for start in range(together)))


@dataclass(frozen=True)
class Took:
    """What a load took."""

    cpu: float
    """Microseconds of the platform's CPU a permission, the best of three rounds."""
    rate: float
    """Permissions a second, of the same round."""


def load(at: Setting, base: int, count: int, width: int, signs: bool) -> Took:
    """Three rounds, after one that warms up."""
    together = TOGETHER if width == 1 else 4
    found = []
    for turn in range(4):
        asked = requests(at, base + turn * count, count, width, signs)
        before, began = usage(at.pid).cpu_seconds, time.perf_counter()
        asyncio.run(send(at.port, asked, together))
        took = time.perf_counter() - began
        spent = (usage(at.pid).cpu_seconds - before) / count / width
        found.append(Took(spent * 1e6, count * width / took))
    return min(found[1:], key=lambda one: one.cpu)


def measure(count: int) -> list[Row]:
    """The rows."""
    with platform() as at:
        keyed = load(at, 10**6, count, 1, signs=False)
        signed = load(at, 2 * 10**6, count, 1, signs=True)
        wide = load(at, 3 * 10**6, count // 16, BATCH, signs=False)
    how = f"best of 3 rounds of {count} requests over {TOGETHER} connections, client apart"
    return [
        Row("route-cpu", "CPU of a durable permission over HTTP, API key", keyed.cpu, "µs", 90,
            "at_most", f"{how}; {keyed.rate:.0f}/s"),
        Row("route-cpu-signed", "the same, the host signs its requests", signed.cpu, "µs", 180,
            "at_most", f"beside it; {signed.rate:.0f}/s"),
        Row("route-batch-cpu", f"CPU of a durable permission over HTTP, {BATCH} a request",
            wide.cpu, "µs", 25, "at_most", f"{1e6 / wide.cpu:.0f} a core-second"),
    ]  # fmt: skip


def main() -> None:
    """Measure, write the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6400)
    parser.add_argument("--dry", action="store_true", help="measure, and write no row")
    given = parser.parse_args()
    found = measure(given.count)
    for row in found:
        print(f"  {row.id}: {row.value:.1f} {row.unit} ({row.how})")
    if not given.dry:
        put(NAME, found)
        show(NAME)


if __name__ == "__main__":
    main()
