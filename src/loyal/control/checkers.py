"""Deterministic checkers: whether a candidate is right, decided without any model.

A checker is made from a plain table (`spec`), so that a certificate can carry it and anybody can
check again. Kinds:

algebra  SymPy, in a process with limits; `algebra` has the modes and what is proven
schema   JSON that a JSON schema permits (`schema`, a JSON text); nothing is fetched
program  Python, in the sandbox: each of `cases` is a `call`, and what it `equals` as JSON. Values
         are compared outside of the candidate's process, so it cannot call itself equal
smt      Z3, in a process with limits, where it is installed; `smt` has the spec
control  the exact reply of a control function (`form`, `source`) to `prompt`

Left out: Lean, whose proofs run code as they are read. Drafting candidates is `propose`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loyal.control.functions import from_source
from loyal.control.sandbox import Limits, run
from loyal.control.smt import one_term
from loyal.encoding import read_json
from loyal.errors import ControlError
from loyal.models.language_model import Prompt

Spec = Mapping[str, Any]
"""What makes a checker: `kind`, and the keys of that kind."""

SMT = Path(__file__).with_name("smt.py")
ALGEBRA = Path(__file__).with_name("algebra.py")
LIMITS: Mapping[str, Limits] = {
    "algebra": Limits(memory_bytes=1 << 30),
    "smt": Limits(memory_bytes=1 << 30),
    "program": Limits(),
}
"""What one process of a checker may use, by kind."""
_MOST_REASON = 400
_SHOWN_FAILURES = 3

_KEYS: Mapping[str, Mapping[str, type]] = {
    "schema": {"schema": str},
    "smt": {"declarations": str, "sort": str, "claim": str},
    "program": {"cases": list},
    "control": {"form": str, "source": str, "prompt": str},
    "equal": {"expected": str},
    "derivative": {"expected": str, "variable": str},
    "solves": {"equations": list, "unknowns": list},
    "equivalent": {"expected": str},
}
"""The keys of each kind, beside `kind`; of algebra by `mode`."""


@dataclass(frozen=True)
class Verdict:
    """What a checker says of a candidate."""

    accepted: bool
    reason: str
    """In one line: what is wrong, for the next draft; or what was shown."""
    score: float
    """Share of the checks that hold, 0 to 1: which draft to go on from."""


Checker = Callable[[str], Verdict]
Checkers = Callable[[Sequence[str]], Iterator[Verdict]]


def checker(spec: Spec, limits: Limits | None = None) -> Checker:
    """The checker of a spec. ControlError for a spec that makes none.

    `limits` bound each process that an algebra, smt or program checker starts, and the CPU seconds
    are one candidate's; `LIMITS` has the usual.
    """
    check = checkers(spec, limits)
    return lambda candidate: next(check([candidate]))


def checkers(spec: Spec, limits: Limits | None = None) -> Checkers:
    """The same for several candidates: a verdict each, in their order, as they are asked for.

    Algebra checks them in one process, for loading SymPy takes longer than most checks.
    """
    kind = str(spec.get("mode") if spec.get("kind") == "algebra" else spec.get("kind"))
    wanted = _KEYS.get(kind)
    if wanted is None or (kind in ("equal", "derivative", "solves", "equivalent")) != (
        spec.get("kind") == "algebra"
    ):
        raise ControlError(
            f"there is no checker {spec.get('kind')} {spec.get('mode') or ''}",
            hint="algebra (with a mode), schema, program, smt or control; see docs/control.md",
        )
    extra = {"kind", "mode"} if spec.get("kind") == "algebra" else {"kind"}
    if set(spec) != {*wanted, *extra} or any(type(spec[key]) is not wanted[key] for key in wanted):
        raise ControlError(f"a checker {kind} has {', '.join(wanted)}", hint="see docs/control.md")
    kinds = str(spec["kind"])
    bound = limits or LIMITS.get(kinds, Limits())
    if kinds in ("algebra", "smt"):
        return (_algebra if kinds == "algebra" else _smt)(spec, bound)
    if kinds == "program":
        check = _program(spec, bound)
    else:
        check = (_schema if kinds == "schema" else _control)(spec)
    return lambda candidates: map(check, candidates)


def _algebra(spec: Spec, limits: Limits) -> Checkers:
    equations, unknowns = spec.get("equations", ["x = 1"]), spec.get("unknowns", ["x"])
    text = all(type(one) is str for one in (*equations, *unknowns))
    if not equations or not unknowns or not text or any(one.count("=") != 1 for one in equations):
        raise ControlError("equations and unknowns are lists of text", hint='such as "x + 1 = 3"')
    if not all(one.isidentifier() for one in (*unknowns, spec.get("variable", "x"))):
        raise ControlError("an unknown or a variable is no name", hint="such as x")
    readable = next(_proven(_SYMPY, spec, [None], limits))
    if not readable.accepted:
        raise ControlError(f"what is expected: {readable.reason}", hint="write it as in Python")
    return lambda candidates: _proven(_SYMPY, spec, candidates, limits)


def _smt(spec: Spec, limits: Limits) -> Checkers:
    if not all(one_term(spec[key]) for key in ("sort", "claim")):
        raise ControlError("sort and claim are one term each", hint='such as "Int", "(> answer x)"')
    if "answer" not in spec["claim"].replace("(", " ").replace(")", " ").split():
        raise ControlError("the claim is not about answer", hint='such as "(> answer x)"')
    readable = next(_proven(_Z3, spec, [None], limits))
    if not readable.accepted:
        raise ControlError(f"the spec: {readable.reason}", hint="see https://smt-lib.org")
    return lambda candidates: _proven(_Z3, spec, candidates, limits)


@dataclass(frozen=True)
class _Prover:
    """A script that proves candidates, in a process of its own."""

    name: str
    script: Path
    module: str
    """What it imports."""
    package: str
    """What brings that."""


_SYMPY = _Prover("SymPy", ALGEBRA, "sympy", "loyal[control]")
_Z3 = _Prover("Z3", SMT, "z3", "loyal[control]")


def _proven(
    prover: _Prover, spec: Spec, candidates: Sequence[str | None], limits: Limits
) -> Iterator[Verdict]:
    """What the prover says. A candidate that ends its process at a limit has no proof, so no is the
    answer; a new process goes on after it."""
    left = list(candidates)
    while left:
        said, late = _process(prover, spec, left, limits)
        yield from said
        left = left[len(said) :]
        if left:
            over = f"{prover.name} {'took too long' if late else 'ran out of time or memory'}"
            yield Verdict(False, f"{over}: write it more simply", 0.0)
            left = left[1:]


def _process(
    prover: _Prover, spec: Spec, candidates: Sequence[str | None], limits: Limits
) -> tuple[list[Verdict], bool]:
    """The verdicts that one process gave before it ended, and whether it took too long."""
    job = json.dumps({"spec": dict(spec), "candidates": candidates, "limits": asdict(limits)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(prover.script)], input=job.encode(), capture_output=True,
            timeout=limits.seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return _verdicts(error.stdout or b""), True
    if f"No module named '{prover.module}'".encode() in done.stderr:
        raise ControlError(
            f"{prover.name} is not installed", hint=f"pip install '{prover.package}'"
        )
    return _verdicts(done.stdout), False


def _verdicts(out: bytes) -> list[Verdict]:
    """One for each whole line."""
    lines = [json.loads(one) for one in out.split(b"\n")[:-1]]
    return [
        Verdict(good is True, str(why)[:_MOST_REASON], float(score)) for good, why, score in lines
    ]


def _schema(spec: Spec) -> Checker:
    try:
        import jsonschema_rs
    except ImportError:
        raise ControlError(
            "jsonschema-rs is not installed", hint="pip install 'loyal[control]'"
        ) from None

    def refuse(address: str) -> Any:
        raise ValueError("a schema is whole: nothing is fetched")

    try:
        held = jsonschema_rs.validator_for(read_json(spec["schema"]), retriever=refuse)
    except (ValueError, RecursionError) as error:
        raise ControlError(
            f"the schema is none: {str(error).splitlines()[0]}", hint="see https://json-schema.org"
        ) from error

    def check(candidate: str) -> Verdict:
        try:
            value = read_json(candidate)
            wrong = [
                f"at /{'/'.join(map(str, one.instance_path))}: {one.message}"
                for one in held.iter_errors(value)
            ]
        except (ValueError, RecursionError) as error:
            return Verdict(False, f"it is not JSON: {error}"[:_MOST_REASON], 0.0)
        if not wrong:
            return Verdict(True, "the schema permits it", 1.0)
        return Verdict(False, _joined(wrong), 1 / (1 + len(wrong)))

    return check


def _program(spec: Spec, limits: Limits) -> Checker:
    cases = spec["cases"]
    good = all(type(one) is dict and set(one) == {"call", "equals"} for one in cases)
    if not cases or not good or any(type(one["call"]) is not str for one in cases):
        raise ControlError("a case is a call, and what it equals", hint="see docs/control.md")
    calls = [one["call"] for one in cases]
    for case in cases:
        _require_case(case["call"], case["equals"])

    def check(candidate: str) -> Verdict:
        ran = run(candidate, [{"what": "call", "calls": calls}], limits)
        if not ran.answers:
            return Verdict(False, (ran.why or "it did not run")[:_MOST_REASON], 0.0)
        wrong = [
            f"{case['call']} {_outcome(answer.why, answer.value)}, not {_json(case['equals'])}"
            for case, answer in zip(cases, ran.answers, strict=False)
            if answer.why is not None or answer.value != _json(case["equals"])
        ]
        missing = len(cases) - len(ran.answers)
        if missing:
            wrong.append(f"{calls[len(ran.answers)]}: {ran.why}")
        if not wrong and ran.why is None:
            return Verdict(True, f"all {len(cases)} cases hold", 1.0)
        right = len(ran.answers) - len(wrong) + bool(missing)
        return Verdict(False, _joined(wrong or [str(ran.why)]), right / len(cases))

    return check


def _require_case(call: str, equals: Any) -> None:
    """ControlError for a case that no program passes."""
    try:
        ast.parse(call, mode="eval")
        json.dumps(equals, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise ControlError(
            f"no program passes the case {call[:80]!r}: its call is not Python, or JSON does not "
            "have its value",
            hint="a call is an expression; values are text, whole or finite numbers, lists, tables",
        ) from error


def _control(spec: Spec) -> Checker:
    function = from_source(spec["form"], spec["source"].encode())
    expected = function.expected(Prompt(spec["prompt"]))
    if expected is None:
        raise ControlError("the prompt is outside of the function's domain", hint="change it")

    def check(candidate: str) -> Verdict:
        if candidate.strip() == expected:
            return Verdict(True, f"it is what {function.name} says", 1.0)
        return Verdict(False, f"{function.name} says otherwise", 0.0)

    return check


def _json(value: Any) -> str:
    """A value as the worker gives it: canonical JSON text."""
    return json.dumps(value, sort_keys=True)


def _outcome(why: str | None, value: Any) -> str:
    return f"raises {why}" if why is not None else f"is {str(value)[:80]}"


def _joined(wrong: list[str]) -> str:
    more = f"; and {len(wrong) - _SHOWN_FAILURES} more" if len(wrong) > _SHOWN_FAILURES else ""
    return " ".join(("; ".join(wrong[:_SHOWN_FAILURES]) + more).split())[:_MOST_REASON]
