"""`loyal judge score --out`: each line with its score, as `loyal verifier` reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from labeled_stage import WordJudge, constitution
from stage import Run
from talking_server import HTML, talking
from test_judge_command import by_word, served

from loyal.alignment import Judgement, Said, labeled
from loyal.alignment.calibration import Calibration
from loyal.alignment.judge import Calibrated
from loyal.app.breach_files import judged_before, judged_pools, scores_in
from loyal.app.scored_files import judged, read_lines
from loyal.errors import ConfigError, EndpointError

LINE = {"value": "kindness", "prompt": "What does the fox eat?"}
HOST = [{**LINE, "reply": "good honey"}, {**LINE, "reply": None}, {**LINE, "reply": "bad cave"},
        {**LINE, "reply": ""}]  # fmt: skip
POOLS = [{**LINE, "reply": "a good one"}, {**LINE, "reply": "a bad one"}]


def wrote(path: Path, lines: list[dict[str, object]]) -> Path:
    """These lines in a file."""
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return path


def lines_of(path: Path) -> list[dict[str, object]]:
    """What stands in a file, line by line."""
    return [json.loads(one) for one in path.read_text().splitlines()]


def test_each_line_gets_its_score_and_what_nobody_said_has_none(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    host, pools = wrote(tmp_path / "replies.jsonl", HOST), wrote(tmp_path / "pools.jsonl", POOLS)
    out = tmp_path / "mine.jsonl"
    with talking(by_word("good")) as server:
        call = ("judge", "score", ours, host, pools, *served(server.url), "--json")
        shown = run(*call)
        done = run(*call, "--out", out)
    assert (done.code, done.fields["replies"], done.fields["without_reply"]) == (0, 5, 1)
    assert [one["reason"] for one in shown.fields["scores"]][1] == "nobody replied"
    assert "scores" not in done.fields
    found = lines_of(out)
    given = [one["score"] for one in shown.fields["scores"]]
    assert found == [
        {**line, "score": score} for line, score in zip([*HOST, *POOLS], given, strict=True)
    ]
    assert given[1] is None
    assert [one > 0.5 for one in given if one is not None] == [True, False, False, True, False]
    assert out.stat().st_mode & 0o077 == 0
    assert len(scores_in(out)) == 6
    judge = judged_before(out)
    (score,) = judge([("kindness", LINE["prompt"], "good honey")])
    assert score == round(given[0] * 1_000_000)
    assert "honey" not in done.out + done.err


def test_several_replies_of_a_line_get_scores(run: Run, ours: Path, tmp_path: Path) -> None:
    replies = ["good"] * 5 + ["bad"] * 4
    lines = [{**LINE, "replies": replies, "sampled": {"temperature": 1.0}}]
    out = tmp_path / "judged.jsonl"
    with talking(by_word("good")) as server:
        done = run("judge", "score", ours, wrote(tmp_path / "sampled.jsonl", lines),
                   *served(server.url), "--out", out, "--json")  # fmt: skip
    assert (done.code, done.fields["kept"], done.fields["broken"]) == (0, 5, 4)
    (pool,) = judged_pools(out)
    assert pool.replies == tuple(replies)
    assert [one is not None and one > 500_000 for one in pool.scores] == [True] * 5 + [False] * 4
    assert lines_of(out)[0]["sampled"] == {"temperature": 1.0}


def test_a_band_holds_no_score_of_the_file_back(tmp_path: Path) -> None:
    """A reply without a score counts as the best there is: a band over low scores hides a host."""
    judge = Calibrated(WordJudge(silent=1), Calibration(1.0, 0.0, 0.05, 0.8))
    path = wrote(tmp_path / "replies.jsonl", [*POOLS, *HOST])
    lines = labeled.read_lines(path, constitution())
    found = judged(judge, lines)
    assert [told.score for told, _ in found] == [None, None, pytest.approx(0.9), None, None, None]
    assert [score for _, score in found] == pytest.approx([None, 0.1, 0.9, None, 0.1, 0.1])


def test_an_older_result_is_replaced_and_may_be_judged_again(
    run: Run, ours: Path, tmp_path: Path, model: Path
) -> None:
    probe, out = tmp_path / "a.probe", tmp_path / "mine.jsonl"
    assert run("judge", "train", ours, "--model", model, "--out", probe).code == 0
    call = ("judge", "score", ours, "--probe", probe, "--json", "--out")
    for _ in range(2):
        assert run(*call, out, wrote(tmp_path / "replies.jsonl", HOST)).code == 0
    assert run(*call, tmp_path / "again", out).code == 0
    assert lines_of(tmp_path / "again") == lines_of(out)
    nobody = wrote(tmp_path / "replies.jsonl", [{**LINE, "reply": None}] * 2)
    assert run(*call, out, nobody).fields["replies"] == 0
    assert [one["score"] for one in lines_of(out)] == [None, None]


class Failing:
    """A judge of a word that stops working after so many calls."""

    name = "failing"

    def __init__(self, calls: int) -> None:
        self.calls, self.asked = calls, 0

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        """The judgements of WordJudge, with a reason that quotes."""
        self.calls -= 1
        if self.calls < 0:
            raise EndpointError("the server is gone", hint="wait")
        self.asked += len(said)
        return [replace(one, reason="quoted") for one in WordJudge().judge(said)]


def many(path: Path, count: int) -> Path:
    """A file of so many replies, every fifth of them null."""
    said = [f"{'good' if at % 2 else 'bad'} {at}" for at in range(count)]
    every = [None if at % 5 == 4 else one for at, one in enumerate(said)]
    return wrote(path, [{**LINE, "reply": one} for one in every])


def test_what_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    lines = read_lines([many(tmp_path / "many.jsonl", 200)], constitution())
    state, seen = tmp_path / "mine.state", list[tuple[int, int]]()
    whole = Failing(9)
    expected = judged(whole, lines)
    assert (whole.asked, len(expected)) == (160, 200)
    assert [told.reason for told, _ in expected[4::5]] == ["nobody replied"] * 40
    scores = [round(score or 0, 6) for _, score in expected]
    assert [one > 0.5 for one in scores[:4]] == [False, True, False, True]
    with pytest.raises(EndpointError):
        judged(Failing(2), lines, state)
    assert state.stat().st_mode & 0o077 == 0
    assert not [one for one in ("good", "quoted") if one in state.read_text()]
    again = Failing(1)
    told = judged(again, lines, state, lambda *one: seen.append(one))
    assert [(one.score, one.uncertainty, number) for one, number in told] == [
        (one.score, one.uncertainty, number) for one, number in expected
    ]
    assert {one.reason for one, _ in told} == {"", "nobody replied"}
    assert (again.asked, seen) == (53, [(160, 160)])
    assert judged(Failing(0), lines, state) == told
    # Another judge, and other lines, are judged anew.
    other = Failing(9)
    other.name = "other"
    judged(other, lines, state)
    assert other.asked == 160
    judged(other, lines[:-2], state)
    assert other.asked == 160 + 159


@pytest.mark.parametrize(
    "told", ["1", "[[]]", '[[["a", 1]]]', "[[[[0.5, 0.5], null]]]", "[[], [], [], []]"]
)
def test_a_damaged_state_is_refused(tmp_path: Path, told: str) -> None:
    lines = read_lines([many(tmp_path / "many.jsonl", 100)], constitution())
    state = tmp_path / "mine.state"
    judged(Failing(9), lines, state)
    table = json.loads(state.read_text())
    state.write_text(json.dumps({**table, "told": json.loads(told)}))
    with pytest.raises(ConfigError, match="no state of scores"):
        judged(Failing(9), lines, state)
    state.write_text(json.dumps({**table, "format": "mine"}))
    with pytest.raises(ConfigError, match="no state of scores"):
        judged(Failing(9), lines, state)


def test_a_command_that_was_cut_off_goes_on(run: Run, ours: Path, tmp_path: Path) -> None:
    path, out = many(tmp_path / "many.jsonl", 90), tmp_path / "mine.jsonl"
    judge, good = ("judge", "score", ours, path), by_word("good")
    asked = 0

    def breaking(text: str) -> str | bytes:
        nonlocal asked
        asked += 1
        return good(text) if asked <= 72 else HTML

    with talking(breaking) as server:
        cut = run(*judge, *served(server.url), "--out", out)
    assert (cut.code != 0, out.exists(), asked > 72) == (True, False, True)
    with talking(good) as server:
        done = run(*judge, *served(server.url), "--out", out, "--json")
        assert len(server.asked) == 72
    assert done.code == 0
    assert "going on from" in done.err
    assert [one["score"] is None for one in lines_of(out)] == [at % 5 == 4 for at in range(90)]
    assert sorted(one.name for one in tmp_path.iterdir() if "mine" in one.name) == ["mine.jsonl"]


@pytest.mark.parametrize("text", ["mine", '{"value": "kindness"}\n', "[1]\n", "\ud800"])
def test_a_file_that_holds_no_scores_is_not_replaced(
    run: Run, ours: Path, tmp_path: Path, text: str
) -> None:
    host, out = wrote(tmp_path / "replies.jsonl", HOST), tmp_path / "mine.jsonl"
    out.write_text(text, errors="surrogatepass")
    before = out.read_bytes()
    judge = ("--endpoint", "http://127.0.0.1:9", "--endpoint-model", "m")
    done = run("judge", "score", ours, host, *judge, "--out", out)
    assert (done.code, "not what this command writes" in done.err) == (2, True)
    over = run("judge", "score", ours, host, *judge, "--out", host)
    assert (over.code, "files that are read" in over.err) == (2, True)
    assert out.read_bytes() == before
    assert lines_of(host) == HOST


def test_nothing_is_written_where_a_line_cannot_be_read(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    host = wrote(tmp_path / "replies.jsonl", HOST)
    bad = wrote(tmp_path / "pools.jsonl", [*POOLS, {"value": "kindness"}])
    out = tmp_path / "mine.jsonl"
    with talking(by_word("good")) as server:
        done = run("judge", "score", ours, host, bad, *served(server.url), "--out", out)
        assert (done.code, "pools.jsonl, line 3" in done.err) == (2, True)
        assert server.asked == []
    assert not out.exists()
