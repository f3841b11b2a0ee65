"""HTML reports of one file: a verdict, facts, tables and charts, and nothing fetched from outside.

Holds the plain records a report is made of (`Report`, `Table`, `Chart`, ...), `render` and `write`,
and `show`, the one way a value is written for people. A cell is a string, a number, a yes or no,
or nothing: a fingerprint, a vault or a model cannot get into a report by its repr.
Left out: drawing (charts.py), and what the numbers mean (the rooms that hand them over).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from loyal.app.out_files import require_out, require_reach
from loyal.encoding import atomic_write
from loyal.errors import UsageError

MARK = '<meta name="generator" content="loyal">'
"""Stands near the top of each report, so that a new one replaces it and no other page."""
_HEAD_BYTES = 1 << 10

Cell = str | int | float | bool | None

CHARTS_MISSING = "Charts are drawn with matplotlib: pip install 'loyal[report]'."


@dataclass(frozen=True)
class Fact:
    """One number that the report is about, shown large."""

    label: str
    value: Cell
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under named columns; every row is as long as `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} columns")


@dataclass(frozen=True)
class Series:
    """One curve, or one color of bars: points (x, y), with an interval around y where known.

    A standing bar whose y is NaN was not measured (`Chart.missing`); curves leave such points out.
    """

    name: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.x), len(self.y)}
        sizes |= {len(self.low), len(self.high)} if self.low or self.high else set()
        if len(sizes) != 1:
            raise ValueError("x, y, low and high of a series must have one length")


@dataclass(frozen=True)
class Chart:
    """Curves or bars in one frame; "rows" are bars that lie, each with its name before it."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: Literal["line", "bar", "rows"] = "line"
    log_y: bool = False
    threshold: float | None = None
    """A line that the curves or bars are read against, at this y."""
    threshold_label: str = ""
    log_ticks: tuple[int, ...] = ()
    """Of curves over counts far apart: x is logarithmic, with a tick at each of these."""
    y_range: tuple[float, float] | None = None
    """Ends of y, for charts that are compared; None: as the values are."""
    missing: str = ""
    """What stands where a standing bar was not measured, or in a frame without any point."""
    note: str = ""


@dataclass(frozen=True)
class Passage:
    """A heading and paragraphs of plain text."""

    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The outcome in one sentence, and whether it is the good one."""

    text: str
    good: bool


Section = Table | Chart | Passage


@dataclass(frozen=True)
class Report:
    """Everything on the page, in the order it is read."""

    title: str
    summary: str
    verdict: Verdict | None = None
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()
    footer: str = ""
    """When and with what it was made; the caller holds the clock."""


def show(value: Cell) -> str:
    """A value for people: 12,345; 0.9876; 3.2e-25; yes; a dash for nothing.

    TypeError for anything but a cell, so that no object's repr reaches a page.
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _show_float(value)
    raise TypeError(f"a report cell cannot hold a {type(value).__name__}")


def _show_float(value: float) -> str:
    size = abs(value)
    if size != size or size == float("inf"):
        return "–"
    if size and size < 1e-3:
        return f"{value:.2e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def render(report: Report) -> str:
    """The page as one HTML document with its style and pictures inside."""
    from jinja2 import Environment, StrictUndefined

    here = files("loyal.app")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["show"] = show
    environment.filters["numeric"] = _is_number
    page = environment.from_string((here / "pages/report.html").read_text(encoding="utf-8"))
    return page.render(
        report=report,
        mark=MARK,
        style=(here / "static/report.css").read_text(encoding="utf-8"),
        sections=[_view(section) for section in report.sections],
        charts_missing=CHARTS_MISSING,
    )


def require_place(path: Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """StorageError where `write` would fail, UsageError for one of the `inputs`, and for a file
    that is no report. Makes no folder: what is refused meanwhile leaves none."""
    if path.parent.exists():
        require_out(path, inputs, _require_report)
    else:
        require_reach(path.parent)


def make_folder(path: Path) -> None:
    """The folder of a report, and those above it."""
    path.parent.mkdir(parents=True, exist_ok=True)


def _require_report(path: Path) -> None:
    """UsageError for a file that `write` did not write."""
    with path.open("rb") as file:
        if MARK.encode() not in file.read(_HEAD_BYTES):
            raise UsageError(f"{path} is no report of loyal", hint="name another file")


def write(report: Report, path: Path) -> Path:
    """Render into a file; StorageError when the disk refuses. Gives the path back."""
    make_folder(path)
    atomic_write(path, render(report).encode())
    return path


def can_draw() -> bool:
    """Whether the extra `report` (matplotlib) is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _view(section: Section) -> dict[str, object]:
    """A section with its kind, and a chart with its picture (None without matplotlib)."""
    kind = type(section).__name__.lower()
    picture = None
    if isinstance(section, Chart) and can_draw():
        from loyal.app.charts import draw

        picture = draw(section)
    return {"kind": kind, "section": section, "picture": picture}


def _is_number(value: Cell) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
