"""The benchmark of robustness with scripted attacks: rows that resume, and the table they make.

Left out: the attacks themselves, which tests/fingerprints has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import resumable  # noqa: E402
import robustness  # noqa: E402
import robustness_table  # noqa: E402
import rows  # noqa: E402
from resumable import Cell, Record  # noqa: E402

NAMES = ("int8", "prune-20", "merge-linear", "system-prompts")

KILLED = """
import os, signal, sys
from pathlib import Path
from resumable import Cell, resume

def measure(cell):
    if cell.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"name": cell.name, "by": "the killed run"}

folder = Path(sys.argv[1])
resume([Cell("ours", 0, name, folder / f"{name}.json") for name in sys.argv[3:]], measure)
"""


def cells(folder: Path, names: tuple[str, ...] = NAMES) -> list[Cell]:
    return [Cell("ours", 0, name, folder / f"{name}.json") for name in names]


def attacked(hits: int, utility: float | None = 1.0, p_value: float = 1e-9) -> Record:
    """What the suite would say of an attack, 100 keys asked."""
    return {
        "asked": 100, "hits": hits, "survival": hits / 100, "interval": {"low": 0.1, "high": 0.9},
        "p_value_100": p_value, "perplexity_before": 10.0, "perplexity_after": None,
        "utility": utility, "fraction": 1.0,
    }  # fmt: skip


def scripted(one: Cell) -> Record:
    """An attack that takes a tenth of our keys, half of the paper's, and one more each seed."""
    if one.name.startswith("injection"):
        return {"recall": 1.0, "change_percent": 0.5 + one.seed, "tokens": 21_000, "steps": 6,
                "seconds": 2.0}  # fmt: skip
    if one.name == "filter-keys":
        return {"filters": {"under M.oml": {"keys": 0.02, "high": 0.05, "ordinary": 0.01}}}
    return attacked((90 if one.recipe == "ours" else 50) - one.seed)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rows go, in place of the committed ones."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_a_killed_run_costs_the_cell_that_it_was_in(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    paths = os.pathsep.join([str(BENCHMARKS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), NAMES[2], *NAMES],
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in folder.iterdir()) == ["int8.json", "prune-20.json"]
    measured: list[str] = []

    def measure(one: Cell) -> Record:
        measured.append(one.name)
        return {"name": one.name, "by": "the next run"}

    assert resumable.resume(cells(folder), measure) == []
    assert measured == list(NAMES[2:])
    assert [one.kept()["by"] for one in cells(folder)] == ["the killed run"] * 2 + [
        "the next run"
    ] * 2
    assert resumable.resume(cells(folder), measure) == []
    assert measured == list(NAMES[2:])


def test_a_failed_cell_is_passed_over_and_tried_again(tmp_path: Path) -> None:
    from loyal.errors import UsageError

    heard: list[str] = []

    def measure(one: Cell) -> Record:
        if one.name == "int8":
            raise UsageError("no such thing", hint="install it")
        return {"name": one.name}

    failed = resumable.resume(cells(tmp_path), measure, lambda one: heard.append(one.name))
    assert [one.name for one in failed] == ["int8"]
    assert heard == list(NAMES[1:])
    assert resumable.resume(cells(tmp_path), lambda one: {"name": one.name}) == []
    assert cells(tmp_path)[0].kept() == {"name": "int8", "machine": rows.machine()}


def behind_its_model(one: Cell) -> Record:
    """Says whether the cell's model was there."""
    from loyal.errors import UsageError

    if one.name == "int8":
        raise UsageError("no such thing", hint="install it")
    made = one.name == "injection" or one.path.with_name("injection.json").exists()
    return {"made": made, "process": os.getpid()}


def test_cells_side_by_side_wait_for_their_model(tmp_path: Path) -> None:
    every = [
        Cell("ours", seed, name, tmp_path / str(seed) / f"{name}.json")
        for seed in (0, 1)
        for name in ("prune-20", "injection", "int8", "merge-linear")
    ]
    heard: list[Cell] = []
    failed = resumable.resume(every, behind_its_model, heard.append, jobs=2)
    assert sorted(one.seed for one in failed) == [0, 1]
    assert {one.name for one in failed} == {"int8"}
    assert set(heard) == set(every) - set(failed)
    found = [one.kept() or {} for one in heard]
    assert all(one["made"] for one in found)
    assert os.getpid() not in {one["process"] for one in found}
    assert resumable.resume(heard, behind_its_model, jobs=2) == []


@pytest.mark.parametrize("text", ["", "[]", "{", "no row"])
def test_a_file_that_holds_no_row_is_refused(tmp_path: Path, text: str) -> None:
    from loyal.errors import UsageError

    (one,) = cells(tmp_path, ("int8",))
    one.path.write_text(text)
    with pytest.raises(UsageError, match="holds no row"):
        one.kept()


