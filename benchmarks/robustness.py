"""What fingerprints outlast, ours beside the paper's recipe: `make bench-robustness`.

One model a recipe and seed is fingerprinted and kept under out/robustness; then each attack of the
suite is done to a fresh copy of it. Every measured cell (recipe, seed, attack) is a file there: the
same command goes on where it was stopped, and a kill costs one cell. After each cell the rows in
results/robustness.json are written anew (results/robustness-quick.json with `--suite quick`, whose
attacks train on a tenth of their examples and which makes no inner run again); rows that were not
run are null and say so, and never take the place of a measured one. `show` prints the table alone,
`collect` writes the rows from the cells that are there.

The folder holds the secret sets of these models: they are made for the benchmark alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import filters
import robustness_table as figures
from checkpoint import MODEL, Checkpoint, with_size
from loyal.config import load
from resumable import Cell, Record, resume
from rows import Row, put, read, show

if TYPE_CHECKING:
    from loyal.fingerprints.recipe import Recipe

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "recipes" / "paper.toml"
OURS = ROOT / "recipes" / "robust.toml"
FOLDER = ROOT / "out" / "robustness"
DEFAULT = ROOT / "recipes" / "default.toml"
LARGE = 1024
DEFAULTS = {"full": (256, 3), "quick": (64, 1)}
"""Fingerprints and seeds of each suite."""
QUICK = (
    "none", "int8", "int4-symmetric", "int4-asymmetric", "gguf-q4-0", "prune-20", "merge-linear",
    "system-prompts", "suppress-top-1", "detect-top-1", "detect-unlike-base", "sft-docstrings",
    "lora-docstrings",
)  # fmt: skip
"""Attacks of the quick suite that have a figure."""
MEASURED = ("injection", "filter-keys")
"""Cells that are no attack of the suite."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    suite: str
    """"quick" or "full"."""
    ours: Path
    """Our recipe's file; the paper's is PAPER."""
    count: int
    seeds: int
    only: tuple[str, ...] = ()
    """Cells to run; empty for all of the suite."""
    sides: tuple[str, ...] = ("ours", "paper")
    """Recipes to measure."""
    large: bool = False
    """Whether to inject LARGE fingerprints too, by DEFAULT: nothing attacks them."""
    folder: Path = FOLDER

    @property
    def results(self) -> str:
        """Name of the file of rows."""
        return "robustness" if self.suite == "full" else f"robustness-{self.suite}"

    def file(self, side: str) -> Path:
        """The file of "ours" or "paper"."""
        return self.ours if side == "ours" else PAPER

    def recipe(self, side: str) -> Recipe:
        """What it says; the quick suite makes no inner run again, which would be half its time."""
        found = _recipe(self.file(side))
        if self.suite == "full":
            return found
        return replace(found, train=replace(found.train, renew=0))


def _of(plan: Plan, name: str) -> Plan:
    """The plan of one cell: nothing attacks LARGE fingerprints, so they are not hardened."""
    if name != "injection-1024":
        return plan
    return replace(plan, suite="full", ours=DEFAULT, count=LARGE)


def checkpoint(plan: Plan, side: str, seed: int, count: int) -> Checkpoint:
    """The checkpoint of these settings; a recipe with other values has another folder."""
    recipe = plan.recipe(side)
    tag = hashlib.sha256(_unlike_defaults(recipe).encode()).hexdigest()[:8]
    folder = plan.folder / f"{plan.file(side).stem}-{tag}-{count}" / f"seed-{seed}"
    return Checkpoint(with_size(recipe, count, seed), folder)


def filter_keys(one: Checkpoint) -> Record:
    """What each perplexity filter refuses of the keys, and of ordinary prompts."""
    subject = one.subject()
    keys = [member.key for member in subject.fingerprints.fingerprints]
    return filters.measured(subject.fresh(), subject.base(), keys)


@cache
def _recipe(path: Path) -> Recipe:
    from loyal.fingerprints.recipe import Recipe

    return load(Recipe, path)


def _unlike_defaults(recipe: Recipe) -> str:
    """The values of a recipe that are not the defaults: a new setting that is left alone changes
    nothing that was measured."""
    from loyal.fingerprints.recipe import Recipe

    values, usual = asdict(recipe), asdict(Recipe())
    return json.dumps(
        {
            f"{section}.{name}": value
            for section, some in values.items()
            for name, value in some.items()
            if value != usual[section].get(name)
        },
        sort_keys=True,
    )


def _names(plan: Plan) -> list[str]:
    """Attacks and measurements of the suite, in the order in which they run."""
    if plan.only:
        return ["injection", *(name for name in plan.only if name != "injection")]
    if plan.suite == "quick":
        return ["injection", "filter-keys", *QUICK]
    return list(dict.fromkeys(one.cell for one in figures.figures(bilevel=False)))


