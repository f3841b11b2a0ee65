"""`loyal fingerprint check`: ask a model keys, in this process or behind a server, and decide.

Keys that a server is asked are noted as spent before they leave, so that neither a crash nor a
broken answer makes the vault forget what was shown. Keys that a model in this process is asked
stay fresh. Left out: the asking and the statistics (loyal.fingerprints.check).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    MODEL_HELP,
    Endpoint,
    connect,
    given,
    load_model,
    read_recipe,
)
from loyal.app.report import Table
from loyal.app.terminal import Terminal, Update, command
from loyal.app.vaults import (
    FILE,
    OPENING_OPTIONS,
    SET_OPTIONS,
    VAULT_OPTION,
    Access,
    chosen,
    open_vault,
)
from loyal.errors import UsageError
from loyal.fingerprints import FingerprintSet, Vault
from loyal.models import LanguageModel, Prompt, Reply, Sampling, TokenChance

if TYPE_CHECKING:
    from loyal.fingerprints.check import CheckReport, CheckSettings

GREETING = "Hello!"
"""Asked before any key: a wrong address or a broken server then costs no fingerprint."""


@command(
    "check",
    VAULT_OPTION,
    click.option("--model", metavar="NAME", help=MODEL_HELP),
    *ENDPOINT_OPTIONS,
    click.option("--queries", type=int, help="Most keys to ask; all of them by default."),
    click.option("--alpha", type=float, help="Chance of a false claim, at most; 1e-6 by default."),
    click.option("--temperature", type=float, help="0, the default, asks for greedy replies."),
    click.option("--system", metavar="TEXT", help="Ask under this system message."),
    click.option("--raw", is_flag=True, default=None, help="Ask without the chat template."),
    click.option("--all-keys", is_flag=True, help="Do not stop as soon as the claim is proven."),
    click.option(
        "--resume",
        type=FILE,
        metavar="STATE",
        help="Keep the state of the check in this file, and go on from it.",
    ),
    *SET_OPTIONS,
    *OPENING_OPTIONS,
    settings=True,
    kept_by="resume",
)
def check(terminal: Terminal, **options: Any) -> int:
    """Ask a model keys, and say whether it is proven.

    The model is --model in this process, or --endpoint. Exit code 0 when it is proven, 1 when not.
    Keys that a server is asked count as spent from then on.
    """
    access, endpoint = Access.take(options), Endpoint.take(options)
    if (options["model"] is None) == (endpoint is None):
        raise UsageError("say which model to check", hint="give --model NAME or --endpoint URL")
    settings = _settings(terminal, options)
    vault = open_vault(options["vault"], access)
    fingerprints = chosen(vault, options["kind"], options["set_id"])
    if not fingerprints.drawn:
        raise UsageError(
            "the set is not drawn yet, so no model can have it",
            hint="run 'loyal fingerprint inject' first",
        )
    if endpoint is not None:
        report = ask_server(terminal, endpoint, vault, fingerprints, settings, options["resume"])
    else:
        model = load_model(terminal, options["model"])
        if model.tokenizer_digest != fingerprints.tokenizer_digest:
            terminal.note(f"this tokenizer is not that of {fingerprints.model}; asking as text")
        report = ask(terminal, model, fingerprints, settings, state=options["resume"])
    fields = {"id": fingerprints.id, **fields_of(report)}
    terminal.result(fields, [table_of(report)])
    return 0 if report.decision == "proven" else 1


def fields_of(report: CheckReport) -> dict[str, Any]:
    """The report as JSON fields; `interval` is [low, high]."""
    return {
        "queries": report.queries,
        "hits": report.hits,
        "p_value": report.p_value,
        "interval": [report.interval.low, report.interval.high],
        "decision": report.decision,
        "model": report.model,
        "strategy": report.strategy,
        "seconds": report.seconds,
        "alpha": report.alpha,
    }


def table_of(report: CheckReport) -> Table:
    """The report for people."""
    low, high = report.interval.low, report.interval.high
    rows = (
        ("decision", report.decision),
        ("hits", f"{report.hits} of {report.queries}"),
        ("p-value", report.p_value),
        ("claimed below", report.alpha),
        ("share of keys that hit, 95 %", f"{low:.3f} to {high:.3f}"),
        ("model", report.model),
        ("strategy", report.strategy),
        ("seconds", report.seconds),
    )
    return Table("", ("", ""), rows)


def ask(
    terminal: Terminal,
    model: LanguageModel,
    fingerprints: FingerprintSet,
    settings: CheckSettings,
    *,
    unspent: Sequence[int] | None = None,
    state: Path | None = None,
) -> CheckReport:
    """Check under a progress bar; errors are those of `loyal.fingerprints.check`."""
    from loyal.fingerprints import check as verb

    most = settings.queries or len(fingerprints if unspent is None else unspent)
    with terminal.progress("asking") as update:
        count = _Count(update, most)
        return verb.check(
            model, fingerprints, settings, unspent=unspent, state=state, on_asked=count.hear
        )


@dataclass
class _Count:
    """The answers of this run, for its progress bar."""

    update: Update
    most: int
    asked: int = 0
    hits: int = 0

    def hear(self, answer: Any) -> None:
        self.asked += 1
        self.hits += answer.hit
        self.update(self.asked, self.most, f"{self.hits} hits")


@dataclass(frozen=True, repr=False)
class Spending:
    """A server's model that is asked no key before the vault has noted it as spent."""

    model: LanguageModel
    vault: Vault
    set_id: str

    @property
    def name(self) -> str:
        """What the server calls its model."""
        return self.model.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """Replies to keys, all of which are spent and saved first."""
        reason = f"asked of {self.name}"[:200]
        self.vault.spend(self.set_id, [one.text for one in prompts], int(time.time()), reason)
        self.vault.save()
        return self.model.generate(prompts, sampling)

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """Not asked by a check."""
        raise NotImplementedError

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Not asked by a check."""
        raise NotImplementedError


def ask_server(
    terminal: Terminal,
    endpoint: Endpoint,
    vault: Vault,
    fingerprints: FingerprintSet,
    settings: CheckSettings,
    state: Path | None,
) -> CheckReport:
    """Check a server with the unspent keys of a set, each noted as spent before it is asked."""
    model = connect(endpoint)
    terminal.note(f"asking {endpoint.model}; its keys are spent from now on")
    greeting = Prompt(GREETING, settings.system, settings.raw)
    model.generate([greeting], Sampling(settings.tokens, settings.temperature))
    spent = {one.index for one in vault.spent(fingerprints.id)}
    unspent = [index for index in range(len(fingerprints)) if index not in spent]
    asked = Spending(model, vault, fingerprints.id)
    return ask(terminal, asked, fingerprints, settings, unspent=unspent, state=state)


def _settings(terminal: Terminal, options: dict[str, Any]) -> CheckSettings:
    from loyal.fingerprints.check import CheckSettings

    names = ("queries", "alpha", "temperature", "system", "raw")
    named = {name: options[name] for name in names}
    named["early_stop"] = False if options["all_keys"] else None
    if terminal.recipe is None and not terminal.overrides:
        return CheckSettings(**given(named))  # a whole recipe needs torch, a server's check none
    return read_recipe(terminal, check=named).check