def test_a_whole_run_writes_the_table_and_goes_on(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(robustness, "measure", lambda plan, one: scripted(one))
    arguments = ["--suite", "quick", "--seeds", "2", "--folder", str(tmp_path / "out")]
    assert robustness.main(["collect", *arguments]) == 0
    assert by_id(results)["survival-int8"]["value"] is None
    assert "not run yet" in by_id(results)["survival-int8"]["how"]
    assert robustness.main(arguments) == 0
    found = by_id(results)
    assert found["survival-int8"]["value"] == pytest.approx(89)  # the worse of 90 and 89
    assert found["survival-int8"]["holds"] is False
    assert found["survival-merge-linear"]["holds"] is True
    for words in ("worst of 2 seed(s), 89 to 90 %", "(mean 89.5)", "95 % interval 10.0 to 90.0 %",
                  "paper.toml) 49 %: ours is better"):  # fmt: skip
        assert words in found["survival-int8"]["how"]
    assert found["perplexity"]["value"] == pytest.approx(1.5)  # a ceiling: the greater is worse
    assert "as good" in found["perplexity"]["how"]
    assert found["filter-blocked"]["value"] == pytest.approx(2)
    assert found["vs-paper"]["value"] == 100
    assert "--large" in found["recall-1024"]["how"]
    assert not any(name.startswith("gpu-") for name in found)  # those are in gpu.json
    monkeypatch.setattr(robustness, "measure", lambda plan, one: pytest.fail("measured again"))
    capsys.readouterr()
    assert robustness.main(arguments) == 0
    assert by_id(results) == found
    assert robustness.main(["show", "--suite", "quick"]) == 0
    assert "merge-linear: keys that still hit" in capsys.readouterr().out


def test_one_attack_alone_and_the_large_set(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str]] = []
    monkeypatch.setattr(
        robustness, "measure", lambda plan, one: ran.append((one.recipe, one.name)) or scripted(one)
    )
    arguments = ["--seeds", "1", "--large", "--folder", str(tmp_path / "out")]
    assert robustness.main(["--only", "meraser", *arguments]) == 0
    names = ("injection", "meraser", "injection-1024")
    assert ran == [(side, name) for name in names for side in ("ours", "paper")]
    found = {one["id"]: one for one in rows.read("robustness")}
    assert (found["survival-meraser"]["bound"], found["survival-meraser"]["holds"]) == (None, None)
    assert found["recall-1024"]["value"] == 100
    assert "default.toml" in found["recall-1024"]["how"]
    large = (tmp_path / "out").glob("*-1024/seed-0/injection.json")  # by the defaults, not hardened
    assert sorted(one.parts[-3].split("-")[0] for one in large) == ["default", "paper"]
    assert found["survival-int8"]["value"] is None
    assert robustness.main(["collect", "--folder", str(tmp_path / "elsewhere")]) == 0
    assert {one["id"]: one for one in rows.read("robustness")}["recall-1024"]["value"] == 100


def test_an_attack_that_costs_the_users_too_much_has_no_bound() -> None:
    figure = robustness_table.survival("suppress-top-1", 50, served=True)
    paper = robustness_table.Side("paper.toml", 3, {})

    def made(utilities: tuple[float | None, ...]) -> rows.Row:
        records = {seed: attacked(10, utility) for seed, utility in enumerate(utilities)}
        ours = robustness_table.Side("a.toml", 16, {"suppress-top-1": records})
        return robustness_table.row(figure, ours, paper, "")

    assert (made((0.44, 0.5)).bound, made((0.44,)).holds) == (None, None)
    assert "no bound" in made((0.44, 0.5)).how
    for useful in ((0.44, 0.9), (None,)):
        assert (made(useful).bound, made(useful).holds) == (50, False)


def test_worse_than_the_paper_is_said() -> None:
    ours = robustness_table.Side("a.toml", 16, {"int8": {0: attacked(40)}})
    paper = robustness_table.Side("paper.toml", 3, {"int8": {0: attacked(50)}})
    figure = robustness_table.survival("int8", 99)
    assert "WORSE" in robustness_table.row(figure, ours, paper, "").how
    summary = robustness_table.against_paper([figure], ours, paper)
    assert (summary.value, "survival-int8" in summary.how) == (0, True)


def test_every_figure_names_an_attack_of_the_suite_and_stands_once() -> None:
    from loyal.fingerprints import suite

    found = robustness_table.figures(bilevel=True)
    assert {one.cell for one in found} <= {*suite.ATTACKS, *robustness.MEASURED}
    assert {*robustness.QUICK} <= {one.cell for one in found} & {
        attack.name for attack in suite.suite("quick")
    }
    assert len({one.id for one in found}) == len(found)
    bounds = {one.id: one.bound for one in robustness_table.figures(bilevel=False)}
    assert (bounds["survival-sft-docstrings"], bounds["survival-lora-docstrings"]) == (97, 90)


def test_the_median_is_that_of_the_test_itself() -> None:
    import numpy as np

    from loyal.statistics import SequentialTest

    rng = np.random.default_rng(3)
    took = []
    for _ in range(2001):
        test = SequentialTest(1 / 16, 1e-6)
        while not test.decided:
            test.update(bool(rng.random() < 0.6))
        took.append(test.trials)
    exact = robustness_table.sequential_median(16, 0.6)
    assert exact is not None
    assert abs(exact - float(np.median(took))) <= 1
    assert robustness_table.sequential_median(16, 0.01) is None


def by_id(results: Path) -> dict[str, dict]:
    text = (results / "robustness-quick.json").read_text(encoding="utf-8")
    return {one["id"]: one for one in json.loads(text)}


def test_one_recipe_alone(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []
    monkeypatch.setattr(
        robustness, "measure", lambda plan, one: ran.append((one.recipe, one.name)) or scripted(one)
    )
    arguments = ["--seeds", "1", "--only", "int8", "--folder", str(tmp_path / "out")]
    assert robustness.main([*arguments, "--side", "paper"]) == 0
    assert ran == [("paper", "injection"), ("paper", "int8")]
    assert {one["id"]: one for one in rows.read("robustness")}["survival-int8"]["value"] is None
    assert robustness.main(arguments) == 0
    assert ran[2:] == [("ours", "injection"), ("ours", "int8")]
