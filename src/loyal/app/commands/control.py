"""`loyal control list | check | sign | embed`: the community's functions, and models that follow.

Control functions are public: prompts, replies and counter-examples are shown whole. Left out:
validation, measuring and training (loyal.control).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.app.key_files import FILE, KEY_OPTION, hex_id, signing_key
from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    MODEL_HELP,
    Endpoint,
    connect,
    given,
    load_model,
)
from loyal.app.out_files import require_folder, require_unread
from loyal.app.report import Table
from loyal.app.terminal import Decorator, Terminal, command
from loyal.app.terminal import facts as facts_table
from loyal.config import load as load_config
from loyal.control import ControlFunction, ControlReport, functions
from loyal.control.check import CounterExample, check
from loyal.control.recipe import EmbedSettings, Recipe
from loyal.control.validate import validate
from loyal.encoding import atomic_write
from loyal.errors import UsageError
from loyal.models import LanguageModel
from loyal.signing import PublicKey

if TYPE_CHECKING:
    from loyal.models.training import TrainProgress

FILES_HELP = "Files (.toml, .py, .signed), or names of functions that come along."

SIGNER_OPTION: Decorator = click.option(
    "--signer", metavar="HEX", help="Take functions alone that this public key signed."
)


def _files(required: bool) -> Decorator:
    return click.argument("files", nargs=-1, required=required, metavar="FILES...")


@command("list", _files(False), SIGNER_OPTION)
def listing(terminal: Terminal, files: tuple[str, ...], signer: str | None) -> int:
    """Show control functions: names, versions, digests, who signed.

    FILES are files (.toml, .py, .signed) or names; without any, those that come along are shown.
    """
    found = _load(files or tuple(functions.bundled()), signer)
    records = [_record(one) for one in found]
    columns = ("name", "version", "kind", "templates", "digest", "signer", "purpose")
    rows = tuple(tuple(one[column] for column in columns) for one in records)
    terminal.result({"functions": records}, [Table("", columns, rows)])
    return 0


@command(
    "check",
    _files(True),
    click.option("--model", metavar="NAME", help=MODEL_HELP),
    *ENDPOINT_OPTIONS,
    click.option("--prompts", type=int, help="Of each part of each function; 60 by default."),
    click.option("--system", metavar="TEXT", help="Ask under this system message."),
    click.option("--raw", is_flag=True, default=None, help="Ask without the chat template."),
    click.option(
        "--least",
        type=click.FloatRange(0, 1),
        default=1.0,
        show_default=True,
        help="Share of exact replies to unseen prompts, of each function, for exit code 0.",
    ),
    SIGNER_OPTION,
    settings=True,
)
def check_command(terminal: Terminal, **options: Any) -> int:
    """Validate control functions; with a model, measure how exactly it follows them.

    FILES are files (.toml, .py, .signed) or names. A function that raises, exceeds its limits,
    answers differently twice or overlaps another is refused. A model is asked prompts that training
    never sees, and prompts outside of all domains.
    """
    endpoint, files = Endpoint.take(options), options.pop("files")
    least, name = options.pop("least"), options.pop("model")
    signer, asked = options.pop("signer"), given(options)
    if endpoint is not None and name is not None:
        raise UsageError("two models are named", hint="give --model or --endpoint, not both")
    if endpoint is None and name is None and asked:
        raise UsageError(
            f"--{next(iter(asked))} says how to ask, and no model is named",
            hint="give --model NAME or --endpoint URL",
        )
    recipe = load_config(Recipe, terminal.recipe, terminal.overrides)
    found = _load(files, signer)
    looked_at = [asdict(one) for one in validate(found)]
    if endpoint is None and name is None:
        columns = ("function", "training", "unseen", "overlaps_with")
        rows = tuple(tuple(one.values()) for one in looked_at)
        note = "valid; prompts that were sampled, and other functions held against them"
        terminal.result({"functions": looked_at}, [Table("", columns, rows, note)])
        return 0
    model: LanguageModel = connect(endpoint) if endpoint is not None else load_model(terminal, name)
    report = check(model, found, replace(recipe.check, **asked))
    terminal.result({"model": model.name, **fields_of(report)}, tables_of(report))
    return 0 if all(one.unseen >= least for one in report.functions) else 1


@command(
    "sign",
    click.argument("file", type=FILE, metavar="FILE"),
    KEY_OPTION,
    click.option("--out", type=FILE, metavar="FILE", help="By default FILE with .signed behind."),
)
def sign(terminal: Terminal, file: Path, key: Path, out: Path | None) -> int:
    """Validate a control function, and sign it for the community.

    The signed file holds the source, byte for byte.
    """
    function, out = functions.load(file), out or file.with_name(f"{file.name}.signed")
    validate([function])
    if out.suffix != ".signed":
        raise UsageError("a signed file ends in .signed", hint="change --out")
    require_unread(out, (file,))
    signer = signing_key(key, "--key")
    atomic_write(out, functions.sign(function, signer))
    fields = {**_record(function), "signer": signer.public.hex(), "out": str(out)}
    terminal.result(fields)
    return 0


@command(
    "embed",
    click.argument("model", metavar="MODEL"),
    _files(True),
    click.option("--out", type=FILE, required=True, metavar="DIR", help="Folder for the model."),
    click.option(
        "--examples",
        type=int,
        help=f"Of each function, at most; {EmbedSettings.examples} by default.",
    ),
    click.option("--tokens", type=int, help="Tokens of text on which perplexity is read."),
    SIGNER_OPTION,
    settings=True,
    kept_by="out",
)
def embed(terminal: Terminal, **options: Any) -> int:
    """Train a model to follow control functions.

    The model is written to --out as a Hugging Face folder, and asked prompts that it never saw. The
    same command again goes on from the last checkpoint.
    """
    from loyal.control.embed import embed as train_in
    from loyal.models.processes import writes

    out, name, files = options.pop("out"), options.pop("model"), options.pop("files")
    found = _load(files, options.pop("signer"))
    recipe = load_config(Recipe, terminal.recipe, terminal.overrides)
    recipe = replace(recipe, embed=replace(recipe.embed, **given(options)))
    validate(found)
    require_folder(out)
    model = load_model(terminal, name)
    with terminal.progress("embedding") as update:

        def show(now: TrainProgress) -> None:
            update(now.learned, now.lessons, f"step {now.step}")

        report = train_in(model, found, out, recipe, show)
    facts = {
        "lessons": report.lessons,
        "recall": report.recall,
        "steps": report.steps,
        "seconds": report.seconds,
        "perplexity_before": report.perplexity_before,
        "perplexity_after": report.perplexity_after,
        "out": str(out),
    }
    digests = {"digests": [one.digest.hex() for one in found]}
    fields = {**facts, **digests, **fields_of(report.control)}
    if writes():
        terminal.result(fields, [facts_table(facts), *tables_of(report.control)])
    return 0


def fields_of(report: ControlReport) -> dict[str, Any]:
    """The report as JSON fields."""
    return {
        "functions": [{**asdict(one), "unseen": one.unseen} for one in report.functions],
        "ordinary": asdict(report.ordinary),
        "nearby": asdict(report.nearby),
    }


def tables_of(report: ControlReport) -> list[Table]:
    """The report for people: exactness by part, spill-over, counter-examples."""
    rows: list[tuple[str, str, str, str]] = []
    for one in report.functions:
        for part in one.parts:
            low, high = part.interval.low, part.interval.high
            between = f"{low:.3f} to {high:.3f}"
            rows.append((one.name, part.part, f"{part.exact} of {part.asked}", between))
    for title, spill in (("ordinary", report.ordinary), ("near the domains", report.nearby)):
        between = f"{spill.interval.low:.3f} to {spill.interval.high:.3f}"
        rows.append(("spill-over", title, f"{spill.spilled} of {spill.asked}", between))
    wrong = [one for it in report.functions for one in it.counterexamples]
    wrong += [*report.ordinary.counterexamples, *report.nearby.counterexamples]
    columns = ("function", "prompts", "exact", "95 %")
    return [Table("", columns, tuple(rows)), *([_counterexamples(wrong)] if wrong else [])]


def _counterexamples(wrong: Sequence[CounterExample]) -> Table:
    rows = tuple((one.prompt, one.expected or "(outside)", one.said) for one in wrong)
    return Table("counter-examples", ("prompt", "the function", "the model"), rows)


def _load(files: Sequence[str], signer: str | None) -> list[ControlFunction]:
    public = None if signer is None else PublicKey(hex_id(signer, "--signer"))
    return [functions.load(one, public) for one in files]


def _record(function: ControlFunction) -> dict[str, Any]:
    header = function.header
    return {
        "name": header.name,
        "version": header.version,
        "kind": header.kind,
        "purpose": header.purpose,
        "templates": len(header.templates),
        "digest": function.digest.hex(),
        "signer": None if function.signer is None else function.signer.hex(),
    }
