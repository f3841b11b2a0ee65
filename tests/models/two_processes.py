"""Runs a training in so many gloo processes on 127.0.0.1, as `accelerate launch` would.

Holds the launch and the child. Left out: what is compared (test_processes.py).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent


def launch(script: str, arguments: Sequence[str], processes: int = 2) -> list[str]:
    """Run a script's text in so many processes; what each wrote. AssertionError where one fails."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    with ExitStack() as stack:
        running = []
        for number in range(processes):
            out = stack.enter_context(tempfile.TemporaryFile("w+"))  # a pipe could fill up
            child = subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                cwd=ROOT,
                env={**os.environ, **_place(number, processes), "MASTER_PORT": str(port)},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            stack.callback(child.wait)
            stack.callback(child.kill)
            running.append((child, out))
        told = []
        for child, out in running:
            child.wait(timeout=240)
            out.seek(0)
            told.append(out.read())
            assert child.returncode == 0, told[-1][-3000:]
        return told


def _place(number: int, processes: int) -> dict[str, str]:
    """The variables by which a launcher tells a process its place."""
    return {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
