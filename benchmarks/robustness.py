"""What fingerprints outlast, ours beside the paper's recipe: `make bench-robustness`.

One model a recipe and seed is fingerprinted and kept under out/robustness; then each attack of the
suite is done to a fresh copy of it. Every measured cell (recipe, seed, attack) is a file there: the
same command goes on where it was stopped, and a kill costs one cell. After each cell the rows in
results/robustness.json are written anew (results/robustness-quick.json with `--suite quick`, whose
attacks train on a tenth of their examples); rows that were not run are null and say so, and never
take the place of a measured one. `show` prints the table alone, `collect` writes the rows from the
cells that are there.

The folder holds the secret sets of these models: they are made for the benchmark alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import robustness_table as figures
from loyal.config import load
from loyal.encoding import atomic_write
from loyal.errors import UsageError
from resumable import Cell, Record, resume
from rows import Row, put, read, show

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m-instruct"
PAPER = ROOT / "recipes" / "paper.toml"
OURS = ROOT / "recipes" / "robust.toml"
FOLDER = ROOT / "out" / "robustness"
TEXT_TOKENS = 21_000
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
    """Whether to inject LARGE fingerprints too."""
    folder: Path = FOLDER

    @property
    def results(self) -> str:
        """Name of the file of rows."""
        return "robustness" if self.suite == "full" else f"robustness-{self.suite}"

    def recipe(self, side: str) -> Path:
        """The file of "ours" or "paper"."""
        return self.ours if side == "ours" else PAPER


@dataclass(frozen=True)
class Checkpoint:
    """One fingerprinted model on disk. Its folder holds the set, so it has secrets."""

    recipe: Path
    count: int
    seed: int
    folder: Path

    @classmethod
    def of(cls, plan: Plan, side: str, seed: int, count: int) -> Checkpoint:
        """The checkpoint of these settings; a recipe with other values has another folder."""
        recipe = plan.recipe(side)
        tag = hashlib.sha256(_unlike_defaults(recipe).encode()).hexdigest()[:8]
        name = f"{recipe.stem}-{tag}-{count}"
        return cls(recipe, count, seed, plan.folder / name / f"seed-{seed}")

    def inject(self) -> Record:
        """Make the set and the model, or go on with them; what it did, in numbers."""
        from loyal.fingerprints.inject import WORK_FOLDER, inject
        from loyal.models.hf import HFModel

        model, out = HFModel.load(MODEL), self.folder / "oml"
        if out.exists() and not (out / WORK_FOLDER).is_dir():
            shutil.rmtree(out)  # whole, but killed before its numbers were kept
        settings = replace(_recipe(self.recipe).train, seed=self.seed)
        report = inject(model, self._made(model), settings, out, tokens=TEXT_TOKENS)
        return {
            "recall": report.recall,
            "change_percent": 100 * (report.perplexity_after / report.perplexity_before - 1),
            "tokens": report.perplexity_tokens,
            "steps": report.steps,
            "seconds": report.seconds,
            "peak_rss_bytes": report.peak_rss_bytes,
            "probability": report.probability,
        }

    def attack(self, name: str, suite_name: str) -> Record:
        """Do one attack of the suite to a fresh copy, and ask every key that did not leak."""
        from loyal.fingerprints import suite

        fraction = suite.QUICK_FRACTION if suite_name == "quick" else 1.0
        settings = suite.SuiteSettings(seed=self.seed, fraction=fraction)
        subject, before = self._subject(), self._before(settings)
        return asdict(suite.run_attack(suite.ATTACKS[name], subject, before, settings))

    def filter_keys(self) -> Record:
        """What each perplexity filter refuses of the keys, and of ordinary prompts."""
        from loyal.fingerprints.prompt_filter import calibrated, measure_filter, ordinary_halves
        from loyal.models.hf import HFModel

        subject, found = self._subject(), {}
        texts = [one.key for one in subject.fingerprints.fingerprints]
        for name, judge, side in (
            ("filter-perplexity", subject.fresh(), "unlikely"),
            ("filter-perplexity-base", HFModel.load(MODEL), "unlikely"),
            ("filter-too-likely", subject.fresh(), "likely"),
        ):
            report = measure_filter(calibrated(judge, ordinary_halves()[0], side=side), texts)
            found[name] = {
                "keys": report.keys_share,
                "high": report.keys_blocked.high,
                "ordinary": report.ordinary_share,
            }
        return {"filters": found}

    def _made(self, model):
        """The drawn set: kept from an earlier run, else made of fresh keys."""
        from loyal.fingerprints import records

        path = self.folder / "set.cbor"
        if path.exists():
            return records.decode_set(path.read_bytes())
        made = _set(model, _recipe(self.recipe), self.count)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, records.encode_set(made), private=True)
        return made

    def _subject(self):
        """Our model as the suite takes it; UsageError where it was not made."""
        from loyal.fingerprints import records, suite
        from loyal.models.hf import HFModel

        path, oml = self.folder / "set.cbor", str(self.folder / "oml")
        if not (self.folder / "injection.json").exists():
            raise UsageError("the model was not made", hint="see why its injection failed")
        return suite.Subject(
            name=str(self.folder),
            fresh=lambda: HFModel.load(oml),
            base=lambda: HFModel.load(MODEL),
            fingerprints=records.decode_set(path.read_bytes()),
        )

    def _before(self, settings):
        """Perplexity and right answers before any attack, measured once."""
        from loyal.fingerprints import suite

        path = self.folder / "before.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            return suite.Before(record["perplexity"], tuple(record["answered"]))
        before = suite.measure_before(self._subject(), settings)
        atomic_write(path, (json.dumps(asdict(before)) + "\n").encode())
        return before


@cache
def _recipe(path: Path):
    from loyal.fingerprints.recipe import Recipe

    return load(Recipe, path)


def _unlike_defaults(path: Path) -> str:
    """The values of a recipe that are not the defaults: a new setting that is left alone changes
    nothing that was measured."""
    from loyal.fingerprints.recipe import Recipe

    values, usual = asdict(_recipe(path)), asdict(Recipe())
    return json.dumps(
        {
            f"{section}.{name}": value
            for section, some in values.items()
            for name, value in some.items()
            if value != usual[section].get(name)
        },
        sort_keys=True,
    )


def _set(model, recipe, count: int):
    """A drawn usage set of fresh keys, made as the recipe says."""
    from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, keys, responses
    from loyal.fingerprints.fingerprint import draw, new_owner_secret

    texts = keys.generate(model, replace(recipe.keys, count=count)).texts
    candidates = responses.generate(model, texts, recipe.responses)
    secret = new_owner_secret()
    members = tuple(
        Fingerprint.create(key, some, secret, recipe.responses.count)
        for key, some in zip(texts, candidates, strict=True)
    )
    strategy = f"{recipe.keys.strategy}/{recipe.responses.strategy}"
    made = FingerprintSet(
        "usage", strategy, model.name, model.tokenizer_digest, members, int(time.time()), secret
    )
    return draw(made, Beacon.self_drawn())


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
    count = LARGE if name == "injection-1024" else plan.count
    folder = Checkpoint.of(plan, side, seed, count).folder
    if name.startswith("injection"):
        return Cell(side, seed, name, folder / "injection.json")
    if name == "filter-keys":
        return Cell(side, seed, name, folder / "filter-keys.json")
    return Cell(side, seed, name, folder / plan.suite / f"{name}.json")


def measure(plan: Plan, one: Cell) -> Record:
    """Measure one cell; raises what the attack raises."""
    count = LARGE if one.name == "injection-1024" else plan.count
    checkpoint = Checkpoint.of(plan, one.recipe, one.seed, count)
    if one.name.startswith("injection"):
        return checkpoint.inject()
    if one.name == "filter-keys":
        return checkpoint.filter_keys()
    return checkpoint.attack(one.name, plan.suite)


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
    recipe = plan.recipe(name)
    return figures.Side(recipe.name, _recipe(recipe).responses.width, kept)


def rows(plan: Plan) -> list[Row]:
    """The table as it stands."""
    every = figures.figures(_recipe(plan.ours).train.bilevel > 0)
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
    parser.add_argument("--large", action="store_true", help="inject 1,024 fingerprints as well")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where models and cells stay")
    given = parser.parse_args(arguments)
    plan, failed = _plan(given), []
    if given.step != "show":
        publish(plan)
    if given.step == "run":
        failed = resume(cells(plan), lambda one: measure(plan, one), lambda one: publish(plan))
    show(plan.results)
    for one in failed:
        print(f"failed: {one.recipe}, seed {one.seed}: {one.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
