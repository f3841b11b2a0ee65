"""Charts of a report as inline SVG: drawn with matplotlib, then freed of all that names a host.

Text stays text and takes the page's font and color, so that a chart is legible in light and dark.
Left out: which chart to show (the caller's), and the page around it (report.py).
"""

from __future__ import annotations

import io
import math
import re
from typing import Any

from loyal.app.report import Chart, Series

SIZE_INCHES = (7.2, 3.1)

LEGEND_LETTERS = 90
"""About so many fit in a line of a legend; a line's or bar's sample takes 8."""

ROW_INCHES = 0.26
"""Height of one lying bar."""

PALETTE = ("#2f6fde", "#d9622b", "#2e9e6b", "#9457c9", "#b38600", "#c23b6b")
"""Told apart in light and dark, and by the common color blindnesses when few are used."""

MARKERS = ("o", "s", "^", "D", "v", "P")

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 2)), "-")

HATCHES = ("", "////", "....", "xx", "--", "++")
"""Of curves and bars side by side: told apart in gray too."""

INK = "#010203"
"""A color nobody picks: replaced by the page's text color."""

FAINT = "#010204"
"""The same for grid lines."""


def draw(chart: Chart) -> str:
    """One <svg> element without links, dates or fonts of its own."""
    import matplotlib

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.title,
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=_size(chart), layout="constrained")
        axes = figure.subplots()
        if chart.kind == "rows":
            _lie(axes, chart)
        else:
            _fill(axes, chart)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    return _clean(drawn.getvalue(), chart.title)


def _size(chart: Chart) -> tuple[float, float]:
    """Width and height in inches; rows of bars are as high as there are rows."""
    width, height = SIZE_INCHES
    bars = sum(len(one.x) for one in chart.series)
    return (width, 0.8 + ROW_INCHES * bars) if chart.kind == "rows" else (width, height)


def _lie(axes: Any, chart: Chart) -> None:
    """Lying bars from the top down, a name before each group of them."""
    for place, series in enumerate(chart.series):
        width, spots = _spots(chart, place)
        axes.barh(
            spots,
            series.y,
            height=width * 0.9,
            color=PALETTE[place % len(PALETTE)],
            label=series.name,
            xerr=_errors(series),
            error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
        )
    names = [str(name) for name in chart.series[0].x]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    if chart.threshold is not None:
        axes.axvline(chart.threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            chart.threshold_label,
            (chart.threshold, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 2),
            textcoords="offset points",
        )
    if chart.log_y:
        axes.set_xscale("log")
    axes.set_xlabel(chart.y_label)
    axes.set_ylabel(chart.x_label)
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(chart.series) > 1:
        axes.legend(frameon=False, loc="best")


def _fill(axes: Any, chart: Chart) -> None:
    for place, series in enumerate(chart.series):
        if chart.kind == "bar":
            _bars(axes, chart, place)
        else:
            _curve(axes, series, place)
    if chart.threshold is not None:
        axes.axhline(chart.threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            chart.threshold_label,
            (1.0, chart.threshold),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
    _scale(axes, chart)
    if _empty(chart):
        axes.text(0.5, 0.5, chart.missing, ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    if len(chart.series) > 1:  # above the frame, where it hides nothing
        longest = max(len(one.name) for one in chart.series)
        axes.legend(
            frameon=False,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=max(1, min(len(chart.series), LEGEND_LETTERS // (longest + 8))),
            borderaxespad=0.2,
            handlelength=3,
        )


def _empty(chart: Chart) -> bool:
    """Whether there is nothing to draw."""
    return all(math.isnan(y) for one in chart.series for y in one.y)


def _scale(axes: Any, chart: Chart) -> None:
    """The scales of both axes, their ends and ticks."""
    if chart.log_y:
        axes.set_yscale("log")
    if chart.y_range is not None:
        axes.set_ylim(*chart.y_range)
    if chart.log_ticks:
        axes.set_xscale("log")
        axes.set_xticks(chart.log_ticks, [f"{tick:,}" for tick in chart.log_ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(min(chart.log_ticks) / 1.15, max(chart.log_ticks) * 1.15)
    elif chart.kind == "line" and all(isinstance(x, int) for one in chart.series for x in one.x):
        axes.xaxis.get_major_locator().set_params(integer=True)


def _curve(axes: Any, series: Series, place: int) -> None:
    color = PALETTE[place % len(PALETTE)]
    axes.plot(
        series.x,
        series.y,
        color=color,
        linewidth=2,
        linestyle=DASHES[place % len(DASHES)],
        marker=MARKERS[place % len(MARKERS)] if len(series.x) <= 12 else None,
        markersize=7 if place else 6,
        label=series.name,
    )
    if series.low:
        axes.fill_between(series.x, series.low, series.high, color=color, alpha=0.18, linewidth=0)


def _bars(axes: Any, chart: Chart, place: int) -> None:
    """Grouped bars: the groups stand at 0, 1, ... and carry the first series' x as names."""
    series = chart.series[place]
    width, spots = _spots(chart, place)
    several = len(chart.series) > 1
    axes.bar(
        spots,
        [0.0 if math.isnan(y) else y for y in series.y],
        width=width * 0.92,
        color=PALETTE[place % len(PALETTE)],
        label=series.name,
        yerr=_errors(series),
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 3},
        hatch=HATCHES[place % len(HATCHES)] if several else None,
        edgecolor=INK if several else None,
        linewidth=0.6 if several else 0,
    )
    for spot, y in zip(spots, series.y, strict=True):
        if math.isnan(y) and not _empty(chart):
            axes.annotate(
                chart.missing,
                (spot, 0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=8,
            )
    axes.set_xticks(range(len(series.x)), [str(name) for name in chart.series[0].x])


def _spots(chart: Chart, place: int) -> tuple[float, list[float]]:
    """A bar's width, and where the bars of one series stand in their groups."""
    width = 0.8 / len(chart.series)
    groups = range(len(chart.series[place].x))
    return width, [group - 0.4 + width * (place + 0.5) for group in groups]


def _errors(series: Series) -> list[list[float]] | None:
    """How far the interval reaches below and above each value."""
    if not series.low:
        return None
    below = [max(y - low, 0.0) for y, low in zip(series.y, series.low, strict=True)]
    above = [max(high - y, 0.0) for y, high in zip(series.y, series.high, strict=True)]
    return [below, above]


def _clean(svg: str, title: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', _opening(title), body, count=1)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    return body.replace(INK, "currentColor").replace(FAINT, "var(--line)").strip()


def _opening(title: str) -> str:
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("\\", "")
    return rf'<svg viewBox="\1" role="img" aria-label="{label}">'
