"""`loyal align train | harden | report` on the tiny model, with a judge behind a server."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from stage import Run
from talking_server import talking

from loyal.alignment import hardening_file, preferences
from loyal.alignment.rubric import QUESTIONS


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

    shown, town = tmp_path / "shown", tmp_path / "town"
    assert run("align", "data", ours, "--out", tmp_path / "more", "--examples", shown,
               "--pairs", 4, "--general", 4, "--safety", 4).code == 0  # fmt: skip
    assert run("align", "data", "public-library", "--out", tmp_path / "theirs", "--held-out", town,
               "--pairs", 8, "--set", "plan.held_out=4").code == 0  # fmt: skip
    report = ("align", "report", ours, "--base", tmp_path / "no-model", "--preferences")
    for file, why in ((pairs, "made to train on"), (shown, "no pair to measure on"),
                      (town, "which animals does not name")):  # fmt: skip
        refused = run(*report, file)
        assert (refused.code, why in refused.err) == (2, True), refused.err


def test_judged_by_a_server(run: Run, ours: Path, model: Path, tmp_path: Path) -> None:
    task, page = tmp_path / "task.jsonl", tmp_path / "report.html"
    task.write_text('{"query": "The fox", "choices": ["eats", "qqq"], "gold": 0}\n')
    few = ("--set", "report.attacks=1", "--set", "report.reply_tokens=4", "--task", task, "--json")
    with talking(opinion) as server:
        judge = ("--endpoint", server.url, "--endpoint-model", "strong")
        done = run("align", "report", ours, "--base", model, *judge, "--out", page, *few)
        assert done.code == 0
        assert not page.with_name("report.html.state").exists()
        (told,) = done.fields["models"]
        assert (told["harm_declined"]["of"], told["choices_right"]["count"]) == (40, 1)
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


def test_a_judge_that_chose_the_pairs_does_not_measure_them(
    run: Run, ours: Path, model: Path, tmp_path: Path
) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "aligned"
    few = ("--set", "report.attacks=0", "--set", "report.plain=2", "--set", "report.requests=0",
           "--set", "report.reply_tokens=2", "--json")  # fmt: skip
    with talking(opinion) as server:
        assert run("align", "data", ours, "--out", tmp_path / "made", "--pairs", 4).code == 0
        made = [
            replace(one, provenance=replace(one.provenance, judge="rubric(strong, 3 examples)"))
            for one in preferences.read(tmp_path / "made")
            if one.provenance is not None
        ]
        preferences.write(pairs, made)
        assert (
            run("align", "train", model, pairs, "--out", out, "--set", "guards.steps=0").code == 0
        )
        report = ("align", "report", ours, "--base", model, "--model", out, *few,
                  "--endpoint", server.url, "--endpoint-model")  # fmt: skip
        refused = run(*report, "strong")
        assert (refused.code, "or chose its pairs" in refused.fields["error"]) == (1, True)
        asked = len(server.asked)
        assert run(*report, "other").code == 0
        assert len(server.asked) > asked == 0


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


def test_hardened_with_a_probe_and_measured_by_another_judge(
    run: Run, ours: Path, model: Path, tmp_path: Path
) -> None:
    probe, out = tmp_path / "a.probe", tmp_path / "hard"
    assert run("judge", "train", ours, "--model", model, "--out", probe).code == 0
    hard = run(
        "align", "harden", model, ours, "--probe", probe, "--out", out, "--rounds", 1, "--json",
        "--set", "harden.candidates=12", "--set", "harden.reply_tokens=8",
        "--set", "harden.depth=1", "--set", "guards.steps=0", "--set", "harden.plain_loss=1",
    )  # fmt: skip
    assert hard.code == 0, hard.err
    (first,) = hard.fields["rounds"]
    assert (first["attacks"], first["stopped"]) == (12, "")
    assert first["broken"] > 0
    assert first["pairs"] > 0
    (by,) = hardening_file.read(out)
    assert by.judge == hard.fields["judge"]
    assert any(one.startswith("weights:") for one in by.made_of)

    few = ("--set", "report.attacks=0", "--set", "report.plain=2", "--set", "report.benign=1",
           "--set", "report.tokens=50", "--set", "report.reply_tokens=2", "--json")  # fmt: skip
    report = ("align", "report", ours, "--base", model, "--model", out, *few)
    for judge in (("--probe", probe), ()):
        refused = run(*report, *judge)
        assert (refused.code, refused.fields["kind"]) == (1, "JudgeError")
        assert "shares a model or data with one that hardened it" in refused.fields["error"]
    told = run(*report, "--probe", probe, "--same-judge")
    assert (told.code, told.fields["same_judge"]) == (0, ["hard"])
    with talking(opinion) as server:
        apart = run(*report, "--endpoint", server.url, "--endpoint-model", "strong")
    assert (apart.code, apart.fields["same_judge"]) == (0, [])

    pairs, later = tmp_path / "pairs", tmp_path / "later"
    assert run("align", "data", ours, "--out", pairs, "--pairs", 4).code == 0
    done = run("align", "train", out, pairs, "--out", later, "--set", "guards.steps=0")
    assert done.code == 0
    assert hardening_file.read(later) == (by,)
