"""loyal align data and review: files that appear together or not at all, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from stage import Run

from loyal.alignment import preferences
from loyal.community import constitution_file

NAME = "public-library"
IDS = [one.id for one in constitution_file.bundled(NAME).values]


def test_three_files_from_a_constitution(run: Run, tmp_path: Path) -> None:
    out, held, examples = (tmp_path / name for name in ("out", "held", "examples"))
    done = run(
        "align", "data", NAME, "--out", out, "--held-out", held, "--examples", examples,
        "--pairs", 60, "--general", 12, "--safety", 12, "--set", "plan.held_out=14", "--json",
    )  # fmt: skip
    assert done.code == 0
    assert (done.fields["pairs"], done.fields["held_out"]) == (60, 14)
    assert [len(list(preferences.read(one, IDS))) for one in (out, held)] == [60, 14]
    weights = {"value": 0, "general": 0, "safety": 0}
    for one in preferences.read(examples, IDS):
        assert one.provenance is not None
        kind = one.provenance.kind
        weights[kind if kind in weights else "value"] += one.content.weight_ppm
    total = sum(weights.values())
    assert weights["general"] / total == pytest.approx(0.2, abs=1e-4)
    assert weights["safety"] / total == pytest.approx(0.1, abs=1e-4)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["examples", "held", "out"]
    told = run("align", "review", out, "--constitution", NAME, "--json")
    assert told.code == 0
    assert told.fields["records"] == 60


def test_a_recipe_mixes(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[plan]\npairs = 21\nbalance = 'even'\n\n[mixture]\nvalue = 500000\n"
                      "general = 500000\nsafety = 0\n")  # fmt: skip
    done = run(
        "align", "data", NAME, "--out", tmp_path / "a", "--examples", tmp_path / "b",
        "--general", 6, "--recipe", recipe, "--json",
    )  # fmt: skip
    assert done.code == 0
    values = [one.content.value for one in preferences.read(tmp_path / "a")]
    assert {values.count(one) for one in IDS} == {3}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--general", "3"), "have no file"),
        (("--endpoint", "http://localhost:1", "--endpoint-model", "m", "--model", "m"), "at once"),
        (("--held-out", "out"), "one name"),
        (("--held-out", "none/held"), "folder"),
        (("--keep-out", "none"), "cannot read"),
        (("--set", "plan.pears=3"), "pears"),
        (("--set", "mixture.value=3"), "million"),
        (("--set", "bars.batch=0"), "batch"),
    ],
)
def test_a_wrong_call_writes_nothing(
    options: tuple[str, ...], fault: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("align", "data", NAME, "--out", "out", *options)
    assert done.code == 2
    assert fault in done.err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    done = run("align", "data", NAME, "--out", out)
    assert done.code == 2
    assert "is there already" in done.err
    assert out.read_text() == "mine"


def test_a_review_names_faults_by_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": 1}\nno\n')
    done = run("align", "review", path, "--json")
    assert done.code == 1
    assert done.fields["faults"] == 2
    assert [one["line"] for one in done.fields["findings"]] == [1, 2]
    assert "pairs.jsonl, line 2" in run("align", "review", path).out
    assert run("align", "review", tmp_path / "none").code == 2


def test_without_a_model_no_torch_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys; from loyal.app.cli import main; "
        f"code = main(['align', 'data', '{NAME}', '--out', {str(tmp_path / 'out')!r}, "
        "'--pairs', '7']); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == 0
