"""loyal align data with a judge of the caller's: a probe, a server, its band, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from labeled_stage import labeled
from stage import Run
from talking_server import talking

from loyal.alignment import Preference, Provenance, Record, preferences, probe_file
from loyal.alignment import labeled as labeled_file
from loyal.alignment.rubric import QUESTIONS
from loyal.statistics import Interval

SMALL = ("--pairs", "16", "--set", "bars.batch=4")
NAME = "rubric(strong, 3 examples)"


def honest(text: str) -> str:
    """A judge that goes by whether the reply speaks of honey, and is unsure of bread."""
    reply = text.rsplit("<reply-", 1)[1]
    yes = ("honey" in reply) is (QUESTIONS[True] in text) or "bread" in reply
    return json.dumps({"reason": "said", "answer": "yes" if yes else "no", "confidence": 90})


def turning(after: int) -> Callable[[str], str]:
    """An honest judge that answers prose from that question on."""
    asked: list[str] = []

    def answer(text: str) -> str:
        asked.append(text)
        return honest(text) if len(asked) <= after else "Lovely!"

    return answer


def by(url: str) -> tuple[str, ...]:
    """The options of a judge behind a server."""
    return ("--judge-endpoint", url, "--judge-endpoint-model", "strong")


def told(path: Path) -> list[tuple[Preference, Provenance]]:
    """Pairs of a file, with where they are from."""
    found = []
    for one in preferences.read(path):
        assert isinstance(one.content, Preference)
        assert one.provenance is not None
        found.append((one.content, one.provenance))
    return found


def test_a_served_judge_chooses_among_the_replies_of_another_server(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    out, number = tmp_path / "pairs.jsonl", iter(range(10_000))

    def writes(text: str) -> str:
        said = ("I like honey most.", "I sleep in the cave.", "Have bread.")
        turn = next(number)
        return f"{said[turn % 3]} {turn}"

    with talking(writes) as writer, talking(honest) as judge:
        written = ("--endpoint", writer.url, "--endpoint-model", "weak", "--concurrency", 1)
        done = run("align", "data", ours, "--out", out, *SMALL, *written, *by(judge.url), "--json")
    assert (done.code, done.fields["judge"]) == (0, NAME)
    judged = [one for one in told(out) if one[1].kind != "off-topic"]
    assert len(judged) > 8
    for pair, origin in judged:
        assert (origin.generator, origin.judge) == ("weak", NAME)
        assert (origin.chosen_ppm, origin.rejected_ppm) == (900_000, 100_000)
        assert ("honey" in pair.chosen, "honey" in pair.rejected) == (True, False)
        assert "bread" not in pair.rejected, "a reply without a score is not the worst one"
    others = [origin for _, origin in told(out) if origin.kind == "off-topic"]
    assert others
    assert {origin.judge for origin in others} == {""}
    assert all("<reply-" in one for one in judge.asked)
    assert not any("<reply-" in one for one in writer.asked)


def test_a_judge_that_answers_prose_leaves_no_file_and_the_same_call_goes_on(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    with talking(honest) as server:
        assert run("align", "data", ours, "--out", whole, *SMALL, *by(server.url)).code == 0
        every = len(server.asked)
    with talking(turning(every // 2)) as server:
        cut = run("align", "data", ours, "--out", out, *SMALL, *by(server.url))
    assert (cut.code, "answers prose" in cut.err) == (1, True)
    assert sorted(one.name for one in tmp_path.iterdir()) == [ours.name, "out.state", "whole"]
    with talking(honest) as server:
        other = ("--judge-endpoint", server.url, "--judge-endpoint-model", "other")
        refused = run("align", "data", ours, "--out", out, *SMALL, *other)
        assert (refused.code, "another task, writer or judge" in refused.err) == (2, True)
        assert run("align", "data", ours, "--out", out, *SMALL, *by(server.url)).code == 0
        assert 0 < len(server.asked) < every
    assert out.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.state").exists()


def test_a_band_holds_back_scores_and_is_another_judge_to_a_state(
    run: Run, ours: Path, tmp_path: Path
) -> None:
    labels, band, out = (tmp_path / name for name in ("labels", "band.json", "out"))
    labeled_file.write(labels, labeled(240, noisy=10))

    def by_word(text: str) -> str:
        yes = ("good" in text.rsplit("<reply-", 1)[1]) is (QUESTIONS[True] in text)
        return json.dumps({"reason": "said", "answer": "yes" if yes else "no", "confidence": 90})

    with talking(by_word) as server:
        served = ("--endpoint", server.url, "--endpoint-model", "strong")
        assert run("judge", "calibrate", ours, labels, *served, "--out", band).code == 0
    with talking(turning(40)) as server:
        plain = run("align", "data", ours, "--out", out, *SMALL, *by(server.url))
    assert (plain.code, "not calibrated" in plain.err) == (1, True)
    call = ("align", "data", ours, "--out", out, *SMALL, "--calibration", band)
    with talking(honest) as server:
        refused = run(*call, *by(server.url))
        assert (refused.code, "another task, writer or judge" in refused.err) == (2, True)
        (tmp_path / "out.state").unlink()
        assert run(*call, *by(server.url)).code == 0
        scores = {(one.chosen_ppm, one.rejected_ppm) for _, one in told(out) if one.judge}
        assert len(scores) == 1
        assert scores != {(900_000, 100_000)}, "they are the calibrated ones"
        table = json.loads(band.read_text())
        table["calibration"][2:] = [0.0, 1.0]
        band.write_text(json.dumps(table))
        none = run(*call[:4], tmp_path / "none", *call[5:], *by(server.url), "--json")
    assert {one.kind for _, one in told(tmp_path / "none")} == {"off-topic"}
    assert none.fields["dropped"]["unsure"] > 0, "nothing has a score in so wide a band"


def test_a_probe_chooses_and_another_probe_of_its_name_does_not_go_on(
    run: Run, ours: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = [tmp_path / "0.probe", tmp_path / "1.probe"]
    for seed, path in enumerate(probes):
        done = run("judge", "train", ours, "--model", model, "--out", path, "--seed", seed)
        assert done.code == 0
    out = tmp_path / "out"
    call = ("align", "data", ours, "--out", out, *SMALL)

    write = preferences.write

    def cut(path: Path, records: list[Record]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(preferences, "write", cut)
    assert run(*call, "--probe", probes[0]).code == 130
    monkeypatch.setattr(preferences, "write", write)
    # One band for both, as a --calibration is: only the probes' own numbers tell them apart.
    first = probe_file.read(probes[0])
    second = replace(probe_file.read(probes[1]), calibration=first.calibration)
    assert (first.data, first.model, first.weights) == (second.data, second.model, second.weights)
    probe_file.write(probes[1], second)
    refused = run(*call, "--judge", "probe", "--probe", probes[1])
    assert (refused.code, "another task, writer or judge" in refused.err) == (2, True)
    done = run(*call, "--judge", "probe", "--probe", probes[0], "--json")
    assert done.code == 0
    judged = [one for one in told(out) if one[1].kind != "off-topic"]
    assert judged
    for _, origin in judged:
        assert origin.judge == done.fields["judge"]
        assert origin.judge.startswith("probe(")
        assert origin.chosen_ppm is not None
        assert origin.rejected_ppm is not None
        assert origin.chosen_ppm - origin.rejected_ppm >= 300_000
    blind = tmp_path / "blind.probe"
    probe_file.write(blind, replace(first, auc=0.6, interval=Interval(0.4, 0.8)))
    refused = run("align", "data", ours, "--out", tmp_path / "b", "--probe", blind)
    assert (refused.code, "cannot tell kept from broken" in refused.err) == (1, True)
    assert not (tmp_path / "b").exists()


SERVER = by("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "fault", "step"),
    [
        (("--judge", "probe"), "without its judge", "--probe FILE"),
        (("--judge", "rubric"), "without its judge", "--judge-endpoint URL"),
        (("--judge", "cases", "--probe", "a"), "cases and --probe at once", "leave out"),
        (("--judge", "none", *SERVER), "none and --judge-endpoint at once", "leave out"),
        (("--judge", "probe", "--probe", "a", *SERVER), "--judge-endpoint at once", "leave out"),
        (("--judge", "rubric", "--probe", "a", *SERVER), "--probe at once", "leave out"),
        (("--calibration", "a"), "without the judge", "--probe FILE or --judge-endpoint"),
        (("--judge-endpoint-model", "m"), "no server", "give --judge-endpoint"),
        (SERVER[:2], "several models", "--judge-endpoint-model"),
        ((*SERVER, "--judge-api-key-env", "NO_SUCH_KEY"), "not set", "--judge-api-key-env out"),
        (("--judge", "wise"), "wise", "rubric"),
    ],
)
def test_judges_that_contradict_one_another_are_refused_before_a_model_is_loaded(
    options: tuple[str, ...], fault: str, step: str, run: Run, ours: Path, tmp_path: Path
) -> None:
    done = run("align", "data", ours, "--out", tmp_path / "out", "--model", "./none", *options)
    assert (done.code, fault in done.err, step in done.err) == (2, True, True)
    assert "loading" not in done.err
    assert [one.name for one in tmp_path.iterdir()] == [ours.name]
