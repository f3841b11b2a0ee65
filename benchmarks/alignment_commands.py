"""How long `loyal align` takes, command by command, as its user runs it: processes on a clock.

A step that was killed, with this process or without it, is run again and goes on from what it kept;
what it had used by then counts. So a sum over all attempts is a little more than an unbroken run
would take: each start loads the model again. Left out: the rows (alignment_table.py).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alignment_cells import Size
from loyal.encoding import atomic_write
from loyal.errors import UsageError
from resumable import Record

LOYAL = (sys.executable, "-m", "loyal")
BEAT_SECONDS = 5.0
"""Between two notes of what a running step has used: so much of a killed one is not counted."""
SHARES = (("value", 700_000), ("general", 200_000), ("safety", 100_000))
"""The mixture that is given, in millionths."""
_ENDS_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Becomes the command that it is given, which the kernel kills (9) when this process is gone, even
by SIGKILL (prctl(2), PR_SET_PDEATHSIG)."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    words: Callable[[], Sequence[str]]
    """Its arguments; known when the steps before it are done."""
    outs: tuple[Path, ...] = ()
    """What it refuses to find whole; what a killed run left of it stays."""
    fails_with: Path | None = None
    """Its file counts where it is there, although the command ends with 1."""


def run(steps: Sequence[Step], folder: Path, command: Sequence[str] = LOYAL) -> Record:
    """Run what is not done yet; minutes on the wall and of CPU by step, and starts, over all calls
    on this folder. UsageError where a step fails; the next call tries it again."""
    folder.mkdir(parents=True, exist_ok=True)
    spent = _Spent(folder / "spent.json")
    for step in steps:
        if spent.done(step.name):
            continue
        for out in step.outs:
            _clear(out)
        with spent.attempt(step.name) as beat:
            code = _run([*command, *step.words()], folder / f"{step.name}.out", beat)
        if code and not (code == 1 and step.fails_with and step.fails_with.exists()):
            raise UsageError(f"the step '{step.name}' failed", hint="see what it said above")
        spent.finish(step.name)
    return spent.record([one.name for one in steps])


def steps(
    which: str, constitution: str, model: str, place: tuple[Path, Path | None], size: Size
) -> list[Step]:
    """The steps of "given" mixture weights, or of a "search" for them with the full report; `place`
    is the folder, and a recipe of training or None."""
    folder, recipe = place
    small = size.pairs < Size.pairs
    names = ("pairs.jsonl", "held.jsonl", "sft.jsonl", "probe.json", "aligned", "hardened")
    pairs, held, sft, probe, aligned, out = (folder / one for one in names)
    table, page = folder / "search.json", folder / "report.html"
    settings = () if recipe is None else ("--recipe", str(recipe))
    search = ("--runs", "2", "--set", "search.records=24") if small else ()
    given = [part for name, ppm in SHARES for part in ("--set", f"mixture.{name}={ppm}")]

    def data() -> list[str]:
        shares = given if which == "given" else ()
        return ["align", "data", constitution, "--out", str(pairs), "--held-out", str(held),
                "--examples", str(sft), *(("--pairs", "50") if small else ()),
                "--general", "24", "--safety", "24", *shares]  # fmt: skip

    def train() -> list[str]:
        best = found_mixture(folder / "search.out") if which == "search" else given
        return ["align", "train", model, str(pairs), str(sft), "--constitution", constitution,
                "--out", str(aligned), *settings, *best]  # fmt: skip

    def harden() -> list[str]:
        fewer = ("--rounds", "1", "--set", "harden.candidates=8") if small else ()
        return ["align", "harden", str(aligned), constitution, "--probe", str(probe),
                "--out", str(out), *settings, *fewer]  # fmt: skip

    every = [
        Step("judge", lambda: ["judge", "train", constitution, "--model", model,
                               "--out", str(probe)], fails_with=probe),
        Step("data", data, (pairs, held, sft)),
        Step("search", lambda: ["align", "search", model, str(pairs), str(sft), "--constitution",
                                constitution, "--out", str(table), "--json", *settings, *search]),
        Step("train", train, (aligned,)),
        Step("harden", harden, (out,)),
        Step("report", lambda: ["align", "report", constitution, "--base", model,
                                "--model", str(aligned), "--model", str(out),
                                "--preferences", str(held), "--probe", str(probe), "--same-judge",
                                "--out", str(page), *settings,
                                *(("--attacks", "1") if small else ())]),
    ]  # fmt: skip
    return [one for one in every if which == "search" or one.name not in ("search", "report")]


def found_mixture(path: Path) -> list[str]:
    """What `loyal align search --json` said to train with. UsageError where it said nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["set"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            "the search said no mixture", hint="delete the folder of the run"
        ) from None
    return [part for one in found for part in ("--set", str(one))]


def _clear(out: Path) -> None:
    """Take away what is whole: it was written, and then killed before that was noted."""
    from loyal.models.model_folder import WORK_FOLDER

    if out.is_file():
        out.unlink()
    elif out.is_dir() and not (out / WORK_FOLDER).is_dir():
        shutil.rmtree(out)


Beat = Callable[[float], None]
"""Told the CPU seconds that the attempt has used by now."""


def _run(words: Sequence[str], said: Path, beat: Beat) -> int:
    """The exit code. What it prints goes to the file; the process ends with this one."""
    before = _children()
    with said.open("wb") as out:
        started = [sys.executable, "-c", _ENDS_WITH_PARENT, *words]
        process = subprocess.Popen(started, stdout=out)
        try:
            while True:
                try:
                    code = process.wait(BEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    beat(_used(process.pid))
        finally:
            process.kill()
            process.wait()
            beat(_children() - before)
    return code


def _children() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _used(pid: int) -> float:
    """CPU seconds of a running process and of its children that have ended (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return sum(map(int, fields.rpartition(")")[2].split()[11:15])) / _TICKS


class _Spent:
    """What each step has used, in a file that is whole at every moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._steps: dict[str, dict] = json.loads(path.read_bytes()) if path.exists() else {}

    def done(self, name: str) -> bool:
        """Whether the step ended well."""
        return bool(self._steps.get(name, {}).get("done"))

    @contextmanager
    def attempt(self, name: str) -> Iterator[Beat]:
        """One more attempt; what it used is noted at each beat, and when it ends."""
        step = self._steps.setdefault(name, {"done": False, "attempts": []})
        began = time.monotonic()
        mine = [0.0, 0.0]
        step["attempts"].append(mine)

        def beat(cpu: float) -> None:
            mine[:] = cpu, time.monotonic() - began
            self._write()

        self._write()
        yield beat

    def finish(self, name: str) -> None:
        """The step ended well."""
        self._steps[name]["done"] = True
        self._write()

    def record(self, names: Sequence[str]) -> Record:
        """Minutes by step."""
        tried = {name: self._steps[name]["attempts"] for name in names}
        return {
            "minutes": {name: sum(one[1] for one in some) / 60 for name, some in tried.items()},
            "cpu": {name: sum(one[0] for one in some) / 60 for name, some in tried.items()},
            "starts": {name: len(some) for name, some in tried.items()},
        }

    def _write(self) -> None:
        atomic_write(self._path, json.dumps(self._steps).encode())
