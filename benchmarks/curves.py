"""The paper's Figure 4, measured: `make bench-curves`, then `python benchmarks/curves.py report`.

Utility against the count of fingerprints, and what persists under attacks, for three ways to make
keys and responses side by side. For each strategy, count and seed one model is made under
out/curves, measured against the base, and attacked; each cell (that model, a measurement) is a file
there. The same command goes on where it was stopped, a kill costs one cell, and a model whose cells
are all measured is deleted: its set stays, so that it can be made again. After each cell the rows
in results/curves.json are written anew. `report` writes out/curves/report.html from what is there,
`collect` the rows, `show` prints them.

Another recipe or model has cells, rows and a report of its own. The folder holds the secret sets of
these models: they are made for the benchmark alone. Left out: the rows (curves_table.py) and the
page (curves_page.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import curves_page
import curves_table as figures
from checkpoint import INJECTION, MODEL, TEXT_TOKENS, Checkpoint, drop, with_size
from curves_table import ATTACKS, COUNTS, STRATEGIES, Measured, Strategy
from loyal.app import report
from loyal.errors import LoyalError, UsageError
from resumable import Cell, Record, apart, resume
from rows import machine, put, read, show

FOLDER = Path(__file__).parent.parent / "out" / "curves"
FIRST_TOKENS = 8
"""Of greedy replies, what counts as the first words: as in docs/log.md."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    counts: tuple[int, ...] = COUNTS
    strategies: tuple[str, ...] = tuple(one.name for one in STRATEGIES)
    seeds: int = 1
    recipe: Path | None = None
    """Settings of keys, responses and training; None: the defaults."""
    model: str = MODEL
    tokens: int = TEXT_TOKENS
    folder: Path = FOLDER
    tag: str = "default"
    """What tells the models of other settings apart: see `tag_of`."""

    @property
    def label(self) -> str:
        """Tells settings apart in file names; empty for the defaults on the default model."""
        base = "" if self.model == MODEL else Path(self.model).name
        parts = [base, self.recipe.stem if self.recipe else ""]
        return "".join(f"-{part}" for part in parts if part)

    @property
    def results(self) -> str:
        """Name of the file of rows."""
        return f"curves{self.label}"

    @property
    def about(self) -> str:
        """The settings in words, for rows and report."""
        recipe = self.recipe.name if self.recipe else "the default recipe"
        return f"{Path(self.model).name}, {recipe}"


@dataclass(frozen=True)
class Copy:
    """One model of the plan: which fingerprints it carries."""

    strategy: Strategy
    count: int
    seed: int

    def folder(self, plan: Plan) -> Path:
        """Where its set, model and cells lie."""
        return plan.folder / plan.tag / f"{self.strategy.name}-{self.count}" / f"seed-{self.seed}"

    def cells(self, plan: Plan) -> list[Cell]:
        """Its injection, then its attacks."""
        folder, label = self.folder(plan), f"{self.strategy.name}, {self.count}"
        return [
            Cell(label, self.seed, name, folder / f"{name}.json") for name in (INJECTION, *ATTACKS)
        ]

    def checkpoint(self, plan: Plan) -> Checkpoint:
        """The model on disk; ConfigError for a recipe that does not fit."""
        from loyal.config import load
        from loyal.fingerprints.recipe import Recipe

        recipe = with_size(load(Recipe, plan.recipe), self.count, self.seed)
        recipe = replace(
            recipe,
            keys=replace(recipe.keys, strategy=self.strategy.keys),
            responses=replace(recipe.responses, strategy=self.strategy.responses),
        )
        return Checkpoint(recipe, self.folder(plan), plan.model, plan.tokens)


def tag_of(model: str, recipe: Path | None) -> str:
    """A folder name for a base and what a recipe says, without its comments.

    OSError or TOMLDecodeError where the recipe cannot be read.
    """
    parts = [] if model == MODEL else [f"{Path(model).name}-{_digest(model)}"]
    if recipe is not None:
        said = tomllib.loads(recipe.read_text(encoding="utf-8"))
        parts.append(f"{recipe.stem}-{_digest(json.dumps(said, sort_keys=True))}")
    return "-".join(parts) or "default"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def copies(plan: Plan) -> list[Copy]:
    """All models: the small counts of every seed and strategy first."""
    return [
        Copy(strategy, count, seed)
        for count in plan.counts
        for seed in range(plan.seeds)
        for strategy in STRATEGIES
        if strategy.name in plan.strategies
    ]


def measure(plan: Plan, copy: Copy, name: str) -> Record:
    """Measure one cell of a model; raises what its injection or the attack raises."""
    from loyal.fingerprints.suite import SuiteSettings
    from loyal.models.hf import HFModel

    if tag_of(plan.model, plan.recipe) != plan.tag:
        raise UsageError("the recipe was changed during the run", hint="start the run again")
    made = copy.checkpoint(plan)
    if name == INJECTION:
        model = HFModel.load(plan.model)
        record = made.inject(model)
        return {**record, **_beside_base(model, HFModel.load(plan.model))}
    made.restore()
    return made.attack(name, SuiteSettings(seed=copy.seed))


