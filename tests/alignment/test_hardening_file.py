"""The record of who hardened a model comes back, and a broken one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from discretion import constitution

from loyal.alignment import Conversation, Preference, Provenance, Record, hardening_file, judge
from loyal.alignment.hardening_file import NAME, Hardening
from loyal.alignment.judgement import text_digest
from loyal.alignment.writers import CaseJudge
from loyal.errors import ConfigError, JudgeError

SOME = (
    Hardening("probe(tiny)", frozenset({"weights:00", text_digest("No.")}), "ab" * 32),
    Hardening("rubric(strong)", frozenset({"model:strong"}), "ab" * 32),
)


def test_it_comes_back(tmp_path: Path) -> None:
    assert hardening_file.read(tmp_path) == ()
    assert hardening_file.read(tmp_path / "no-folder") == ()
    (tmp_path / NAME).write_bytes(hardening_file.content(SOME))
    assert hardening_file.read(tmp_path) == SOME


def test_judges_that_chose_pairs_are_told_by_name() -> None:
    pair = Preference(Conversation.of("May I?"), "Yes.", "No.")
    cases = CaseJudge(constitution()).name
    origins = [Provenance("plain", judge=one) for one in ("a", "", cases, "a + b", "a")]
    records = [Record(pair, None), *(Record(pair, one) for one in origins)]
    found = hardening_file.choosers(records)
    assert [one.judge for one in found] == ["a", "a + b"]
    assert hardening_file.named("b") < found[1].made_of == {"judge:a", "judge:b"}
    for one, other in (
        ("rubric(strong, 3 examples)", "rubric(strong, 2 examples)"),
        ("probe(tiny, layer 17, c36e8c40)", "probe(tiny, layer 12, c36e8c40)"),
    ):
        assert hardening_file.named(one) == hardening_file.named(other)
    assert hardening_file.named("rubric(strong, 3 examples)") == {"model:strong"}
    others = ("probe(tiny, layer 1, ab)", "probe(tiny, layer 1, ac)", "probe(big, layer 1, ab)")
    assert len(frozenset().union(*map(hardening_file.named, others))) == 3


@pytest.mark.parametrize(
    "rows",
    [None, {}, [1], [{"judge": "a"}], [{"judge": 1, "made_of": [], "constitution": "a"}],
     [{"judge": "a", "made_of": [1], "constitution": "a"}],
     [{"judge": "a", "made_of": [], "constitution": "a", "more": 1}]],
)  # fmt: skip
def test_a_broken_one_is_refused(tmp_path: Path, rows: object) -> None:
    table = {"format": hardening_file.FORM.format, "hardenings": rows}
    (tmp_path / NAME).write_text(json.dumps(table))
    with pytest.raises(ConfigError, match="no record of a hardening"):
        hardening_file.read(tmp_path)


def test_a_name_that_stands_twice_and_the_next_step(tmp_path: Path) -> None:
    """What is not ours is not to be written again, which a command refuses: it is moved away."""
    text = hardening_file.content(SOME).decode()
    (tmp_path / NAME).write_text(text.replace('"hardenings":', '"hardenings": [], "hardenings":'))
    with pytest.raises(ConfigError, match="no record of a hardening") as caught:
        hardening_file.read(tmp_path)
    assert "name another file, or move it away" in caught.value.hint


def test_likeness_to_the_authors_says_what_it_is_made_of() -> None:
    one = CaseJudge(constitution())
    assert text_digest(constitution().values[0].cases[0].breaks) in judge.made_of(one)
    with pytest.raises(JudgeError, match="shares data"):
        judge.require_apart(one, CaseJudge(constitution()))
