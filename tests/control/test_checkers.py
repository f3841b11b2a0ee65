"""Checkers: each kind accepts what is right, rejects what is wrong with a reason, is not fooled."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest
from control_files import PROGRAM

from loyal.control import checkers as checkers_module
from loyal.control.checkers import LIMITS, Checkers, Verdict, checker, checkers
from loyal.control.sandbox import Limits
from loyal.control.smt import one_term, script
from loyal.errors import ControlError

SURE = Limits(cpu_seconds=5, seconds=600, memory_bytes=1 << 30)
"""The usual ones, but the clock decides nothing, however busy the machine is."""
SOON = Limits(cpu_seconds=1, seconds=600, memory_bytes=1 << 30)
"""What never ends is waited for no longer than this."""


def algebra(mode: str, limits: Limits = SURE, **more: object) -> Checkers:
    """Candidates of one test go to one process: each process loads SymPy."""
    return checkers({"kind": "algebra", "mode": mode, **more}, limits)


NO_EXPRESSIONS = (
    "__import__('os').system('true')",
    "x.real",
    "[1]",
    "lambda: 1",
    "",
    "9**9**9**9",
    "1/0",
    "x" * 2000,
)
HALF = "x = 4, y = 1"
NO_SOLUTIONS = ("x = y, y = 2", "x = 3", "x = 3, x = 3, y = 2", "3 and 2", HALF)


@pytest.fixture(scope="module")
def equal_to_x() -> dict[str, Verdict]:
    found = algebra("equal", SOON, expected="x")(NO_EXPRESSIONS)
    return dict(zip(NO_EXPRESSIONS, found, strict=True))


@pytest.fixture(scope="module")
def two_unknowns() -> dict[str, Verdict]:
    check = algebra("solves", equations=["x + y = 5", "x - y = 1"], unknowns=["x", "y"])
    return dict(zip(NO_SOLUTIONS, check(NO_SOLUTIONS), strict=True))


@pytest.mark.parametrize(
    ("mode", "more", "right", "wrong"),
    [
        ("equal", {"expected": "(x + 1)^2"}, "x**2 + 2*x + 1", "x**2 + 2*x"),
        ("equal", {"expected": "1/3 + 1/6"}, "0.5", "0.51"),
        (
            "derivative",
            {"expected": "2*x*cos(x^2)", "variable": "x"},
            "sin(x^2) + 4",
            "cos(x^2)",
        ),
        (
            "solves",
            {"equations": ["x + y = 5", "x - y = 1"], "unknowns": ["x", "y"]},
            "x = 3, y = 2",
            "x = 2, y = 3",
        ),
        ("equivalent", {"expected": "a >> b"}, "not a or b", "a or b"),
    ],
)
def test_algebra_and_logic(mode: str, more: dict[str, object], right: str, wrong: str) -> None:
    good, bad = algebra(mode, **more)([right, wrong])
    assert (good.accepted, good.score) == (True, 1.0)
    assert not bad.accepted
    assert bad.score < 1
    assert bad.reason
    assert "\n" not in bad.reason
    assert str(more.get("expected", "y = 2")) not in bad.reason


@pytest.mark.parametrize("candidate", NO_EXPRESSIONS)
def test_what_is_no_expression_is_rejected(candidate: str, equal_to_x: dict[str, Verdict]) -> None:
    assert not equal_to_x[candidate].accepted


@pytest.mark.parametrize("candidate", NO_SOLUTIONS)
def test_a_solution_gives_each_unknown_once(
    candidate: str, two_unknowns: dict[str, Verdict]
) -> None:
    assert not two_unknowns[candidate].accepted


def test_a_half_solution_has_half_the_score(two_unknowns: dict[str, Verdict]) -> None:
    found = two_unknowns[HALF]
    assert (found.accepted, found.score) == (False, 0.5)
    assert "x - y = 1" in found.reason


@pytest.mark.parametrize(
    ("equation", "wrong", "right"),
    [
        ("(x - 1)/(x - 1) = 1", "1", "2"),
        ("x/x = 1", "0", "-3"),
        ("x*(1/x) = 1", "0", "1/2"),
        ("(x**2 - 1)/(x - 1) = 2", "1", ""),
        ("log(x)/log(x) = 1", "1", "2"),
        ("1/(1/(x - 1)) = 0", "1", ""),
        ("1/x = 0", "1/0", ""),
        ("1/x = 0", "tan(pi/2)", ""),
    ],
)
def test_what_cancels_does_not_hide_a_division_by_nothing(
    equation: str, wrong: str, right: str
) -> None:
    check = algebra("solves", equations=[equation], unknowns=["x"])
    found = check([f"x = {one}" for one in (wrong, right) if one])
    assert [one.accepted for one in found] == [False, True][: 2 if right else 1]


def test_the_derivative_of_no_number_is_no_answer() -> None:
    check = algebra("derivative", expected="0", variable="x")
    assert [one.accepted for one in check(["7", "1/0", "log(0)"])] == [True, False, False]


SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["name", "age"],
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "additionalProperties": False,
    }
)


def test_a_schema_permits_and_says_why_not() -> None:
    check = checker({"kind": "schema", "schema": SCHEMA})
    assert check('{"name": "Ada", "age": 36}').accepted
    one, two = check('{"name": "Ada", "age": -1}'), check('{"name": 3, "age": -1}')
    assert not one.accepted
    assert "/age" in one.reason
    assert 0 < two.score < one.score < 1
    assert "not JSON" in check("name: Ada").reason


NO_JSON = ("NaN", "[-Infinity]", '"\\ud800"', "[" * 9000, "", '{"age": 1, "age": 2}')


@pytest.mark.parametrize("text", NO_JSON, ids=range(6))
def test_what_only_python_reads_is_not_json(text: str) -> None:
    found = checker({"kind": "schema", "schema": "{}"})(text)
    assert (found.accepted, found.score) == (False, 0.0)
    assert "not JSON" in found.reason


def test_a_schema_fetches_nothing() -> None:
    with pytest.raises(ControlError, match="schema is none"):
        checker({"kind": "schema", "schema": '{"$ref": "http://127.0.0.1:9/x.json"}'})


CASES = [{"call": "square(2)", "equals": 4}, {"call": "square(-3)", "equals": 9}]


def test_a_program_passes_its_cases_or_says_which_not() -> None:
    check = checker({"kind": "program", "cases": CASES})
    assert check("def square(x):\n    return x * x") == Verdict(True, "all 2 cases hold", 1.0)
    half = check("def square(x):\n    return 2 * x")
    assert (half.accepted, half.score) == (False, 0.5)
    assert half.reason == "square(-3) is -6, not 9"
    assert "imports os" in check("import os").reason
    assert "NameError" in check("cube = 3").reason


FOOLS = (
    "class Any(int):\n    def __eq__(self, other):\n        return True\n"
    "def square(x):\n    return Any(1)",
    "def square(x):\n    return 4\njson = None",
    "def square(x):\n    raise SystemExit(0)",
    "print('[true, \"4\"]')\ndef square(x):\n    return 1",
    "square = 4",
)


@pytest.mark.parametrize("source", FOOLS, ids=range(len(FOOLS)))
def test_a_program_cannot_call_itself_right(source: str) -> None:
    assert not checker({"kind": "program", "cases": CASES})(source).accepted


def test_an_endless_program_is_rejected() -> None:
    check = checker({"kind": "program", "cases": CASES}, Limits(cpu_seconds=1))
    found = check("def square(x):\n    while True: pass")
    assert not found.accepted
    assert "seconds" in found.reason  # of the CPU, or of the clock where the machine is busy


def test_every_process_has_limits_unasked() -> None:
    proving, running = Limits(5, 60, 1 << 30), Limits(5, 60, 1 << 28)
    assert dict(LIMITS) == {"algebra": proving, "smt": proving, "program": running}


def test_a_control_function_checks_a_reply_exactly() -> None:
    prompt = "How many eggs are in 12 baskets of 3?"
    check = checker({"kind": "control", "form": "py", "source": PROGRAM, "prompt": prompt})
    assert check(" 36 eggs.\n").accepted
    wrong = check("36 eggs, I think.")
    assert not wrong.accepted
    assert "36" not in wrong.reason
    with pytest.raises(ControlError, match="outside"):
        checker({"kind": "control", "form": "py", "source": PROGRAM, "prompt": "What?"})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"kind": "guess"},
        {"kind": "equal", "expected": "x"},
        {"kind": "algebra", "mode": "schema", "schema": "{}"},
        {"kind": "algebra", "mode": "equal"},
        {"kind": "algebra", "mode": "equal", "expected": 3},
        {"kind": "algebra", "mode": "equal", "expected": "x", "more": 1},
        {"kind": "algebra", "mode": "equal", "expected": "x = = 3 ("},
        {"kind": "algebra", "mode": "solves", "equations": ["x"], "unknowns": ["x"]},
        {"kind": "algebra", "mode": "solves", "equations": ["x = 1"], "unknowns": []},
        {"kind": "schema", "schema": "{"},
        {"kind": "schema", "schema": "[" * 9000},
        {"kind": "algebra", "mode": "equal", "expected": "1/0"},
        {"kind": "algebra", "mode": "derivative", "expected": "1", "variable": ""},
        {"kind": "algebra", "mode": "solves", "equations": ["x = 1"], "unknowns": ["2 x"]},
        {"kind": "program", "cases": [{"call": "f(", "equals": 1}]},
        {"kind": "program", "cases": [{"call": "f()", "equals": float("nan")}]},
        {"kind": "program", "cases": [{"call": "f()", "equals": datetime.date(1979, 5, 27)}]},
        {"kind": "program", "cases": []},
        {"kind": "program", "cases": [{"call": "f()"}]},
        {"kind": "control", "form": "py", "source": "x", "prompt": "x"},
    ],
    ids=lambda one: str(one)[:80],
)
def test_a_spec_that_makes_no_checker_is_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ControlError) as caught:
        checker(spec)
    assert "\n" not in str(caught.value)


def test_candidates_are_checked_together_and_one_that_takes_all_memory_costs_itself_alone() -> None:
    check = checkers({"kind": "algebra", "mode": "equal", "expected": "x + 1"}, SOON)
    hungry = "factorial(factorial(factorial(9)))"
    found = list(check(["1 + x", "x", hungry, "x - (-1)", "("]))
    assert [one.accepted for one in found] == [True, False, False, True, False]
    assert "SymPy" in found[2].reason
    assert list(check([])) == []


SMT = {
    "kind": "smt", "sort": "Int", "declarations": "(declare-const x Int) (assert (> x 2))",
    "claim": "(> answer (* 2 x))",
}  # fmt: skip


@pytest.mark.parametrize("text", ["x", " (+ x 1) ", "(ite (> x 1) (- x) 0)", "3"])
def test_one_term_is_one(text: str) -> None:
    assert one_term(text)


@pytest.mark.parametrize(
    "text", ["", "x y", "(x", "x)", "0) (assert false", "(x) (y)", "x ;", '"', "|)|", "x" * 5000]
)
def test_what_is_not_one_term_stands_in_no_script(text: str) -> None:
    assert not one_term(text)
    with pytest.raises(ValueError, match="one term"):
        script(SMT, text)


def test_without_z3_a_checker_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "smt.py"
    script.write_text("raise ModuleNotFoundError(\"No module named 'z3'\")")
    monkeypatch.setattr(checkers_module, "_Z3", replace(checkers_module._Z3, script=script))
    with pytest.raises(ControlError, match="Z3 is not installed") as caught:
        checker(SMT)
    assert caught.value.hint == "pip install 'loyal[control]'"


@pytest.mark.parametrize("key", ["sort", "claim"])
def test_a_claim_that_is_not_one_term_is_refused(key: str) -> None:
    with pytest.raises(ControlError, match="one term each"):
        checker({**SMT, key: "true) (assert false"})


def test_z3_proves_and_gives_counter_examples() -> None:
    found = list(checkers(SMT)(["(+ (* 2 x) 1)", "(* 2 x)", "(* x x)", "y", "0) (assert false"]))
    assert [one.accepted for one in found] == [True, False, True, False, False]
    assert "wrong at" in found[1].reason
    with pytest.raises(ControlError, match="cannot be met"):
        checker({**SMT, "declarations": "(declare-const x Int) (assert (> x x))"})


@pytest.mark.parametrize(
    ("sort", "claim", "right", "wrong"),
    [
        ("Int", "(> answer x)", "(+ x 1)", "(choice ((z Int)) (> z x))"),
        ("Int", "(> answer x)", "(+ x (ite true 1 0))", "( choice((z Int)) (> z x))"),
        ("Bool", "(= answer (str.in_re s re.all))", "true",
         "(let ((b (! re.none :named re.all))) false)"),
        ("F", "(= answer (fp.add RNE f f))", "(fp.add RNE f f)", "(fp.add (! RTZ :named RNE) f f)"),
    ],
)  # fmt: skip
def test_what_only_z3_reads_is_no_answer(sort: str, claim: str, right: str, wrong: str) -> None:
    declared = (
        '(set-logic ALL) ; " and | in a comment (echo)\n'
        "(define-sort F () Float32) (declare-const x Int) (declare-const s String)"
        '(declare-const f F) (declare-const |a (b| Int) (assert (not (= s "(""\\u{41}")))'
    )
    check = checkers({"kind": "smt", "sort": sort, "declarations": declared, "claim": claim})
    found = list(check([right, wrong]))
    assert [one.accepted for one in found] == [True, False]
    assert "an answer has no (" in found[1].reason


@pytest.mark.parametrize(
    "command",
    [
        '(set-option :regular-output-channel "{}")',
        '(set-option :diagnostic-output-channel "{}")',
        '#| a | " |# (set-option :regular-output-channel "{}") #| " |#',
        '(declare-const |\\| Int) (set-option :regular-output-channel "{}") (declare-const a| Int)',
        '(echo "[true, 1, 1.0]")',
        '(include "{}")',
        "(check-sat)",
        ")",
        "x",
        "(declare-const z Int",
    ],
)
def test_declarations_write_and_print_nothing(command: str, tmp_path: Path) -> None:
    written = tmp_path / "written"
    with pytest.raises(ControlError, match="the spec"):
        checker({**SMT, "declarations": f"(declare-const x Int) {command.format(written)}"})
    assert not written.exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"sort": "Number"}, "unknown sort"),
        ({"claim": "(> answer y)"}, "unknown constant y"),
        ({"claim": "(+ answer x)"}, "Sort mismatch"),
        ({"claim": "(> x 2)"}, "not about answer"),
        ({"declarations": "(declare-const x Int) (declare-const answer Int)"}, "answer"),
    ],
)
def test_a_spec_that_no_answer_meets_is_refused(more: dict[str, str], why: str) -> None:
    with pytest.raises(ControlError, match=why) as caught:
        checker({**SMT, **more})
    assert "b'" not in str(caught.value)


def test_what_is_said_of_a_candidate_is_about_it_alone() -> None:
    drafts = ["(+ 7 (* 0 x))", "(let ((y x)) y)", "z"]
    alone = [next(checkers(SMT)([one])).reason for one in drafts]
    assert [one.reason for one in checkers(SMT)(drafts)] == alone
    assert alone[2] == "it cannot be read: unknown constant z"
    [found] = checkers({**SMT, "declarations": "(declare-const x Int)", "claim": "(> answer 3)"})(
        ["2"]
    )
    assert found.reason == "it is wrong whatever the values are"


def test_z3_knows_arrays_and_quantifiers() -> None:
    spec = {
        "kind": "smt",
        "declarations": "(declare-const a (Array Int Int))",
        "sort": "(Array Int Int)",
        "claim": "(forall ((i Int)) (> (select answer i) (select a i)))",
    }
    drafts = ["(lambda ((i Int)) (+ 1 (select a i)))", "a", "(store a 0 2)"]
    assert [one.accepted for one in checkers(spec)(drafts)] == [True, False, False]
    unclear = "(declare-const a (Array Int Int)) (assert (forall ((i Int)) (> (select a i) i)))"
    with pytest.raises(ControlError, match="cannot tell whether its assumptions can be met"):
        checker({**spec, "declarations": unclear}, SOON)


def test_what_z3_cannot_decide_is_no_proof() -> None:
    cubes = "(declare-const x Int) (declare-const y Int) (declare-const z Int)"
    claim = "(not (= (+ (* x x x) (* y y y) (* z z z)) answer))"  # 33 took until 2019, 42 too
    [found] = checkers({**SMT, "declarations": cubes, "claim": claim}, SOON)(["42"])
    assert not found.accepted
    assert "more simply" in found.reason
