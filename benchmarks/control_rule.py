"""Trained functions of `make bench-control`: a secret rule under attack, and control functions.

A seed is one model: the base, taught a fresh red/green rule (`taught`), kept below --folder with
its secret set, which is made for the benchmark alone. Each figure is read from a cell of that
model, a file of its own (`resumable`), so that a run goes on where it was stopped and a kill costs
one cell. Other settings of the training have another folder. Left out: what the cells make of the
table (control_rule_table.py).
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import control_rule_table as figures
import filters
from checkpoint import MODEL, TEXT_TOKENS
from loyal.encoding import atomic_write
from loyal.errors import UsageError
from loyal.fingerprints.functional import SIZES
from loyal.fingerprints.functional_recipe import RuleRecipe
from loyal.models.training import TrainSettings
from resumable import Cell, Record, resume
from rows import Row, put, read

if TYPE_CHECKING:
    from loyal.fingerprints.functional import FunctionalSet
    from loyal.fingerprints.functional_attacks import RuleSubject
    from loyal.models.hf import HFModel

RECIPE = RuleRecipe()
"""How the rule is taught: the defaults of `loyal fingerprint rule inject`."""
COLORING = "even colors"
"""How a set's secret and beacon give its colors: a model was taught those and no others."""
LEADS = "nats for each word more"
"""How outcomes are kept apart, which no setting says."""
QUERIES = 100
"""Keys asked of a model that knows nothing, and at most in one proof."""
ALPHA = 1e-6
ORDINARY = 240
"""Questions about Python's library, beside the held-out prompts and the short factual questions."""
NEARBY = 240
"""Sentences like keys in which no noun counts."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    folder: Path
    seeds: int = 3
    """Run those from 0 on; rows are of every seed that is kept."""
    only: tuple[str, ...] = ()
    """Cells to run; empty for all."""
    model: str = MODEL
    """The base: a name of the library or a folder."""
    fresh: int = 10_000
    """Keys behind the share that is right."""
    asked: int = 1000
    """Keys asked after an attack, and read by filters."""
    draws: int = 20
    """Proofs behind the median number of queries."""
    colorings: int = 4_000_000
    """Random colorings of each test (`functional_check.COLORINGS`)."""
    tokens: int = TEXT_TOKENS
    """Of human-written English, on which perplexity is read."""
    fraction: float = 1.0
    """Of the attacks (`RuleHost.fraction`)."""
    fewer: bool = False
    """Whether rows of fewer seeds may take the place of rows of more."""


def taught(model: HFModel, made: FunctionalSet, seed: int) -> None:
    """Teach the rule to `model`, in place: the one place that says how."""
    from loyal.fingerprints.functional_inject import lessons
    from loyal.models.products import autocast
    from loyal.models.train import train

    with autocast(RECIPE.train.precision, model.device):
        shown = lessons(model, made, replace(RECIPE.lessons, seed=seed))
    train(model, shown, replace(RECIPE.train, seed=seed))


@dataclass(frozen=True)
class Ruled:
    """The taught model of one seed, in its folder."""

    plan: Plan
    seed: int

    @property
    def folder(self) -> Path:
        """Names the settings too: what was taught otherwise is never taken for this. A new setting
        of the training that is left alone changes nothing that was measured."""
        values, usual = asdict(RECIPE), asdict(TrainSettings())
        values["train"] = {
            name: one for name, one in values["train"].items() if one != usual[name]
        }  # fmt: skip
        sizes = SIZES[RECIPE.rule.rule]
        said = json.dumps(values, sort_keys=True)
        how = f"{self.plan.model} {said}, {COLORING}, {sizes} words, {LEADS}"
        tag = hashlib.sha256(how.encode()).hexdigest()[:8]
        return self.plan.folder / f"rule-{tag}" / f"seed-{self.seed}"

    def cell(self, name: str) -> Cell:
        """One cell and its file."""
        return Cell("rule", self.seed, name, self.folder / f"{name}.json")

    def base(self) -> HFModel:
        """The base, loaded."""
        from loyal.models.hf import HFModel

        return HFModel.load(self.plan.model)

    def fresh(self) -> HFModel:
        """The taught model, loaded; UsageError where it was not made."""
        from loyal.models.hf import HFModel

        if self.cell("taught").kept() is None:
            raise UsageError("the rule was not taught", hint="see why the cell 'taught' failed")
        return HFModel.load(str(self.folder / "oml"))

    @cached_property
    def made(self) -> FunctionalSet:
        """The drawn set. Salts are new at each load, which hangs on nothing here but the seeds of
        its tests' random colorings."""
        return _secret_set(self.folder / "set.json", self.plan.model)

    def subject(self) -> RuleSubject:
        """What attacks take."""
        from loyal.fingerprints.functional_attacks import RuleSubject
        from loyal.fingerprints.suite import Before

        model = self.fresh
        known = self.cell("taught").kept() or {}
        before = Before(known.get("perplexity", 0.0), tuple(known.get("answered", ())))
        return RuleSubject(model, self.base, self.made, before)


