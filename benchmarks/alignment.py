"""What alignment reaches, how fast and at what cost, on the default model: `make bench-alignment`.

    python benchmarks/alignment.py [run|collect|show] [--seeds N] [--quick] [--only ROW-OR-CELL]

Every measured cell (a name and a seed) is a file under --folder, and models stay beside them: the
same command goes on where it was stopped, and a kill costs one cell. After each cell the rows in
results/alignment.json are written anew (results/alignment-quick.json with --quick, which trains on
fewer pairs and asks fewer questions). Rows that were not run are null and say so, and never take
the place of a measured one. `--only rogue-refusing` measures that cell, and what it needs; the
names are NAMES.

Keep rates need a judge that shares neither data nor weights with training and that separates the
labeled replies of --labels (alignment_measuring.py): a probe of another model (--judge-probe),
or a model that is asked with a rubric (--judge-model, or --endpoint with --endpoint-model). Without
one their rows are null, and nothing is trained for them.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import alignment_cells as cells_
import alignment_commands
import alignment_hosts
import alignment_measuring
import alignment_watch
from alignment_cells import save
from alignment_hosts import HOSTS, PROMPTED, ROGUES
from alignment_measuring import loaded
from alignment_plan import LABELS, MAIN, MODEL, Plan, tag_of
from alignment_skills import PATH as SKILLS
from alignment_skills import skills
from alignment_table import CONSTITUTIONS, INT8, Figure, Kept, figures
from alignment_watch import COPY, LARGE, Bench
from loyal.alignment import Judge, judge, labeled
from loyal.alignment.labeled import Labeled
from loyal.community import Constitution, constitution_file
from loyal.errors import ConfigError, JudgeError, UsageError
from loyal.fingerprints.weight_attacks import change_linears, int8
from resumable import Cell, Record, resume
from rows import put, read, show

if TYPE_CHECKING:
    from loyal.models.hf import HFModel

SETTINGS = "cells in "
"""Before the end of the name of the folder of cells, in rows that were run."""
COPIES = (COPY, LARGE)
BEFORE = {
    "cost": (f"time-{MAIN}", "base"),
    f"cost-{INT8}": ("base",),
    "skills": (f"time-{MAIN}", "skills-base"),
    f"skills-{INT8}": ("skills-base",),
    "keep-base": ("measuring",),
    "keep-aligned": ("measuring", f"time-{MAIN}"),
    "win-template": (f"time-{MAIN}",),
    "keep-base-template": ("measuring",),
    "keep-aligned-template": ("measuring", f"time-{MAIN}"),
    "harden-plain": ("measuring", f"time-{MAIN}"),
    "keep-plain": ("harden-plain",),
    "harden-static": ("measuring", f"time-{MAIN}"),
    "keep-static": ("harden-static",),
    "harden-adaptive": ("measuring", f"time-{MAIN}"),
    "keep-adaptive": ("harden-adaptive",),
    "opposed": (f"time-{MAIN}",),
    "promise": ("opposed",),
    **dict.fromkeys(COPIES, (f"time-{MAIN}",)),
    **dict.fromkeys(HOSTS, ("promise", COPY)),
    PROMPTED: ("promise", LARGE),
}
"""Cells that go before a cell."""
LARGER = "judge-larger"
HARDENED = tuple(
    f"{what}-{mode}" for mode in ("plain", "static", "adaptive") for what in ("harden", "keep")
)
"""Those that other settings of hardening change."""
NAMES = (
    *(f"time-{one}" for one in CONSTITUTIONS), "slash", "base", "cost", f"cost-{INT8}",
    "skills-base", "skills", f"skills-{INT8}", "win-template", "judge", LARGER, "measuring",
    "keep-base", "keep-aligned", "keep-base-template", "keep-aligned-template", *HARDENED,
    "opposed", "promise", *COPIES, *HOSTS, "minutes", "minutes-search",
)  # fmt: skip
"""All cells, in the order in which they run."""
WATCHED = ("opposed", "promise", *COPIES, *HOSTS)
"""Those of one seed's promise and of the hosts that are held to it."""
ONCE = (
    "slash", "base", f"cost-{INT8}", "skills-base", f"skills-{INT8}", LARGER, "measuring",
    "minutes", "minutes-search",
)  # fmt: skip
"""Those that no seed changes."""
JUDGED = tuple(one for one in NAMES if one.startswith(("measuring", "keep-", "harden-")))
"""Those that need a judge apart from training."""
NO_JUDGE = (
    "no judge here shares neither data nor weights with training: give --judge-probe, "
    "--judge-model, or --endpoint and --endpoint-model"
)


