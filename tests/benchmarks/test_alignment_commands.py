"""The clock of `loyal align`: processes that burn a little CPU, fail, or are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loyal.errors import UsageError

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import alignment_commands  # noqa: E402
import alignment_table  # noqa: E402
from alignment_cells import QUICK, Size  # noqa: E402
from alignment_commands import Step  # noqa: E402

PYTHON = (sys.executable, "-S", "-c")
BURN = "import time\nwhile time.process_time() < 0.2: pass\n"


def script(name: str, text: str, *outs: Path, fails_with: Path | None = None) -> Step:
    return Step(name, lambda: [text], outs, fails_with)


def test_each_step_runs_once_and_is_counted(tmp_path: Path) -> None:
    table = tmp_path / "first.out"
    steps = [
        script("first", f"{BURN}print('said')"),
        Step("second", lambda: [f"{BURN}assert {table.read_text()!r} == 'said\\n'"]),
    ]
    found = alignment_commands.run(steps, tmp_path, PYTHON)
    assert found["starts"] == {"first": 1, "second": 1}
    for name in ("first", "second"):
        assert 0.2 / 60 <= found["cpu"][name] < 0.2
        assert 0 < found["minutes"][name] < 2
    again = alignment_commands.run([script("first", "1 / 0"), script("second", "1 / 0")], tmp_path)
    assert again == found
    row = {one.id: one for one in alignment_table.figures()}["minutes-given"].row(
        {"minutes": {0: found}}, {}, "tiny"
    )
    assert row.value == pytest.approx(sum(found["minutes"].values()))
    assert "one run; weights" in row.how


def test_a_step_that_fails_is_tried_again_and_both_attempts_count(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A fault of the disk, say; and a judge that ends with 1 but wrote its probe."""
    file, probe = tmp_path / "there", tmp_path / "probe"
    steps = [
        script("judge", f"open({str(probe)!r}, 'w'); raise SystemExit(1)", fails_with=probe),
        script("data", f"{BURN}open({str(file)!r})"),
    ]
    with pytest.raises(UsageError, match="the step 'data' failed"):
        alignment_commands.run(steps, tmp_path, PYTHON)
    file.write_text("now")
    found = alignment_commands.run(steps, tmp_path, PYTHON)
    assert found["starts"] == {"judge": 1, "data": 2}
    assert found["cpu"]["data"] >= 0.4 / 60
    probe.unlink()
    with pytest.raises(UsageError, match="the step 'judge' failed"):
        alignment_commands.run([script("judge", "raise SystemExit(1)", fails_with=probe)],
                               tmp_path / "other", PYTHON)  # fmt: skip


RUN = """
import sys
sys.path.insert(0, {benchmarks!r})
import alignment_commands
alignment_commands.BEAT_SECONDS = 0.05
steps = [alignment_commands.Step("train", lambda: [{text!r}])]
alignment_commands.run(steps, alignment_commands.Path({folder!r}), {python!r})
"""


def test_a_kill_of_the_benchmark_ends_the_command_and_loses_no_time(tmp_path: Path) -> None:
    """SIGKILL, while the command runs: it is gone too, and what it had used counts."""
    pid, spent = tmp_path / "pid", tmp_path / "spent.json"
    text = f"import os\nopen({str(pid)!r}, 'w').write(f'{{os.getpid()}} ')\nwhile True: pass\n"
    program = RUN.format(benchmarks=str(BENCHMARKS), text=text, folder=str(tmp_path), python=PYTHON)
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        until(lambda: pid.exists() and pid.read_text().endswith(" "))
        until(lambda: json.loads(spent.read_bytes())["train"]["attempts"][0][0])
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not alive(int(pid.read_text())))
    used, wall = json.loads(spent.read_bytes())["train"]["attempts"][0]
    assert used > 0
    assert wall > 0
    found = alignment_commands.run([script("train", BURN)], tmp_path, PYTHON)
    assert found["starts"] == {"train": 2}
    assert found["cpu"]["train"] >= (0.2 + used) / 60
    row = {one.id: one for one in alignment_table.figures()}["minutes-search"].row(
        {"minutes-search": {0: found}}, {}, "tiny"
    )
    assert "cut off and started again 1 time(s), all of it counted" in row.how


def until(holds) -> None:
    """Wait a minute at most."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_what_was_whole_before_it_was_noted_is_made_again(tmp_path: Path) -> None:
    """A run that was cut off keeps its checkpoints; a whole model would be refused."""
    from loyal.models.model_folder import WORK_FOLDER

    file, whole, part = tmp_path / "pairs", tmp_path / "whole", tmp_path / "part"
    file.write_text("pairs")
    whole.mkdir()
    (part / WORK_FOLDER).mkdir(parents=True)
    steps = [script("train", "pass", file, whole, part, tmp_path / "none")]
    alignment_commands.run(steps, tmp_path / "spent", PYTHON)
    assert not file.exists()
    assert not whole.exists()
    assert (part / WORK_FOLDER).is_dir()


def test_the_search_has_its_steps_and_hands_its_mixture_on(tmp_path: Path) -> None:
    def steps(which: str, size: Size) -> dict[str, Step]:
        found = alignment_commands.steps(which, "town", "tiny", (tmp_path, None), size)
        return {one.name: one for one in found}

    assert list(steps("given", Size())) == ["judge", "data", "train", "harden"]
    every = steps("search", Size())
    assert list(every) == ["judge", "data", "search", "train", "harden", "report"]
    with pytest.raises(UsageError, match="no mixture"):
        every["train"].words()
    (tmp_path / "search.out").write_text('{"set": ["mixture.value=1", "mixture.general=2"]}\n')
    assert every["train"].words()[-4:] == [
        "--set", "mixture.value=1", "--set", "mixture.general=2"
    ]  # fmt: skip
    assert not any("mixture" in one for one in every["data"].words())
    for one in ("data", "train"):
        assert "mixture.safety=100000" in steps("given", QUICK)[one].words()
    assert "--runs" in steps("search", QUICK)["search"].words()
    assert "--runs" not in every["search"].words()
