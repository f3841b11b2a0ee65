"""`loyal prover plan`: how many keys a license needs. Left out: the law itself
(loyal.roles.planning), and asking the keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from loyal.app.terminal import Terminal, command, facts
from loyal.errors import UsageError
from loyal.protocol.parameters import Parameters
from loyal.roles import Cheating, Plan, PlanRequest


@command(
    "plan",
    click.option("--inferences", type=int, metavar="N", help="Inferences that the license gives."),
    click.option("--days", type=int, metavar="N", help="Days that the license runs."),
    click.option(
        "--skip-share",
        type=float,
        default=0.5,
        show_default=True,
        help="f: share of queries answered without a permission.",
    ),
    click.option(
        "--survival",
        type=float,
        default=0.9,
        show_default=True,
        help="s: share of responses that the host's copy still gives.",
    ),
    click.option(
        "--candidates",
        type=int,
        default=16,
        show_default=True,
        help="k: candidate responses a key.",
    ),
    click.option(
        "--alpha",
        type=float,
        default=1e-9,
        show_default=True,
        help="Chance of a false conviction, at most.",
    ),
    click.option(
        "--provers",
        type=int,
        default=10,
        show_default=True,
        help="Provers with equal bonds; a conviction needs three of them.",
    ),
    click.option(
        "--caught",
        type=float,
        default=0.95,
        show_default=True,
        help="How surely the host is to be convicted within the license.",
    ),
)
def plan(terminal: Terminal, **options: Any) -> int:
    """Say how many keys a license needs, and at what pace.

    Give --inferences, --days, or both. Each key asked counts, permitted or not. Exit code 0 when
    the license has room for the keys, 1 when not.
    """
    from loyal.roles import planning

    alpha = options["alpha"]
    if not 1e-15 <= alpha <= 0.5:
        raise UsageError(f"alpha is {alpha}", hint="give a chance from 1e-15 to 0.5, such as 1e-9")
    cheating = Cheating(
        options["skip_share"], options["survival"], options["candidates"], options["provers"],
        Parameters(false_conviction_one_in=round(1 / alpha)),
    )  # fmt: skip
    request = PlanRequest(cheating, options["inferences"], options["days"], options["caught"])
    found = planning.plan(request)
    terminal.result(asdict(found), [facts(_shown(found))])
    return 0 if found.fits else 1


def _shown(found: Plan) -> dict[str, Any]:
    hours = None if found.every_seconds is None else found.every_seconds / 3600
    return {
        "keys needed": found.keys,
        "the license has room for them": found.fits,
        "keys that it has room for": found.most_keys,
        "one key in so many inferences": found.every_inferences,
        "one key in so many hours": hours,
        "caught within the license": found.caught,
        "draws to a conviction, on average": found.expected_draws,
        "hours from an unclaimed draw to the next, at least": found.slowest_seconds / 3600,
    }
