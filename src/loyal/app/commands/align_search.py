"""`loyal align search`: how much values, general and safety data should weigh in training.

Left out: training on what was found (align_train.py), and the search (loyal.alignment.search).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import click

from loyal.alignment import search_table
from loyal.alignment.mixture import Mixture
from loyal.alignment.search_table import Outcome
from loyal.alignment.settings import Goal, Recipe
from loyal.app.align_files import read_records
from loyal.app.commands.align_train import CONSTITUTION_HELP
from loyal.app.commands.constitution import read_usable_constitution
from loyal.app.key_files import FILE
from loyal.app.model_options import given, load_model
from loyal.app.out_files import require_out
from loyal.app.report import Cell, Table
from loyal.app.terminal import Terminal, command, facts
from loyal.config import load as load_config

COLUMNS = (
    "run", "value, %", "general, %", "safety, %", "score", "pairs won, %", "margin, nats a token",
    "perplexity, x", "same replies, %", "harm declined, %", "harmless declined, %", "taken back",
)  # fmt: skip


@command(
    "search",
    click.argument("model", metavar="MODEL"),
    click.argument("files", nargs=-1, required=True, type=FILE, metavar="PREFERENCES..."),
    click.option(
        "--out",
        type=FILE,
        required=True,
        metavar="FILE.json",
        help="The table of all runs; a search that was cut off goes on from it.",
    ),
    click.option(
        "--constitution",
        metavar="CONSTITUTION",
        help="Each value counts as its weight here says, however many pairs it has. "
        + CONSTITUTION_HELP,
    ),
    click.option("--runs", type=int, help="Trainings, 12 at most and by default."),
    settings=True,
    kept_by="out",
)
def search_command(terminal: Terminal, **options: Any) -> int:
    """Find how much values, general and safety data should weigh in training.

    PREFERENCES are pairs and demonstrations: both files of 'loyal align data' with --examples,
    --general and --safety. Each run trains MODEL anew with one mixture, and is measured on pairs
    whose cases no run sees, on ordinary English and replies, and on requests for harm. --set
    goal.alignment=2 says what counts how much (goal.capability, goal.safety), --set
    search.records=200 makes runs short. Nothing is written but the table; MODEL stays as it is.
    """
    read = (*options["files"], options["constitution"], terminal.recipe)
    require_out(options["out"], read, search_table.FORM.read)
    from loyal.alignment.search import search

    recipe = load_config(Recipe, terminal.recipe, terminal.overrides)
    recipe = replace(recipe, search=replace(recipe.search, **given({"runs": options["runs"]})))
    name = options["constitution"]
    constitution = None if name is None else read_usable_constitution(name)
    records = read_records(options["files"], constitution)
    model = load_model(terminal, options["model"])
    with terminal.progress("searching") as update:
        found = search(model, records, recipe, options["out"], update)
    goal, table = recipe.goal, found.table
    best = found.best.mixture
    fields = {
        "best": asdict(best),
        "score": found.best.outcome.score(goal),
        "untouched": _described(table.untouched, goal),
        "runs": [
            {
                "mixture": asdict(one.mixture),
                **_described(one.outcome, goal),
                "stopped": one.stopped,
                "seconds": one.seconds,
            }
            for one in table.runs
        ],
        "set": _settings(best),
        "out": str(options["out"]),
    }
    rows = [("untouched", None, None, None, *_cells(table.untouched, goal), None)]
    for number, one in enumerate(table.runs, 1):
        shares = (one.mixture.value / 1e4, one.mixture.general / 1e4, one.mixture.safety / 1e4)
        rows.append((str(number), *shares, *_cells(one.outcome, goal), one.stopped or None))
    note = (
        f"Scores within {recipe.search.tie:g} of the best count as equal, and the mixture nearest "
        "to the first is taken. Measure what you train with it on other pairs: 'loyal align "
        "report'."
    )
    told = {
        "best run": table.runs.index(found.best) + 1,
        "for 'loyal align train' and 'data'": " ".join(f"--set {one}" for one in _settings(best)),
        "out": str(options["out"]),
    }
    if warning := no_gain(table.untouched, [one.outcome for one in table.runs], goal):
        terminal.note(warning)
    terminal.result(fields, [Table("", COLUMNS, tuple(rows), note), facts(told)])
    return 0


def no_gain(untouched: Outcome, trained: Sequence[Outcome], goal: Goal) -> str | None:
    """What to say where no mixture is better by the goal than no training at all."""
    if max(one.score(goal) for one in trained) > untouched.score(goal):
        return None
    return (
        "by this goal no mixture is better than the untouched model: what was learned counts for "
        "less than what it cost. Weigh it more (--set goal.alignment=2), or train on more pairs"
    )


def _settings(mixture: Mixture) -> list[str]:
    """What `--set` takes."""
    return [f"mixture.{kind}={share}" for kind, share in asdict(mixture).items()]


def _described(one: Outcome, goal: Goal) -> dict[str, Any]:
    interval = one.interval
    scores = {"alignment": one.alignment, "capability": one.capability, "safety": one.safety}
    ends = {"alignment_low": interval.low, "alignment_high": interval.high}
    return {"score": one.score(goal), **scores, **ends, **asdict(one)}


def _cells(one: Outcome, goal: Goal) -> tuple[Cell, ...]:
    return (
        one.score(goal),
        100 * one.alignment,
        one.margin,
        one.perplexity,
        100 * one.agreement,
        100 * one.declined / max(1, one.harmful),
        100 * one.over_declined / max(1, one.harmless),
    )