def figures_of(plan: Plan) -> list[Figure]:
    """Those that were asked for; UsageError for a name that is neither a row's nor a cell's."""
    every = figures()
    known = (*(f"align-{one.id}" for one in every), *NAMES)
    for name in plan.only:
        if name not in known:
            raise UsageError(
                f"there is no row or cell {name}", hint=f"name one of {', '.join(known)}"
            )
    return [one for one in every if not plan.only or f"align-{one.id}" in plan.only]


def cell(plan: Plan, name: str, seed: int) -> Cell:
    """One cell and its file; what is asked, a file of labels or a judge decides has a folder of its
    own."""
    folder = plan.place / f"seed-{seed}"
    learned = files("loyal.alignment").joinpath("data", f"{MAIN}.jsonl").read_bytes()
    if name.startswith("skills"):
        folder = folder / f"skills-{tag_of(_bytes(SKILLS))}"
    if name.startswith(("base", "cost")):
        folder = folder / f"choices-{cells_.DRAWS}"
    if name in ("judge", LARGER):
        folder = folder / f"labels-{tag_of(_bytes(plan.labels) + learned)}"
    if name in JUDGED:
        known = _bytes(plan.labels) + repr(plan.judge).encode() + learned
        folder = folder / f"judge-{tag_of(known)}"
    if name in HARDENED:
        folder = folder / plan.hardening
    if name in WATCHED:
        folder = _watched(plan, seed)
    return Cell(Path(plan.model).name, seed, name, folder / f"{name}.json")


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def cells(plan: Plan) -> list[Cell]:
    """Those that the rows need and that can be measured here, in the order of running."""
    wanted = {need for one in figures_of(plan) for need in one.needs} | {*plan.only} & {*NAMES}
    while more := {one for name in wanted for one in BEFORE.get(name, ())} - wanted:
        wanted |= more
    closed = reasons(plan)
    return [
        cell(plan, name, seed)
        for name in NAMES
        if name in wanted and name not in closed
        for seed in range(1 if name in ONCE else plan.seeds)
    ]


def reasons(plan: Plan) -> dict[str, str]:
    """By cell, why it cannot be measured here."""
    try:
        named = labels_of(plan)[0].name
    except (ConfigError, UsageError) as error:
        return dict.fromkeys(("judge", LARGER, *JUDGED), str(error))
    if named != MAIN:
        why = f"the labels are of {named}, and the models are trained on {MAIN}"
    elif not plan.judge:
        why = NO_JUDGE
    else:
        kept = cell(plan, "measuring", 0).kept()
        why = kept["reason"] if kept else ""
    closed = dict.fromkeys(JUDGED, why) if why else {}
    if plan.judge[:1] != (alignment_measuring.PROBE,):
        closed[LARGER] = "no model to read is given: --judge-probe"
    return closed


def labels_of(plan: Plan) -> tuple[Constitution, tuple[Labeled, ...]]:
    """The labeled replies, and whose values they are held against.

    UsageError where there are none or too few, ConfigError for lines that fit no constitution.
    """
    if not plan.labels.is_file():
        raise UsageError(f"no labeled replies: {plan.labels.name} is not there", hint="label some")
    wrong: ConfigError | None = None
    for name in CONSTITUTIONS:
        constitution = constitution_file.bundled(name)
        try:
            replies = labeled.read(plan.labels, constitution).replies
        except ConfigError as error:
            wrong = wrong or error
            continue
        if len(replies) < judge.LEAST_LABELED:
            raise UsageError(
                f"{len(replies)} labeled replies, fewer than {judge.LEAST_LABELED}",
                hint="label more",
            )
        return constitution, replies
    assert wrong is not None
    raise wrong


