"""`loyal fingerprint rule check | open | verify-opening`: what replies say of a secret rule.

Nothing is spent: keys are fresh each time, and may be asked of anybody again. But the vault notes
which rule was opened, and a check without --rule asks another one then. Checking a server,
opening and verifying load no torch; `verify-opening` needs no vault either. Left out: the
statistics (loyal.fingerprints.functional_check) and the files (functional_evidence).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from loyal.app.commands.evidence import BINDS_NOBODY, hex_bytes, read_bytes
from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    MODEL_HELP,
    Endpoint,
    connect,
    load_model,
    read_rule_recipe,
)
from loyal.app.out_files import require_out
from loyal.app.report import Table
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import (
    FILE,
    OPENING_OPTIONS,
    RULE_ID_OPTION,
    VAULT_OPTION,
    Access,
    next_rule,
    open_vault,
    read_text,
    require_absent,
    rule_outline,
)
from loyal.encoding import atomic_write, require_place
from loyal.errors import ProofError, UsageError
from loyal.fingerprints import Beacon, functional
from loyal.fingerprints import functional_check as verb
from loyal.fingerprints import functional_evidence as evidence
from loyal.fingerprints.functional import FunctionalSet
from loyal.models import LanguageModel

if TYPE_CHECKING:
    from loyal.fingerprints.functional_check import Exchange, Known, RuleReport
    from loyal.fingerprints.functional_recipe import RuleCheckSettings

SIGNED_OPTIONS = (
    click.option(
        "--host", metavar="HEX",
        help="The host's name in the log: it signed each reply of --exchanges, or none is judged.",
    ),
    click.option("--license", metavar="ID", help="The license under which it signed."),
)  # fmt: skip
"""Whose replies a file holds."""
ALPHA_OPTION = click.option(
    "--alpha", type=float, help="Chance of a false claim, at most; 1e-6 by default."
)


@command(
    "check",
    VAULT_OPTION,
    click.option("--model", metavar="NAME", help=MODEL_HELP),
    *ENDPOINT_OPTIONS,
    click.option("--queries", type=int, help="How many fresh keys to ask; 80 by default."),
    click.option(
        "--keys", type=FILE, metavar="FILE", help="Ask the keys of this file, from 'rule keys'."
    ),
    click.option(
        "--exchanges",
        type=FILE,
        metavar="FILE",
        help="Ask nobody: judge the replies of this file, from 'prover ask' or by hand.",
    ),
    *SIGNED_OPTIONS,
    ALPHA_OPTION,
    click.option("--temperature", type=float, help="0, the default, asks for greedy replies."),
    click.option("--system", metavar="TEXT", help="Ask under this system message."),
    click.option("--raw", is_flag=True, default=None, help="Ask without the chat template."),
    click.option(
        "--out", type=FILE, metavar="FILE", help="Keep keys and replies in this file, for others."
    ),
    RULE_ID_OPTION,
    *OPENING_OPTIONS,
    settings=True,
)
def check(terminal: Terminal, **options: Any) -> int:
    """Ask a model keys, and say whether it knows the rule.

    The model is --model in this process, or --endpoint; --exchanges judges replies that are there
    already. Exit code 0 when it is proven, 1 when not. The p-value is the share of random colorings
    that the replies fit as well; every key that was asked counts, and none is spent. Of several
    rules the first is asked that was never opened, unless --rule names one.
    """
    access, endpoint = Access.take(options), Endpoint.take(options)
    ways = (options["model"], endpoint, options["exchanges"])
    if sum(one is not None for one in ways) != 1:
        raise UsageError(
            "say which model to check", hint="give one of --model, --endpoint and --exchanges"
        )
    if sum(options[name] is not None for name in ("keys", "queries", "exchanges")) > 1:
        raise UsageError(
            "the file says which keys", hint="give one of --keys, --queries and --exchanges"
        )
    _require_host(options)
    names = ("queries", "alpha", "temperature", "system", "raw")
    settings = read_rule_recipe(terminal, check={name: options[name] for name in names}).check
    settings.require_reachable()
    if options["out"] is not None:
        require_absent(options["out"])  # a prover's file holds what the host signed, too
        require_place(options["out"])
    made = require_drawn(
        next_rule(terminal, open_vault(options["vault"], access), options["rule_id"])
    )
    if options["exchanges"] is None:
        keys = _keys(made, options["keys"], settings.queries)
        model = _model(terminal, made, options["model"], endpoint)
        name, heard = model.name, _asked(terminal, model, keys, settings)
    else:
        name = str(options["exchanges"])
        heard = evidence.decode_exchanges(read_text(options["exchanges"], "--exchanges"))
        _require_marked(made, [one.key for one in heard])
    if options["out"] is not None:
        atomic_write(options["out"], evidence.encode_exchanges(heard), private=True)
    report = verb.rule_report(name, verb.owned(made), heard, settings.colorings)
    found = judged(report, verb.owned(made), heard, settings)
    digest = evidence.keys_digest([one.key for one in heard]).hex()
    fields = {"id": made.id, **fields_of(found), "keys_digest": digest}
    terminal.result(fields, [table_of(found)])
    return 0 if found.proven else 1


class Judged(NamedTuple):
    """What replies say, and what they say if outcomes may have been swapped."""

    report: RuleReport
    renamed: float | None
    """`renamed_p_value`; None where the plain p-value is low enough."""
    alpha: float

    @property
    def proven(self) -> bool:
        """Whether the model knows the rule, with its outcomes as they are or swapped."""
        return self.decision != "not proven"

    @property
    def decision(self) -> str:
        """In words."""
        if self.renamed is None:
            return "proven"
        return "proven, its outcomes swapped" if self.renamed <= self.alpha else "not proven"


def judged(
    report: RuleReport, known: Known, heard: Sequence[Exchange], settings: RuleCheckSettings
) -> Judged:
    """Looks a second time, with outcomes swapped, where the report of these replies proves
    nothing."""
    plain = report.p_value <= settings.alpha
    renamed = None if plain else verb.renamed_p_value(known, heard, settings.colorings)
    return Judged(report, renamed, settings.alpha)


def fields_of(found: Judged) -> dict[str, Any]:
    """The report as JSON fields; `interval` is [low, high]."""
    report, alpha = found.report, found.alpha
    return {
        "queries": report.queries,
        "right": report.right,
        "neither": report.neither,
        "p_value": report.p_value,
        "p_value_renamed": found.renamed,
        "interval": [report.interval.low, report.interval.high],
        "decision": found.decision,
        "model": report.model,
        "alpha": alpha,
    }


def table_of(found: Judged) -> Table:
    """The report for people."""
    report = found.report
    low, high = report.interval.low, report.interval.high
    rows = (
        ("decision", found.decision),
        ("replies as the rule says", f"{report.right} of {report.queries}"),
        ("replies of neither outcome", report.neither),
        ("p-value", report.p_value),
        ("p-value, outcomes swapped in any way", found.renamed),
        ("claimed at or below", found.alpha),
        ("share of right replies, 95 %", f"{low:.3f} to {high:.3f}"),
        ("model", report.model),
    )
    return Table("", ("", ""), rows)


def _require_host(options: Mapping[str, Any]) -> None:
    """Where a host is named: that it signed every reply of the file that counts. ProofError,
    UsageError."""
    named = options["host"], options["license"]
    if named == (None, None):
        return
    if None in named or options["exchanges"] is None:
        raise UsageError(
            "a host's signatures are looked at in a file, under a license",
            hint="give --host and --license, and the file of 'prover ask' as --exchanges",
        )
    from loyal.app.heard_files import require_signed

    host, license = hex_bytes(named[0], "--host", 32), hex_bytes(named[1], "--license", 32)
    require_signed(options["exchanges"], "--exchanges", host, license)


def require_drawn(made: FunctionalSet) -> FunctionalSet:
    """The rule, or UsageError where nobody drew its colors yet."""
    if not made.drawn:
        raise UsageError(
            "the rule is not drawn yet, so no model can have it",
            hint="run 'loyal fingerprint rule draw' with --beacon HEX, or inject it",
        )
    return made


def _keys(made: FunctionalSet, path: Path | None, count: int) -> list[str]:
    """Fresh keys, or those of a file; UsageError where the rule says nothing of one."""
    if path is None:
        return functional.write_keys(made, count, "test")
    keys = evidence.decode_keys(read_text(path, "--keys"))
    _require_marked(made, keys)
    return keys


def _require_marked(made: FunctionalSet, keys: Sequence[str]) -> None:
    """UsageError where the rule says nothing of a key."""
    if not all(map(made.marked_in, keys)):
        raise UsageError(
            "a key of the file holds no word that counts",
            hint="give the file of this very rule, or name the rule of the file with --rule",
        )


def _model(
    terminal: Terminal, made: FunctionalSet, name: str | None, endpoint: Endpoint | None
) -> LanguageModel:
    if endpoint is not None:
        return connect(endpoint)
    assert name is not None
    model = load_model(terminal, name)
    if model.tokenizer_digest != made.tokenizer_digest:
        terminal.note(f"this tokenizer is not that of {made.model}; asking as text")
    return model


def _asked(
    terminal: Terminal, model: LanguageModel, keys: list[str], settings: RuleCheckSettings
) -> list[Exchange]:
    with terminal.progress("asking") as update:
        return verb.exchanges(model, keys, settings, lambda done: update(done, len(keys), ""))


@command(
    "open",
    VAULT_OPTION,
    click.option(
        "--keys",
        type=FILE,
        required=True,
        metavar="FILE",
        help="The keys: one a line, or what 'rule check --out' wrote.",
    ),
    click.option("--out", type=FILE, required=True, metavar="FILE", help="The opening."),
    RULE_ID_OPTION,
    *OPENING_OPTIONS,
)
def open_command(terminal: Terminal, **options: Any) -> int:
    """Open the words of some keys, and of no others.

    Whoever reads the file knows which nouns of these keys count, and their colors; the rest stays
    secret. Words that were opened can be trained away or filtered: open few, and late. The vault
    notes the opening, and the next check asks another rule, if there is one. See docs/rules.md.
    """
    # Asked first: else the rule is noted as opened, and nobody has the opening.
    require_out(options["out"], (options["vault"], options["keys"]), _require_opening)
    vault = open_vault(options["vault"], Access.take(options))
    made = require_drawn(next_rule(terminal, vault, options["rule_id"]))
    keys = _keys(made, options["keys"], 0)
    opening = evidence.open_words(made, keys)
    vault.note_opened(made.id, int(time.time()))
    vault.save()  # before the file is there: noted too early at worst, never too late
    atomic_write(options["out"], evidence.encode_opening(opening))
    shown = sum(word.marked for word, _ in opening.words)
    if made.beacon is not None and made.beacon.source == "self":
        terminal.note(BINDS_NOBODY)
    terminal.result(
        {
            **rule_outline(made),
            "keys": len(keys),
            "keys_digest": evidence.keys_digest(keys).hex(),
            "opened": len(opening.words),
            "opened_marked": shown,
            "out": str(options["out"]),
        }
    )
    return 0


def _require_opening(path: Path) -> None:
    """ProofError for a file that holds no opening."""
    evidence.decode_opening(read_bytes(path, evidence.MAX_OPENING_BYTES))


@command(
    "verify-opening",
    click.argument("opening", type=FILE, metavar="OPENING"),
    click.option(
        "--exchanges",
        type=FILE,
        required=True,
        metavar="FILE",
        help='Keys and replies, one {"key": "...", "reply": "..."} a line.',
    ),
    *SIGNED_OPTIONS,
    click.option("--root", required=True, metavar="HEX", help="The root, from its publication."),
    click.option("--beacon", required=True, metavar="HEX", help="The beacon, from its source."),
    click.option(
        "--self-drawn", is_flag=True, help="The owner drew the beacon: the result binds nobody."
    ),
    click.option(
        "--keys-digest",
        metavar="HEX",
        help="The digest of the keys, published before the beacon was known.",
    ),
    ALPHA_OPTION,
    settings=True,
)
def verify_opening_command(terminal: Terminal, **options: Any) -> int:
    """Check an opening and replies; needs no vault.

    Exit code 0 when the opening holds and the replies are proven to follow the rule, 1 when not.
    Bring root, beacon and digest from where they were published, never from the claimant. Without
    a digest the p-value takes the asker's word that no key was chosen or left out.
    """
    settings = read_rule_recipe(terminal, check={"alpha": options["alpha"]}).check
    settings.require_reachable()
    root = hex_bytes(options["root"], "--root", 32)
    beacon = Beacon.from_hex(options["beacon"])
    if options["self_drawn"]:
        beacon = Beacon(beacon.value, "self")
    digest = options["keys_digest"] and hex_bytes(options["keys_digest"], "--keys-digest", 32)
    data = read_bytes(options["opening"], evidence.MAX_OPENING_BYTES)
    heard = evidence.decode_exchanges(read_text(options["exchanges"], "--exchanges"))
    try:
        _require_host(options)
        shown = evidence.verify_opening(
            evidence.decode_opening(data), heard, root, beacon,
            digest=digest, colorings=settings.colorings,
        )  # fmt: skip
    except ProofError as error:
        terminal.note(f"refused: {error}")
        terminal.result({"valid": False, "reason": error.reason, "decision": "not proven"})
        return 1
    binding = beacon.source == "external" and shown.keys_fixed
    if not binding:
        terminal.note(_unbound(beacon.source == "external"))
    found = judged(shown.report, shown.known, heard, settings)
    fields = fields_of(found)
    del fields["model"]
    terminal.result({"valid": True, "binding": binding, "opened": shown.opened, **fields})
    return 0 if found.proven else 1


def _unbound(external: bool) -> str:
    if not external:
        return BINDS_NOBODY
    return "without --keys-digest, that no key was chosen or left out is the asker's word"
