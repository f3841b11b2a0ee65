"""`loyal align train | harden | report`: teach a model a community's values, and see what it kept.

Left out: making preference files (align_data.py), and training and measuring (loyal.alignment).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import loyal
from loyal.alignment import Judge, hardening_file
from loyal.alignment.hardening_file import Hardening
from loyal.alignment.judge import Calibrated, made_of
from loyal.alignment.mixture import blend
from loyal.alignment.settings import Recipe
from loyal.app import align_page, report
from loyal.app.align_files import examples_of, held_out_pairs, pairs_of, read_records
from loyal.app.commands.constitution import read_usable_constitution
from loyal.app.judge_options import CALIBRATION, JUDGE_OPTIONS, calibrated, judge_of
from loyal.app.key_files import FILE
from loyal.app.model_options import MODEL_HELP, given, load_model
from loyal.app.out_files import require_folder
from loyal.app.report import Table
from loyal.app.terminal import Terminal, command, facts
from loyal.community import Constitution
from loyal.config import load as load_config
from loyal.errors import JudgeError

if TYPE_CHECKING:
    from loyal.alignment.align import Run
    from loyal.models.hf import HFModel

OUT = click.option("--out", type=FILE, required=True, metavar="DIR", help="Folder for the model.")

CONSTITUTION_HELP = "A path, or a name of 'loyal constitution list'."


@command(
    "train",
    click.argument("model", metavar="MODEL"),
    click.argument("files", nargs=-1, required=True, type=FILE, metavar="PREFERENCES..."),
    OUT,
    click.option(
        "--constitution",
        metavar="CONSTITUTION",
        help="Each value counts as its weight here says, however many pairs it has. "
        + CONSTITUTION_HELP,
    ),
    click.option("--epochs", type=int, help="Passes over the pairs; 1 by default."),
    click.option("--rank", type=int, help="Of LoRA, merged in the end; 0 trains every weight."),
    settings=True,
    kept_by="out",
)
def train(terminal: Terminal, **options: Any) -> int:
    """Train a model to prefer what a community prefers.

    PREFERENCES are files of 'loyal align data', or any in TRL's form; each pair's weight is a
    factor on its loss. Demonstrations in them are imitated beside the pairs. The same command
    again goes on from the last checkpoint. --set objective.kind=dpo changes the loss, --set
    align.divergence=8 holds everything else more firmly, --set guards.perplexity=1.02 says what
    may be lost, --set latent.steps=4 adds an adversary; --set mixture.value=600000 with
    mixture.general and mixture.safety gives each kind of data its share of the weight, in
    millionths ('loyal align search' finds one).
    """
    from loyal.alignment.align import align

    recipe = load_config(Recipe, terminal.recipe, terminal.overrides)
    named = given({name: options[name] for name in ("epochs", "rank")})
    recipe = replace(recipe, align=replace(recipe.align, **named))
    name = options["constitution"]
    constitution = None if name is None else read_usable_constitution(name)
    records = read_records(options["files"], constitution)
    pairs, general = pairs_of(records), examples_of(records)
    if recipe.mixture is not None:
        mixed = blend(records, recipe.mixture)
        pairs, general = list(mixed.pairs), list(mixed.examples)
        recipe = replace(recipe, align=replace(recipe.align, mixed=True))
    work = (options["model"], options["out"])
    with _training(terminal, work, "aligning") as (model, run, past):
        found = align(model, pairs, recipe, general, run)
        past += [one for one in hardening_file.choosers(records) if one not in past]
    fields = {
        name: value for name, value in asdict(found).items() if not isinstance(value, dict | tuple)
    }
    for name, wins in (("before", found.before), ("after", found.after)):
        fields |= {f"held_out_won_{name}": wins.rate, f"held_out_margin_{name}": wins.margin}
    fields |= {"held_out_pairs": found.after.pairs, "out": str(options["out"])}
    readings = [asdict(one) for one in found.readings]
    terminal.result({**fields, "readings": readings}, [facts(fields)])
    return 0


@command(
    "harden",
    click.argument("model", metavar="MODEL"),
    click.argument("constitution", metavar="CONSTITUTION"),
    OUT,
    click.option(
        "--mode",
        type=click.Choice(("plain", "static", "adaptive")),
        help="adaptive (the default) attacks the model as it is in each round; static trains on "
        "attacks drawn beforehand, plain on none: to compare with.",
    ),
    click.option("--rounds", type=int, help="3 by default."),
    *JUDGE_OPTIONS,
    CALIBRATION,
    settings=True,
    kept_by="out",
)
def harden(terminal: Terminal, **options: Any) -> int:
    """Harden a model's values against people who argue.

    Each round attacks the model, keeps the attacks whose replies the judge scores lowest, and
    trains on the authors' replies to them; what a round costs too much is taken back. Held-out
    cases and families of attacks stay unseen, for 'loyal align report'. The same command again goes
    on where it was cut off. Which judge it was stands in the folder: the same one is not to measure
    what it trained.
    """
    require_folder(options["out"])  # before a probe's model is loaded
    from loyal.alignment import adversarial

    recipe = load_config(Recipe, terminal.recipe, terminal.overrides)
    named = given({name: options[name] for name in ("mode", "rounds")})
    recipe = replace(recipe, harden=replace(recipe.harden, **named))
    constitution = read_usable_constitution(options["constitution"])
    judge = _judge(terminal, constitution, options)
    work = (options["model"], options["out"])
    with _training(terminal, work, "hardening", rounds=True) as (model, run, past):
        found = adversarial.harden(model, constitution, judge, recipe, run=run)
        past.append(Hardening(judge.name, made_of(judge), constitution.digest.hex()))
    rows = tuple(
        (
            one.number + 1, one.attacks, one.broken, one.abstained, one.pairs,
            100 * one.plain_before.rate, 100 * one.plain_after.rate, one.stopped or None,
        )
        for one in found.rounds
    )  # fmt: skip
    columns = (
        "round", "attacks", "broke a value", "no score", "pairs trained", "plain kept before, %",
        "after, %", "taken back",
    )  # fmt: skip
    fields = {"judge": found.judge, "seconds": found.seconds, "out": str(options["out"])}
    terminal.result(
        {**fields, "mode": found.mode, "rounds": [asdict(one) for one in found.rounds]},
        [Table("", columns, rows), facts(fields)],
    )
    return 0


@command(
    "report",
    click.argument("constitution", metavar="CONSTITUTION"),
    click.option(
        "--base", required=True, metavar="NAME", help="The untouched model. " + MODEL_HELP
    ),
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME",
        help="A model to compare with it; may be repeated.",
    ),
    click.option(
        "--preferences",
        "files",
        multiple=True,
        type=FILE,
        metavar="FILE",
        help="Held-out pairs, in place of the constitution's own.",
    ),
    click.option("--attacks", type=int, help="Of each family; 4 by default."),
    click.option(
        "--task",
        type=FILE,
        metavar="FILE",
        help="Multiple-choice questions, as JSON lines with query, choices and gold.",
    ),
    click.option(
        "--out",
        type=FILE,
        metavar="FILE.html",
        help="Write a report with charts; an older one is replaced.",
    ),
    click.option(
        "--same-judge",
        is_flag=True,
        help="Measure although the judge shares a model or data with one that hardened a model, or "
        "chose its pairs; the report says so.",
    ),
    *JUDGE_OPTIONS,
    CALIBRATION,
    settings=True,
    kept_by="out",
)
def report_command(terminal: Terminal, **options: Any) -> int:
    """Compare models: values kept plainly and under each family of attacks, and what it cost.

    All models are asked the same held-out questions. Shares come with 95 % intervals; perplexity,
    first words and replies to ordinary prompts are compared with the base's, and refusals counted
    where harm is asked for, where it only sounds so, and where nothing is at stake. With --out,
    what was measured is kept in FILE.html.state until the report is written, and the same command
    goes on from it.
    """
    from loyal.alignment.evaluate import Exam
    from loyal.alignment.evaluate_state import Kept
    from loyal.models.evaluate import read_choices

    recipe = load_config(Recipe, terminal.recipe, terminal.overrides)
    settings = replace(recipe.report, **given({"attacks": options["attacks"]}))
    out: Path | None = options["out"]
    if out is not None:
        read = (options[name] for name in ("constitution", "probe", "calibration"))
        report.require_place(out, (*read, *options["files"], options["task"], terminal.recipe))
    constitution = read_usable_constitution(options["constitution"])
    pairs = tuple(held_out_pairs(options["files"], constitution))
    choices = tuple(read_choices(options["task"])) if options["task"] is not None else ()
    judge = _judge(terminal, constitution, options)
    names = (options["base"], *options["models"])
    labels = _labels(names)
    flattered = tuple(
        label for label, name in zip(labels, names, strict=True) if _shares(judge, Path(name))
    )
    if flattered and not options["same_judge"]:
        raise JudgeError(
            f"the judge that is to measure {', '.join(flattered)} shares a model or data with one "
            "that hardened it, or chose its pairs",
            hint=f"{hardening_file.NAME} in its folder says which; give another --endpoint-model, "
            "or a --probe of other values; --same-judge measures all the same",
        )
    exam = Exam(constitution, judge, settings, pairs, choices)
    kept = Kept(None if out is None else out.with_name(f"{out.name}.state"), exam)
    if kept.replaced:
        terminal.note(f"{kept.path} is of another exam: everything is measured anew")
    elif kept.models or kept.answers:
        terminal.note(f"going on from {kept.path}: {len(kept.models)} models were measured")
    base = load_model(terminal, names[0])
    if out is not None:
        report.make_folder(out)
    measured = [(labels[0], kept.measured(base))]
    for label, name in zip(labels[1:], names[1:], strict=True):
        measured.append((label, kept.measured(load_model(terminal, name), base)))
    footer = f"loyal {loyal.__version__}, {datetime.datetime.now():%Y-%m-%d %H:%M}"
    title = f"{constitution.name} {constitution.version}"
    how = _how_calibrated(judge, options)
    run = align_page.AlignRun(title, tuple(measured), footer, flattered, how)
    if out is not None:
        terminal.note(f"report: {report.write(align_page.page(run), out)}")
        kept.drop()
    tables = (align_page.table(run), align_page.corrected(run), align_page.cost(run))
    terminal.result(align_page.fields(run), [one for one in tables if one is not None])
    return 0


@contextmanager
def _training(
    terminal: Terminal, places: tuple[str, Path], title: str, *, rounds: bool = False
) -> Iterator[tuple[HFModel, Run, list[Hardening]]]:
    """The model, what goes on around its training, and who hardened it so far.

    `places` are its name and the folder that it is written to in the end, with those who hardened
    it by then. UsageError where that is not free for a run of several `rounds`, or of one.
    """
    from loyal.alignment.align import Run
    from loyal.models.model_folder import work_folder, write

    name, out = places
    require_folder(out)
    work = work_folder(out, rounds=rounds)
    past = list(hardening_file.read(Path(name)))
    model = load_model(terminal, name)
    with terminal.progress(title) as update:
        yield model, Run(work, progress=_shown(update)), past
    write(model, out, {hardening_file.NAME: hardening_file.content(past)} if past else None)


def _shown(update: Callable[[int, int, str], None]) -> Callable[[int, int], None]:
    return lambda done, of: update(done, of, "steps")


def _judge(terminal: Terminal, constitution: Constitution, options: dict[str, Any]) -> Judge:
    """The judge of the options; without any, one that knows the authors' replies alone."""
    found = judge_of(terminal, constitution, options)
    if found is not None:
        return calibrated(terminal, constitution, found, options)
    from loyal.alignment.writers import CaseJudge

    terminal.note(
        "judged by likeness to the authors' replies, which leaves most without a score: "
        "give --probe FILE or --endpoint URL"
    )
    return CaseJudge(constitution)


def _how_calibrated(judge: Judge, options: dict[str, Any]) -> str:
    """What the judge's chances were held against, for people."""
    if not isinstance(judge, Calibrated):
        return "not calibrated"
    if options["calibration"] is not None:
        return "calibrated on labeled replies"
    return "calibrated on what its training left out"


def _shares(judge: Judge, folder: Path) -> bool:
    """Whether the judge shares a model or data with one that the folder's model learned from."""
    known = made_of(judge) | hardening_file.named(judge.name)
    return any(known & one.made_of for one in hardening_file.read(folder))


def _labels(names: Sequence[str]) -> tuple[str, ...]:
    """The folders' own names, where those tell the models apart."""
    short = tuple(Path(one).name for one in names)
    return short if len(set(short)) == len(short) else tuple(names)
