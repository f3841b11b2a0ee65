"""`loyal align train | harden | report` on the tiny model, with a judge behind a server."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from labeled_stage import constitution
from stage import Run
from talking_server import talking

from loyal.alignment.rubric import QUESTIONS
from loyal.community import constitution_file
from loyal.models import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("tiny"), 0)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "animals.toml"
    path.write_text(constitution_file.to_toml(constitution()))
    return path


def opinion(text: str, *, keeps: bool = True) -> str:
    """A judge to whom every reply keeps its value, or none does."""
    answer = "yes" if (QUESTIONS[True] in text) is keeps else "no"
    return json.dumps({"reason": "said", "answer": answer, "confidence": 80})


def test_trained_from_files_and_only_from_those_to_train_on(
    run: Run, ours: Path, model: Path, tmp_path: Path
) -> None:
    pairs, held, out = (tmp_path / name for name in ("pairs", "held", "out"))
    made = run("align", "data", ours, "--out", pairs, "--held-out", held, "--pairs", 24,
               "--set", "plan.held_out=8")  # fmt: skip
    assert made.code == 0
    small = ("--set", "guards.steps=0", "--set", "align.batch=8")
    refused = run("align", "train", model, held, "--out", out, *small)
    assert (refused.code, "to be measured on" in refused.err, out.exists()) == (2, True, False)
    done = run("align", "train", model, pairs, "--out", out, *small, "--json")
    assert done.code == 0
    assert done.fields["pairs"] > 0
    assert (out / "config.json").is_file()
    again = run("align", "train", model, pairs, "--out", out, *small)
    assert (again.code, "out" in again.err) == (2, True)


def test_judged_by_a_server(run: Run, ours: Path, model: Path, tmp_path: Path) -> None:
    few = ("--set", "report.attacks=1", "--set", "report.reply_tokens=4", "--json")
    page = tmp_path / "report.html"
    with talking(opinion) as server:
        judge = ("--endpoint", server.url, "--endpoint-model", "strong")
        done = run("align", "report", ours, "--base", model, *judge, "--out", page, *few)
        assert done.code == 0
        assert not page.with_name("report.html.state").exists()
        assert "not calibrated" in done.err
        asked = len(server.asked)
        assert asked > 0
        hard = run(
            "align", "harden", model, ours, *judge, "--out", tmp_path / "hard", "--rounds", 1,
            "--set", "harden.candidates=4", "--set", "guards.steps=0", "--json",
        )  # fmt: skip
        assert len(server.asked) > asked
    assert hard.code == 0
    (first,) = hard.fields["rounds"]
    assert (first["broken"], first["abstained"], first["pairs"]) == (0, 0, 0)
    assert "<html" in page.read_text()


def test_what_the_judge_calls_broken_is_trained_on(
    run: Run, ours: Path, model: Path, tmp_path: Path
) -> None:
    with talking(partial(opinion, keeps=False)) as server:
        hard = run(
            "align", "harden", model, ours, "--endpoint", server.url, "--endpoint-model", "strong",
            "--out", tmp_path / "hard", "--rounds", 1, "--set", "harden.candidates=4",
            "--set", "guards.steps=0", "--json",
        )  # fmt: skip
    assert hard.code == 0
    (first,) = hard.fields["rounds"]
    assert (first["broken"], first["abstained"]) == (first["attacks"], 0)
    assert first["pairs"] > 0


def test_without_a_judge_it_says_what_judges(run: Run, ours: Path, model: Path) -> None:
    few = ("--set", "report.attacks=1", "--set", "report.reply_tokens=4")
    done = run("align", "report", ours, "--base", model, *few)
    assert (done.code, "--probe FILE" in done.err) == (0, True)


def test_a_mixture_is_searched_for_and_trained_on(
    run: Run, ours: Path, model: Path, tmp_path: Path
) -> None:
    pairs, shown, table = (tmp_path / name for name in ("pairs", "shown", "table.json"))
    made = run("align", "data", ours, "--out", pairs, "--examples", shown, "--pairs", 24,
               "--general", 8, "--safety", 8)  # fmt: skip
    assert made.code == 0
    small = ("--set", "guards.steps=0", "--set", "align.batch=8", "--set", "guards.prompts=2",
             "--set", "guards.tokens=100", "--set", "search.reply_tokens=2")  # fmt: skip
    call = ("align", "search", model, pairs, shown, "--out", table, *small)
    alone = run(*call[:4], *call[5:])
    assert (alone.code, "nothing to mix" in alone.err, table.exists()) == (2, True, False)
    done = run(*call, "--runs", 1, "--json")
    assert done.code == 0
    (only,) = done.fields["runs"]
    best = {"value": 700_000, "general": 200_000, "safety": 100_000}
    assert done.fields["best"] == only["mixture"] == best
    again = run(*call, "--runs", 1)
    assert (again.code, "mixture.general=200000" in again.out) == (0, True)
    other = run(*call, "--runs", 1, "--set", "goal.safety=2")
    assert (other.code, "another search" in other.err) == (2, True)
    mixed = [word for one in done.fields["set"] for word in ("--set", one)]
    out = tmp_path / "mixed"
    done = run("align", "train", model, pairs, shown, "--out", out, *small, *mixed, "--json")
    assert (done.code, done.fields["general"]) == (0, made_examples(shown))


def made_examples(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text().splitlines())
