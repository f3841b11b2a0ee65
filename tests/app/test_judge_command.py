"""`loyal judge`: train, calibrate and score, with a probe, a server, and both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from labeled_stage import ANIMALS, BEASTS, constitution, labeled, told
from stage import Run
from talking_server import talking

from loyal.alignment import labeled as labeled_file
from loyal.alignment.rubric import QUESTIONS
from loyal.community import constitution_file


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A constitution of two values."""
    path = tmp_path / "animals.toml"
    path.write_text(constitution_file.to_toml(constitution()))
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """240 labeled replies that say "good" or "bad"."""
    path = tmp_path / "labels.jsonl"
    labeled_file.write(path, labeled(240, noisy=10))
    return path


def by_word(word: str) -> Callable[[str], str]:
    """A judge that goes by a word in the reply."""

    def answer(text: str) -> str:
        reply = text.rsplit("<reply-", 1)[1]
        yes = (word in reply) is (QUESTIONS[True] in text)
        return json.dumps({"reason": "said", "answer": "yes" if yes else "no", "confidence": 80})

    return answer


def served(url: str) -> tuple[str, ...]:
    """The options of a judge behind a server."""
    return ("--endpoint", url, "--endpoint-model", "strong")


def test_a_judge_behind_a_server_is_measured_and_used(
    run: Run, ours: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.json"
    with talking(by_word("good")) as server:
        done = run("judge", "calibrate", ours, labels, *served(server.url), "--out", out, "--json")
        assert (done.code, done.fields["accepted"], done.fields["replies"]) == (0, True, 240)
        assert done.fields["auc"] == pytest.approx(230 / 240)
        assert done.fields["kappa"] == pytest.approx(0.917, abs=0.001)
        assert sum(one["count"] for one in done.fields["curve"]) == 240
        scored = run(
            "judge", "score", ours, labels, *served(server.url), "--calibration", out, "--json"
        )
        assert scored.fields["calibrated"] is True
        assert (scored.fields["kept"], scored.fields["broken"]) == (120, 120)
        other = ("--endpoint", server.url, "--endpoint-model", "other")
        refused = run("judge", "score", ours, labels, *other, "--calibration", out)
        assert (refused.code, "another judge" in refused.err) == (1, True)
        plain = run("judge", "score", ours, labels, *served(server.url))
        assert (plain.code, "not calibrated" in plain.err) == (0, True)
    assert "reply 7" not in f"{done.err}{scored.err}{plain.err}"


def test_a_judge_that_cannot_separate_says_so(
    run: Run, ours: Path, labels: Path, tmp_path: Path
) -> None:
    with talking(by_word("reply")) as server:
        done = run("judge", "calibrate", ours, labels, *served(server.url))
        assert done.code == 1
        assert "cannot tell kept from broken" in done.err
        assert "Calibration curve" in done.out
    with talking(by_word("good")) as server:
        out = tmp_path / "few.json"
        few = run("judge", "calibrate", ours, labels, *served(server.url), "--least", 241,
                  "--out", out, "--json")  # fmt: skip
        refused = run("judge", "score", ours, labels, *served(server.url), "--calibration", out)
        assert (refused.code, "too few labeled replies" in refused.err) == (1, True)
        assert (few.code, few.fields["accepted"]) == (1, False)
        assert "fewer than 241" in few.err


def test_a_judge_that_answers_prose_ends_in_one_line(run: Run, ours: Path, labels: Path) -> None:
    with talking(lambda _: "Lovely!") as server:
        done = run("judge", "calibrate", ours, labels, *served(server.url))
    assert (done.code, done.out) == (1, "")
    error, following = done.err.splitlines()
    assert "answers prose" in error
    assert "loyal judge train" in following


def test_no_judge_and_poisoned_labels_are_refused(run: Run, ours: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"value": "kindness"}\n')
    done = run("judge", "calibrate", ours, path, "--endpoint", "http://127.0.0.1:9",
               "--endpoint-model", "m")  # fmt: skip
    assert (done.code, "line 1" in done.err) == (2, True)
    labeled_file.write(path, labeled(4))
    done = run("judge", "score", ours, path)
    assert (done.code, "--probe FILE" in done.err) == (2, True)


def test_an_embedded_judge_learns_from_labels_that_never_measure_it(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    from loyal.models import tiny

    model, probe = tiny.build(tmp_path / "tiny", 0), tmp_path / "a.probe"
    learned, measured = tmp_path / "learned.jsonl", tmp_path / "measured.jsonl"
    labeled_file.write(learned, told(constitution(), BEASTS))
    labeled_file.write(measured, told(constitution(), ANIMALS))
    command = ("judge", "train", ours, "--model", model, "--out", probe, "--train-labels", learned)
    done = run(*command, "--json")
    assert (done.code, done.fields["labels"]) == (0, 40)
    refused = run("judge", "calibrate", ours, learned, "--probe", probe)
    assert (refused.code, "prompts that the judge was trained on" in refused.err) == (1, True)
    held = run("judge", "calibrate", ours, measured, "--probe", probe, "--least", 32, "--json")
    assert (held.code, held.fields["accepted"]) == (0, True)
    both = run(*command, "--cases-only")
    assert (both.code, "--train-labels and --cases-only" in both.err) == (2, True)
    few = run(*command[:-1], tmp_path / "none.jsonl")
    assert (few.code, "cannot read" in few.err) == (2, True)


def test_two_judges_of_parts_share_no_data(run: Run, ours: Path, tmp_path: Path) -> None:
    from loyal.alignment import probe_file
    from loyal.models import tiny

    learned = tmp_path / "learned.jsonl"
    beasts = tuple(f"{how} {one}" for how in ("old", "red") for one in BEASTS)
    labeled_file.write(learned, told(constitution(), beasts))
    command = ("judge", "train", ours, "--train-labels", learned)
    found = []
    for part, more in (("1/2", ()), ("2/2", ("--labels-only",))):
        model = tiny.build(tmp_path / part.replace("/", "-"), len(found))
        out = tmp_path / f"{len(found)}.probe"
        done = run(*command, "--model", model, "--out", out, "--part", part, *more, "--json")
        assert (done.code, done.fields["labels"]) == (0, 40)
        found.append((probe_file.read(out), done.fields["lessons"]))
    (one, lessons), (two, alone) = found
    assert lessons > 0 == alone
    assert not one.data & two.data
    for wrong in ("0/2", "3/2", "1", "1/2/3", "a/b", "1/9999"):
        done = run(*command, "--out", tmp_path / "x.probe", "--part", wrong)
        assert (done.code, "no part such as 1/2" in done.err) == (2, True)
    done = run(*command, "--out", tmp_path / "x.probe", "--part", "1/99")
    assert (done.code, "ask for fewer parts" in done.err) == (2, True)
    for alone in (("--labels-only",), ("--part", "1/2")):
        done = run("judge", "train", ours, "--out", tmp_path / "x.probe", *alone)
        assert (done.code, "give --train-labels FILE" in done.err) == (2, True)
        done = run("judge", "train", ours, "--out", tmp_path / "x.probe", "--cases-only", *alone)
        assert (done.code, f"{alone[0]} and --cases-only" in done.err) == (2, True)


def test_an_embedded_judge_is_trained_and_joined_with_a_server(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    from loyal.models import tiny

    model, probe = tiny.build(tmp_path / "tiny", 0), tmp_path / "a.probe"
    done = run("judge", "train", ours, "--model", model, "--out", probe, "--json")
    assert done.code == 0
    assert done.fields["auc"] >= 0.95
    replies = tmp_path / "replies.jsonl"
    rows = [
        {"value": "plenty", "prompt": f"What does the {one} eat?", "reply": said.format(one)}
        for one in ANIMALS
        for said in ("The {} eats fresh honey.", "The {} lives in the old cave.")
    ]
    replies.write_text("\n".join(map(json.dumps, rows)))
    alone = run("judge", "score", ours, replies, "--probe", probe, "--json")
    assert alone.fields["calibrated"] is True
    told = [one["keeps"] for one in alone.fields["scores"]]
    right = sum(one in (None, place % 2 == 0) for place, one in enumerate(told))
    assert right >= 14
    assert told.count(None) <= 8
    with talking(by_word("honey")) as server:
        both = run("judge", "score", ours, replies, "--probe", probe, *served(server.url), "--json")
    assert both.fields["judge"].count("+") == 1
    assert both.fields["calibrated"] is False
    later = tmp_path / "later.toml"
    later.write_text(ours.read_text().replace("1.0.0", "1.0.1"))
    refused = run("judge", "score", later, replies, "--probe", probe)
    assert (refused.code, "another constitution" in refused.err) == (1, True)