def _beside_base(model, base) -> Record:
    """How far the beginnings of replies to held-out prompts are from the base's."""
    from loyal.models import evaluate
    from loyal.models.examples import bundled_lines
    from loyal.models.language_model import Prompt
    from loyal.models.lessons import HELD_OUT

    texts = bundled_lines("prompts")[-HELD_OUT:]
    asked = [Prompt(text, raw=not model.has_chat_template) for text in texts]
    return {
        "divergence": evaluate.divergence(model, base, asked),
        "agreement": evaluate.agreement(model, base, asked, FIRST_TOKENS),
        "prompts": len(asked),
    }


def run(plan: Plan) -> list[Cell]:
    """Measure what is missing, one process a cell; the cells that failed."""
    owners = {cell: copy for copy in copies(plan) for cell in copy.cells(plan)}
    tidy(plan, copies(plan))

    def after(cell: Cell) -> None:
        publish(plan)
        tidy(plan, [owners[cell]])

    return resume(
        list(owners), lambda cell: apart(measure, plan, owners[cell], cell.name), after=after
    )


def tidy(plan: Plan, some: Sequence[Copy]) -> None:
    """Delete the models among these whose cells are all measured."""
    for copy in some:
        if all(cell.kept() is not None for cell in copy.cells(plan)):
            drop(copy.folder(plan))


def measured(plan: Plan) -> Measured:
    """What is kept so far, of every seed that is there."""
    kept: dict[figures.Spot, list[Record]] = {}
    for copy in copies(replace(plan, seeds=_seeds(plan))):
        for cell in copy.cells(plan):
            record = cell.kept()
            if record is not None:
                kept.setdefault((copy.strategy.name, copy.count, cell.name), []).append(record)
    some = tuple(one for one in STRATEGIES if one.name in plan.strategies)
    return Measured(some, plan.counts, kept)


def _seeds(plan: Plan) -> int:
    """How many seeds to look at: an earlier run may have had more."""
    beside = {copy.folder(plan).parent for copy in copies(replace(plan, seeds=1))}
    numbers = [path.name.removeprefix("seed-") for one in beside for path in one.glob("seed-*")]
    return max([plan.seeds, *(int(one) + 1 for one in numbers if one.isdigit())])


def publish(plan: Plan) -> None:
    """Write the rows; one that was not run never takes the place of a measured one."""
    known = {one["id"] for one in read(plan.results) if one["value"] is not None}
    rows = figures.table(measured(plan), plan.about)
    put(plan.results, [one for one in rows if one.value is not None or one.id not in known])


def write_report(plan: Plan) -> Path:
    """Write the page of what is there."""
    page = curves_page.page(measured(plan), plan.about, machine())
    return report.write(page, plan.folder / f"report{plan.label}.html")


def _plan(given: argparse.Namespace) -> Plan:
    recipe = given.recipe and given.recipe.resolve()
    return Plan(
        counts=tuple(sorted(set(given.count))) or COUNTS,
        strategies=tuple(given.strategy) or Plan.strategies,
        seeds=given.seeds,
        recipe=recipe,
        model=given.model,
        tokens=given.tokens,
        folder=given.folder.resolve(),
        tag=tag_of(given.model, recipe),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    steps = ("run", "report", "collect", "show")
    parser.add_argument("step", nargs="?", default="run", choices=steps)
    only = "only these, of 64, 256 and 1,024, or others; may be repeated"
    parser.add_argument("--count", type=int, action="append", default=[], metavar="N", help=only)
    only = "only this one; may be repeated"
    parser.add_argument(
        "--strategy", action="append", default=[], choices=Plan.strategies, help=only
    )
    parser.add_argument("--seeds", type=int, default=1, help="models a strategy and count: 1")
    parser.add_argument("--recipe", type=Path, help="settings; the defaults without it")
    parser.add_argument("--model", default=MODEL, help="the base: a library name or a folder")
    text = "of text, for the perplexity of injections: 21,000"
    parser.add_argument("--tokens", type=int, default=TEXT_TOKENS, help=text)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where models and cells stay")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, writing the rows as they come; then write the page, print the rows."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if min([given.seeds, given.tokens, *given.count]) < 1:
        parser.error("counts, seeds and tokens are at least 1")
    failed = []
    try:
        plan = _plan(given)
        if given.step != "show":
            publish(plan)
        if given.step == "run":
            failed = run(plan)
        if given.step in ("run", "report"):
            print(f"report: {write_report(plan)}")
    except (LoyalError, OSError, tomllib.TOMLDecodeError) as error:
        parser.error(str(error))
    if given.step != "report":
        show(plan.results)
    for one in failed:
        print(f"failed: {one.recipe}, seed {one.seed}: {one.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
