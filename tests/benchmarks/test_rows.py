"""Rows say what they were measured on."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import rows  # noqa: E402
from resumable import Cell  # noqa: E402


def test_a_row_read_from_cells_names_the_machine_that_measured_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    one = Cell("ours", 0, "int8", tmp_path / "int8.json")
    one.keep({"survival": 1.0})
    here = rows.machine()
    assert rows.machines([one.kept() or {}]) == here
    elsewhere = [one.kept() or {}, {"machine": "a card"}, {"survival": 0.5}]
    both = rows.machines(elsewhere)
    assert set(both.split(" and ")) == {here, "a card"}
    assert rows.machines([{}]) == ""
    for id, machine in (("a", both), ("b", "")):
        rows.put("some", [rows.Row(id, "what", 1.0, "%", None, "at_least", "how", machine)])
    hows = {row["id"]: row["how"] for row in rows.read("some")}
    assert hows == {"a": f"how [{both}]", "b": f"how [{here}]"}
    assert all("machine" not in row for row in rows.read("some"))
