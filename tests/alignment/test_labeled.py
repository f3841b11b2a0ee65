"""Files of labeled replies: what is read, who wins where people differ, and poisoned lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labeled_stage import constitution
from labeled_stage import labeled as some_labeled

from loyal.alignment import labeled
from loyal.errors import ConfigError

OURS = constitution()
LINE: dict[str, Any] = {
    "value": "kindness",
    "prompt": "What does the fox eat?",
    "reply": "xylophone",
    "kept": True,
    "labeler": "ana",
    "generator": "a-model",
}


def wrote(folder: Path, *lines: object) -> Path:
    """A file of these lines: tables as JSON, texts as they are."""
    path = folder / "labels.jsonl"
    rows = (one if isinstance(one, str) else json.dumps(one) for one in lines)
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    replies = some_labeled(12)
    labeled.write(tmp_path / "a", replies)
    found = labeled.read(tmp_path / "a", OURS)
    assert list(found.replies) == replies
    assert (found.ties, found.kappa) == (0, None)
    lines = labeled.read_lines(tmp_path / "a", OURS)
    assert [one.said for one in lines] == [(one.said,) for one in replies]


def test_lines_to_judge_have_a_reply_or_several_or_none(tmp_path: Path) -> None:
    plain = {name: LINE[name] for name in ("value", "prompt")}
    several = {**plain, "replies": ["a", ""], "scores": [0.1, 1], "sampled": {"temperature": 1}}
    silent = {**plain, "reply": None, "score": 0.3}
    one, two, three = labeled.read_lines(wrote(tmp_path, LINE, several, silent), OURS)
    assert [[said and said.reply for said in line.said] for line in (one, two, three)] == [
        [LINE["reply"]], ["a", ""], [None],
    ]  # fmt: skip
    assert one.scored([0.5]) == {**LINE, "score": 0.5}
    assert two.scored([None, 0.25]) == {**several, "scores": [None, 0.25]}
    assert three.scored([None]) == {**plain, "reply": None, "score": None}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "line 1 has not one of reply and replies"),
        ({"reply": "a", "replies": ["b"]}, "line 1 has not one of reply and replies"),
        ({"replies": []}, "line 1 has replies that are no list of texts"),
        ({"replies": "a"}, "line 1 has replies that are no list of texts"),
        ({"replies": ["a", None]}, "line 1 has replies that are no list of texts"),
        ({"replies": ["a", 1]}, "line 1: "),
        ({"reply": 1}, "line 1: "),
        ({"reply": None, "value": "thrift"}, "line 1: animals has no value of that id"),
        ({"reply": None, "prompt": ""}, "line 1: it has not one of prompt and turns"),
    ],
)
def test_poisoned_lines_to_judge_are_refused(
    tmp_path: Path, more: dict[str, object], says: str
) -> None:
    line = {name: LINE[name] for name in ("value", "prompt")} | more
    with pytest.raises(ConfigError) as caught:
        labeled.read_lines(wrote(tmp_path, line), OURS)
    assert says in str(caught.value)


def test_the_majority_counts_and_ties_are_left_out(tmp_path: Path) -> None:
    second = {**LINE, "reply": "another"}
    path = wrote(
        tmp_path,
        LINE,
        {**LINE, "labeler": "bo"},
        {**LINE, "labeler": "cy", "kept": False},
        second,
        {**second, "labeler": "bo", "kept": False},
        "",
        {**LINE, "reply": "third", "kept": False},
    )
    found = labeled.read(path, OURS)
    assert [(one.said.reply, one.kept) for one in found.replies] == [
        ("xylophone", True),
        ("third", False),
    ]
    assert found.ties == 1
    assert found.kappa is not None
    assert found.kappa < 1


def test_turns_stand_in_place_of_a_prompt(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "text": "Be kind."},
        {"role": "user", "text": "Hello"},
        {"role": "assistant", "text": "Hello!"},
        {"role": "user", "text": "Who eats?"},
    ]
    line = {name: one for name, one in LINE.items() if name != "prompt"}
    (found,) = labeled.read(wrote(tmp_path, {**line, "turns": turns}), OURS).replies
    assert [one.text for one in found.said.asked.turns] == [one["text"] for one in turns]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is no JSON object"),
        ("[1]", "line 2 is no JSON object"),
        ("NaN", "line 2 is no JSON object"),
        ('{"kept": true, "kept": false}', "each name once"),
        ("[" * 100_000, "line 2 is no JSON object"),
        ({**LINE, "kept": 1}, "line 2: "),
        ({**LINE, "kept": "true"}, "line 2: "),
        ({**LINE, "kep": True}, "line 2: "),
        ({**LINE, "reply": None}, "line 2: reply must be text, not nothing (null)"),
        ({**LINE, "value": "thrift"}, "line 2: animals has no value of that id"),
        ({**LINE, "prompt": ""}, "line 2: it has not one of prompt and turns"),
        ({**LINE, "turns": [{"role": "user", "text": "a"}]}, "not one of prompt and turns"),
        ({**LINE, "reply": "  "}, "line 2: its reply is empty"),
        ({**LINE, "reply": "half \ud83d"}, "line 2 holds half a character"),
        ({**LINE, "prompt": "\udc00"}, "line 2 holds half a character"),
        ({**LINE, "labeler": ""}, "line 2: its labeler is empty"),
        ({**LINE, "generator": " "}, "line 2: its generator is empty"),
        ({**LINE, "prompt": "", "turns": [{"role": "assistant", "text": "a"}]}, "out of order"),
        ({**LINE, "prompt": "", "turns": [{"role": "user"}]}, "line 2: "),
        ({name: one for name, one in LINE.items() if name != "kept"}, "line 2: "),
        (LINE, "labeled twice by one labeler"),
    ],
)
def test_poisoned_lines_are_refused_by_number(tmp_path: Path, line: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        labeled.read(wrote(tmp_path, LINE, line), OURS)
    assert says in str(caught.value)
    assert "jsonl, line " in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert "xylophone" not in f"{caught.value}{caught.value.hint}"


def test_poisoned_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for data, says in ((b"\xff\xfe{}", "not UTF-8"), (b"\n \n", "holds no replies")):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=says):
            labeled.read(path, OURS)
    with pytest.raises(ConfigError, match="cannot read"):
        labeled.read(tmp_path, OURS)
