"""Rounds go on through failures that pass, end at a log that is wrong, and stop when told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from actors_stage import StageHost, court
from court_server import serving
from shelf import KEYS

from loyal.app.rounds import Pace
from loyal.errors import UsageError
from loyal.protocol import Ledger
from loyal.protocol.checkpoint import sign_checkpoint


def watching(url: str, folder: Path) -> subprocess.Popen[str]:
    key = folder / "witness.key"
    key.write_text("07" * 32)
    key.chmod(0o600)
    command = (
        sys.executable, "-m", "loyal", "witness", "run", "--log", url, "--key", str(key),
        "--state", str(folder / "state"), "--every", "0.1", "--json",
    )  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str], words: str) -> str:
    """The next line on stderr that says so."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended and never said: {words}")


def test_a_witness_goes_on_until_it_is_told_to_stop(tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, StageHost(here, "signed")) as server:
        server.broken = 3
        process = watching(server.platform, tmp_path)
        try:
            assert "503" in said(process, "error: ")
            first = len(here.shelf.log)
            said(process, f"cosigned {first} entries")
            here.shelf.notes.append(here.shelf.notes[-2])
            said(process, "refused: ")
            here.shelf.notes.pop()
            here.draw()
            said(process, f"cosigned {len(here.shelf.log)} entries")
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0
        assert json.loads(out)["size"] == len(here.shelf.log) > first
        assert "Traceback" not in err


def test_a_fork_ends_it(tmp_path: Path) -> None:
    here = court(int(time.time()) - 60)
    with serving(here, StageHost(here, "signed")) as server:
        process = watching(server.platform, tmp_path)
        try:
            said(process, "cosigned")
            here.shelf.log[-1] = here.shelf.log[0]
            head = Ledger(KEYS.log.name, here.shelf.log).checkpoint()
            here.shelf.notes.append(sign_checkpoint(head, KEYS.log).note.to_bytes())
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 1
    assert "forked" in json.loads(out)["error"]


def test_a_pace_is_a_wait() -> None:
    for seconds in (0.0, -1.0, 1e9):
        with pytest.raises(UsageError):
            Pace(False, seconds)
