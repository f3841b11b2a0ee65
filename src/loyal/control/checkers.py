"""Deterministic checkers: whether a candidate is right, decided without any model.

A checker is made from a plain table (`spec`), so that a certificate can carry it and anybody can
check again. Kinds:

algebra  SymPy, in a process with limits; `algebra` has the modes and what is proven
schema   JSON that a JSON schema permits (`schema`, a JSON text); nothing is fetched
program  Python, in the sandbox: each of `cases` is a `call`, and what it `equals` as JSON. Values
         are compared outside of the candidate's process, so it cannot call itself equal
control  the exact reply of a control function (`form`, `source`) to `prompt`

Left out: Z3 and Lean. Drafting candidates is `propose`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loyal.control.functions import from_source
from loyal.control.sandbox import Limits, run
from loyal.errors import ControlError
from loyal.models.language_model import Prompt

Spec = Mapping[str, Any]
"""What makes a checker: `kind`, and the keys of that kind."""

ALGEBRA = Path(__file__).with_name("algebra.py")
LIMITS: Mapping[str, Limits] = {"algebra": Limits(memory_bytes=1 << 30), "program": Limits()}
"""What one process of a checker may use, by kind."""
_MOST_REASON = 400
_SHOWN_FAILURES = 3

_KEYS: Mapping[str, Mapping[str, type]] = {
    "schema": {"schema": str},
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


def checker(spec: Spec, limits: Limits | None = None) -> Checker:
    """The checker of a spec. ControlError for a spec that makes none.

    `limits` bound each process that an algebra or a program checker starts; `LIMITS` has the usual.
    """
    kind = str(spec.get("mode") if spec.get("kind") == "algebra" else spec.get("kind"))
    wanted = _KEYS.get(kind)
    if wanted is None or (kind in ("equal", "derivative", "solves", "equivalent")) != (
        spec.get("kind") == "algebra"
    ):
        raise ControlError(
            f"there is no checker {spec.get('kind')} {spec.get('mode') or ''}",
            hint="algebra (with a mode), schema, program or control; see docs/control.md",
        )
    extra = {"kind", "mode"} if spec.get("kind") == "algebra" else {"kind"}
    if set(spec) != {*wanted, *extra} or any(type(spec[key]) is not wanted[key] for key in wanted):
        raise ControlError(f"a checker {kind} has {', '.join(wanted)}", hint="see docs/control.md")
    if kind == "schema":
        return _schema(spec)
    if kind == "control":
        return _control(spec)
    make = _program if kind == "program" else _algebra
    return make(spec, limits or LIMITS[str(spec["kind"])])


def _algebra(spec: Spec, limits: Limits) -> Checker:
    equations, unknowns = spec.get("equations", ["x = 1"]), spec.get("unknowns", ["x"])
    text = all(type(one) is str for one in (*equations, *unknowns))
    if not equations or not unknowns or not text or any(one.count("=") != 1 for one in equations):
        raise ControlError("equations and unknowns are lists of text", hint='such as "x + 1 = 3"')

    readable = _sympy(spec, None, limits)
    if not readable.accepted:
        raise ControlError(f"what is expected: {readable.reason}", hint="write it as in Python")
    return lambda candidate: _sympy(spec, candidate, limits)


def _sympy(spec: Spec, candidate: str | None, limits: Limits) -> Verdict:
    """What `algebra` says; its process ends at a limit with no proof, and no is the answer then."""
    job = json.dumps({"spec": dict(spec), "candidate": candidate, "limits": asdict(limits)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(ALGEBRA)], input=job.encode(), capture_output=True,
            timeout=limits.seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Verdict(False, "SymPy took too long: write it more simply", 0.0)
    if b"No module named 'sympy'" in done.stderr:
        raise ControlError("SymPy is not installed", hint="pip install 'loyal[control]'")
    try:
        accepted, reason, score = json.loads(done.stdout)
    except ValueError:
        return Verdict(False, "SymPy ran out of time or memory: write it more simply", 0.0)
    return Verdict(accepted is True, str(reason)[:_MOST_REASON], float(score))


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
        held = jsonschema_rs.validator_for(json.loads(spec["schema"]), retriever=refuse)
    except ValueError as error:
        raise ControlError(
            f"the schema is none: {str(error).splitlines()[0]}", hint="see https://json-schema.org"
        ) from error

    def check(candidate: str) -> Verdict:
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError) as error:
            return Verdict(False, f"it is not JSON: {error}"[:_MOST_REASON], 0.0)
        wrong = [
            f"at /{'/'.join(map(str, one.instance_path))}: {one.message}"
            for one in held.iter_errors(value)
        ]
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
