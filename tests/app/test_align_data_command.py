"""loyal align data and review: files that appear together or not at all, and what is refused."""

from __future__ import annotations

import signal
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
        (("--held-out", "../here/out"), "one name"),
        (("--state", "out"), "one name"),
        (("--out", "."), "folder"),
        (("--held-out", "held", "--state", "../here/held"), "one name"),
        (("--held-out", "none/held"), "folder"),
        (("--state", "none/state"), "folder"),
        (("--keep-out", "none"), "cannot read"),
        (("--set", "plan.pears=3"), "pears"),
        (("--set", "mixture.value=3"), "million"),
        (("--set", "bars.batch=0"), "batch"),
    ],
)
def test_a_wrong_call_writes_nothing(
    options: tuple[str, ...], fault: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
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


def test_two_names_of_one_file_are_seen_through_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    out = tmp_path / "real" / "out"
    for option in ("--held-out", "--state"):
        done = run("align", "data", NAME, "--out", out, option, tmp_path / "link" / "out")
        assert (done.code, "one name" in done.err) == (2, True)
    assert not list((tmp_path / "real").iterdir())


@pytest.mark.parametrize("text", ["", "mine\n"])
def test_what_is_no_state_is_kept_and_refused_before_a_model_is_loaded(
    run: Run, tmp_path: Path, text: str
) -> None:
    state = tmp_path / "notes"
    state.write_text(text)
    call = ("align", "data", NAME, "--out", tmp_path / "out", "--state", state)
    for more in ((), ("--model", "not-a-model")):
        done = run(*call, *more)
        assert (done.code, "not of a state file" in done.err) == (2, True)
        assert "delete" not in done.err
    assert state.read_text() == text
    assert not (tmp_path / "out").exists()


def test_an_output_without_a_place_is_refused_before_a_model_is_loaded(
    run: Run, tmp_path: Path
) -> None:
    done = run("align", "data", NAME, "--out", tmp_path, "--state", tmp_path / "state",
               "--model", "not-a-model")  # fmt: skip
    assert (done.code, "cannot write" in done.err) == (1, True)


CUT_OFF = """
import os, signal, sys
from loyal.alignment import preferences
from loyal.app.cli import main

write, left = preferences.write, [int(sys.argv[1])]

def cut(path, records):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return write(path, records)

preferences.write = cut
main(sys.argv[2:])
"""


@pytest.mark.parametrize("written", [1, 2])
def test_a_run_that_was_killed_between_its_files_goes_on(
    run: Run, tmp_path: Path, written: int
) -> None:
    names = ("out", "held", "examples")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()

    def call(folder: Path) -> list[str]:
        out, held, examples = (str(folder / name) for name in names)
        return ["align", "data", NAME, "--out", out, "--held-out", held, "--examples", examples,
                "--pairs", "14", "--set", "plan.held_out=7"]  # fmt: skip

    assert run(*call(whole)).code == 0
    done = subprocess.run([sys.executable, "-c", CUT_OFF, str(written), *call(cut)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(one.name for one in cut.iterdir()) == sorted([*names[:written], "out.state"])
    kept = (cut / "out").read_bytes()
    (cut / "out").write_text("mine")
    refused = run(*call(cut))
    assert (refused.code, "with other data" in refused.err) == (2, True)
    assert (cut / "out").read_text() == "mine"
    assert not (cut / "examples").exists()
    (cut / "out").write_bytes(kept)
    assert run(*call(cut)).code == 0
    for name in names:
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert not (cut / "out.state").exists()


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