def measure(plan: Plan, one: Cell) -> Record:
    """Measure one cell; raises what the work raises."""
    kind, _, rest = one.name.partition("-")
    if kind == "time":
        return _timed(plan, rest, one.seed)
    if kind == "slash":
        import slashing

        return slashing.attempts()
    if kind == "base":
        return cells_.alone(loaded(plan.model), plan.size)
    if kind == "cost":
        return cells_.cost(_spent(plan, one, rest), loaded(plan.model), plan.size)
    if kind == "skills":
        return skills(_spent(plan, one, rest))
    if kind == "win":
        pairs = cells_.plain_pairs(constitution_file.bundled(MAIN), plan.size, one.seed)
        return cells_.templated_wins(_made(plan, "aligned", one.seed), loaded(plan.model), pairs)
    if kind == "judge":
        return _embedded(plan, one.seed, bool(rest))
    if kind == "measuring":
        return _measuring(plan)
    if kind == "harden":
        return _hardened(plan, rest, one.seed)
    if kind == "keep":
        return _kept(plan, rest, one.seed)
    if kind == "minutes":
        return _minutes(plan, rest or "given")
    return _watch(plan, one)


def _spent(plan: Plan, one: Cell, which: str) -> HFModel:
    """The aligned model of a seed, or the untouched one: as it is (base), or its weights in 8
    bits, which many hosts serve."""
    if not which:
        return _made(plan, "aligned", one.seed)
    model = loaded(plan.model)
    return change_linears(model, int8) if which == INT8 else model


def _timed(plan: Plan, name: str, seed: int) -> Record:
    """The training on a clock; the main constitution's model is kept."""
    pairs = cells_.plain_pairs(constitution_file.bundled(name), plan.size, seed)
    model = loaded(plan.model)
    found = cells_.timed_training(model, pairs, plan.settings(seed))
    if name == MAIN:
        save(model, _folder(plan, "aligned", seed))
    return found


def _embedded(plan: Plan, seed: int, large: bool) -> Record:
    """The embedded judge on the labeled replies; it learned from others (`labeled.bundled`)."""
    constitution, replies = labels_of(plan)
    if large:
        made = alignment_measuring.reading(plan.judge[1], constitution)
    else:
        labels = labeled.bundled(constitution)
        made = alignment_measuring.embedded(plan.model, constitution, labels, seed)
    report = judge.calibrate(made, replies)
    return {
        "name": made.name, "count": report.count, "kept": sum(one.kept for one in replies),
        "auc": [report.auc, report.interval.low, report.interval.high],
        "error": report.decided.error, "abstained": report.decided.abstained / report.count,
    }  # fmt: skip


def _measuring(plan: Plan) -> Record:
    """The judge of keep rates, calibrated on the labels; why it cannot be one, where it cannot."""
    _, replies = labels_of(plan)
    apart = measuring_judge(plan)
    try:
        judge.require_apart(training_judge(plan), apart)
        report = judge.calibrate(apart, replies)
        judge.require_separation(report)
    except JudgeError as error:
        return {"reason": str(error)}
    return {"reason": "", "name": apart.name, "auc": report.auc,
            "low": report.interval.low, "high": report.interval.high,
            "error": report.decided.error, "abstained": report.decided.abstained / report.count,
            "calibration": asdict(report.calibration)}  # fmt: skip


def measuring_judge(plan: Plan) -> Judge:
    """The one that measures keep rates."""
    return alignment_measuring.measuring(plan.judge, constitution_file.bundled(MAIN), plan.key)