def cells(plan: Plan) -> list[Cell]:
    """All cells in the order of running: a seed after the other, both recipes side by side."""
    found = [
        cell(plan, side, seed, name)
        for seed in range(plan.seeds)
        for name in _names(plan)
        for side in plan.sides
    ]
    if plan.large:
        found += [cell(plan, side, 0, "injection-1024") for side in plan.sides]
    return found


def cell(plan: Plan, side: str, seed: int, name: str) -> Cell:
    """One cell and its file. What does not depend on the suite is shared by both suites."""
    its = _of(plan, name)
    folder = checkpoint(its, side, seed, its.count).folder
    if name.startswith("injection"):
        return Cell(side, seed, name, folder / "injection.json")
    if name == "filter-keys":
        return Cell(side, seed, name, folder / "filter-keys.json")
    return Cell(side, seed, name, folder / plan.suite / f"{name}.json")


def measure(plan: Plan, one: Cell) -> Record:
    """Measure one cell; raises what the attack raises."""
    from loyal.fingerprints import suite
    from loyal.models.hf import HFModel

    its = _of(plan, one.name)
    made = checkpoint(its, one.recipe, one.seed, its.count)
    if one.name.startswith("injection"):
        return made.inject(HFModel.load(MODEL))
    if one.name == "filter-keys":
        return filter_keys(made)
    fraction = suite.QUICK_FRACTION if plan.suite == "quick" else 1.0
    return made.attack(one.name, suite.SuiteSettings(seed=one.seed, fraction=fraction))


def side(plan: Plan, name: str, extra: Sequence[str]) -> figures.Side:
    """What is kept of one recipe, of the cells that have a figure and of the `extra` ones."""
    wanted = [*_names(replace(plan, only=())), *extra]
    kept: dict[str, dict[int, Record]] = {}
    for seed in range(plan.seeds):
        for one in dict.fromkeys(wanted):
            record = cell(plan, name, seed, one).kept()
            if record is not None:
                kept.setdefault(one, {})[seed] = record
    record = cell(plan, name, 0, "injection-1024").kept()
    if record is not None:
        kept["injection-1024"] = {0: record}
    again = _recipe(plan.file(name)).train.renew and not plan.recipe(name).train.renew
    label = f"{plan.file(name).name}{' without renewals' if again else ''}"
    return figures.Side(label, plan.recipe(name).responses.width, kept)


def rows(plan: Plan) -> list[Row]:
    """The table as it stands."""
    every = figures.figures(plan.recipe("ours").train.bilevel > 0)
    known = {one.cell for one in every}
    extra = [name for name in plan.only if name not in known]
    every += [figures.survival(name, None) for name in extra]
    if plan.suite == "quick":
        every = [one for one in every if one.cell in {*_names(replace(plan, only=())), *extra}]
    ours, paper = side(plan, "ours", extra), side(plan, "paper", extra)
    about = f"{plan.count} fingerprints, {plan.suite} suite, {ours.label}"
    return figures.table(ours, paper, every, about)


def publish(plan: Plan) -> None:
    """Write the rows; one that was not run never takes the place of a measured one."""
    measured = {one["id"] for one in read(plan.results) if one["value"] is not None}
    put(
        plan.results, [one for one in rows(plan) if one.value is not None or one.id not in measured]
    )


def _plan(given: argparse.Namespace) -> Plan:
    count, seeds = DEFAULTS[given.suite]
    if given.only:
        from loyal.fingerprints import suite

        suite.named([name for name in given.only if name not in MEASURED])
    return Plan(
        suite=given.suite,
        ours=given.recipe.resolve(),
        count=given.count or count,
        seeds=given.seeds or seeds,
        only=tuple(given.only),
        sides=(given.side,) if given.side else Plan.sides,
        large=given.large,
        folder=given.folder.resolve(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, writing the rows as they come; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="?", default="run", choices=("run", "collect", "show"))
    parser.add_argument("--recipe", type=Path, default=OURS, help="ours; beside it recipes/paper")
    parser.add_argument("--suite", choices=tuple(DEFAULTS), default="full")
    parser.add_argument("--count", type=int, help="fingerprints: 256, quick 64")
    parser.add_argument("--seeds", type=int, help="models a recipe: 3, quick 1")
    only = "this attack of the suite, or filter-keys; may be repeated"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=only)
    parser.add_argument("--side", choices=Plan.sides, help="one recipe alone; both are the default")
    several = "cells side by side, for a GPU, where each takes 4 to 9 GB: 1"
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=several)
    parser.add_argument("--large", action="store_true", help="inject 1,024 by the defaults, too")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where models and cells stay")
    given = parser.parse_args(arguments)
    if given.jobs < 1:
        parser.error("jobs is at least 1")
    plan, failed = _plan(given), []
    if given.step != "show":
        publish(plan)
    if given.step == "run":
        work = partial(measure, plan)
        failed = resume(cells(plan), work, lambda one: publish(plan), given.jobs)
    show(plan.results)
    for one in failed:
        print(f"failed: {one.recipe}, seed {one.seed}: {one.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
