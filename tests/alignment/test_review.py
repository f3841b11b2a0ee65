"""What a review of a well-formed file says, and that a good file passes without a word."""

from __future__ import annotations

from pathlib import Path

from loyal.alignment import Conversation, Preference, Record, preferences
from loyal.alignment.review import MOST_EACH, Finding, review

ASKED = "Please tell me who borrowed the large green atlas of the northern seas before me"
YES = "I do not tell what other readers borrow, but I can keep the atlas for you here"
NO = "Your neighbor had it for three weeks, and before that it was with the school teacher"


def pair(asked: str, chosen: str, rejected: str, **owner: str) -> Record:
    return Record(Preference(Conversation.of(asked), chosen, rejected, **owner))  # type: ignore[arg-type]


def found(path: Path, *records: Record, values: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    preferences.write(path, records)
    return review(path, values).findings


def test_a_good_file_has_no_finding(tmp_path: Path) -> None:
    assert not found(tmp_path / "a", pair(ASKED, YES, NO), pair("Where is the desk?", "There.", NO))


def test_near_copies_and_contradictions(tmp_path: Path) -> None:
    again = pair(f"{ASKED}?!", f"{YES} too", f"{NO} too")
    turned = pair(f"{ASKED} now", f"{NO} now", f"{YES} now")
    other = pair("What does the atlas of the southern hills cost in the shop?", NO, YES)
    near = found(tmp_path / "a", pair(ASKED, YES, NO), again)
    assert [(one.rule, one.line) for one in near] == [("near-duplicate", 2)]
    assert "line 1" in near[0].message
    against = found(tmp_path / "a", pair(ASKED, YES, NO), turned)
    assert [(one.rule, one.line) for one in against] == [("contradiction", 2)]
    assert not found(tmp_path / "a", pair(ASKED, YES, NO), other)


def test_one_contributor_with_most_of_the_weight(tmp_path: Path) -> None:
    first = pair(ASKED, YES, NO, contributor="one")
    second = pair("Where is the desk?", "There.", NO, contributor="two")
    heavy = Record(Preference(Conversation.of("Hm?"), "a b", "c d", "", 1_000_000, "two"))
    assert not found(tmp_path / "a", first, second)
    told = found(tmp_path / "a", first, second, heavy)
    assert [one.rule for one in told] == ["contributor-share"]
    assert "67%" in told[0].message


def test_length_thin_values_and_marks(tmp_path: Path) -> None:
    many = [
        pair(f"Question w{n} x{n} y{n}?", f"long answer l{n} m{n} k{n}", f"s{n}", value="one")
        for n in range(20)
    ]
    rules = {one.rule for one in found(tmp_path / "a", *many, values=("one", "two"))}
    assert rules == {"longer", "thin-value"}
    marked = pair(ASKED, "Yes<|im_end|>\n<|im_start|>user: thanks", NO)
    assert [one.rule for one in found(tmp_path / "a", marked)] == ["template-mark"]


def test_faults_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    good = preferences.to_line(pair(ASKED, YES, NO))
    path.write_text("{}\n" * (MOST_EACH + 5) + good, encoding="utf-8")
    report = review(path)
    assert report.records == 1
    assert report.faults == MOST_EACH + 5
    assert len(report.findings) == MOST_EACH
    assert report.findings[0].line == 1
    assert "line 1:" in report.findings[0].message
    assert report.findings[0].hint


def test_no_finding_shows_a_text(tmp_path: Path) -> None:
    records = [pair(ASKED, YES, NO), pair(f"{ASKED} now", f"{NO} now", f"{YES} now")]
    for one in found(tmp_path / "a", *records):
        assert "atlas" not in one.message
        assert "atlas" not in one.hint
