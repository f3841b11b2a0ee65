"""Reports: all inside one file, values written one way, nothing secret and nothing remote."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from stage import SECRET_WORDS, secret_set

from loyal.app import report as reports
from loyal.app.report import (
    Chart,
    Fact,
    Passage,
    Report,
    Series,
    Table,
    Verdict,
    render,
    show,
    write,
)

CURVE = Chart(
    "Recall & steps",
    "step",
    "recall",
    (Series("M.oml", (0, 1, 2), (0.0, 0.5, 1.0), (0.0, 0.4, 0.9), (0.1, 0.6, 1.0)),),
    threshold=0.99,
    threshold_label="goal",
)

FULL = Report(
    "A report",
    "What it is about.",
    verdict=Verdict("Proven.", good=True),
    facts=(Fact("hits", 64, "of 64"), Fact("p-value", 1.2e-30)),
    sections=(
        Table("Counts", ("model", "hits"), (("M.oml", 64), ("base", 0)), note="Greedy decoding."),
        CURVE,
        Chart(
            "Bars",
            "model",
            "hits",
            (
                Series("asked", ("a", "b"), (3.0, 4.0)),
                Series("hit", ("a", "b"), (1.0, 2.0), (0.5, 1.0), (2.0, 3.0)),
            ),
            kind="bar",
        ),
        Passage("Reading", ("First.", "Second.")),
    ),
    footer="Made by a test.",
)


class Links(HTMLParser):
    """Collects whatever a browser would fetch or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        wanted = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.targets += [value or "" for name, value in attrs if name in wanted]


def test_nothing_is_fetched_from_outside() -> None:
    page = render(FULL)
    links = Links()
    links.feed(page)
    assert [target for target in links.targets if not target.startswith("#")] == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(links.tags)
    assert "://" not in page
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert links.tags.count("svg") == 2
    assert "tag left open" not in page


def test_the_page_holds_all_that_was_given() -> None:
    page = render(FULL)
    for words in ("A report", "Proven.", "64", "1.20e-30", "Greedy decoding.", "Second.", "goal"):
        assert words in page
    assert "Recall &amp; steps" in page
    assert "<script" not in render(Report("<script>alert(1)</script>", ""))


def test_a_report_is_the_same_every_time() -> None:
    assert render(FULL) == render(FULL)


def test_without_matplotlib_the_tables_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "can_draw", lambda: False)
    page = render(FULL)
    assert "<svg" not in page
    assert "loyal[report]" in page
    assert "Greedy decoding." in page
    monkeypatch.undo()
    assert "loyal[report]" not in render(FULL)


def drawn(chart: Chart) -> str:
    """The picture alone."""
    page = render(Report("x", "", sections=(chart,)))
    return page[page.index("<svg") : page.index("</svg>")]


def test_counts_far_apart_have_a_tick_each() -> None:
    some = tuple(
        Series(name, (64, 256, 1024)[:size], (1.0, 2.0, 3.0)[:size])
        for name, size in (("first", 3), ("second", 1), ("third", 0))
    )
    picture = drawn(Chart("x", "count", "y", some, log_ticks=(64, 256, 1024), missing="nothing"))
    for words in ("64", "256", "1,024", "first", "second", "third"):
        assert f">{words}</text>" in picture
    assert ">nothing</text>" not in picture
    assert "nan" not in picture.lower()
    empty = Chart("x", "", "", (Series("a", (), ()),), log_ticks=(1, 2), missing="nothing")
    assert drawn(empty).count(">nothing</text>") == 1


def test_a_bar_that_was_not_measured_says_so() -> None:
    nan = float("nan")
    some = (
        Series("a", ("one", "two"), (0.5, nan), (0.4, nan), (0.6, nan)),
        Series("b", ("one", "two"), (nan, nan), (nan, nan), (nan, nan)),
    )
    picture = drawn(Chart("x", "", "y", some, kind="bar", y_range=(0, 1), missing="not yet"))
    assert picture.count(">not yet</text>") == 3
    assert "nan" not in picture.lower()
    assert ">1.0</text>" in picture  # the end that was asked for, above every bar
    picture = drawn(Chart("x", "", "y", some[1:], kind="bar", missing="not yet"))
    assert picture.count(">not yet</text>") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        ("as it is", "as it is"),
        (1234567, "1,234,567"),
        (0, "0"),
        (0.98765, "0.9877"),
        (3.2e-25, "3.20e-25"),
        (0.0, "0"),
        (12345.6, "12,346"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_values_are_written_one_way(value: reports.Cell, text: str) -> None:
    assert show(value) == text


def test_an_object_cannot_get_into_a_report() -> None:
    secrets = secret_set()
    for value in (secrets, secrets.fingerprints[0], secrets.owner_secret, ["list"]):
        with pytest.raises(TypeError) as caught:
            render(Report("x", "", facts=(Fact("leak", value),)))  # type: ignore[arg-type]
        assert not any(word in str(caught.value) for word in SECRET_WORDS)


def test_ragged_tables_and_series_are_refused() -> None:
    with pytest.raises(ValueError, match="2 cells under 1"):
        Table("", ("a",), ((1, 2),))
    with pytest.raises(ValueError, match="one length"):
        Series("", (1, 2), (1.0,))
    with pytest.raises(ValueError, match="one length"):
        Series("", (1, 2), (1.0, 2.0), (0.5,), (2.0, 3.0))


def test_write_makes_the_folder_and_gives_the_path(tmp_path: Path) -> None:
    path = write(FULL, tmp_path / "out" / "report.html")
    assert path.read_text(encoding="utf-8") == render(FULL)
