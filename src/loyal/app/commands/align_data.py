"""`loyal align data` and `loyal align review`: preference files, made and checked.

Nothing is written before all of it is there, except the state file that lets a run go on where it
was killed. Without a model no torch is loaded. Left out: training on the files.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.alignment import Judge, Mixture, Plan, Record, preferences
from loyal.alignment.giver import Giver, stake_of
from loyal.alignment.review import Listed, review
from loyal.alignment.synthesis_state import require_state
from loyal.alignment.synthesize import Bars, Made, Task, synthesize
from loyal.alignment.writers import Cases, Writer, Written
from loyal.app.commands.constitution import read_constitution, read_usable_constitution
from loyal.app.judge_options import CHOOSER_OPTIONS, Chooser
from loyal.app.key_files import FILE
from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    MODEL_HELP,
    Endpoint,
    connect,
    given,
    load_model,
)
from loyal.app.report import Table
from loyal.app.terminal import Terminal, command, facts
from loyal.config import load
from loyal.encoding import require_place
from loyal.errors import UsageError

if TYPE_CHECKING:
    from loyal.models import LanguageModel

PLANNED = ("pairs", "general", "safety", "balance", "invented")
"""Options that are settings of the plan."""


@dataclass(frozen=True)
class DataRecipe:
    """The settings of `loyal align data`, section by section."""

    plan: Plan = field(default_factory=Plan)
    bars: Bars = field(default_factory=Bars)
    mixture: Mixture = field(default_factory=Mixture)
    candidates: int = 4
    """Replies of a model's own to a prompt on a value."""


@dataclass(frozen=True)
class Files:
    """What is written where."""

    out: Path
    held_out: Path | None
    examples: Path | None
    state: Path | None

    def __post_init__(self) -> None:
        if not self.out.name:
            raise UsageError(f"{self.out} is a folder", hint="name a file inside it")
        every = [*self.outputs, self.kept]
        for one in every:
            if not one.parent.is_dir():
                raise UsageError(f"the folder of {one} is not there", hint="make it first")
        if len(set(map(os.path.realpath, every))) < len(every):
            raise UsageError("two files have one name", hint="give each its own")
        begun = self.kept.exists()
        if begun:
            require_state(self.kept)
        for one in every:
            require_place(one)
            if one.exists() and not begun:  # else `_write` looks whether this very call wrote it
                raise UsageError(f"{one} is there already", hint="name a file that is not there")

    @property
    def outputs(self) -> list[Path]:
        """All but the state."""
        return [one for one in (self.out, self.held_out, self.examples) if one is not None]

    @property
    def kept(self) -> Path:
        """The state's path."""
        return self.state or self.out.with_name(f"{self.out.name}.state")


@command(
    "data",
    click.argument("constitution", metavar="CONSTITUTION"),
    click.option(
        "--out", type=FILE, required=True, metavar="FILE", help="Preference pairs to train on."
    ),
    click.option(
        "--held-out", type=FILE, metavar="FILE", help="Pairs to measure on, never trained on."
    ),
    click.option(
        "--examples",
        type=FILE,
        metavar="FILE",
        help="Demonstrations for supervised training: chosen replies, general and safety data, "
        "weighed by the mixture.",
    ),
    click.option("--pairs", type=click.IntRange(1), help="How many pairs to train on; 400."),
    click.option("--general", type=click.IntRange(0), help="General demonstrations."),
    click.option("--safety", type=click.IntRange(0), help="Safety demonstrations."),
    click.option(
        "--balance",
        type=click.Choice(("weights", "even")),
        help="Each value by its weight in the constitution (the default), or all the same.",
    ),
    click.option("--model", metavar="NAME", help=f"Writes replies. {MODEL_HELP}"),
    *ENDPOINT_OPTIONS,
    click.option(
        "--invent",
        "invented",
        type=click.IntRange(0),
        help="Prompts on each value that the model writes, beside the constitution's.",
    ),
    *CHOOSER_OPTIONS,
    click.option(
        "--keep-out",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="Texts, one a line, that training must not give away; may be repeated.",
    ),
    click.option("--contributor", metavar="NAME", help="The member who gives the data."),
    click.option("--campaign", metavar="NAME", help="Where it is gathered."),
    click.option(
        "--stake",
        metavar="FACTOR",
        help="The member's: a factor on the weight of all that is trained on, 0.000001 to 1,000.",
    ),
    click.option(
        "--state", type=FILE, metavar="FILE", help="What a killed run leaves; by OUT.state."
    ),
    settings=True,
    kept_by="out",
)
def data(terminal: Terminal, **options: Any) -> int:
    """Make preference pairs and demonstrations from a constitution.

    CONSTITUTION is a path, or a name of 'loyal constitution list'. Without a model the replies are
    the constitution's own, in prompts that are plain, under attack, at the border or off topic.
    With --model or --endpoint the model writes replies too. Which reply is chosen, --judge says,
    --probe or --judge-endpoint. A run that was killed goes on where it stopped when the same call
    is made again. --set plan.seed=1 draws others; docs/preferences.md lists the settings.
    """
    endpoint, chooser, giver = Endpoint.take(options), Chooser.take(options), _giver(options)
    served = _served(options["model"], endpoint)
    files = Files(*(options[name] for name in ("out", "held_out", "examples", "state")))
    constitution = read_usable_constitution(options["constitution"])
    asked = given({name: options[name] for name in PLANNED})
    recipe = load(DataRecipe, terminal.recipe, terminal.overrides)
    plan = replace(recipe.plan, **asked)
    if files.examples is None and plan.general + plan.safety:
        raise UsageError("general and safety data have no file", hint="add --examples FILE")
    plan = plan if files.held_out is not None else replace(plan, held_out=0)
    keep_out = tuple(line for path in options["keep_out"] for line in _texts(path))
    task = Task(constitution, plan, recipe.bars, keep_out, giver)
    written = served is not None or options["model"] is not None
    judge = chooser.judge(terminal, constitution, written=written)
    model = served if options["model"] is None else load_model(terminal, options["model"])
    writer: Writer = Cases()
    if model is not None:
        writer = Written(model, constitution, recipe.candidates)
    with terminal.progress("gathering") as update:
        made = synthesize(task, writer, judge, files.kept, update)
    _write(files, made, recipe.mixture)
    files.kept.unlink(missing_ok=True)
    _show(terminal, files, made, judge)
    return 0