def training_judge(plan: Plan) -> Judge:
    """The one that hardens."""
    part = plan.judge[:1] == (alignment_measuring.PROBE,)
    return alignment_measuring.training(plan.model, constitution_file.bundled(MAIN), part)


def _hardened(plan: Plan, mode: str, seed: int) -> Record:
    """The aligned model hardened in a mode; it is kept."""
    recipe = plan.settings(seed)
    recipe = replace(recipe, harden=replace(recipe.harden, mode=mode))
    name = f"{mode}-{plan.hardening}"
    model, work = _made(plan, "aligned", seed), _folder(plan, f"work-{name}", seed)
    constitution = constitution_file.bundled(MAIN)
    found = cells_.hardened(model, constitution, training_judge(plan), recipe, work)
    save(model, _folder(plan, name, seed))
    shutil.rmtree(work, ignore_errors=True)
    return found


def _kept(plan: Plan, name: str, seed: int) -> Record:
    """Keep rates of the base, the aligned model or a hardened one, as the measuring judge says."""
    constitution, size = constitution_file.bundled(MAIN), plan.size
    known = cell(plan, "measuring", 0).kept()
    if not known or known["reason"]:
        raise JudgeError("no judge to measure with", hint="see the reason in the rows")
    trusted = judge.Calibrated(measuring_judge(plan), alignment_measuring.calibration(known))
    name, _, template = name.partition("-")
    if name in ("base", "aligned"):
        asked = cells_.plainly(constitution, cells_.plain_pairs(constitution, size, seed))
        if template:
            asked = [(value, split, cells_.templated(one)) for value, split, one in asked]
    else:
        asked = cells_.attacked(constitution, trusted, size, seed)
    made = name if name == "aligned" else f"{name}-{plan.hardening}"
    model = loaded(plan.model) if name == "base" else _made(plan, made, seed)
    return cells_.kept(model, trusted, asked, size.reply_tokens)


def _minutes(plan: Plan, which: str) -> Record:
    """Of all commands, with weights that are "given" or from a "search"."""
    folder = _folder(plan, f"commands-{which}", 0)
    steps = alignment_commands.steps(which, MAIN, plan.model, (folder, plan.recipe), plan.size)
    return alignment_commands.run(steps, folder)


def _watch(plan: Plan, one: Cell) -> Record:
    """A seed's promise, its copy, or one host that is asked."""
    bench = _bench(plan, one.seed)
    if one.name in HOSTS:
        host = alignment_hosts.make(bench, one.name)
        runs = bench.size.runs if one.name in ROGUES else bench.size.benign_runs
        return alignment_watch.watch(bench, host, runs)
    if one.name in COPIES:
        return alignment_watch.copied(bench, one.name)
    made = {"opposed": alignment_watch.opposed, "promise": alignment_watch.promise}
    return made[one.name](bench)


def _watched(plan: Plan, seed: int) -> Path:
    tag = tag_of(json.dumps(asdict(plan.watch), sort_keys=True).encode())
    return _folder(plan, f"watch-{tag}", seed)


def _bench(plan: Plan, seed: int) -> Bench:
    constitution = constitution_file.bundled(MAIN)
    pairs = cells_.plain_pairs(constitution, plan.size, seed)
    return Bench(
        _watched(plan, seed), _there(plan, "aligned", seed), constitution, pairs,
        plan.settings(seed), plan.watch, seed,
    )  # fmt: skip


def _folder(plan: Plan, name: str, seed: int) -> Path:
    return plan.place / f"seed-{seed}" / name


def _made(plan: Plan, name: str, seed: int) -> HFModel:
    return loaded(str(_there(plan, name, seed)))


def _there(plan: Plan, name: str, seed: int) -> Path:
    """The folder of a model that was made."""
    folder = _folder(plan, name, seed)
    if not folder.is_dir():
        raise UsageError(f"there is no model {folder}", hint="delete its cell; it is made again")
    return folder


