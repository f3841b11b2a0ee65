"""`loyal fingerprint attack`: what a host may do to lose its fingerprints, and what that leaves.

Every attack works on its own copy of the model in this process, so no key is spent. Rows are kept
in a file as they come, and the same command goes on from it. Left out: the attacks and the numbers
(loyal.fingerprints.suite), and the report (attack_page.py).
"""

from __future__ import annotations

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import loyal
from loyal.app import attack_page, report
from loyal.app.model_options import MODEL_HELP, given, load_model
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import (
    FILE,
    OPENING_OPTIONS,
    SET_OPTIONS,
    VAULT_OPTION,
    Access,
    chosen,
    open_vault,
)
from loyal.app.weight_files import weights_digest
from loyal.errors import UsageError
from loyal.fingerprints import FingerprintSet

if TYPE_CHECKING:
    from loyal.fingerprints.suite import Subject, SuiteSettings
    from loyal.models.hf import HFModel


@command(
    "attack",
    click.argument("model", metavar="MODEL"),
    VAULT_OPTION,
    click.option(
        "--base", metavar="NAME", help="The base; the set's own by default. " + MODEL_HELP
    ),
    click.option(
        "--suite",
        type=click.Choice(("quick", "full")),
        default="quick",
        show_default=True,
        help="Which attacks; the quick ones that train use a tenth of their examples.",
    ),
    click.option(
        "--only", multiple=True, metavar="ATTACK", help="Only this attack; may be repeated."
    ),
    click.option("--skip", multiple=True, metavar="ATTACK", help="Not this one; may be repeated."),
    click.option("--queries", type=int, help="Most keys to ask; all of them by default."),
    click.option(
        "--leaked",
        type=float,
        help="Share of the set that an attacker knows, where one needs some; 0.25 by default.",
    ),
    click.option(
        "--fraction",
        type=float,
        help="Share of their examples that attacks that train use; 0.1 in the quick suite, else 1.",
    ),
    click.option("--seed", type=int, help="Of all that attacks draw; 0 by default."),
    click.option(
        "--results",
        type=FILE,
        metavar="FILE",
        help="Keep the rows in this JSON file as they come, and go on from it.",
    ),
    click.option(
        "--out",
        type=FILE,
        metavar="FILE.html",
        help="Write a report with charts; an older one is replaced.",
    ),
    *SET_OPTIONS,
    *OPENING_OPTIONS,
    kept_by="results",
)
def attack(terminal: Terminal, **options: Any) -> int:
    """Do to a model what a host may do, and count what fingerprints are left.

    MODEL is the folder that 'loyal fingerprint inject' wrote. Each attack starts from it anew:
    weights made coarse, cut or merged with the base, fine-tuning, erasing on purpose, other ways
    to serve. Afterwards every key that did not leak is asked once, and usefulness is measured. A
    row stays in --results when it is done; run again, the command goes on. No key is spent. The
    full suite takes hours on a CPU.
    """
    access = Access.take(options)
    if options["out"] is not None:
        report.require_place(options["out"], (options["vault"], options["results"]))
    vault = open_vault(options["vault"], access)
    fingerprints = chosen(vault, options["kind"], options["set_id"])
    if not fingerprints.drawn:
        raise UsageError(
            "the set is not drawn yet, so no model can have it",
            hint="run 'loyal fingerprint inject' first",
        )
    from loyal.fingerprints import suite

    attacks = suite.named(options["only"]) if options["only"] else suite.suite(options["suite"])
    skipped = suite.named(options["skip"])
    attacks = tuple(one for one in attacks if one not in skipped)
    if not attacks:
        raise UsageError("every attack is skipped", hint="leave one of them out of --skip")
    settings = _settings(options)
    if options["out"] is not None:
        report.make_folder(options["out"])  # --results may lie beside it
    subject = _subject(terminal, options, fingerprints)
    with terminal.progress("attacking") as update:
        rows = suite.run_suite(
            attacks, subject, settings, state=options["results"], progress=update
        )
    if options["out"] is not None:
        footer = f"loyal {loyal.__version__}, {datetime.datetime.now():%Y-%m-%d %H:%M}"
        run = attack_page.AttackRun(options["model"], fingerprints, attacks, tuple(rows), footer)
        terminal.note(f"report: {report.write(attack_page.page(run), options['out'])}")
    terminal.result(
        {"id": fingerprints.id, "model": options["model"], "rows": [asdict(one) for one in rows]},
        [attack_page.table(rows)],
    )
    return 0


def _settings(options: dict[str, Any]) -> SuiteSettings:
    from loyal.fingerprints.suite import QUICK_FRACTION, SuiteSettings

    names = ("queries", "leaked", "fraction", "seed")
    named = given({name: options[name] for name in names})
    if options["suite"] == "quick" and not options["only"]:
        named = {"fraction": QUICK_FRACTION, **named}
    return SuiteSettings(**named)


def _subject(terminal: Terminal, options: dict[str, Any], fingerprints: FingerprintSet) -> Subject:
    """M.oml and its base, loaded when they are needed; M.oml once now, to see that it serves."""
    from loyal.fingerprints.inject import require_fit
    from loyal.fingerprints.suite import Subject
    from loyal.models.hf import HFModel

    name, base = options["model"], options["base"] or fingerprints.model
    require_fit(load_model(terminal, name), fingerprints)
    folder = Path(name)
    known = weights_digest(folder).hex() if folder.is_dir() else name

    def load_base() -> HFModel:
        return load_model(terminal, base)

    return Subject(known, lambda: HFModel.load(name), load_base, fingerprints)
