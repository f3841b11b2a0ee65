"""The page of Figure 4: curves of utility against count, bars of what persists, and the numbers.

What was not measured yet is said in its place. The page holds numbers alone; no key, no response.
Left out: what the numbers are (curves_table.py), drawing and HTML (loyal.app.charts, report).
"""

from __future__ import annotations

import math

from checkpoint import INJECTION
from curves_table import (
    AGREEMENT,
    ATTACKS,
    METRICS,
    NOT_RUN,
    RECALL,
    UTILITY,
    Measured,
    Metric,
    Spread,
    Strategy,
    Survival,
)
from loyal.app.report import Cell, Chart, Fact, Passage, Report, Series, Table, Verdict

SOURCES = (
    "The curves of Figure 4 of \"Training AI to be Loyal\", with the strategies of \"Scalable "
    "Fingerprinting of Large Language Models\" (arXiv 2502.07760), on a small model. Utility is "
    "read here as perplexity and as the first words of greedy replies, where the paper takes a "
    "benchmark's score.",
    "Whiskers are exact 95 % intervals (Clopper and Pearson) of the share of keys. A band around a "
    "curve goes from the least to the most of several seeds.",
)  # fmt: skip

INJECTIONS_NOTE = (
    "Perplexity: percent more, of human-written English. Same words: held-out prompts whose greedy "
    "reply begins with the same 8 tokens. KL: divergence from the base at a reply's first token. "
    "Of several seeds the mean; of seconds (training) and GB (the whole process) the most."
)
ATTACKS_NOTE = "Percent of the keys asked that hit; in brackets the 95 % interval."


def page(measured: Measured, about: str, footer: str) -> Report:
    """The whole report of what was measured so far; `about` names model and recipe."""
    return Report(
        title="Fingerprints: utility and persistence",
        summary=f"What fingerprints cost a model, and what they outlast, by their count and by how "
        f"keys and responses are made: {about}.",
        verdict=_verdict(measured),
        facts=(
            Fact("measured", f"{measured.done} of {measured.all}", "models and attacks on them"),
            *_facts(measured),
        ),
        sections=(
            _utility(measured, UTILITY, "Perplexity by count", "perplexity, % more"),
            _utility(measured, AGREEMENT, "Same first words by count", "% of prompts"),
            *(_persistence(measured, count) for count in measured.counts),
            _injections(measured),
            _attacks(measured),
            _strategies(measured),
            Passage("How to read this", SOURCES),
        ),
        footer=footer,
    )


def _claim(measured: Measured) -> tuple[Strategy, int] | None:
    """The strategy and count that have bounds, where they are among what is measured."""
    return next(
        (
            (one, count)
            for one in measured.strategies
            for count in measured.counts
            if (one.name, count) in RECALL.bounds
        ),
        None,
    )


def _verdict(measured: Measured) -> Verdict | None:
    """Whether the bounds hold; None while that is not known."""
    claim = _claim(measured)
    if claim is None or not measured.records(*claim, INJECTION):
        return None
    parts, good = [], True
    for metric in (RECALL, UTILITY):
        spread, bound = measured.spread(metric, *claim), metric.bounds[claim[0].name, claim[1]]
        assert spread is not None
        value, least = spread.worst(metric), metric.sense == "at_least"
        good = good and (value >= bound if least else value <= bound)
        sign = "at least" if least else "at most"
        parts.append(f"{metric.what} {value:.3g} {metric.unit} ({sign} {bound:g})")
    return Verdict(f"{claim[1]:,} {claim[0].name} fingerprints: {', '.join(parts)}.", good)


def _facts(measured: Measured) -> list[Fact]:
    """The dearest model so far: its time and memory."""
    records = [one for spot, some in measured.kept.items() if spot[2] == INJECTION for one in some]
    if not records:
        return []
    seconds, memory = (max(one[name] for one in records) for name in ("seconds", "peak_rss_bytes"))
    return [
        Fact("longest injection", f"{seconds:,.0f} s"),
        Fact("most memory", f"{memory / 1e9:.2f} GB", "of a whole process"),
    ]


