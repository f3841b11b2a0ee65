"""What a demo shows: one JSON object, one table, one HTML page. Numbers only, no secret.

Left out: the stages that made the numbers (demo.py) and how a page looks (report.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import loyal
from loyal.app.commands.check import fields_of
from loyal.app.demo import Outcome
from loyal.app.protocol_story import Ending
from loyal.app.report import Chart, Fact, Passage, Report, Series, Table, Verdict

if TYPE_CHECKING:
    from loyal.fingerprints.check import CheckReport


def fields(outcome: Outcome) -> Mapping[str, Any]:
    """The outcome as JSON fields."""
    return {
        "good": outcome.good,
        "model": outcome.base_name,
        "root": outcome.root,
        "count": outcome.injected.count,
        "report": str(outcome.places.report),
        "out": str(outcome.places.folder),
        "seconds": outcome.seconds,
        "generate": outcome.made,
        "inject": asdict(outcome.injected),
        "check_marked": fields_of(outcome.checks.marked),
        "check_base": fields_of(outcome.checks.base),
        "proofs": asdict(outcome.proofs),
        "utility": asdict(outcome.unharmed),
        "protocol": asdict(outcome.ending),
    }


def table(outcome: Outcome) -> Table:
    """The outcome for people, and where the page is."""
    rows = (*_checked(outcome), *_measured(outcome))
    return Table("", ("", "M.oml", "untouched base"), rows)


def hosts(outcome: Outcome) -> Table:
    """What became of each host."""
    ending = outcome.ending
    rows = tuple(
        (
            one.name, f"{one.permissions:,}", f"{one.draws}", f"{one.upheld} of {one.claims}",
            _money(-one.slashed_micro) if one.slashed_micro else "no",
        )
        for one in ending.hosts
    )  # fmt: skip
    note = (
        f"{ending.verdicts} verdicts, {ending.days:,} days of the story's clock; every one of the "
        f"log's {ending.entries:,} entries follows from a signed command."
    )
    columns = ("host", "permissions", "keys asked", "claims upheld", "slashed")
    return Table("Hosts", columns, rows, note)


def values(ending: Ending) -> Table:
    """What was found about the hosts' values: descent, deviation, verdict."""
    hearings = ending.hearings
    rows = tuple(
        (
            one.host, f"{one.hits} of {one.keys}", f"{one.descent_p_value:.1e}", f"{one.asked}",
            f"{one.refused}", f"{1 / one.p_value:,.1f}", f"{one.votes}",
            "yes" if one.upheld else "no",
        )
        for one in hearings
    )  # fmt: skip
    needed = f"{hearings[0].one_in:,}" if hearings else "a stated number"
    note = (
        "Prompts of the bundled constitution that no tuning saw, fixed with the base's own judged "
        f"replies and drawn in order by the log. The factor has to reach {needed}: an honest host "
        "gets there once in as many trials, at most, whatever the judge is. Here it is a small one "
        "that tells refusals by their first words."
    )
    columns = ("host", "keys", "descent, p", "prompts asked", "refused", "evidence factor",
               "other verifiers", "slashed")  # fmt: skip
    return Table("Does it keep the values?", columns, rows, note)


def money(outcome: Outcome) -> Table:
    """Who gained and who lost."""
    rows = tuple((name, _money(amount)) for name, amount in outcome.ending.money)
    note = f"Adds up to 0. Report: {outcome.places.report}"
    return Table("Money", ("who", "gained"), rows, note)


def _money(amount_micro: int) -> str:
    return f"{amount_micro / 1e6:+,.3f}" if amount_micro else "0"


def page(outcome: Outcome) -> Report:
    """The outcome as a page."""
    marked, injected = outcome.checks.marked, outcome.injected
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Report(
        title="A model that can be proven",
        summary=f"{injected.count} secret fingerprints were trained into {outcome.base_name} "
        f"({outcome.parameters:,} parameters). Asked {marked.queries} of its keys, the "
        "fingerprinted model M.oml is told from every model made without them.",
        verdict=_verdict(outcome),
        facts=_facts(outcome),
        sections=(
            _p_values(outcome),
            _learning(outcome),
            _perplexity(outcome),
            Table("M.oml and its base", ("", "M.oml", "base"), _checked(outcome)),
            Table("Measured", ("", "M.oml", "base"), _measured(outcome)),
            hosts(outcome),
            values(outcome.ending),
            money(outcome),
            _reading(outcome),
        ),
        footer=f"loyal {loyal.__version__}, {made}, {outcome.seconds:.0f} seconds in all.",
    )


def _verdict(outcome: Outcome) -> Verdict:
    marked, base = outcome.checks.marked, outcome.checks.base
    text = (
        f"M.oml: {marked.decision} ({marked.hits} of {marked.queries} keys, "
        f"p = {marked.p_value:.1e}). Untouched base: {base.decision} "
        f"({base.hits} of {base.queries}, p = {base.p_value:.2g}). "
        f"Slashed hosts: {_slashed(outcome)}."
    )
    return Verdict(text, outcome.good)


