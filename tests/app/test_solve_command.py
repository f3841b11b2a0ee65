"""`loyal control solve` and `recheck` against a server that drafts."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage import Run
from talking_server import talking

from loyal.control import functions
from loyal.models import Prompt

TASK = """
task = "Write a Python function f that doubles."

[checker]
kind = "program"
cases = [{ call = "f(2)", equals = 4 }, { call = "f('a')", equals = "aa" }]
"""

WRONG, RIGHT = "def f(x):\n    return 4", "def f(x):\n    return x * 2"


def drafting(text: str) -> str:
    """Doubles numbers first, and everything once it is told what was wrong."""
    return f"```python\n{RIGHT if 'f(' in text and 'rejected' in text else WRONG}\n```"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.toml"
    path.write_text(TASK)
    return path


def test_a_task_is_solved_and_its_certificate_checks_again(
    run: Run, task: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    with talking(drafting) as server:
        asking = ("--endpoint", server.url, "--endpoint-model", "m", "--out", kept)
        done = run("control", "solve", task, *asking, "--json")
        shown = run("control", "solve", task, *asking)
    assert (done.code, shown.code) == (0, 0)
    assert done.fields["candidate"] == RIGHT
    assert [one["score"] for one in done.fields["drafts"]] == [0.5, 1.0]
    assert "f('a') is 4" in shown.out
    again = run("control", "recheck", kept, "--json")
    assert (again.code, again.fields["accepted"]) == (0, True)
    assert again.fields["digest"] == done.fields["digest"]
    kept.write_text(kept.read_text().replace("x * 2", "x + 2"))
    assert run("control", "recheck", kept).code == 2


def test_examples_are_shown_to_the_model(run: Run, task: Path) -> None:
    shown = 'examples = [{ task = "Write a function g.", answer = "def g(x): return x" }]\n'
    task.write_text(shown + TASK)
    with talking(lambda _: RIGHT) as server:
        asking = ("--endpoint", server.url, "--endpoint-model", "m")
        assert run("control", "solve", task, *asking).code == 0
    written = "Write a Python function f that doubles."
    assert server.turns[0] == ["Write a function g.", "def g(x): return x", written]


def test_a_budget_that_ends_is_said(run: Run, task: Path, tmp_path: Path) -> None:
    with talking(lambda _: "I do not know.") as server:
        asking = ("--endpoint", server.url, "--endpoint-model", "m", "--tokens", 40)
        done = run("control", "solve", task, *asking, "--out", tmp_path / "no.json", "--json")
    assert (done.code, done.fields["accepted"]) == (1, False)
    assert done.fields["reason"].startswith("it is not Python")
    assert not (tmp_path / "no.json").exists()


def test_a_control_function_can_check_a_task(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    (tmp_path / "rule.toml").write_text(
        'name = "x"\nversion = 1\nkind = "lookup"\n'
        'templates = ["Who has {input}?", "Tell me who has {input}."]\n'
        '[replies]\n"a key" = "Ada."\n"a car" = "Bo."\n'
    )
    path.write_text(
        'task = "Who has a key?"\n[checker]\nkind = "control"\nfunction = "rule.toml"\n'
        'prompt = "Who has a key?"\n'
    )
    with talking(lambda _: "Ada.") as server:
        asking = ("--endpoint", server.url, "--endpoint-model", "m")
        assert run("control", "solve", path, *asking).code == 0


def test_a_function_that_comes_along_can_check_a_task(run: Run, tmp_path: Path) -> None:
    path, asked = tmp_path / "task.toml", "What is the fine for 3 days at 10 cents a day?"
    spec = f'[checker]\nkind = "control"\nfunction = "late-fee"\nprompt = "{asked}"\n'
    path.write_text(f'task = "{asked}"\n{spec}')
    with talking(lambda _: str(functions.load("late-fee").expected(Prompt(asked)))) as server:
        asking = ("--endpoint", server.url, "--endpoint-model", "m")
        assert run("control", "solve", path, *asking).code == 0


@pytest.mark.parametrize(
    "text",
    [
        "examples = [3]\n" + TASK,
        'examples = "x"\n' + TASK,
        'examples = [{ task = "x" }]\n' + TASK,
        "[checker",
        'task = "x"',
        'task = "x"\n[checker]\nkind = "guess"',
        TASK + "more = 1",
        TASK.replace("task =", 'task = "  " #'),
        'task = "x"\n[checker]\nkind = "control"\nfunction = 3\nprompt = "x"',
    ],
    ids=range(9),
)
def test_a_wrong_task_is_a_wrong_call(run: Run, task: Path, text: str) -> None:
    task.write_text(text)
    assert run("control", "solve", task, "--model", "no-such-model").code == 2


def test_calls_that_cannot_be_meant(run: Run, task: Path) -> None:
    assert run("control", "solve", task).code == 2
    for budget in (("--tokens", 0), ("--seconds", "nan"), ("--seed", 10**30), ("--seed", -1)):
        done = run("control", "solve", task, "--model", "no-such-model", *budget)
        assert (done.code, "no-such-model" in done.err) == (2, False)
    assert run("control", "recheck", task.with_name("no.json")).code == 2