def _write(files: Files, made: Made, mixture: Mixture) -> None:
    """All files, or none: what is wrong is found before the first is there.

    One that this very call wrote before it was killed stays; UsageError for any other.
    """
    examples = [] if files.examples is None else made.mixed(mixture)
    jobs = [(files.out, made.train), (files.held_out, made.held_out), (files.examples, examples)]
    left = [(path, records) for path, records in jobs if path and not _is_written(path, records)]
    done: list[Path] = []
    try:
        for path, records in left:
            preferences.write(path, records)
            done.append(path)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise


def _is_written(path: Path, records: list[Record]) -> bool:
    """Whether these very records are there. UsageError where anything else is."""
    if not path.exists():
        return False
    text = "".join(map(preferences.to_line, records))
    if records and path.read_bytes() == text.encode("utf-8", "surrogatepass"):
        return True
    raise UsageError(
        f"{path} is there already, with other data",
        hint="move it away and run the same command again: what was gathered is kept",
    )


def _show(terminal: Terminal, files: Files, made: Made, judge: Judge | None) -> None:
    report = made.report
    fields = {
        "pairs": len(made.train),
        "held_out": len(made.held_out),
        "examples": len(made.examples) if files.examples is not None else 0,
        **{name: one for name, one in asdict(report).items() if name != "kept"},
        "kinds": report.kept,
        "judge": None if judge is None else judge.name,
        "files": [str(one) for one in files.outputs],
    }
    tables = [facts(fields), Table("Kept", ("kind", "records"), tuple(report.kept.items()))]
    if report.dropped:
        tables.append(Table("Left out", ("why", "records"), tuple(report.dropped.items())))
    if report.short:
        note = "There were too few prompts or good replies: write more cases, or lower the bars."
        tables.append(Table("Missing", ("value/kind", "pairs"), tuple(report.short.items()), note))
    terminal.result(fields, tables)


def _giver(options: dict[str, Any]) -> Giver:
    """Whose data it is. UsageError for a stake that is none, or nobody's."""
    stake = options["stake"]
    named = given({name: options[name] for name in ("contributor", "campaign")})
    return Giver(**named) if stake is None else Giver(**named, stake_ppm=stake_of(stake))


def _served(model: str | None, endpoint: Endpoint | None) -> LanguageModel | None:
    """The server that writes; None for none. UsageError where a model is to write as well."""
    if model is not None and endpoint is not None:
        raise UsageError("a model and a server at once", hint="give --model or --endpoint")
    return None if endpoint is None else connect(endpoint)


@command(
    "review",
    click.argument("file", type=FILE, metavar="FILE"),
    click.option(
        "--constitution",
        metavar="FILE",
        help="Whose values the lines may name, and whose cases they may not turn around; a path or "
        "a name.",
    ),
)
def review_command(terminal: Terminal, **options: Any) -> int:
    """Say what is wrong with a file of preferences, or looks so.

    Exit code 1 where 'loyal align train' would refuse a line: one that cannot be read (a fault),
    repeats or contradicts an earlier one, has a sign of a chat template in a text, or prefers what
    the constitution lists as breaking a value. The rest is for a person to look at: near copies,
    the weight of one contributor or one line, replies preferred for length.
    """
    values: tuple[str, ...] = ()
    listed: Listed | None = None
    if options["constitution"] is not None:
        constitution = read_constitution(options["constitution"])
        values, listed = tuple(one.id for one in constitution.values), Listed(constitution)
    # Strangers write these files: nobody may know beforehand which near copies are missed.
    found = review(options["file"], values, secrets.randbits(64), listed)
    fields = {
        "records": found.records,
        "faults": found.faults,
        "refused": found.refused,
        "counts": found.counts,
        "findings": [asdict(one) for one in found.findings],
    }
    rows = tuple((one.rule, one.message, one.hint) for one in found.findings)
    hidden = sum(found.counts.values()) - len(rows)
    note = f"{hidden} more of these are not shown." if hidden else ""
    tables = [Table("Findings", ("rule", "what", "next step"), rows, note)] if rows else []
    terminal.result(fields, [facts(fields), *tables])
    return 1 if found.refused else 0


def _texts(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise UsageError(
            f"cannot read {path}", hint="give a text file in UTF-8, one text a line"
        ) from None
    return [line for line in text.splitlines() if line.strip()]