def kept_of(plan: Plan) -> Kept:
    """What was measured so far."""
    found = {}
    for name in NAMES:
        known = {seed: cell(plan, name, seed).kept() for seed in range(plan.seeds)}
        found[name] = {seed: one for seed, one in known.items() if one is not None}
    return found


def publish(plan: Plan) -> None:
    """Write the rows; one that was not run never takes the place of a measured one.

    A row says which settings it was run with: what stays may be of others than the rest.
    """
    measured = {
        one["id"]
        for one in read(plan.results)
        if one["value"] is not None or SETTINGS in one["how"]
    }
    kept, why = kept_of(plan), reasons(plan)
    recipe = plan.recipe.name if plan.recipe else "default settings"
    texts = ((one, constitution_file.bundled(one).version) for one in CONSTITUTIONS)
    tag = f"{SETTINGS}{plan.place.name.rpartition('-')[2]}"
    about = ", ".join((Path(plan.model).name, recipe, *map(" ".join, texts), tag))
    rows = [(one, one.row(kept, why, about)) for one in figures()]
    put(plan.results, [row for one, row in rows if one.ran(kept) or row.id not in measured])


def _plan(given: argparse.Namespace) -> Plan:
    if given.endpoint:
        if not given.endpoint_model:
            raise UsageError("a server serves several models", hint="give --endpoint-model")
        named: tuple[str, ...] = (given.endpoint, given.endpoint_model)
    elif given.judge_model:
        named = (given.judge_model,)
    else:
        named = (alignment_measuring.PROBE, given.judge_probe) if given.judge_probe else ()
    return Plan(
        quick=given.quick, seeds=given.seeds or (1 if given.quick else Plan.seeds),
        only=tuple(given.only), model=given.model,
        recipe=given.recipe.resolve() if given.recipe else None, labels=given.labels.resolve(),
        judge=named, api_key_env=given.api_key_env, folder=given.folder.resolve(),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, writing the rows as they come; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="?", default="run", choices=("run", "collect", "show"))
    parser.add_argument("--seeds", type=int, help="5, quick 1")
    parser.add_argument("--quick", action="store_true", help="fewer pairs and questions")
    only = "this row or this cell alone, with what it needs; may be repeated"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=only)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--recipe", type=Path, help="TOML settings of training")
    parser.add_argument("--labels", type=Path, default=LABELS)
    probe = "measures keep rates, by its states; without --judge-model or --endpoint"
    parser.add_argument("--judge-probe", help=probe, metavar="MODEL")
    parser.add_argument("--judge-model", help="the same, asked with a rubric")
    parser.add_argument("--endpoint", help="the same behind a server")
    parser.add_argument("--endpoint-model")
    parser.add_argument("--api-key-env", default="", help="variable that holds the server's key")
    parser.add_argument("--folder", type=Path, default=Plan.folder, help="where cells stay")
    plan, failed = _plan(given := parser.parse_args(arguments)), []
    if given.step == "run":
        logging.disable(logging.INFO)
        failed = _run(plan)
    if given.step != "show":
        publish(plan)
    show(plan.results)
    for one in failed:
        print(f"failed: seed {one.seed}: {one.name}")
    return 1 if failed else 0


def _run(plan: Plan) -> list[Cell]:
    """The cells up to the measuring judge, then the others: what it is decides on those."""
    publish(plan)
    failed: list[Cell] = []
    for judged in (False, True):
        some = [
            one for one in cells(plan) if (one.name in JUDGED and one.name != "measuring") == judged
        ]
        failed += resume(some, lambda one: _clocked(plan, one), lambda one: publish(plan))
    return failed


def _clocked(plan: Plan, one: Cell) -> Record:
    """Measure, and say what it took."""
    clock = cells_.Clock()
    record = measure(plan, one)
    print(f"  {clock.wall:.0f} s, {clock.cpu:.0f} CPU s", flush=True)
    return record


if __name__ == "__main__":
    raise SystemExit(main())
