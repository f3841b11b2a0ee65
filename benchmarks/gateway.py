"""The figures of the host's gateway: CPU and wall overhead of a request, and its memory.

A stub model server, a stub platform that really issues, the gateway (`loyal host serve`), and a
client of raw sockets, each a process of its own. CPU is the gateway process's own, read from the
system before and after, so nothing of the other three is in it; the wall overhead is the difference
between asking through the gateway and asking the model server alone. Rows go to
results/protocol.json. `python benchmarks/gateway.py STEP ...` runs single steps; `show` prints the
table alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from rows import Row, put, show

NAME = "protocol"
REQUESTS = 4000
WARM_UP = 500
TOGETHER = 16
"""Requests in flight, as many as in the field's measurements of gateways."""
API_KEY = "benchmark"
QUESTION = "What is a loyal model? " * 8
TICK = os.sysconf("SC_CLK_TCK")

STUB = """
import json, sys
import uvicorn

ANSWER = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "A model. " * 40},
    "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "completion_tokens": 99}}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]

async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})

uvicorn.run(app, fd=int(sys.argv[1]), lifespan="off", access_log=False, log_level="warning")
"""

PLATFORM = """
import json, sys, time
sys.path[:0] = sys.argv[2:]
import uvicorn
from issuing import Issuer
from loyal.app.platform_client import to_base64url
from loyal.protocol.permits import PermissionRequest

issuer = Issuer(int(time.time()), kind="free", price_micro=0)
stage = issuer.stage

async def app(scope, receive, send):
    if scope["path"] == "/files":
        body = json.dumps({"license": issuer.license_file().to_bytes().hex(),
                           "seed": stage.key("host").seed().hex()}).encode()
    else:
        data, more = b"", True
        while more:
            message = await receive()
            data, more = data + message["body"], message.get("more_body")
        asked = json.loads(data)
        requests = [PermissionRequest(stage.id("host"), bytes.fromhex(asked["license"]),
                    tuple(map(bytes.fromhex, one["messages"])),
                    bytes.fromhex(one["idempotency_key"])) for one in asked["requests"]]
        stage.permitted.clear()
        stage.receipts.clear()
        outcomes = [{"receipt": to_base64url(one)} for one in issuer.issue(requests)]
        body = json.dumps({"receipts": outcomes}).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(app, fd=int(sys.argv[1]), lifespan="off", access_log=False, log_level="warning")
"""


@dataclass(frozen=True)
class Usage:
    """What a process took."""

    cpu_seconds: float
    rss_bytes: int
    peak_bytes: int


def usage(pid: int) -> Usage:
    """CPU so far, memory now and at its peak, of all threads of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    kilobytes = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}
    cpu = (int(fields[11]) + int(fields[12])) / TICK
    return Usage(cpu, kilobytes["VmRSS"] * 1024, kilobytes["VmHWM"] * 1024)


async def ask(port: int, count: int, together: int) -> list[float]:
    """`count` chat requests over `together` connections; the wall seconds of each."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": QUESTION}]}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    times: list[float] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(number):
            began = time.perf_counter()
            writer.write(request)
            said = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert said.startswith(b"http/1.1 200"), said
            length = said.split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            times.append(time.perf_counter() - began)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(one(count // together) for _ in range(together)))
    return times


@contextlib.contextmanager
def process(code: str, *arguments: str):
    """A stub on a free port; gives the port."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as door:
        command = [sys.executable, "-c", code, str(door.fileno()), *arguments]
        with subprocess.Popen(command, pass_fds=[door.fileno()]) as running:
            try:
                yield door.getsockname()[1]
            finally:
                running.terminate()


@contextlib.asynccontextmanager
async def gateway() -> AsyncIterator[tuple[int, int, int]]:
    """Everything up: the model server's port, the gateway's port, the gateway's process."""
    tests = Path(__file__).parent.parent / "tests"
    folders = [str(tests / "roles"), str(tests / "protocol")]
    with (
        process(STUB) as model,
        process(PLATFORM, *folders) as platform,
        tempfile.TemporaryDirectory() as folder,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", platform)
        writer.write(b"GET /files HTTP/1.0\r\n\r\n")
        given = json.loads((await reader.read()).split(b"\r\n\r\n", 1)[1])
        writer.close()
        files = Path(folder)
        (files / "license").write_bytes(bytes.fromhex(given["license"]))
        (files / "key").write_text(API_KEY)
        (files / "seed").touch(0o600)
        (files / "seed").write_text(given["seed"])
        command = [
            sys.executable, "-m", "loyal", "host", "serve",
            "--upstream", f"http://127.0.0.1:{model}",
            "--platform", f"http://127.0.0.1:{platform}",
            "--platform-key-file", str(files / "key"), "--host-key", str(files / "seed"),
            "--license", str(files / "license"), "--receipts", str(files / "receipts.db"),
            "--listen", "127.0.0.1:0",
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            try:
                assert running.stderr is not None
                line = next(one for one in running.stderr if one.startswith("listening"))
                port = int(line.split(":")[-1].split("/")[0])
                yield model, port, running.pid
            finally:
                running.terminate()


async def measure(repeats: int) -> tuple[list[Row], str]:
    """The rows, and what else was seen."""
    cpus, walls, peaks = [], [], []
    async with gateway() as (model, port, pid):
        await ask(port, WARM_UP, TOGETHER)
        for _ in range(repeats):
            before = usage(pid)
            through = await ask(port, REQUESTS, TOGETHER)
            after = usage(pid)
            alone = await ask(model, REQUESTS, TOGETHER)
            lone = await ask(port, 200, 1)
            lone_alone = await ask(model, 200, 1)
            cpus.append(1000 * (after.cpu_seconds - before.cpu_seconds) / len(through))
            walls.append(1000 * (sum(through) - sum(alone)) / len(through))
            peaks.append(usage(pid).peak_bytes)
            print(
                f"  CPU {cpus[-1]:.3f} ms a request, wall +{walls[-1]:.2f} ms at {TOGETHER} in "
                f"flight, +{1000 * (_median(lone) - _median(lone_alone)):.2f} ms alone (median), "
                f"peak {peaks[-1] / 1e6:.1f} MB",
                flush=True,
            )
    how = (
        f"median of {repeats} runs of {REQUESTS} chat requests, {TOGETHER} in flight, one process; "
        f"permission over HTTP, receipt on disk, signed answer; wall +{_median(walls):.2f} ms"
    )
    memory = f"peak resident set of the gateway's process after {repeats * REQUESTS} requests"
    return [
        Row("gateway-cpu", "gateway overhead a request, CPU", _median(cpus), "ms", 0.8, "at_most",
            how),
        Row("gateway-rss", "gateway memory", max(peaks) / 1e6, "MB", 64, "at_most", memory),
    ], how  # fmt: skip


def overhead(repeats: int) -> list[Row]:
    """CPU a request and memory."""
    return asyncio.run(measure(repeats))[0]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


STEPS: dict[str, Callable[[int], list[Row]]] = {"overhead": overhead}


def main() -> None:
    """Run the steps named, or all; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)}; show prints alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="measure, and write no row")
    given = parser.parse_args()
    for step in [] if given.steps == ["show"] else given.steps or list(STEPS):
        print(f"{step} ...", flush=True)
        found = STEPS[step](given.repeats)
        if not given.dry:
            put(NAME, found)
    show(NAME)


if __name__ == "__main__":
    main()
