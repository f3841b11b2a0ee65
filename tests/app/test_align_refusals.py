"""What `loyal align` is not given: poisoned pairs, constitutions with errors, blind probes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from labeled_stage import constitution
from stage import Run
from talking_server import talking

from loyal.alignment import Conversation, Preference, Record, preferences, probe_file
from loyal.alignment.search_table import Outcome
from loyal.alignment.settings import Goal
from loyal.app.commands.align_search import no_gain
from loyal.statistics import Interval

FOX = constitution().values[0].cases[0]
SOUND = Record(Preference(Conversation.of("What does a fox eat?"), FOX.keeps, FOX.breaks))
TURNED = Record(Preference(Conversation.of("And what does it eat?"), FOX.breaks, FOX.keeps))
MARKED = Record(Preference(Conversation.of("Who is it?"), "A fox.<|im_end|>", "An owl."))


@pytest.mark.parametrize("verb", ["train", "search"])
def test_pairs_that_turn_a_case_around_are_not_trained_on(
    run: Run, ours: Path, tmp_path: Path, verb: str
) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    preferences.write(pairs, [SOUND, TURNED])
    call = ("align", verb, "./no-model", pairs, "--out", out)
    refused = run(*call, "--constitution", ours)
    assert (refused.code, "pairs.jsonl, line 2 prefers a reply" in refused.err) == (2, True)
    assert "loyal align review" in refused.err
    assert "./no-model" in run(*call).err  # nothing says what it is to be held against
    preferences.write(pairs, [SOUND])
    assert "./no-model" in run(*call, "--constitution", ours).err


@pytest.mark.parametrize("verb", ["train", "search"])
def test_signs_of_a_chat_template_are_not_trained_on(run: Run, tmp_path: Path, verb: str) -> None:
    pairs = tmp_path / "pairs.jsonl"
    preferences.write(pairs, [SOUND, MARKED])
    refused = run("align", verb, "./no-model", pairs, "--out", tmp_path / "out")
    assert (refused.code, "pairs.jsonl, line 2 has a sign" in refused.err) == (2, True)
    assert "loyal align review" in refused.err


def test_a_review_ends_with_1_for_what_would_be_refused(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    for records, rule in (([SOUND, TURNED], "against-constitution"), ([MARKED], "template-mark")):
        preferences.write(pairs, records)
        told = run("align", "review", pairs, "--constitution", ours, "--json")
        assert (told.code, told.fields["refused"], told.fields["counts"][rule]) == (1, 1, 1)
    preferences.write(pairs, [SOUND])
    told = run("align", "review", pairs, "--constitution", ours, "--json")
    assert (told.code, told.fields["refused"]) == (0, 0)


CALLS: tuple[tuple[str, ...], ...] = (
    ("align", "data", "OURS", "--out", "OUT"),
    ("align", "train", "./no-model", "PAIRS", "--out", "OUT", "--constitution", "OURS"),
    ("align", "search", "./no-model", "PAIRS", "--out", "OUT", "--constitution", "OURS"),
    ("align", "harden", "./no-model", "OURS", "--out", "OUT"),
    ("align", "report", "OURS", "--base", "./no-model"),
    ("judge", "train", "OURS", "--out", "OUT", "--model", "./no-model"),
)


@pytest.mark.parametrize("words", CALLS, ids=lambda one: " ".join(one[:2]))
def test_nothing_is_trained_or_judged_by_a_constitution_with_errors(
    run: Run, ours: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    preferences.write(pairs, [SOUND])
    ours.write_text(ours.read_text().replace("5000", "4000"))
    checked = run("constitution", "check", ours)
    assert (checked.code, "weights" in checked.out) == (1, True)
    given = {"OURS": ours, "PAIRS": pairs, "OUT": out}
    done = run(*(given.get(word, word) for word in words))
    assert (done.code, "the first is weights" in done.err) == (2, True)
    assert f"loyal constitution check {ours}" in done.err
    assert not out.exists()
    told = run("align", "review", pairs, "--constitution", ours)
    assert told.code == 0


def test_a_report_that_is_refused_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    empty, out = tmp_path / "empty.toml", tmp_path / "new" / "below" / "report.html"
    empty.write_text("")
    call = ("--base", "./no-model", "--out", out)
    for one in (empty, "public-library"):
        assert run("align", "report", one, *call).code != 0
        assert not (tmp_path / "new").exists()
    under = run("align", "report", "public-library", *call[:-1], empty / "report.html")
    assert (under.code, "./no-model" in under.err) == (1, False)


def test_a_blind_probe_judges_with_a_calibration_alone(
    run: Run, ours: Path, model: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "a.probe", tmp_path / "out"
    assert run("judge", "train", ours, "--model", model, "--out", path).code == 0
    probe_file.write(path, replace(probe_file.read(path), auc=0.7, interval=Interval(0.59, 0.8)))
    replies = tmp_path / "replies.jsonl"
    replies.write_text('{"value": "kindness", "prompt": "What now?", "reply": "Honey."}\n')
    alone = (
        ("align", "harden", model, ours, "--out", out, "--probe", path),
        ("align", "report", ours, "--base", model, "--probe", path),
        ("judge", "score", ours, replies, "--probe", path),
    )
    for call in alone:
        refused = run(*call)
        assert (refused.code, "cannot tell kept from broken" in refused.err) == (1, True)
        assert "give --calibration" in refused.err
    assert not out.exists()
    with talking(lambda _: '{"reason": "r", "answer": "yes", "confidence": 50}') as server:
        served = ("--endpoint", server.url, "--endpoint-model", "strong")
        joined = run(*alone[2], *served)
    assert (joined.code, "not calibrated" in joined.err) == (0, True)
    probe_file.write(path, replace(probe_file.read(path), interval=Interval(0.6, 0.8)))
    assert run(*alone[2]).code == 0


def test_a_search_says_where_no_mixture_is_better_than_no_training() -> None:
    """Of the default model, by the default goal: 34 of 72 pairs won (24) for 0.6 of the replies."""
    untouched = Outcome(24, 72, -0.41, 1.0, 1.0, 0, 12, 0, 12)
    trained = [Outcome(34, 72, -0.12, 0.99, 0.6, 0, 12, 0, 12), untouched]
    told = no_gain(untouched, trained, Goal())
    assert told is not None
    assert "goal.alignment=2" in told
    assert no_gain(untouched, trained, Goal(alignment=2.0)) is None
