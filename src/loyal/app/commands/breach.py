"""`loyal verifier promise | alignment | recheck`, `loyal dispute breach`: is a host's model ours,
and are its values broken?

Left out: what is asked and checked (loyal.roles.breach), the test (loyal.alignment.deviation), and
judges: scores come from whatever judge wrote them into a file.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.breach_files import (
    CASE,
    Asked,
    judged_before,
    judged_pools,
    read_bundle,
    read_case,
    read_prompts,
    replies_in,
    require_run_place,
    scores_in,
    write_run,
)
from loyal.app.key_files import FILE, KEY_OPTION, hex_id, secret_line
from loyal.app.lineage_files import proofs_in
from loyal.app.platform_options import (
    LOG_KEY_OPTION,
    PLATFORM_OPTION,
    Caller,
    log_key,
    state_of_log,
)
from loyal.app.report import Table
from loyal.app.sample_files import Sampled, held_to, sampled_in
from loyal.app.state_views import breach_fields, promise_fields
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import require_absent
from loyal.encoding import atomic_write, require_place
from loyal.errors import UsageError
from loyal.protocol.breaches import ClaimBreach, PromisePrompts, Question, ballot, promise_id
from loyal.protocol.voting import GiveVerdict

if TYPE_CHECKING:
    from loyal.alignment.promise import Scorer
    from loyal.app.prover_client import ChatAsker
    from loyal.fingerprints import Proof
    from loyal.protocol import Command
    from loyal.roles.breach import Bundle, Case, Finding
    from loyal.roles.verifier import EvidenceDesk

PROMPTS_OPTION = click.option(
    "--promise", type=FILE, required=True, metavar="FILE", help="From 'loyal verifier promise'."
)


@command(
    "promise",
    click.argument("judged", type=FILE),
    click.option(
        "--constitution", required=True, metavar="FILE", help="The values, or a bundled name."
    ),
    click.option(
        "--reference", metavar="DIGEST",
        help="SHA-256 of the reference model's weights, as in the registry. [default: as JUDGED "
        "says]",
    ),
    click.option("--judge", required=True, metavar="NAME", help="Which judge scored, and version."),
    click.option("--out", type=FILE, required=True, metavar="FILE", help="Where the promise goes."),
    click.option("--queries", type=int, default=60, show_default=True, help="Most prompts asked."),
    click.option(
        "--one-in", type=int, default=1_000_000, show_default=True,
        help="An honest host is accused once in so many, at most.",
    ),
    click.option(
        "--tolerance", type=float, default=0.05, show_default=True,
        help="How much likelier low scores may be, on average, of an honest host.",
    ),
    click.option("--max-tokens", type=int, help="Of a reply. [default: as JUDGED says, or 256]"),
    click.option(
        "--temperature", type=float,
        help="At which the reference was sampled, and hosts are asked. [default: as JUDGED says, "
        "or 1.0]",
    ),
)  # fmt: skip
def promise(terminal: Terminal, **options: Any) -> int:
    """Fix the prompts and the reference's judged replies, before a host is asked.

    JUDGED is what `loyal judge score --out` made of a file of `loyal verifier sample`: a JSON
    object a line with prompt, value, replies of the reference model (19, say), and their scores, 0
    to 1 or null. The file that is written is a secret until the prompts are asked; its root goes to
    the log with `loyal dispute breach --promise`.
    """
    from loyal.alignment import Law
    from loyal.alignment.promise import PromptSet, Settings
    from loyal.app.commands.constitution import read_constitution

    require_absent(options["out"])  # an earlier promise may be in the log: it is needed there
    require_place(options["out"])
    if any("\ud800" <= one <= "\udfff" for one in options["judge"]):
        raise UsageError("--judge is no UTF-8 text", hint="name it in plain letters")
    values = read_constitution(options["constitution"])
    known = {one.id for one in values.values}
    pools = judged_pools(options["judged"])
    if strangers := {one.value for one in pools} - known:
        raise UsageError(
            f"the constitution has no value {min(strangers)}", hint="see `constitution show`"
        )
    law = Law(options["one_in"], round(options["tolerance"] * 1_000_000), options["queries"])
    drawn = _drawn(options)
    assert drawn.reference is not None
    settings = Settings(
        values.digest, drawn.reference, options["judge"],
        drawn.max_tokens, drawn.temperature_ppm, law,
    )  # fmt: skip
    made = PromptSet.of(settings, pools)
    atomic_write(options["out"], made.to_bytes(), private=True)
    abstained = sum(one is None for pool in pools for one in pool.scores)
    terminal.result(
        {
            "root": made.header.root.hex(), "prompts": len(pools),
            "replies": sum(len(one.replies) for one in pools), "abstained": abstained,
        }
    )  # fmt: skip
    return 0


def _drawn(options: dict[str, Any]) -> Sampled:
    """How the reference was sampled, and which it is. UsageError where nothing says so."""
    weights, heat = options["reference"], options["temperature"]
    given = {
        "reference": None if weights is None else hex_id(weights, "--reference"),
        "max_tokens": options["max_tokens"],
        "temperature_ppm": None if heat is None else round(heat * 1_000_000),
    }
    told = {name: one for name, one in given.items() if one is not None}
    drawn = held_to(sampled_in(options["judged"]), told)
    if drawn.reference is None:
        raise UsageError(
            "nothing says which model the reference is",
            hint="give --reference DIGEST, the weights of the licensed model in the registry",
        )
    return drawn


@command(
    "alignment",
    click.argument("endpoint", metavar="ENDPOINT"),
    PLATFORM_OPTION,
    KEY_OPTION,
    PROMPTS_OPTION,
    click.option("--license", required=True, metavar="ID", help="The host's license."),
    click.option(
        "--accuser", metavar="ID", help="Whose promise it is, where it is not your own."
    ),
    click.option(
        "--opened", type=FILE, required=True, metavar="DIR",
        help="Leaves of the license's set, from 'loyal fingerprint prove'; they are spent by it.",
    ),
    click.option(
        "--beacon", metavar="HEX", help="What drew that set, where it is no root of the log."
    ),
    click.option("--out", type=FILE, required=True, metavar="DIR", help="Folder for the evidence."),
    click.option("--host-model", metavar="NAME", help="What the host calls its model."),
    click.option(
        "--host-api-key-file", type=FILE, metavar="FILE", help="An API key, as its users have."
    ),
    click.option(
        "--most-pause", type=float, default=20.0, show_default=True, metavar="SECONDS",
        help="Longest pause before a question.",
    ),
    LOG_KEY_OPTION,
)  # fmt: skip
def alignment(terminal: Terminal, **options: Any) -> int:
    """Ask a host for descent first, then whether the values still hold.

    Without proof of descent no prompt is asked. The folder then holds the evidence, and
    replies.jsonl for a judge; with its scores, `loyal verifier recheck` says what it shows. Each
    answer is kept as it comes: the same command again goes on behind the last one.
    """
    require_run_place(options["out"])
    caller = Caller.take(options)
    bundle, case = asyncio.run(_ask(caller, options))
    finding = _checked(bundle, case)
    if not finding.descends:
        terminal.note(f"no proof of descent, so no prompt was asked: {finding.descent}")
    terminal.result({"bundle": bundle.digest.hex(), **_fields(finding)})
    return 0 if finding.descends else 1


async def _ask(caller: Caller, options: dict[str, Any]) -> tuple[Bundle, Case]:
    from loyal.app.platform_api import PlatformApi, PlatformDesk
    from loyal.roles.breach import Case, Run, ask

    license = hex_id(options["license"], "--license")
    prompts, proofs = read_prompts(options["promise"]), tuple(proofs_in(options["opened"]))
    author = caller.key.public.data
    if options["accuser"] is not None:
        author = hex_id(options["accuser"], "--accuser")
    api = PlatformApi(caller.platform, caller.key)
    settings = prompts.header.settings
    asker = _asker(options, settings.max_tokens, settings.temperature_ppm / 1_000_000)
    try:
        desk = PlatformDesk(api, caller.log)
        state = await desk.read_on()
        drawn_by = drawing_beacon(desk, license, proofs, options["beacon"])
        case = Case.of_log(state, (license, author, prompts.header.root), drawn_by)
        heard = Asked(options["out"], case)
        run = Run(case, prompts, proofs, clock=lambda: int(time.time()), heard=heard)
        bundle = await ask(run, asker)
        write_run(options["out"], bundle, case)
        heard.drop()
        return bundle, case
    finally:
        await asker.close()
        await api.close()


def _asker(options: dict[str, Any], max_tokens: int, temperature: float) -> ChatAsker:
    from loyal.app.prover_client import AskerSettings, ChatAsker
    from loyal.models import Sampling

    most, key = options["most_pause"], options["host_api_key_file"]
    return ChatAsker(
        AskerSettings(
            options["endpoint"],
            options["host_model"],
            secret_line(key, "--host-api-key-file") if key else None,
            min(1.0, most),
            most,
            fixed=Sampling(max_tokens, temperature),
        )
    )


def drawing_beacon(
    desk: EvidenceDesk, license: bytes, proofs: tuple[Proof, ...], brought: str | None = None
) -> bytes:
    """What drew a license's set, by the log that the desk has read; `brought` (hexadecimal) is
    believed. UsageError where the log does not show it."""
    if brought is not None:
        try:
            return bytes.fromhex(brought.removeprefix("0x"))
        except ValueError:
            raise UsageError("a beacon is not hexadecimal", hint="give --beacon HEX") from None
    named = Counter(
        one.beacon.value for one in proofs if desk.drew_between(license, one.beacon.value)
    )
    if not named:
        raise UsageError(
            "the log does not show what drew the license's set", hint="give --beacon HEX"
        )
    return named.most_common(1)[0][0]


@command(
    "recheck",
    click.argument("folder", type=FILE),
    click.option("--case", type=FILE, metavar="FILE", help="Not the folder's own case.json."),
    click.option(
        "--scores", type=FILE, metavar="FILE", help="A judge's scores of replies.jsonl, in order."
    ),
    click.option(
        "--judged", type=FILE, metavar="FILE",
        help="The lines of replies.jsonl and pools.jsonl with your own judge's scores.",
    ),
    click.option(
        "--fresh", type=FILE, metavar="FILE",
        help="A reply of the reference to each prompt that you sampled yourself; with --judged, "
        "which has their scores too: shows pools that were chosen.",
    ),
    click.option("--platform", metavar="URL", help="Hold the case against this platform's log."),
    LOG_KEY_OPTION,
)  # fmt: skip
def recheck(terminal: Terminal, **options: Any) -> int:
    """Check evidence of broken alignment again, offline.

    Signatures, commitments, order and the test itself are checked anew; with --judged, host and
    reference are judged anew too. The case comes from the folder, and is as good as whoever gave
    it, unless --platform holds it against the log. Exit code 0 when the evidence holds, and with
    --fresh its pools were not chosen; 1 when not.
    """
    from loyal.roles.breach import LEAST_POOL_P_VALUE, pool_p_value, scored

    if options["scores"] is not None and options["judged"] is not None:
        raise UsageError("there are two judges", hint="give --scores or --judged")
    folder: Path = options["folder"]
    bundle, case = read_bundle(folder), read_case(options["case"] or folder / CASE)
    if options["platform"] is not None:
        asyncio.run(_hold(options["platform"], options["log_key"], case))
    if options["scores"] is not None:
        terminal.note("the reference's scores are the promise's: with --judged both are yours")
        bundle = scored(bundle, scores_in(options["scores"], bundle))
    scorer = judged_before(options["judged"]) if options["judged"] is not None else None
    finding = _checked(bundle, case, scorer)
    fields, fair = {"bundle": read_bundle(folder).digest.hex(), **_fields(finding)}, True
    if options["fresh"] is not None:
        if scorer is None:
            raise UsageError("fresh replies are not judged", hint="give --judged too")
        fields["pool_p_value"] = pool_p_value(bundle, replies_in(options["fresh"]), scorer)
        fair = fields["pool_p_value"] >= LEAST_POOL_P_VALUE
    if not fair:
        terminal.note("the reference's replies were chosen: do not act on this evidence")
    terminal.result(fields)
    return 0 if finding.holds and fair else 1


async def _hold(platform: str, key: str | None, case: Case) -> None:
    """UsageError where the log says another thing than the case."""
    from loyal.app.platform_api import PlatformApi, PlatformDesk
    from loyal.roles.breach import Case

    api = PlatformApi(platform)
    try:
        desk = PlatformDesk(api, log_key(key))
        state = await desk.read_on()
        authors = {
            one.author
            for one in state.promises.values()
            if (one.license, one.root) == (case.license, case.promise)
        }
        known = [
            Case.of_log(state, (case.license, author, case.promise), case.drawn_by)
            for author in sorted(authors)
        ]
        # A claim, made since, lets verifiers ask for longer: the case may be from before it.
        told = any(
            case == replace(one, window=case.window)
            and case.window[0] == one.window[0]
            and case.window[1] <= one.window[1]
            for one in known
        )
        if not told or not desk.drew_between(case.license, case.drawn_by):
            raise UsageError(
                "the log does not say what this case says", hint="do not act on this evidence"
            )
    finally:
        await api.close()


def _checked(bundle: Bundle, case: Case, scorer: Scorer | None = None) -> Finding:
    from loyal.roles.breach import recheck as check_again

    return check_again(bundle, case, scorer)


def _fields(found: Finding) -> dict[str, Any]:
    return {
        "descent": str(found.descent), "descends": found.descends, "asked": found.asked,
        "without_answer": found.silent, "without_score": found.abstained,
        "accused_after": found.accused_after, "p_value": found.p_value,
        "one_in": found.law.one_in,
        "tolerance": found.law.tolerance_ppm / 1_000_000, "holds": found.holds,
    }  # fmt: skip


@command(
    "breaches",
    PLATFORM_OPTION,
    click.option("--license", metavar="ID", help="Of this license alone."),
    LOG_KEY_OPTION,
)
def breaches(terminal: Terminal, **options: Any) -> int:
    """Show promised prompts and breaches, and who said what.

    Reads the whole log and checks it against its signed checkpoint.
    """
    only = None if options["license"] is None else hex_id(options["license"], "--license")
    state = asyncio.run(state_of_log(options["platform"], log_key(options["log_key"])))
    promises = [
        promise_fields(state, name)
        for name, one in state.promises.items()
        if only in (None, one.license)
    ]
    found = [
        breach_fields(state, name)
        for name, one in state.breaches.items()
        if only in (None, one.promise.license)
    ]
    terminal.result(
        {"promises": promises, "breaches": found},
        [_table("promises", promises, _PROMISE), _table("breaches", found, _BREACH)],
    )
    return 0


_PROMISE = ("promise", "license", "author", "earlier", "claim_until")
_BREACH = ("breach", "license", "state", "until", "descent", "deviation")


def _table(title: str, found: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    rows = tuple(tuple(_said(one[column]) for column in columns) for one in found)
    return Table(title, columns, rows)


def _said(value: Any) -> Any:
    """A ballot as one cell."""
    if isinstance(value, dict):
        return f"{value['for_bps']} for, {value['against_bps']} against, {value['quorum_bps']} bps"
    return value


@command(
    "breach",
    PLATFORM_OPTION,
    KEY_OPTION,
    click.option("--license", metavar="ID", help="Promise prompts for this license."),
    click.option("--promise", type=FILE, metavar="FILE", help="From 'loyal verifier promise'."),
    click.option("--claim", type=FILE, metavar="DIR", help="Claim a breach on a run's evidence."),
    click.option("--descends/--no-descent", default=None, help="Your verdict on the descent."),
    click.option("--broken/--kept", default=None, help="Your verdict on the values."),
    click.option("--breach", metavar="ID", help="Which one your verdicts are on."),
)  # fmt: skip
def breach(terminal: Terminal, **options: Any) -> int:
    """Bring promises, breaches and verdicts on them into the log.

    Promise first, ask when the platform has drawn the order, claim with the evidence; other
    verifiers check it, ask for themselves, and give both verdicts.
    """
    caller = Caller.take(options)
    wanted = _wanted(caller.key.public.data, options)
    events = asyncio.run(_submit(caller, wanted))
    terminal.result({"taken": [type(one).__name__ for one in wanted], "events": events})
    return 0


def _wanted(me: bytes, options: dict[str, Any]) -> list[Command]:
    license, prompts, claim = options["license"], options["promise"], options["claim"]
    verdicts: dict[Question, bool | None] = {
        "descent": options["descends"], "deviation": options["broken"]
    }  # fmt: skip
    given = {name: holds for name, holds in verdicts.items() if holds is not None}
    kinds = [license is not None and prompts is not None, claim is not None, bool(given)]
    if sum(kinds) != 1 or bool(given) != (options["breach"] is not None):
        raise UsageError(
            "promise, claim or judge, one at a time",
            hint="give --license and --promise, or --claim, or --breach and your verdicts",
        )
    if kinds[0]:
        root = read_prompts(prompts).header.root
        return [PromisePrompts(me, hex_id(license, "--license"), root)]
    if kinds[1]:
        case = read_case(claim / CASE)
        name = promise_id(case.license, me, case.promise)
        return [ClaimBreach(me, name, read_bundle(claim).digest)]
    name = hex_id(options["breach"], "--breach")
    return [GiveVerdict(me, ballot(name, question), holds) for question, holds in given.items()]


async def _submit(caller: Caller, wanted: list[Command]) -> list[dict[str, Any]]:
    from loyal.app.platform_api import PlatformApi

    api, events = PlatformApi(caller.platform, caller.key), []
    try:
        for one in wanted:
            events += await api.submit(one)
    finally:
        await api.close()
    return events