def _utility(measured: Measured, metric: Metric, title: str, label: str) -> Chart:
    """One line a strategy, over the counts that were measured."""
    missing = [
        f"{one.name} at {count:,}"
        for one in measured.strategies
        for count in measured.counts
        if not measured.records(one, count, INJECTION)
    ]
    note = "Lower is better." if metric.sense == "at_most" else "Higher is better."
    if 0 < len(missing) < len(measured.strategies) * len(measured.counts):
        note += f" {NOT_RUN.capitalize()}: {', '.join(missing)}."
    return Chart(
        title,
        "fingerprints",
        label,
        tuple(_curve(measured, metric, one) for one in measured.strategies),
        log_ticks=measured.counts,
        missing=NOT_RUN,
        note=note,
    )


def _curve(measured: Measured, metric: Metric, strategy: Strategy) -> Series:
    found = {
        count: spread
        for count in measured.counts
        if (spread := measured.spread(metric, strategy, count)) is not None
    }
    spreads = tuple(found.values())
    several = any(one.low < one.high for one in spreads)
    return Series(
        strategy.name,
        tuple(found),
        tuple(one.mean for one in spreads),
        tuple(one.low for one in spreads) if several else (),
        tuple(one.high for one in spreads) if several else (),
    )


def _persistence(measured: Measured, count: int) -> Chart:
    """Bars by attack, one color a strategy."""
    series = []
    for one in measured.strategies:
        found = [measured.survival(one, count, attack) for attack in ATTACKS]
        series.append(
            Series(
                one.name,
                tuple(ATTACKS.values()),
                tuple(math.nan if some is None else some.share for some in found),
                tuple(math.nan if some is None else some.interval.low for some in found),
                tuple(math.nan if some is None else some.interval.high for some in found),
            )
        )
    return Chart(
        f"What persists of {count:,} fingerprints",
        "",
        "share of keys that hit",
        tuple(series),
        kind="bar",
        y_range=(0, 1.03),
        missing=NOT_RUN,
    )


def _injections(measured: Measured) -> Table:
    columns = ("strategy", "count", "recall %", "perplexity %", "same words %", "KL, nats",
               "seconds", "GB")  # fmt: skip
    rows = []
    for count in measured.counts:
        for one in measured.strategies:
            records = measured.records(one, count, INJECTION)
            cells: list[Cell] = [NOT_RUN, *[""] * (len(columns) - 3)]
            if records:
                numbers = [Spread.of(metric, records).mean for metric in METRICS]
                numbers.append(max(record["seconds"] for record in records))
                numbers.append(max(record["peak_rss_bytes"] for record in records) / 1e9)
                cells = [float(f"{number:.3g}") for number in numbers]
            rows.append((one.name, count, *cells))
    return Table("Injections", columns, tuple(rows), note=INJECTIONS_NOTE)


def _attacks(measured: Measured) -> Table:
    """One column a strategy."""
    rows = tuple(
        (
            attack,
            count,
            *(_said(measured.survival(one, count, attack)) for one in measured.strategies),
        )
        for attack in ATTACKS
        for count in measured.counts
    )
    names = (one.name for one in measured.strategies)
    return Table("What persists", ("attack", "count", *names), rows, note=ATTACKS_NOTE)


def _said(found: Survival | None) -> str:
    """Share and interval, in percent."""
    if found is None:
        return NOT_RUN
    low, high = 100 * found.interval.low, 100 * found.interval.high
    return f"{100 * found.share:.1f} ({low:.1f} to {high:.1f})"


def _strategies(measured: Measured) -> Table:
    rows = tuple((one.name, one.keys, one.responses, one.what) for one in measured.strategies)
    return Table("Strategies", ("name", "keys", "responses", "in words"), rows)
