"""`loyal simulate`: options, progress, tables and the exit code. The life of a simulated community
itself is loyal.roles.simulation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from loyal.app.report import Table
from loyal.app.terminal import Terminal, command, facts
from loyal.roles import Detection, Scenario
from loyal.roles.scenario import INNOCENT, Outcome

DEFAULTS = Scenario()

NUMBERS = (
    ("honest-provers", "Provers that claim what has no permission."),
    ("withholding-provers", "Provers that draw keys and never claim."),
    ("adverse-provers", "Provers that attack, one of them an insider."),
    ("sybils", "Names under which one more adverse prover spreads its bond."),
    ("verifiers", "Verifiers, all with the same bond."),
    ("lying-verifiers", "Of them, those who say the opposite."),
    ("candidates", "k: candidate responses a key."),
)


def _number(name: str, meaning: str) -> Any:
    default = getattr(DEFAULTS, name.replace("-", "_"))
    return click.option(f"--{name}", type=int, default=default, show_default=True, help=meaning)


def _share(name: str, meaning: str) -> Any:
    default = getattr(DEFAULTS, name.replace("-", "_"))
    return click.option(f"--{name}", type=float, default=default, show_default=True, help=meaning)


@command(
    "simulate",
    click.option(
        "--interactions",
        type=click.IntRange(min=1),
        default=20_000,
        show_default=True,
        help="Moves of adversaries.",
    ),
    click.option(
        "--licenses",
        type=click.IntRange(min=0),
        default=1_000,
        show_default=True,
        help="Licenses of cheating hosts whose convictions are counted; 0 leaves that out.",
    ),
    click.option(
        "--draws",
        type=click.IntRange(min=1),
        default=20,
        show_default=True,
        help="Keys that each of them is asked.",
    ),
    click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True, help="Public."),
    _share("skip-share", "f: share of queries that a cheating host answers without permission."),
    _share("survival", "s: share of responses that a tuned copy gives."),
    *(_number(name, meaning) for name, meaning in NUMBERS),
)
def simulate(terminal: Terminal, **options: Any) -> int:
    """Live through a community of hosts and adversaries.

    No model is run: hosts, provers and verifiers drive the real rules, and adversaries try the
    attacks of docs/threats.md. Exit code 0 when no innocent host was slashed, every invariant held,
    and cheating hosts were convicted as often as the exact law says; 1 when not.
    """
    from loyal.roles.simulation import detect
    from loyal.roles.simulation import simulate as live

    interactions, licenses, draws = (
        options.pop(name) for name in ("interactions", "licenses", "draws")
    )
    scenario = Scenario(**options)
    with terminal.progress("adversaries at work") as update:
        outcome = live(scenario, interactions, lambda done, of: update(done, of, ""))
    detection = None
    if licenses:
        with terminal.progress("cheating hosts") as update:
            detection = detect(scenario, licenses, draws, lambda done, of: update(done, of, ""))
    good = not outcome.broken and not outcome.innocent_slashed
    good = good and (detection is None or detection.agrees)
    terminal.result(_fields(outcome, detection, good), list(_tables(outcome, detection, good)))
    return 0 if good else 1


def _fields(outcome: Outcome, detection: Detection | None, good: bool) -> dict[str, Any]:
    fields = {"good": good, "innocent_slashed": outcome.innocent_slashed, **asdict(outcome)}
    if detection is not None:
        fields["detection"] = {
            **asdict(detection),
            "largest_gap": detection.largest_gap,
            "chance_gap": detection.chance_gap,
            "agrees": detection.agrees,
        }
    return fields


def _tables(outcome: Outcome, detection: Detection | None, good: bool) -> list[Table]:
    summary = {
        "outcome": "as it should be" if good else "; ".join(outcome.broken) or "detection is off",
        "adversaries' moves": outcome.interactions,
        "other moves": outcome.honest_moves,
        "worlds": outcome.worlds,
        "entries of their logs": outcome.events,
        "innocent hosts slashed": outcome.innocent_slashed,
        **{f"claims {name}": count for name, count in outcome.claims.items()},
    }
    hosts = tuple(
        (
            name,
            name in INNOCENT,
            count,
            outcome.convicted.get(name, 0),
            outcome.slashed.get(name, 0),
        )
        for name, count in outcome.licenses.items()
    )
    tables = [
        facts(summary),
        Table("Hosts", ("conduct", "innocent", "licenses", "convicted", "slashed"), hosts),
        Table("Money, taken out less brought in", ("who", "micro"), tuple(outcome.money.items())),
        Table("Refused to adversaries", ("rule", "times"), tuple(outcome.refusals.items())),
        Table("Attacks", ("attack", "times"), tuple(outcome.attacks.items())),
    ]
    return [*tables, *([_law(detection)] if detection is not None else [])]


def _law(detection: Detection) -> Table:
    columns = ("draws", "convicted", "exact law", "P(Bin(n, f s) >= threshold)")
    rows = tuple(
        (n, detection.measured[n], detection.exact[n], detection.binomial[n])
        for n in range(1, len(detection.exact))
        if detection.exact[n] > 0 or n == len(detection.exact) - 1
    )
    note = (
        f"{detection.licenses:,} licenses; largest distance from the exact law "
        f"{100 * detection.largest_gap:.2f} %, by chance alone up to "
        f"{100 * detection.chance_gap:.2f} %"
    )
    return Table("Convictions of cheating hosts", columns, rows, note)
