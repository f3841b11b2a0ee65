"""`loyal dispute show | violation`: claims as the log has them, and answers that a license denies.

Both read the whole log and check it first. Left out: the rules (loyal.protocol.violations).
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import click

from loyal.app.answer_files import message_of, signed_answers
from loyal.app.key_files import FILE, KEY_OPTION, hex_id
from loyal.app.platform_options import (
    LOG_KEY_OPTION,
    PLATFORM_OPTION,
    Caller,
    log_key,
    state_of_log,
)
from loyal.app.report import Table
from loyal.app.state_views import claim_fields
from loyal.app.terminal import Terminal, command, facts
from loyal.errors import UsageError
from loyal.protocol import State
from loyal.protocol import events as e
from loyal.protocol.answers import message_digest
from loyal.protocol.rules import apply
from loyal.protocol.state import Moment
from loyal.protocol.violations import ShowViolation


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
    names = state.claims if license is None else state.claims_on(hex_id(license, "--license"))
    found = [claim_fields(state, name, state.claims[name]) for name in names]
    columns = ("claim", "license", "number", "state", "until", "for_bps", "against_bps")
    rows = tuple(tuple(one[column] for column in columns) for one in found)
    terminal.result({"claims": found}, [Table("claims", columns, rows)])
    return 0


@command(
    "violation",
    PLATFORM_OPTION,
    KEY_OPTION,
    click.option(
        "--answer", type=FILE, required=True, metavar="FILE",
        help="What the host signed: the header Loyal-Answer, or what its receipt route says.",
    ),
    click.option(
        "--prompt", type=FILE, required=True, metavar="FILE",
        help="The user message that it answered, byte for byte.",
    ),
    click.option("--check", is_flag=True, help="Check it here, and show it to nobody."),
    LOG_KEY_OPTION,
)  # fmt: skip
def violation(terminal: Terminal, **options: Any) -> int:
    """Show that a host answered a prompt that its license denies.

    The rules are run here first, on the log as it stands. The prompt then stands in the log, for
    everybody to read. The host loses a part of its stake; the bounty goes to whoever shows it.
    """
    caller = Caller.take(options)
    found = signed_answers(options["answer"], "--answer")
    prompt = message_of(options["prompt"], "--prompt", [answer for _, answer in found])
    digest = message_digest(prompt)
    signed, answer = next(one for one in found if digest in one[1].messages)
    shown = ShowViolation(caller.key.public.data, answer.license, prompt, signed)
    fields = asyncio.run(_show(caller, shown, options["check"]))
    terminal.result({"license": answer.license.hex(), **fields})
    return 0


async def _show(caller: Caller, wanted: ShowViolation, only_check: bool) -> dict[str, Any]:
    """What the rules make of it, and whether it was taken. ProtocolError with the rule that refuses
    it; EndpointError, LedgerError."""
    from loyal.app.platform_api import PlatformApi, PlatformDesk

    api = PlatformApi(caller.platform, caller.key)
    try:
        state = await PlatformDesk(api, caller.log).read_on()
        events = _expected(state, wanted)
        if not only_check:
            await api.submit(wanted)
    finally:
        await api.close()
    *moves, shown = events
    assert isinstance(shown, e.ViolationShown)
    account = e.free(wanted.author)
    gained = [
        one.amount_micro for one in moves if isinstance(one, e.Moved) and one.target == account
    ]
    return {
        "violation": shown.violation.hex(),
        "lost_micro": shown.amount_micro,
        "received_micro": sum(gained),
        "shown": not only_check,
    }


def _expected(state: State, wanted: ShowViolation) -> list[e.Event]:
    """The rules themselves, before anybody else sees the prompt. ProtocolError."""
    at = Moment(max(int(time.time()), state.seconds), state.length, bytes(32))
    return apply(state, wanted, at)
