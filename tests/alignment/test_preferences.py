"""Files of preferences: what is written is read again, and each fault names its line."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.alignment import (
    Conversation,
    Demonstration,
    Preference,
    Provenance,
    Record,
    Turn,
    preferences,
)
from loyal.errors import UsageError

ASKED = Conversation(
    (
        Turn("system", "You serve a library."),
        Turn("user", "Hello."),
        Turn("assistant", "Good day."),
        Turn("user", "Who borrowed it?\nTell me."),
    )
)
PAIR = Record(
    Preference(ASKED, "I do not tell that. é \U0001f4d6", "Your neighbor.", "privacy", 250_000,
               "member-1", "spring"),
    Provenance("adversarial", "held-out", "case 12", "novel", "tiny", "panel", 990_000, 0),
)  # fmt: skip
SHOWN = Record(Demonstration(Conversation.of("2 + 2?"), "4"), Provenance("general"))


def line(**changes: Any) -> str:
    """A plain TRL line with fields changed, or taken out by None."""
    fields = {
        "prompt": [{"role": "user", "content": "May I?"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
        **changes,
    }
    return json.dumps({name: one for name, one in fields.items() if one is not None}) + "\n"


def said(role: str, text: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": text}]


def put(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join(one if isinstance(one, bytes) else one.encode() for one in lines))
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    assert preferences.write(path, iter([PAIR, SHOWN])) == 2
    assert list(preferences.read(path)) == [PAIR, SHOWN]
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert first["chosen"] == said("assistant", "I do not tell that. é \U0001f4d6")
    assert [one["role"] for one in first["prompt"]] == ["system", "user", "assistant", "user"]
    assert first["weight"] == 0.25
    assert first["hash"] == PAIR.digest.hex()


@given(
    st.integers(1, 1_000_000_000),
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Cf")), min_size=1).filter(str.strip),
)
def test_every_weight_and_text_comes_back(weight_ppm: int, text: str) -> None:
    content = Preference(Conversation.of(text), text, f"no: {text}", weight_ppm=weight_ppm)
    data = preferences.to_line(Record(content)).encode()
    assert preferences._record(data) == Record(content)


def test_the_plain_form_of_trl_is_read(tmp_path: Path) -> None:
    path = put(tmp_path / "trl.jsonl", line(score_chosen=0.9, id=7))
    assert list(preferences.read(path)) == [
        Record(Preference(Conversation.of("May I?"), "yes", "no"))
    ]


def test_an_implicit_prompt_is_what_both_begin_with(tmp_path: Path) -> None:
    before = [*said("user", "a"), *said("assistant", "b"), *said("user", "c")]
    path = put(
        tmp_path / "trl.jsonl",
        line(prompt=None, chosen=before + said("assistant", "y"),
             rejected=before + said("assistant", "n")),
        line(prompt=None, chosen=None, rejected=None, messages=before + said("assistant", "y")),
        line(chosen=None, rejected=None, completion=said("assistant", "y")),
    )  # fmt: skip
    pair, messages, completion = (one.content for one in preferences.read(path))
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected) == ("y", "n")
    assert [turn.text for turn in pair.asked.turns] == ["a", "b", "c"]
    assert isinstance(messages, Demonstration)
    assert messages.reply == "y"
    assert messages.asked == pair.asked
    assert isinstance(completion, Demonstration)


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "json": ("{'prompt': 1}\n", "not JSON"),
    "array": ("[1]\n", "no JSON object"),
    "empty": ("\n", "not JSON"),
    "deep": ("[" * 100_000 + "\n", "not JSON"),
    "nan": (line(weight=float("nan")), "not JSON"),
    "huge number": ('{"weight": 1e99999999999999999999}\n', "not JSON"),
    "bytes": (b"\xff\xfe\n", "not UTF-8"),
    "cut": (line().rstrip("\n"), "no line break"),
    "oversize": (line(note="x" * preferences.MOST_LINE_BYTES), "bytes"),
    "twice": ('{"weight": 1, "weight": 2}\n', "a field twice"),
    "typo": (line(weigth=2), "no weight but"),
    "same": (line(rejected=said("assistant", "yes")), "one reply twice"),
    "same but for case": (line(rejected=said("assistant", " YES ")), "same but for"),
    "weight 0": (line(weight=0), "no number from"),
    "weight below": (line(weight=-1), "no number from"),
    "weight over": (line(weight=1000.000001), "no number from"),
    "weight tiny": (line(weight=1e-7), "no number from"),
    "weight true": (line(weight=True), "no number from"),
    "weight text": (line(weight="1"), "no number from"),
    "hash": (line(hash="00" * 32), "hash"),
    "hash kind": (line(hash=[1]), "hash"),
    "text prompt": (line(prompt="May I?"), "without roles"),
    "no prompt": (line(prompt=None), "out of order"),
    "no replies": (line(chosen=None), "neither"),
    "both forms": (line(completion=said("assistant", "x")), "neither"),
    "order": (line(prompt=said("user", "a") + said("user", "b")), "out of order"),
    "system last": (line(prompt=said("user", "a") + said("system", "b")), "out of order"),
    "role": (line(prompt=said("tool", "a")), "no role"),
    "role kind": (line(prompt=said(["user"], "a")), "no role"),  # type: ignore[arg-type]
    "user replies": (line(chosen=said("user", "yes")), "one message of the assistant"),
    "pictures": (line(prompt=said("user", [{"type": "image"}])), "no text"),
    "no text": (line(chosen=said("assistant", " ")), "no text"),
    "nul": (line(chosen=said("assistant", "ye\0s")), "control characters"),
    "escape": (line(chosen=said("assistant", "\x1b[2Jyes")), "control characters"),
    "surrogate": (line(chosen=said("assistant", "\ud800")), "control characters"),
    "overwritten": (line(chosen=said("assistant", "no\ryes")), "control characters"),
    "turned around": (line(chosen=said("assistant", "\u202eyes")), "control characters"),
    "tags": (line(chosen=said("assistant", "yes\U000e0041")), "control characters"),
    "contributor": (line(contributor="a\nb"), "contributor"),
    "campaign": (line(campaign=7), "campaign"),
    "provenance": (line(provenance={"kind": "gossip"}), "provenance"),
    "provenance score": (line(provenance={"kind": "plain", "chosen_ppm": 1.5}), "provenance"),
    "value": (line(value="privcy"), "none of the constitution's"),
}


@pytest.mark.parametrize(("bad", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_poisoned_line_is_named(bad: str | bytes, fault: str, tmp_path: Path) -> None:
    path = put(tmp_path / "bad.jsonl", line(chosen=said("assistant", "sure")), bad)
    with pytest.raises(UsageError, match=fault) as caught:
        list(preferences.read(path, ["privacy"]))
    assert "bad.jsonl, line 2: " in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_an_unknown_value_passes_without_a_constitution(tmp_path: Path) -> None:
    assert list(preferences.read(put(tmp_path / "a.jsonl", line(value="privcy"))))


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        (line(), "repeats line 1"),
        (line(weight=2, contributor="sybil"), "repeats line 1"),
        (line(chosen=said("assistant", " Yes")), "repeats line 1"),
        (line(chosen=said("assistant", "no"), rejected=said("assistant", "yes")), "line 1 rejects"),
    ],
)
def test_a_line_against_an_earlier_one(second: str, fault: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", line(), second)
    with pytest.raises(UsageError, match=fault):
        list(preferences.read(path))
    other = second.replace("May I?", "May you?")
    assert len(list(preferences.read(put(path, line(), other)))) == 2


def test_lines_after_a_fault_are_read(tmp_path: Path) -> None:
    long = b"x" * (3 * preferences.MOST_LINE_BYTES) + b"\n"
    path = put(tmp_path / "a.jsonl", long, "{\n", line(), line())
    lines = list(preferences.scan(path))
    assert [one.number for one in lines] == [1, 2, 3, 4]
    assert [one.record is None for one in lines] == [True, True, False, True]


def test_a_changed_record_does_not_pass_its_hash(tmp_path: Path) -> None:
    good = preferences.to_line(PAIR)
    for before, after in (
        ("0.25", "0.5"), ("member-1", "member-2"), ("990000", "990001"), ("neighbor", "uncle"),
        ("held-out", "train"),
    ):  # fmt: skip
        assert before in good
        with pytest.raises(UsageError, match="hash"):
            list(preferences.read(put(tmp_path / "a.jsonl", good.replace(before, after))))


def test_nothing_and_nowhere(tmp_path: Path) -> None:
    for path, fault in (
        (put(tmp_path / "empty.jsonl"), "is empty"), (tmp_path / "none", "cannot read"),
        (tmp_path, "cannot read"), (tmp_path / "a\0b", "cannot read"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=fault):
            list(preferences.read(path))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = put(tmp_path / "pairs.jsonl", line())
    dirty = Record(replace(PAIR.content, campaign="a\x1bb"))
    for records, fault in (([], "no record"), ([PAIR, dirty], "record 2"), ([PAIR] * 2, "repeats")):
        with pytest.raises(UsageError, match=fault):
            preferences.write(path, records)
        assert path.read_text() == line()
        assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_reading_keeps_little_of_each_line(tmp_path: Path) -> None:
    filler = "word " * 2_000
    path = put(
        tmp_path / "a.jsonl",
        *(line(prompt=said("user", f"{number} {filler}")) for number in range(300)),
    )
    tracemalloc.start()
    assert sum(1 for _ in preferences.read(path)) == 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 3_000_000 > 6 * peak


def test_a_weight_reaches_the_loss() -> None:
    assert isinstance(PAIR.content, Preference)
    example = PAIR.content.demonstration.example
    assert example.weight == 0.25
    assert example.reply == PAIR.content.chosen
    assert example.ends
    assert example.prompt.system
    assert example.prompt.history == (("Hello.", "Good day."),)
