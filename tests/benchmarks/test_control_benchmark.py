"""The benchmark of control: its tasks are as their generator writes them, its judge is a second.

Left out: what the default model solves, which takes half an hour (`make bench-control`).
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import control  # noqa: E402
import control_baseline  # noqa: E402
import control_tasks  # noqa: E402
from loyal.control.algebra import judge  # noqa: E402
from loyal.control.tasks import bundled  # noqa: E402
from loyal.models.language_model import Prompt, Reply, Sampling  # noqa: E402

TASKS = bundled()
EVERY_FOURTH = [one for one in TASKS if one.level % 4 == 2]


def test_the_file_is_what_its_generator_writes() -> None:
    assert control_tasks.FILE.read_text(encoding="utf-8") == control_tasks.written()


def test_there_are_a_hundred_tasks_half_of_each_field_all_different() -> None:
    assert Counter(one.field for one in TASKS) == {"algebra": 50, "logic": 50}
    shown = {text for one in TASKS for text, _ in one.examples}
    assert len({one.text for one in TASKS}) == len({one.name for one in TASKS}) == 100
    assert not shown & {one.text for one in TASKS}


@pytest.mark.parametrize("make", [*control_tasks.ALGEBRA, *control_tasks.LOGIC])
def test_made_answers_hold_by_both_judges_and_the_text_is_no_answer(make) -> None:
    rng = random.Random(9)
    for level in range(1, control_tasks.LEVELS + 1):
        text, answer, spec = make(level, rng)
        assert judge(spec, answer)[0], (text, answer)
        assert control_baseline.confirmed(spec, answer), (text, answer)
        asked = text.partition(":")[2].strip().rstrip(".")
        for said in (text, asked, *asked.split(" and ")):
            assert not _judged(spec, said), (text, said)


def test_the_second_judge_agrees_with_sympy_on_what_is_enumerated() -> None:
    found = Counter(
        (_judged(one.spec, said), control_baseline.confirmed(one.spec, said))
        for one in EVERY_FOURTH
        for said in itertools.islice(control_baseline.candidates(one.spec), 24)
    )
    assert set(found) == {(True, True), (False, False)}


def _judged(spec, said: str) -> bool:
    """As the checker: what SymPy gives up on is no answer."""
    try:
        return judge(spec, said)[0]
    except Exception:
        return False


@pytest.mark.parametrize(
    ("mode", "more", "right", "wrong"),
    [
        ("equal", {"expected": "2*x + 2*y"}, "2*(x + y)", "2*x*y"),
        ("equal", {"expected": "6*x"}, "3*x*2", "x^6"),
        ("derivative", {"expected": "6*x**2 - 1/2", "variable": "x"}, "2*x^3 - x/2 + 7", "6*x**2"),
        ("derivative", {"expected": "-1/x**2", "variable": "x"}, "1/x", "-1/x"),
        ("solves", {"equations": ["x + 1 = 3"], "unknowns": ["x"]}, "x = 3 - 1", "x = 3"),
        ("solves", {"equations": ["x + 1 = 3"], "unknowns": ["x"]}, "x = 4/2", "x = 2, x = 2"),
        ("equivalent", {"expected": "p >> q"}, "not p or q", "q >> p"),
        ("equivalent", {"expected": "p ^ q"}, "(p | q) & ~(p & q)", "p | q"),
        ("equivalent", {"expected": "p"}, "p & (q | ~q)", "p & q"),
    ],
)
def test_the_second_judge(mode: str, more: dict[str, object], right: str, wrong: str) -> None:
    spec = {"mode": mode, **more}
    assert control_baseline.confirmed(spec, right)
    for said in (wrong, "", "__import__('os')", "lambda: 0", "x" * 3, "1/0"):
        assert not control_baseline.confirmed(spec, said)


def test_enumerations_are_of_different_candidates_small_first() -> None:
    for one in EVERY_FOURTH:
        tried = list(itertools.islice(control_baseline.candidates(one.spec), 64))
        assert len(set(tried)) == len(tried)
    spec = {"mode": "solves", "equations": ["x = 2"], "unknowns": ["x"]}
    first = list(itertools.islice(control_baseline.candidates(spec), 5))
    assert first == ["x = 0", "x = -1", "x = 1", "x = -2", "x = 2"]
    formulas = itertools.islice(
        control_baseline.candidates({"mode": "equivalent", "expected": "p & q"}), 5
    )
    assert set(formulas) == {"(p & q)", "(p | q)", "(p ^ q)", "(p >> q)", "(q >> p)"}


class Listed:
    """One likeliest reply, and no further one."""

    def __init__(self, text: str) -> None:
        self.left = [text]

    def next(self, count: int, tokens: int) -> tuple[list[Reply], int]:
        told, self.left = self.left[:count], self.left[count:]
        return [Reply(one, min(5, tokens), True) for one in told], min(5, tokens) * len(told)


class Scripted:
    """A model that says one thing greedily, another where its likeliest replies are listed."""

    name = "scripted"

    def __init__(self, greedy: str, listed: str) -> None:
        self.greedy, self.listed = greedy, listed

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        assert not sampling.temperature
        assert all(len(one.history) == 4 for one in prompts)
        return [Reply(self.greedy, min(5, sampling.max_tokens), True) for _ in prompts]

    def enumerate(self, prompt: Prompt, longest: int) -> Listed:
        return Listed(self.listed)

    def next_token(self, prompts, top):
        raise AssertionError("a search asks for text alone")

    def logprobs(self, prompts, replies):
        raise AssertionError("a search asks for text alone")


def test_a_task_is_measured_and_rows_are_made_of_it() -> None:
    (task,) = [one for one in TASKS if one.name == "conjunction-10"]
    answer = task.spec["expected"]
    late = control.measured(Scripted("p", answer), task)
    assert (late["greedy"], late["drafted"], late["enumerated"]) == (False, answer, None)
    assert (late["drafts"], late["wrong"], late["field"]) == (2, 0, "logic")
    early = control.measured(Scripted(answer, "p"), task)
    assert (early["greedy"], early["drafts"]) == (True, 1)
    never = control.measured(Scripted("p", "q"), task)
    assert (never["greedy"], never["drafted"]) == (False, None)
    assert never["tokens"] <= control.BUDGET.tokens
    rows = {one.id: one for one in control.rows([late, late, early, never] * 25)}
    found = {name: one.value for name, one in rows.items()}
    assert found == {
        "control-greedy": 25, "control-drafted": 75, "control-gain": 3, "control-enumerated": 0,
        "control-over-enumeration": 75, "control-wrong": 0,
    }  # fmt: skip
    assert all(one.holds is not False for one in rows.values())
    none = {one.id: one for one in control.rows([never] * 100)}
    assert (none["control-gain"].value, none["control-greedy"].holds) == (None, False)
    part = {one.id: one for one in control.rows([late, early])}
    assert {one.value for one in part.values()} == {None}
    assert part["control-gain"].how == "2 of 100 tasks are measured; of these: 2.0"
