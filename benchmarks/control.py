"""`make bench-control`: drafting and checking, and trained functions (`control_rule`).

Drafting and checking stand against greedy decoding and against no model at all. On the 100 bundled
tasks (`loyal.control.tasks`) the same small model answers greedily, which is the first draft of its
search, and searches with `propose`; an enumeration without a model checks as many candidates as the
search may, small ones first. What was accepted is judged again by code that shares nothing with the
checkers (`control_baseline.confirmed`). Each task is a file under --folder, so that a run goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import control_rule
from control_baseline import candidates, confirmed
from loyal.control.checkers import checkers
from loyal.control.propose import Budget, propose
from loyal.control.tasks import Task, bundled
from loyal.models import LanguageModel
from resumable import Cell, Record, resume
from rows import Row, put, show

MODEL = "smollm2-135m-instruct"
BUDGET = Budget(
    tokens=512, seconds=3600, drafts=64, width=32, draft_tokens=32, enumerate=True, anew=0.0
)
TASKS = 100
TASKS_CELL = "tasks"
"""What --only calls drafting and checking."""


def measured(model: LanguageModel, task: Task) -> Record:
    """One task: greedy, searched, enumerated, and each accepted answer judged again."""
    found = propose(model, task.text, task.spec, BUDGET, examples=task.examples)
    tried = list(itertools.islice(candidates(task.spec), BUDGET.drafts))
    verdicts = zip(tried, checkers(task.spec)(tried), strict=True)
    blind = next((one for one, verdict in verdicts if verdict.accepted), None)
    drafted = found.certificate.candidate if found.certificate else None
    accepted = [one for one in (drafted, blind) if one is not None]
    return {
        "field": task.field, "greedy": found.drafts[0].verdict.accepted, "drafted": drafted,
        "drafts": len(found.drafts), "tokens": found.tokens, "seconds": round(found.seconds, 2),
        "enumerated": blind, "wrong": sum(not confirmed(task.spec, one) for one in accepted),
    }  # fmt: skip


def rows(records: list[Record]) -> list[Row]:
    """The figures. Of a part of the tasks none has a value: `how` says how far it is."""
    greedy = sum(one["greedy"] for one in records)
    solved = [one for one in records if one["drafted"] is not None]
    blind = sum(one["enumerated"] is not None for one in records)
    logic = sum(one["field"] == "logic" for one in solved)
    tokens = sum(one["tokens"] for one in records)
    wrong, accepted = sum(one["wrong"] for one in records), len(solved) + blind
    how = f"{MODEL}, {len(records)} bundled tasks, seed 0, four solved examples each"
    spent = f"{BUDGET.drafts} drafts and {BUDGET.tokens} tokens a task at most"
    searched = f"{how}; {spent}; {tokens} tokens in all; {logic} are of logic"
    blindly = f"small answers first, {BUDGET.drafts} candidates a task"
    gain = len(solved) / greedy if greedy else None
    found = [
        _at_least("greedy", "tasks solved by greedy decoding", greedy, 1, how),
        _at_least("drafted", "tasks solved by drafting and checking", len(solved), None, searched),
        _at_least("gain", "drafting and checking over greedy decoding", gain, 3, how),
        _at_least("enumerated", "tasks solved by enumeration, no model", blind, None, blindly),
        _at_least(
            "over-enumeration", "tasks solved more than by enumeration", len(solved) - blind, 1,
            "as many candidates are checked in both, at most",
        ),
        Row(
            "control-wrong", "wrong answers accepted", wrong, "answers", 0, "at_most",
            f"all {accepted} accepted ones judged again by exact rationals and truth tables",
        ),
    ]  # fmt: skip
    if len(records) == TASKS:
        return found
    so_far = f"{len(records)} of {TASKS} tasks are measured"
    return [replace(one, value=None, how=f"{so_far}; of these: {one.value}") for one in found]


def _at_least(id: str, what: str, value: float | None, bound: float | None, how: str) -> Row:
    unit = "times" if id == "gain" else "of 100"
    return Row(f"control-{id}", what, value, unit, bound, "at_least", how)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, writing the rows as they come; then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/control"))
    parser.add_argument("--so-far", action="store_true", help="measure nothing more")
    parser.add_argument("--show", action="store_true", help="print the table alone")
    parser.add_argument("--seeds", type=int, default=3, help="seeds to measure, from 0 on: 3")
    parser.add_argument("--fewer", action="store_true", help="let fewer seeds replace more")
    only = f"'{TASKS_CELL}', or a cell of control_rule.py (taught, fresh, ...); may be repeated"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=only)
    given = parser.parse_args(arguments)
    rule = tuple(name for name in given.only if name != TASKS_CELL)
    plan = control_rule.Plan(given.folder.resolve(), given.seeds, rule, fewer=given.fewer)
    chosen = control_rule.cells(plan)  # says no to an unknown name before anything runs
    failed: list[Cell] = []
    if not given.show:
        measuring = not given.so_far
        failed += _tasks(given.folder, measuring and (not given.only or TASKS_CELL in given.only))
        control_rule.publish(plan)
        if measuring and (rule or not given.only):
            failed += control_rule.run(plan, chosen)
    show("control")
    for one in failed:
        print(f"failed: {one.recipe}, seed {one.seed}: {one.name}")
    return 1 if failed else 0


def _tasks(folder: Path, measuring: bool) -> list[Cell]:
    """Drafting and checking: measure the tasks that are missing, and write their rows."""
    tasks = {one.name: one for one in bundled()}
    cells = [Cell(MODEL, 0, name, folder / f"{name}.json") for name in tasks]
    failed = []
    if measuring and any(one.kept() is None for one in cells):
        model = _loaded()
        failed = resume(cells, lambda cell: measured(model, tasks[cell.name]))
    records = [found for one in cells if (found := one.kept()) is not None]
    if records:
        put("control", rows(records))
    return failed


def _loaded() -> LanguageModel:
    from loyal.models.hf import HFModel
    from loyal.models.library import fetch

    logging.disable(logging.INFO)
    fetch(MODEL, print)
    return HFModel.load(MODEL)


if __name__ == "__main__":
    raise SystemExit(main())