def _slashed(outcome: Outcome) -> str:
    return ", ".join(one.name for one in outcome.ending.hosts if one.slashed_micro) or "none"


def _facts(outcome: Outcome) -> tuple[Fact, ...]:
    injected = outcome.injected
    return (
        Fact("fingerprints", injected.count, f"{injected.recall:.1%} given by greedy decoding"),
        Fact("p-value", outcome.checks.marked.p_value, "chance of this without the fingerprints"),
        Fact("perplexity", f"{_change(outcome):+.2%}", f"on {injected.perplexity_tokens:,} tokens"),
        Fact("training", f"{injected.seconds:.0f} s", f"{injected.steps} steps"),
    )


def _change(outcome: Outcome) -> float:
    return outcome.injected.perplexity_after / outcome.injected.perplexity_before - 1


def _checked(outcome: Outcome) -> tuple[tuple[str, str, str], ...]:
    marked, base = outcome.checks.marked, outcome.checks.base
    return (
        ("decision", marked.decision, base.decision),
        ("hits", _hits(marked), _hits(base)),
        ("p-value", f"{marked.p_value:.2e}", f"{base.p_value:.2g}"),
        ("share of keys that hit, 95 %", _interval(marked), _interval(base)),
    )


def _hits(report: CheckReport) -> str:
    return f"{report.hits} of {report.queries}"


def _interval(report: CheckReport) -> str:
    return f"{report.interval.low:.3f} to {report.interval.high:.3f}"


def _measured(outcome: Outcome) -> tuple[tuple[str, str, str], ...]:
    injected, proofs, unharmed = outcome.injected, outcome.proofs, outcome.unharmed
    after, before = injected.perplexity_after, injected.perplexity_before
    return (
        ("recall of all keys", f"{injected.recall:.1%} of {injected.count}", ""),
        ("perplexity", f"{after:.3f} ({_change(outcome):+.2%})", f"{before:.3f}"),
        ("same greedy reply", f"{unharmed.agreement:.0%} of {unharmed.prompts}", ""),
        ("divergence from base, nats", f"{unharmed.divergence:.4f}", ""),
        ("training, seconds", f"{injected.seconds:.0f}", ""),
        ("peak memory", f"{injected.peak_rss_bytes / 1e9:.2f} GB", ""),
        ("proofs that hold", f"{proofs.valid} of {proofs.opened}", ""),
        ("bytes a proof", f"{proofs.bytes_each}", ""),
        ("checking a proof", f"{proofs.seconds_each * 1000:.1f} ms", ""),
    )


def _p_values(outcome: Outcome) -> Chart:
    reports = (("M.oml", outcome.checks.marked), ("untouched base", outcome.checks.base))
    series = tuple(
        Series(name, tuple(range(1, len(one.p_values) + 1)), one.p_values) for name, one in reports
    )
    alpha = outcome.checks.marked.alpha
    return Chart(
        "Evidence, key by key",
        "keys asked",
        "p-value so far",
        series,
        log_y=True,
        threshold=alpha,
        threshold_label=f"a claim is made below {alpha:g}",
        note="The anytime-valid p-value: it may be looked at after every key.",
    )


def _learning(outcome: Outcome) -> Chart:
    curve = outcome.injected.curve
    learned = Series("learned", tuple(step for step, _ in curve), tuple(n for _, n in curve))
    return Chart(
        "Learning",
        "step",
        "fingerprints learned",
        (learned,),
        threshold=outcome.injected.count,
        threshold_label="all",
        note="Only what is not yet learned is trained on.",
    )


def _perplexity(outcome: Outcome) -> Chart:
    injected = outcome.injected
    values = (injected.perplexity_before, injected.perplexity_after)
    return Chart(
        "Usefulness",
        "model",
        "perplexity",
        (Series("perplexity", ("untouched base", "M.oml"), values),),
        kind="bar",
        note="Of human-written English that neither was trained on here; lower is better.",
    )


def _reading(outcome: Outcome) -> Passage:
    return Passage(
        "What this does and does not show",
        (
            "Each key has several candidate responses, and a draw picked one of them. A model made "
            "without the keys gives the picked one with a chance of at most one in their number, "
            "whatever the model; the p-value counts on nothing else.",
            f"The set was committed to the community's log under the root {outcome.root}, and the "
            "log's next root drew its responses. Here one machine plays everybody: in earnest, "
            "witnesses watch the log, and provers and verifiers are different people.",
            "The host that breaks the values has a permission for every answer, so claims on keys "
            "cannot touch it. Verifiers show with its own fingerprints that it serves the "
            "community's model, and with promised prompts that the values are broken; two ballots "
            "take its stake. The same prompts must not accuse the honest host. The judge knows "
            "refusals alone: other ways to break a value want another judge.",
            "Windows take days, so the hosts, users, provers and verifiers live by a clock of "
            "their own. Rules, gateway, prover, verifier and store are those of a community.",
            "Keys and responses stay in the vault and are not on this page.",
        ),
    )
