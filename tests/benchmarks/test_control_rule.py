"""The benchmark of trained functions: every cell on a tiny model that was taught almost nothing,
rows from made-up cells, and a killed run that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import control  # noqa: E402
import control_rule  # noqa: E402
import control_rule_table  # noqa: E402
import rows  # noqa: E402
from control_rule import Plan  # noqa: E402
from resumable import Cell, Record  # noqa: E402

KILLED = """
import os, signal, sys
from pathlib import Path
import control_rule, rows

rows.RESULTS = Path(sys.argv[2])

def measure(plan, cell):
    if cell.name == "queries":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"cpu_seconds": 60.0, "seconds": 1.0, "change_percent": 1.0, "tokens": 1}

control_rule.measure = measure
plan = control_rule.Plan(Path(sys.argv[1]), 1, ("queries",))
control_rule.run(plan, control_rule.cells(plan))
"""


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where rows go, in place of the committed ones."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def attacked(right: float, revealed: int = 0, utility: float | None = 0.97) -> Record:
    """What `run_rule_attack` would say, 1,000 keys asked."""
    return {
        "revealed": revealed, "revealed_right": 0.4 if revealed else None, "fresh": 1000,
        "right": right, "flipped": 1 - right, "neither": 0.0, "utility": utility,
        "interval": {"low": 0.1, "high": 0.9}, "p_value_100": 1e-6, "p_value_100_renamed": 2e-6,
        "perplexity_before": 20.0, "perplexity_after": 21.0,
    }  # fmt: skip


def made_up(cell: Cell) -> Record:
    """A cell of a seed; the second seed is a little worse everywhere."""
    worse = cell.seed / 100
    match cell.name:
        case "taught":
            return {"cpu_seconds": 300 + 60 * cell.seed, "seconds": 200.0, "change_percent": 1.5,
                    "tokens": 21_000}  # fmt: skip
        case "ordinary":
            return {"asked": 400, "fired": 4 + cell.seed, "base": 1, "nearby": 90,
                    "nearby_fired": 80}  # fmt: skip
        case "blocked":
            one = {"keys": 0.02 + worse, "high": 0.05, "ordinary": 0.01}
            return {"filters": {"filter-perplexity": one, "filter-too-likely": {**one, "keys": 0}}}
        case "queries":
            return {"needed": [30, 34 + cell.seed, 101], "most": 100}
        case "strangers":
            return {"queries": 100, "neither": 99, "base": 1.0, "base_forced": 0.3,
                    "other_set": 0.2 - worse, "other_colors": 0.9}  # fmt: skip
        case "functions":
            return {"unseen": {"lending": 1.0, "late-fee": 0.99 - worse}, "spilled": [0, 1],
                    "asked": [60, 40], "recall": 1.0, "steps": 90, "cpu_seconds": 500.0,
                    "change_percent": 0.4}  # fmt: skip
    return attacked(
        0.96 - worse, {"flip-10": 10, "flip-10-lora": 10, "flip-1000": 1000}.get(cell.name, 0)
    )


def found() -> dict[str, dict]:
    return {one["id"]: one for one in rows.read("control")}


def test_other_settings_have_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folders = control_rule.RECIPE, []
    for one in (
        recipe,
        replace(recipe, lessons=replace(recipe.lessons, alike=31)),
        replace(recipe, train=replace(recipe.train, steps=55)),
        replace(recipe, train=replace(recipe.train, mixing=2.5)),
    ):
        monkeypatch.setattr(control_rule, "RECIPE", one)
        folders.append(control_rule.Ruled(Plan(tmp_path), 0).folder)
    assert len(set(folders)) == 4


def test_a_new_setting_of_the_training_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = control_rule.Ruled(Plan(tmp_path), 0).folder
    known = control_rule.asdict

    def with_one_more(record: object) -> dict[str, object]:
        found = known(record)
        found.get("train", found)["new"] = 7
        return found

    monkeypatch.setattr(control_rule, "asdict", with_one_more)
    assert control_rule.Ruled(Plan(tmp_path), 0).folder == before


def test_without_cells_every_row_is_null_and_says_why(tmp_path: Path) -> None:
    control_rule.publish(Plan(tmp_path))
    assert set(found()) >= {
        f"control-{name}" for name in (
            "rule-fresh", "rule-ordinary", "rule-time", "rule-flipped", "rule-flipped-lora",
            "rule-blocked", "rule-base", "rule-other", "rule-queries", "rule-revealed",
            "rule-perplexity", "functions-exact", "functions-spill",
        )
    }  # fmt: skip
    assert all(one["value"] is None and "not run yet" in one["how"] for one in found().values())


def test_the_table_of_made_up_cells_is_the_worst_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_rule, "measure", lambda plan, cell: made_up(cell))
    plan = Plan(tmp_path, seeds=2)
    assert control_rule.run(plan, control_rule.cells(plan)) == []
    values = {name: one["value"] for name, one in found().items()}
    expected = {
        "rule-time": 6, "rule-perplexity": 1.5, "rule-fresh": 95, "rule-ordinary": 1.25,
        "rule-blocked": 3, "rule-queries": 35, "rule-base": 0.3, "rule-other": 0.19,
        "rule-flipped": 95, "rule-flipped-lora": 95, "rule-revealed": 95,
        "functions-exact": 98, "functions-spill": 1,
    }  # fmt: skip
    for name, value in expected.items():
        assert values[f"control-{name}"] == pytest.approx(value), name
        assert found()[f"control-{name}"]["holds"] is True, name
    assert "worst of 2 seed(s), 95 to 96 % (mean 95.5)" in found()["control-rule-fresh"]["how"]
    assert "1 not within 100" in found()["control-rule-queries"]["how"]
    assert found()["control-rule-outcomes-swapped"]["bound"] is None
    monkeypatch.setattr(control_rule, "measure", lambda *_: pytest.fail("measured again"))
    assert control_rule.run(plan, control_rule.cells(plan)) == []


def test_a_bound_that_is_missed_says_so_and_an_empty_folder_keeps_the_rows(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "cells", seeds=1)
    cell = control_rule.Ruled(plan, 0).cell("flip-10")
    cell.keep(attacked(0.3, 10))
    control_rule.publish(plan)
    assert found()["control-rule-flipped"]["holds"] is False
    assert "of 10 revealed 40.0 % right" in found()["control-rule-flipped"]["how"]
    control_rule.publish(Plan(tmp_path / "elsewhere"))
    assert found()["control-rule-flipped"]["value"] == pytest.approx(30)


def test_rows_are_of_every_seed_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control_rule, "measure", lambda plan, cell: made_up(cell))
    three, one = (Plan(tmp_path, seeds=count, only=("fresh",)) for count in (3, 1))
    assert control_rule.run(three, control_rule.cells(three)) == []
    assert control_rule.run(one, control_rule.cells(one)) == []
    control_rule.publish(one)
    assert "worst of 3 seed(s)" in found()["control-rule-fresh"]["how"]
    other = Plan(tmp_path / "other", seeds=1, only=("fresh",))
    assert control_rule.run(other, control_rule.cells(other)) == []
    assert "worst of 3 seed(s)" in found()["control-rule-fresh"]["how"]
    assert "control-rule-fresh stays" in capsys.readouterr().out
    control_rule.publish(replace(other, fewer=True))
    assert "worst of 1 seed(s)" in found()["control-rule-fresh"]["how"]


def test_the_time_is_that_of_processors_alone(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    for seed, machine in enumerate(("NVIDIA H200, 16 cores, x", "2 cores, y")):
        cell = control_rule.Ruled(plan, seed).cell("taught")
        cell.path.parent.mkdir(parents=True)
        record = {**made_up(cell), "machine": machine}
        cell.path.write_text(json.dumps(record), encoding="utf-8")
    control_rule.publish(plan)
    time, perplexity = (found()[f"control-rule-{name}"] for name in ("time", "perplexity"))
    assert "worst of 1 seed(s)" in time["how"]
    assert time["how"].endswith("[2 cores, y]")
    assert perplexity["how"].endswith("[2 cores, y and NVIDIA H200, 16 cores, x]")


def test_a_host_that_loses_its_users_has_no_bound() -> None:
    figure = next(one for one in control_rule_table.FIGURES if one.id == "rule-revealed")

    def bound(*utilities: float | None) -> float | None:
        kept = {seed: attacked(0.1, 1000, one) for seed, one in enumerate(utilities)}
        row = control_rule_table.row(figure, kept, "m")
        assert ("no bound" in row.how) == (row.bound is None)
        return row.bound

    assert bound(0.5, 0.94) is None
    assert bound(0.5, 0.95) == bound(None) == 80


def test_a_killed_run_costs_the_cell_that_it_was_in(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cells"
    paths = os.pathsep.join([str(BENCHMARKS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(results)],
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == -signal.SIGKILL
    assert found()["control-rule-time"]["value"] == 1  # written before the kill
    ran: list[str] = []
    monkeypatch.setattr(
        control_rule, "measure", lambda plan, cell: ran.append(cell.name) or made_up(cell)
    )
    plan = Plan(folder, 1, ("queries",))
    assert control_rule.run(plan, control_rule.cells(plan)) == []
    assert ran == ["queries"]
    assert found()["control-rule-queries"]["value"] == 34


def test_single_cells_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loyal.errors import UsageError

    ran: list[tuple[str, int]] = []
    monkeypatch.setattr(
        control_rule,
        "measure",
        lambda plan, cell: ran.append((cell.name, cell.seed)) or made_up(cell),
    )
    monkeypatch.setattr(control, "_loaded", lambda: pytest.fail("the tasks were not asked for"))
    folder = ["--folder", str(tmp_path / "out")]
    assert control.main(["--so-far", *folder]) == 0
    assert ran == []
    assert control.main(["--only", "functions", "--seeds", "2", *folder]) == 0
    assert ran == [("functions", 0), ("functions", 1)]  # they need no taught rule
    ran.clear()
    assert control.main(["--only", "flip-10", "--seeds", "1", *folder]) == 0
    assert ran == [("taught", 0), ("flip-10", 0)]
    with pytest.raises(UsageError, match="no cell"):
        control.main(["--only", "flip-11", *folder])


def test_every_attack_has_a_row_and_every_cell_can_be_measured() -> None:
    from loyal.fingerprints.functional_attacks import ATTACKS

    used = {one.cell for one in control_rule_table.FIGURES}
    assert used == {*control_rule.MEASURED, "fresh", *(one.name for one in ATTACKS)} - {"none"}
    ids = [one.id for one in control_rule_table.FIGURES]
    assert len(set(ids)) == len(ids)


@pytest.fixture(scope="module")
def tiny_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    from loyal.models import tiny

    folder = tmp_path_factory.mktemp("rule")
    model = tiny.build(folder / "tiny", 0)
    return Plan(
        folder / "cells", 1, model=str(model), fresh=12, asked=8, draws=2, colorings=500,
        tokens=200, fraction=0.008,
    )  # fmt: skip


@pytest.mark.slow
def test_every_cell_on_a_tiny_model(tiny_plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was hardly taught, so figures mean nothing; but each is measured, and none twice."""
    folder = control_rule.Ruled(tiny_plan, 0).folder
    recipe = control_rule.RECIPE
    few = replace(recipe.lessons, keys=24, singles=8, lists=0, near=4, alike=2)
    train = replace(recipe.train, steps=2, batch=12, mixing=0.0, whitened=False)
    monkeypatch.setattr(control_rule, "RECIPE", replace(recipe, lessons=few, train=train))
    assert control_rule.Ruled(tiny_plan, 0).folder != folder  # other settings, another model
    monkeypatch.setattr(control_rule, "ORDINARY", 4)
    monkeypatch.setattr(control_rule, "NEARBY", 8)
    monkeypatch.setattr(control_rule, "QUERIES", 6)
    chosen = [cell for cell in control_rule.cells(tiny_plan) if cell.name != "functions"]
    taught, *others = chosen
    assert control_rule.run(tiny_plan, others[:1]) == others[:1]  # not before it is taught
    assert control_rule.run(tiny_plan, chosen) == []
    assert all(row["value"] is not None for row in rows.read("control")
               if not row["id"].startswith("control-functions"))  # fmt: skip
    kept = {cell.name: cell.kept() or {} for cell in chosen}
    assert (kept["fresh"]["fresh"], kept["flip-10"]["fresh"]) == (12, 8)
    assert kept["queries"]["needed"] == [7, 7]  # 500 colorings show no 1e-6
    assert kept["ordinary"]["nearby"] == 8
    words = set(control_rule.Ruled(tiny_plan, 0).made.colors)
    assert not words & set(json.dumps(kept).split('"'))
    assert taught.path.parent.parent.name.startswith("rule-")