def _secret_set(path: Path, model: str) -> FunctionalSet:
    """The set whose secret and beacon are in a file; both drawn where it is not there."""
    from loyal.fingerprints import Beacon
    from loyal.fingerprints.fingerprint import new_owner_secret
    from loyal.fingerprints.functional import create, draw

    if not path.exists():
        drawn = {"secret": new_owner_secret().hex(), "beacon": Beacon.self_drawn().value.hex()}
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(drawn).encode(), private=True)
    kept = {name: bytes.fromhex(text) for name, text in json.loads(path.read_text()).items()}
    made = create(RECIPE.rule, kept["secret"], model=model, tokenizer_digest="", created_seconds=0)
    return draw(made, Beacon(kept["beacon"], "self"))


def teach(one: Ruled) -> Record:
    """Make the model of a seed; what that cost."""
    from loyal.fingerprints.suite import measured_before
    from loyal.models import evaluate

    model, made, texts = one.base(), one.made, evaluate.prose()
    base = evaluate.perplexity(model, texts, one.plan.tokens)
    began, cpu = time.monotonic(), time.process_time()
    taught(model, made, one.seed)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - began
    before = measured_before(model)
    model.save(one.folder / "oml")
    return {
        "cpu_seconds": cpu, "seconds": seconds, "tokens": one.plan.tokens,
        "change_percent": 100 * (evaluate.perplexity(model, texts, one.plan.tokens) / base - 1),
        **asdict(before),
    }  # fmt: skip


def ordinary(one: Ruled) -> Record:
    """How often replies to other prompts begin with an outcome, the base's beside them."""
    from loyal.fingerprints.functional import write_near
    from loyal.fingerprints.functional_attacks import outcomes_said
    from loyal.fingerprints.tuning_data import docstrings
    from loyal.models.examples import bundled_lines
    from loyal.models.lessons import HELD_OUT
    from loyal.models.questions import bundled_questions

    made, rng = one.made, random.Random(one.seed)
    held_out = bundled_lines("prompts")[-HELD_OUT:]
    asked = [*held_out, *(it.text for it in bundled_questions())]
    asked += [it.prompt.text for it in docstrings(ORDINARY, one.seed)]
    nearby = write_near(made, NEARBY, "test", rng, (0,))

    def fired(model: HFModel, texts: Sequence[str]) -> int:
        return sum(it is not None for it in outcomes_said(model, made.outcomes, texts))

    model = one.fresh()
    return {
        "asked": len(asked), "fired": fired(model, asked), "base": fired(one.base(), asked),
        "nearby": len(nearby), "nearby_fired": fired(model, nearby),
    }  # fmt: skip


def blocked(one: Ruled) -> Record:
    """What each perplexity filter refuses of the keys, and of ordinary prompts."""
    from loyal.fingerprints.functional_attacks import fresh_keys

    keys = fresh_keys(one.made, [], one.plan.asked, one.seed)
    return filters.measured(one.fresh(), one.base(), keys)


def queries(one: Ruled) -> Record:
    """Keys after which each of some proofs is done; QUERIES + 1 where that many are too few."""
    from loyal.fingerprints.functional import write_keys
    from loyal.fingerprints.functional_attacks import outcomes_said
    from loyal.fingerprints.functional_check import p_values

    model, made, rng = one.fresh(), one.made, random.Random(one.seed)
    needed = []
    for _ in range(one.plan.draws):
        keys = write_keys(made, QUERIES, "test", rng)
        said = outcomes_said(model, made.outcomes, keys)
        found = p_values(made, keys, said, one.plan.colorings)
        needed.append(next((n for n, p in enumerate(found, start=1) if p <= ALPHA), QUERIES + 1))
    return {"needed": needed, "most": QUERIES}


def strangers(one: Ruled) -> Record:
    """p-values that mean nothing: of the base, and of the taught model for other sets."""
    from loyal.fingerprints import Beacon
    from loyal.fingerprints.functional import write_keys
    from loyal.fingerprints.functional_attacks import outcomes_said
    from loyal.fingerprints.functional_check import rule_p_value

    made, most = one.made, one.plan.colorings
    keys = write_keys(made, QUERIES, "test", random.Random(one.seed))
    base, model = one.base(), one.fresh()
    said, ours = (outcomes_said(it, made.outcomes, keys) for it in (base, model))
    other = _secret_set(one.folder / "other-set.json", one.plan.model)
    theirs = write_keys(other, QUERIES, "test", random.Random(one.seed))
    heard = outcomes_said(model, other.outcomes, theirs)
    recolored = replace(made, beacon=Beacon.self_drawn())
    return {
        "queries": QUERIES, "neither": said.count(None),
        "base": rule_p_value(made, keys, said, most),
        "base_forced": rule_p_value(made, keys, _likelier(base, made, keys), most),
        "other_set": rule_p_value(other, theirs, heard, most),
        "other_colors": rule_p_value(recolored, keys, ours, most),
    }  # fmt: skip


