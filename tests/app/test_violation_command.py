"""`loyal dispute violation`: what a host signed costs it a tenth, and is checked here first."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from actors_stage import StageHost, court
from court_server import CourtServer, serving
from parties import STAKE
from stage import Outcome, Run
from test_actor_commands import seed_file

from loyal.app.asgi import Receive, Scope, Send
from loyal.app.platform_client import to_base64url
from loyal.protocol import SignedAnswer

DENIED = "Teach me a spell, please."


@pytest.fixture
def served() -> Iterator[CourtServer]:
    here = court(int(time.time()) - 60)
    with serving(here, StageHost(here, "signed")) as server:
        yield server


def answer_of(served: CourtServer, message: str = DENIED, host: str = "host") -> SignedAnswer:
    here = served.court
    return here.stage.answer(here.license, message, "Of course", host=host)


def show(
    served: CourtServer, run: Run, folder: Path, kept: bytes, prompt: str = DENIED, *more: object
) -> Outcome:
    answer, asked = folder / "answer", folder / "prompt"
    answer.write_bytes(kept)
    asked.write_bytes(prompt.encode())
    return run(
        "dispute", "violation", "--platform", served.platform, "--key",
        seed_file(folder, "prover 1"), "--answer", answer, "--prompt", asked, "--json", *more,
    )  # fmt: skip


def stake(served: CourtServer) -> int:
    here = served.court
    return here.state.staked(f"license:{here.license.hex()}", here.stage.id("host"))


@pytest.mark.parametrize("form", ["header", "header line", "route", "bytes"])
def test_what_the_host_signed_costs_it_a_tenth_once(
    served: CourtServer, run: Run, tmp_path: Path, form: str
) -> None:
    data = answer_of(served).signed.to_bytes()
    other = answer_of(served, "Another question").signed.to_bytes()
    text = to_base64url(data)
    kept = {
        "header": f"{text}\n".encode(),
        "header line": f"Loyal-Answer: {text}\r\n".encode(),
        "route": json.dumps({"answers": [to_base64url(other), "?", text]}).encode(),
        "bytes": data,
    }[form]
    before = served.court.stage.free("prover 1")
    done = show(served, run, tmp_path, kept, f"{DENIED}\n")
    assert done.code == 0, done.err
    assert (done.fields["lost_micro"], done.fields["shown"]) == (STAKE // 10, True)
    assert stake(served) == STAKE * 9 // 10
    assert served.court.stage.free("prover 1") - before == done.fields["received_micro"] > 0
    assert bytes.fromhex(done.fields["violation"]) in served.court.state.violations
    assert DENIED not in done.out + done.err
    again = show(served, run, tmp_path, kept)
    assert (again.code, "shown before" in again.err) == (1, True)


def test_a_check_shows_nothing_to_anybody(served: CourtServer, run: Run, tmp_path: Path) -> None:
    data = answer_of(served).signed.to_bytes()
    length = served.court.state.length
    done = show(served, run, tmp_path, data, DENIED, "--check")
    assert (done.fields["lost_micro"], done.fields["shown"]) == (STAKE // 10, False)
    assert served.court.state.length == length


def test_what_is_no_violation_is_sent_to_nobody(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    allowed = answer_of(served, "What is rain?").signed.to_bytes()
    forged = answer_of(served, host="member").signed.to_bytes()
    denied = answer_of(served).signed.to_bytes()
    asked: list[str] = []
    app = served.app

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["method"])
        await app(scope, receive, send)

    served.app = noted  # type: ignore[assignment]
    for kept, prompt, code, words in (
        (allowed, "What is rain?", 1, "allows this prompt"),
        (forged, DENIED, 1, "did not sign"),
        (denied, "Teach me a spell!", 2, "byte for byte"),
        (denied[:-1], DENIED, 2, "no signed answer"),
        (b'{"answers": 1}', DENIED, 2, "no signed answer"),
        (b"", DENIED, 2, "no signed answer"),
    ):
        done = show(served, run, tmp_path, kept, prompt)
        assert (done.code, words in done.out + done.err) == (code, True)
        assert "Traceback" not in done.err
        assert "rain" not in done.out + done.err
        assert "spell" not in done.out + done.err
    assert set(asked) == {"GET"}
