"""`loyal dispute show`: claims as the log has them, checked here."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from loyal.app.key_files import hex_id
from loyal.app.platform_options import LOG_KEY_OPTION, PLATFORM_OPTION, log_key, state_of_log
from loyal.app.report import Table
from loyal.app.state_views import claim_fields
from loyal.app.terminal import Terminal, command, facts
from loyal.errors import UsageError


@command(
    "show",
    PLATFORM_OPTION,
    click.option("--license", metavar="ID", help="Claims on this license alone."),
    click.option("--claim", metavar="ID", help="One claim, with every verdict and its weight."),
    LOG_KEY_OPTION,
)
def show(terminal: Terminal, **options: Any) -> int:
    """Show how far claims have come, and who said what.

    Reads the whole log and checks it against its signed checkpoint.
    """
    license, claim = options["license"], options["claim"]
    if license is not None and claim is not None:
        raise UsageError("a claim is of one license", hint="give --license or --claim")
    state = asyncio.run(state_of_log(options["platform"], log_key(options["log_key"])))
    if claim is not None:
        name = hex_id(claim, "--claim")
        if name not in state.claims:
            raise UsageError("the log has no such claim", hint="see `loyal dispute show`")
        fields = claim_fields(state, name, state.claims[name])
        rows = tuple(
            (one["verifier"], one["weight_micro"], one["holds"]) for one in fields["votes"]
        )
        votes = Table("verdicts", ("verifier", "weight (micro)", "holds"), rows)
        terminal.result(fields, [facts(fields), votes])
        return 0
    only = None if license is None else hex_id(license, "--license")
    found = [
        claim_fields(state, name, one)
        for name, one in state.claims.items()
        if only in (None, one.made.license)
    ]
    columns = ("claim", "license", "number", "state", "until", "for_bps", "against_bps")
    rows = tuple(tuple(one[column] for column in columns) for one in found)
    terminal.result({"claims": found}, [Table("claims", columns, rows)])
    return 0