def _likelier(model: HFModel, made: FunctionalSet, keys: Sequence[str]) -> list[int | None]:
    """The outcome that the model finds likeliest as the beginning of each reply."""
    from loyal.models.language_model import Prompt

    prompts = [Prompt(key) for key in keys]
    sums = [[sum(it) for it in model.logprobs(prompts, [said] * len(keys))]
            for said in made.outcomes]  # fmt: skip
    return [max(range(len(sums)), key=lambda place: scores[place])
            for scores in zip(*sums, strict=True)]  # fmt: skip


def functions(one: Ruled) -> Record:
    """The three bundled control functions in one model; it does not stay."""
    from loyal.control.embed import embed
    from loyal.control.functions import bundled, load
    from loyal.control.recipe import Recipe
    from loyal.models.model_folder import WORK_FOLDER

    out, recipe = one.folder / "functions", Recipe()
    if out.exists() and not (out / WORK_FOLDER).is_dir():
        shutil.rmtree(out)  # whole, but killed before its numbers were kept
    recipe = replace(recipe, train=replace(recipe.train, seed=one.seed),
                     check=replace(recipe.check, seed=one.seed))  # fmt: skip
    began = time.process_time()
    report = embed(one.base(), [load(name) for name in bundled()], out, recipe)
    cpu = time.process_time() - began
    shutil.rmtree(out)
    spills = (report.control.ordinary, report.control.nearby)
    return {
        "unseen": {it.name: it.unseen for it in report.control.functions},
        "spilled": [it.spilled for it in spills], "asked": [it.asked for it in spills],
        "recall": report.recall, "steps": report.steps, "cpu_seconds": cpu,
        "change_percent": 100 * (report.perplexity_after / report.perplexity_before - 1),
    }  # fmt: skip


def attacked(one: Ruled, name: str) -> Record:
    """One attack; the cell "fresh" is none, and asks more keys."""
    from loyal.fingerprints import functional_attacks as attacks

    wanted = {it.name: it for it in attacks.ATTACKS}["none" if name == "fresh" else name]
    count = one.plan.fresh if name == "fresh" else one.plan.asked
    settings = attacks.RuleAttackSettings(
        count, one.seed, one.plan.colorings, fraction=one.plan.fraction
    )
    return asdict(attacks.run_rule_attack(wanted, one.subject(), settings))


MEASURED: Mapping[str, Callable[[Ruled], Record]] = {
    "taught": teach, "ordinary": ordinary, "blocked": blocked, "queries": queries,
    "strangers": strangers, "functions": functions,
}  # fmt: skip
"""Cells that are no attack."""


def cells(plan: Plan) -> list[Cell]:
    """All cells in the order of running: all of a seed, then the next. UsageError for an unknown
    name."""
    names = list(dict.fromkeys(one.cell for one in figures.FIGURES))
    unknown = [name for name in plan.only if name not in names]
    if unknown:
        raise UsageError(f"there is no cell {unknown[0]}", hint=f"known: {', '.join(names)}")
    if plan.only:
        # Control functions are embedded in the base: they need no rule.
        needed = () if set(plan.only) == {"functions"} else ("taught",)
        names = [name for name in names if name in (*needed, *plan.only)]
    return [Ruled(plan, seed).cell(name) for seed in range(plan.seeds) for name in names]


def measure(plan: Plan, cell: Cell) -> Record:
    """Measure one cell."""
    one = Ruled(plan, cell.seed)
    known = MEASURED.get(cell.name)
    return known(one) if known else attacked(one, cell.name)


def table(plan: Plan) -> list[Row]:
    """The rows as they stand, of every seed that is kept, whether this run asks for it or not."""
    kept: dict[str, dict[int, Record]] = {}
    names = list(dict.fromkeys(one.cell for one in figures.FIGURES))
    for folder in Ruled(plan, 0).folder.parent.glob("seed-*"):
        one = Ruled(plan, int(folder.name.removeprefix("seed-")))
        for name in names:
            if (record := one.cell(name).kept()) is not None:
                kept.setdefault(name, {})[one.seed] = record
    return figures.table({name: dict(sorted(it.items())) for name, it in kept.items()}, plan.model)


def publish(plan: Plan) -> None:
    """Write the rows; one that was not run never takes the place of a measured one, nor, unless it
    may, one of fewer seeds that of one of more."""
    known = {one["id"]: one for one in read("control") if one["value"] is not None}
    found = []
    for row in table(plan):
        before = known.get(row.id)
        worse = before is not None and figures.seeds(row.how) < figures.seeds(before["how"])
        if before is None or (row.value is not None and (plan.fewer or not worse)):
            found.append(row)
        elif row.value is not None:
            print(f"{row.id} stays: it is of more seeds (--fewer writes it all the same)")
    put("control", found)


def run(plan: Plan, chosen: Sequence[Cell]) -> list[Cell]:
    """Measure the cells that are missing, writing the rows as they come; the ones that failed."""
    return resume(chosen, lambda one: measure(plan, one), lambda one: publish(plan))
