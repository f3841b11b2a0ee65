"""The `loyal` command: which commands there are, loaded when they are called, and how a run ends.

Holds the table of commands, the lazy groups and `main`. Leaves out what commands do (commands/),
what they print (terminal.py) and the words of errors (failures.py).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

import loyal
from loyal.app import failures
from loyal.app.terminal import SHARED_OPTIONS, Terminal, forgive


@dataclass(frozen=True)
class Entry:
    """A command that is not loaded yet."""

    path: str
    """module:attribute under loyal.app.commands."""
    help: str
    """The first sentence of its help, so that listing loads nothing; a test compares them."""


ROOT: Mapping[str, Entry] = {
    "demo": Entry("demo:demo", "The whole story on a real model, in minutes, with a report."),
    "doctor": Entry("doctor:doctor", "What is installed, what is missing, how to get it."),
    "simulate": Entry("simulate:simulate", "Live through a community of hosts and adversaries."),
}

MODELS: Mapping[str, Entry] = {
    "list": Entry("models:listing", "Name the models that need no hub."),
    "fetch": Entry("models:fetch", "Get a model and keep it in the cache folder."),
    "info": Entry("models:info", "Show a model's folder, size and license."),
}

FINGERPRINT: Mapping[str, Entry] = {
    "generate": Entry("generate:generate", "Make keys and candidate responses in a vault."),
    "commit": Entry("evidence:commit", "Print the root to publish; draw the responses."),
    "inject": Entry("inject:inject", "Train a model to give the responses."),
    "check": Entry("check:check", "Ask a model keys, and say whether it is proven."),
    "attack": Entry(
        "attack:attack", "Do to a model what a host may do, and count what fingerprints are left."
    ),
    "prove": Entry("evidence:prove", "Open single leaves of the commitment as proof files."),
    "verify-proof": Entry("evidence:verify_proof", "Check a proof file; needs no vault."),
    "deal": Entry("trace:deal", "Write one host's part of a tracing set into a vault of its own."),
    "trace": Entry("trace:trace", "Name the hosts whose copies went into a model."),
    "info": Entry("custody:info", "Show what a vault holds, without its secrets."),
    "split": Entry("custody:split", "Split an age identity into k-of-n shares."),
    "join": Entry("custody:join", "Bring shares together into the identity again."),
}

FINGERPRINT_RULE: Mapping[str, Entry] = {
    "create": Entry("rule:create", "Make a secret rule over words in a vault."),
    "keys": Entry("rule:keys", "Write keys beforehand, and print the digest to publish."),
    "draw": Entry("rule:draw", "Print the root to publish; draw the colors."),
    "inject": Entry("rule:inject", "Train a model to follow the rule."),
    "check": Entry("rule_check:check", "Ask a model keys, and say whether it knows the rule."),
    "open": Entry("rule_check:open_command", "Open the words of some keys, and of no others."),
    "verify-opening": Entry(
        "rule_check:verify_opening_command", "Check an opening and replies; needs no vault."
    ),
}

CONTROL: Mapping[str, Entry] = {
    "list": Entry(
        "control:listing", "Show control functions: names, versions, digests, who signed."
    ),
    "check": Entry(
        "control:check_command",
        "Validate control functions; with a model, measure how exactly it follows them.",
    ),
    "sign": Entry("control:sign", "Validate a control function, and sign it for the community."),
    "embed": Entry("control:embed", "Train a model to follow control functions."),
    "solve": Entry(
        "solve:solve", "Let a model draft answers to a task until its checker accepts one."
    ),
    "recheck": Entry("solve:recheck", "Check an accepted answer again, without any model."),
}

CONTROL_GUARD: Mapping[str, Entry] = {
    "show": Entry("control_guard:show", "Show the evidence of a host's guard, line by line."),
    "verify": Entry("control_guard:verify", "Check the evidence: signatures, order, and a prompt."),
}

ALIGN: Mapping[str, Entry] = {
    "attacks": Entry(
        "align:attacks_command", "List the families of prompt attacks on values, or show one."
    ),
    "data": Entry(
        "align_data:data", "Make preference pairs and demonstrations from a constitution."
    ),
    "review": Entry(
        "align_data:review_command", "Say what is wrong with a file of preferences, or looks so."
    ),
    "train": Entry("align_train:train", "Train a model to prefer what a community prefers."),
    "search": Entry(
        "align_search:search_command",
        "Find how much values, general and safety data should weigh in training.",
    ),
    "harden": Entry("align_train:harden", "Harden a model's values against people who argue."),
    "report": Entry(
        "align_train:report_command",
        "Compare models: values kept plainly and under each family of attacks, and what it cost.",
    ),
}

JUDGE: Mapping[str, Entry] = {
    "train": Entry("judge:train", "Train the embedded judge on a constitution's own cases."),
    "calibrate": Entry(
        "judge:calibrate_command",
        "Measure a judge on labeled replies: AUC, calibration curve, agreement.",
    ),
    "score": Entry(
        "judge:score",
        "Score replies: a probability that each keeps its value, or none, with a reason.",
    ),
}

PROVER: Mapping[str, Entry] = {
    "plan": Entry("prover:plan", "Say how many keys a license needs, and at what pace."),
    "bond": Entry("prover_run:bond", "Put stake at risk, to be drawn as a prover."),
    "run": Entry(
        "prover_run:run", "Ask the host each drawn key, and claim what had no permission."
    ),
    "ask": Entry("prover_run:ask", "Ask a host the keys of a secret rule; none of them is spent."),
    "sort": Entry("prover_run:sort", "Sort what a host said by the log as it stands now."),
}

VERIFIER: Mapping[str, Entry] = {
    "bond": Entry(
        "verifier:bond",
        "Put stake at risk, to be heard as a verifier.",
    ),
    "run": Entry(
        "verifier:run",
        "Check cases, and sign a verdict on what was checked.",
    ),
    "prompts": Entry("sample:prompts", "Draw prompts to promise from a constitution."),
    "sample": Entry(
        "sample:sample", "Sample the reference model's replies to prompts that are to be promised."
    ),
    "promise": Entry(
        "breach:promise",
        "Fix the prompts and the reference's judged replies, before a host is asked.",
    ),
    "alignment": Entry(
        "breach:alignment", "Ask a host for descent first, then whether the values still hold."
    ),
    "recheck": Entry("breach:recheck", "Check evidence of broken alignment again, offline."),
}

DISPUTE: Mapping[str, Entry] = {
    "show": Entry("dispute:show", "Show how far claims have come, and who said what."),
    "violation": Entry(
        "dispute:violation", "Show that a host answered a prompt that its license denies."
    ),
    "breaches": Entry("breach:breaches", "Show promised prompts and breaches, and who said what."),
    "breach": Entry("breach:breach", "Bring promises, breaches and verdicts on them into the log."),
}

WITNESS: Mapping[str, Entry] = {
    "run": Entry("witness:run", "Cosign a log's checkpoints as long as it only grows."),
}

HOST: Mapping[str, Entry] = {
    "serve": Entry("host:serve", "Answer users under a license, each query with its permission."),
}


PLATFORM: Mapping[str, Entry] = {
    "init": Entry("platform:init", "Make a platform: its secret keys, its settings."),
    "key": Entry("platform:key", "Give a host an API key, or take its keys back."),
    "credit": Entry(
        "platform:credit", "Credit money that came in from outside to a party's free account."
    ),
    "serve": Entry("platform:serve", "Serve the platform: permissions, commands, the log."),
}

REGISTRY: Mapping[str, Entry] = {
    "key": Entry("registry:key", "Print a key's public half, and draw the key where none is."),
    "publish": Entry("registry:publish", "Bring a model and its owners into the registry."),
    "show": Entry("registry:show", "Show models: owners, parent, bond, challenges."),
    "challenge": Entry("registry:challenge", "Say as an owner that a model descends from yours."),
    "settle": Entry("registry:settle", "Close a challenge that is decided, or whose time is over."),
    "bond-back": Entry("registry:bond_back", "Take a publisher's bond back."),
}

LICENSE: Mapping[str, Entry] = {
    "request": Entry(
        "license:request", "Sign the terms of a license as its host, into a file for the platform."
    ),
    "sign": Entry(
        "license:sign", "Sign a host's terms as the platform, and bring the license into the log."
    ),
    "commit": Entry(
        "license:commit",
        "Commit to a host's own fingerprints, before its model is made and delivered.",
    ),
    "deliver": Entry(
        "license:deliver", "Note that a host was given its own model: permissions begin."
    ),
    "download": Entry(
        "license:download",
        "Get the license file that `loyal host serve` reads, and check both signatures.",
    ),
    "tokens": Entry(
        "license:tokens",
        "Buy allowance tokens: queries that are paid beforehand, for an outage of the platform.",
    ),
}


CONSTITUTION: Mapping[str, Entry] = {
    "list": Entry("constitution:listing", "Name the constitutions that come with the package."),
    "new": Entry("constitution:new", "Print a small constitution to begin with, or write it."),
    "check": Entry("constitution:check", "Say what is wrong with a constitution, and what to do."),
    "show": Entry(
        "constitution:show", "Show a constitution and its digest, or print it in the other form."
    ),
    "diff": Entry(
        "constitution:diff", "Show what changed between two versions, and what number that needs."
    ),
    "sign": Entry("constitution:sign", "Sign a constitution; several members may, into one file."),
    "verify": Entry("constitution:verify", "Check who signed a constitution."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; listing them imports nothing."""

    def __init__(self, entries: Mapping[str, Entry], **settings: Any) -> None:
        super().__init__(**settings)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, in the order of the story."""
        return [*self.commands, *self.entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now when it is an entry."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module, attribute = entry.path.split(":")
        found = getattr(importlib.import_module(f"loyal.app.commands.{module}"), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{entry.path} is no command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in --help."""
        rows = [(name, group.get_short_help_str(70)) for name, group in self.commands.items()]
        rows += [(name, entry.help) for name, entry in self.entries.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _group(name: str, help_text: str, entries: Mapping[str, Entry]) -> LazyGroup:
    group = LazyGroup(entries, name=name, help=help_text)
    return _with_shared_options(group)


def _with_shared_options(group: LazyGroup) -> LazyGroup:
    for option in SHARED_OPTIONS:
        option(group)
    return group


def _root() -> LazyGroup:
    root = LazyGroup(ROOT, name="loyal", help=(loyal.__doc__ or "").splitlines()[0])
    click.version_option(loyal.__version__, prog_name="loyal")(root)
    root.add_command(_group("models", "Language models: which there are, and get them.", MODELS))
    pairs = _group("fingerprint", "Secret fingerprints: make, inject, check, prove.", FINGERPRINT)
    pairs.add_command(_group("rule", "A secret rule: keys without end.", FINGERPRINT_RULE))
    root.add_command(pairs)
    control = _group("control", "Control functions: check, sign, embed; solve; guard.", CONTROL)
    control.add_command(_group("guard", "Where a host's model was not exact.", CONTROL_GUARD))
    root.add_command(control)
    root.add_command(_group("align", "A community's values: data, training, attacks.", ALIGN))
    root.add_command(_group("judge", "Judges of values: train, measure, use.", JUDGE))
    root.add_command(_group("prover", "Provers: who asks hosts their keys.", PROVER))
    root.add_command(_group("verifier", "Verifiers: who judges claims.", VERIFIER))
    root.add_command(_group("dispute", "Claims as the log has them; violations.", DISPUTE))
    root.add_command(_group("witness", "Witnesses: who sees that a log only grows.", WITNESS))
    root.add_command(_group("platform", "A platform: permits, keeps the log.", PLATFORM))
    root.add_command(_group("registry", "Models, their owners, their descent.", REGISTRY))
    root.add_command(_group("license", "Licenses: ask, sign, deliver, download.", LICENSE))
    root.add_command(
        _group("constitution", "What a community values: check, compare, sign.", CONSTITUTION)
    )
    root.add_command(_group("host", "A host: answers users under a signed license.", HOST))
    return _with_shared_options(root)


root = _root()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code (see failures.py). Raises nothing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "_LOYAL_COMPLETE" in os.environ:
        root.main(given, prog_name="loyal")
    # Known before parsing, so that a wrong option beside --json is answered in JSON too.
    terminal = Terminal(json="--json" in given, debug="--debug" in given)
    forgive(sys.stdout)
    try:
        code = _run(given, terminal)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        code = failures.report(terminal, error)
        if code == failures.BROKEN_PIPE:
            # The interpreter flushes stdout once more at exit and would complain there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code


def _run(arguments: list[str], terminal: Terminal) -> int:
    try:
        with root.make_context("loyal", arguments, obj=terminal) as context:
            return int(root.invoke(context) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        if not terminal.json and error.ctx is not None:
            click.echo(error.ctx.get_help(), err=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
