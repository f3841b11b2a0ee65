"""`loyal control guard` on evidence of functions that failed, and of hosts with strange clocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from control_files import LOOKUP, PROGRAM, changed
from stage import Run

from loyal.control.functions import ControlFunction, from_source
from loyal.control.guard import START, Exact, Mismatch, Sent, written
from loyal.signing import SigningKey

HOST = SigningKey.generate()
FAILING = changed(
    PROGRAM, "return f", "if each == '7':\n        raise ValueError(each)\n    return f"
)
PROMPT = "How many eggs are in 3 baskets of 7?"


def noted(
    path: Path, function: ControlFunction, reply: str | None, sent: Sent = "failed", at: int = 0
) -> Path:
    """The evidence of one reply."""
    one = Mismatch.of(Exact(function, reply), PROMPT, "x", sent, at)
    path.write_bytes(written(one, START, HOST) + b"\n")
    return path


def test_a_failure_is_confirmed_by_failing_again(tmp_path: Path, run: Run) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    (tmp_path / "sound.py").write_text(PROGRAM)
    failing, sound = from_source("py", FAILING.encode()), from_source("py", PROGRAM.encode())

    def verified(evidence: Path, file: str) -> int:
        asked = ("control", "guard", "verify", evidence, tmp_path / file, "--prompt", PROMPT)
        return run(*asked).code

    path = tmp_path / "evidence"
    assert verified(noted(path, failing, None), "failing.py") == 0
    assert verified(noted(path, sound, None), "sound.py") == 1  # it does not fail here
    # That it fails here does not show what the host got.
    assert verified(noted(path, failing, "21 eggs.", "replaced"), "failing.py") == 2


@pytest.mark.parametrize("at", [2**62, -(2**62), 0])
def test_no_time_hides_the_evidence(tmp_path: Path, run: Run, at: int) -> None:
    keepers = from_source("toml", LOOKUP.encode())
    done = run("control", "guard", "show", noted(tmp_path / "one", keepers, "y", at=at), "--json")
    time = done.fields["records"][0]["time"]
    assert time == (f"{at} s" if at else "1970-01-01T00:00:00+00:00")
