"""Checks algebra and logic with SymPy: what a candidate says is proven, or it is rejected.

It runs as a script of its own, under limits, because a candidate can make SymPy compute for hours
(`checkers` starts it). Text becomes SymPy's objects through Python's syntax tree and a short list
of functions; SymPy's own parser evaluates text as code and is not used. Four modes:

equal       the candidate is an expression equal to `expected`
derivative  the candidate's derivative by `variable` is `expected` (an antiderivative was asked for)
solves      the candidate, such as `x = 2, y = 3`, solves every one of `equations`
equivalent  the candidate is a formula of propositional logic that is true where `expected` is

Equality holds when SymPy simplifies the difference to 0. That is a proof one way: what SymPy cannot
simplify is rejected though it may be true. Equivalence is decided, both ways.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Mapping
from typing import Any

MOST_CHARACTERS = 1000
FUNCTIONS = ("sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "factorial")
CONSTANTS = ("pi", "E", "I")
_TRIED = (2, 3, 5, 7)
"""Where a wrong expression is shown to be wrong."""


class Unreadable(ValueError):
    """Text that is no expression here; its words say why."""


def expression(text: str, values: Mapping[str, Any] | None = None) -> Any:
    """The SymPy expression of a text; `^` is a power. Unreadable for anything else.

    `values` stand in for names as it is built, before SymPy cancels anything: 1 for x makes
    (x - 1)/(x - 1) no number, and not 1.
    """
    return _built(_tree(text.replace("^", "**")), False, values or {})


def formula(text: str) -> Any:
    """The SymPy formula of a text: names, and, or, not, &, |, ~, ^ (one alone), >> (implies)."""
    return _built(_tree(text), True, {})


def _tree(text: str) -> ast.expr:
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"it is longer than {MOST_CHARACTERS} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Unreadable(f"it cannot be read as one expression: {text.strip()[:80]}") from None


def _built(node: ast.expr, logic: bool, values: Mapping[str, Any]) -> Any:
    import sympy

    if isinstance(node, ast.Name):
        if not logic and node.id in CONSTANTS:
            return getattr(sympy, node.id)
        return values.get(node.id, sympy.Symbol(node.id))
    if isinstance(node, ast.Constant):
        if logic and type(node.value) is bool:
            return sympy.true if node.value else sympy.false
        if not logic and type(node.value) in (int, float):
            return sympy.Rational(str(node.value))
    if isinstance(node, ast.BoolOp) and logic:
        parts = [_built(one, logic, values) for one in node.values]
        return (sympy.And if isinstance(node.op, ast.And) else sympy.Or)(*parts)
    if isinstance(node, ast.UnaryOp):
        return _unary(node, logic, values)
    if isinstance(node, ast.BinOp):
        return _finite(_binary(node, logic, values), node)
    if isinstance(node, ast.Call) and not logic:
        return _finite(_call(node, values), node)
    raise Unreadable(f"it has a part that is not permitted: {ast.unparse(node)[:80]}")


def _finite(value: Any, node: ast.expr) -> Any:
    """The value; Unreadable for none: SymPy goes on with 1/0, and takes 1/(1/0) for 0."""
    import sympy

    if value.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        raise Unreadable(f"it has no finite value: {ast.unparse(node)[:80]}")
    return value


def _call(node: ast.Call, values: Mapping[str, Any]) -> Any:
    import sympy

    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in FUNCTIONS or len(node.args) != 1 or node.keywords:
        raise Unreadable(f"it has a part that is not permitted: {ast.unparse(node)[:80]}")
    return getattr(sympy, name)(_built(node.args[0], False, values))


def _unary(node: ast.UnaryOp, logic: bool, values: Mapping[str, Any]) -> Any:
    import sympy

    inner = _built(node.operand, logic, values)
    if logic and isinstance(node.op, ast.Not | ast.Invert):
        return sympy.Not(inner)
    if not logic and isinstance(node.op, ast.USub | ast.UAdd):
        return -inner if isinstance(node.op, ast.USub) else inner
    raise Unreadable(f"it has a part that is not permitted: {ast.unparse(node)[:80]}")


def _binary(node: ast.BinOp, logic: bool, values: Mapping[str, Any]) -> Any:
    import sympy

    left, right = _built(node.left, logic, values), _built(node.right, logic, values)
    kind = type(node.op)
    if logic:
        gates = {
            ast.BitAnd: sympy.And, ast.BitOr: sympy.Or,
            ast.BitXor: sympy.Xor, ast.RShift: sympy.Implies,
        }  # fmt: skip
        if kind in gates:
            return gates[kind](left, right)
    elif kind in (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow):
        right = -right if kind is ast.Sub else 1 / right if kind is ast.Div else right
        if kind is ast.Pow:
            return left**right
        return left * right if kind in (ast.Mult, ast.Div) else left + right
    raise Unreadable(f"it has a part that is not permitted: {ast.unparse(node)[:80]}")


def judge(spec: Mapping[str, Any], candidate: str | None) -> tuple[bool, str, float]:
    """Whether a candidate holds, why (in a line), and the share of it that does, 0 to 1.

    Without a candidate: whether the spec itself can be read. A reason never says what is expected.
    """
    try:
        if candidate is not None:
            return _MODES[spec["mode"]](spec, candidate)
        read = formula if spec["mode"] == "equivalent" else expression
        for text in (spec.get("expected", "0"), *spec.get("equations", ())):
            for side in text.split("="):
                read(side)
    except Unreadable as error:
        return False, str(error), 0.0
    return True, "it can be read", 1.0


def _equal(spec: Mapping[str, Any], candidate: str) -> tuple[bool, str, float]:
    rest = _difference(expression(candidate), expression(spec["expected"]))
    if _is_zero(rest):
        return True, "the difference to what is expected simplifies to 0", 1.0
    names = sorted(rest.free_symbols, key=str)
    for value in _TRIED:
        if not _is_zero(rest.subs(dict.fromkeys(names, value))):
            where = ", ".join(f"{name} = {value}" for name in names)
            return False, f"it is wrong at {where}" if names else "it has the wrong value", 0.0
    return False, "it cannot be shown to be right: write it more simply", 0.0


def _derivative(spec: Mapping[str, Any], candidate: str) -> tuple[bool, str, float]:
    import sympy

    derived = sympy.diff(expression(candidate), sympy.Symbol(spec["variable"]))
    rest = _difference(derived, expression(spec["expected"]))
    if _is_zero(rest):
        return True, f"its derivative by {spec['variable']} is {_short(derived)}, as asked", 1.0
    return False, f"its derivative by {spec['variable']} is {_short(derived)}, not as asked", 0.0


def _solves(spec: Mapping[str, Any], candidate: str) -> tuple[bool, str, float]:
    import sympy

    values: dict[str, Any] = {}
    for part in candidate.replace("\n", ",").replace(" and ", ",").split(","):
        name, equals, value = part.partition("=")
        if part.strip():
            if not equals or name.strip() in values:
                raise Unreadable(f"write one value for each unknown, such as x = 2: {part[:80]}")
            values[name.strip()] = expression(value)
    unknowns = {sympy.Symbol(one) for one in spec["unknowns"]}
    free = any(one.free_symbols & unknowns for one in values.values())
    if free or set(values) != set(spec["unknowns"]):
        return False, f"give a value for each of {', '.join(spec['unknowns'])}", 0.0
    wrong = []
    for equation in spec["equations"]:
        left, _, right = equation.partition("=")
        try:
            rest = _difference(expression(left, values), expression(right, values))
        except Unreadable as error:  # with these values
            wrong.append(f"in {equation} {error}")
        else:
            if not _is_zero(rest):
                wrong.append(f"in {equation} the sides differ by {_short(rest)}")
    share = 1 - len(wrong) / len(spec["equations"])
    return not wrong, wrong[0] if wrong else "every equation holds", share


def _equivalent(spec: Mapping[str, Any], candidate: str) -> tuple[bool, str, float]:
    import sympy
    from sympy.logic.inference import satisfiable

    found = satisfiable(sympy.Xor(formula(candidate), formula(spec["expected"])))
    if found is False:
        return True, "no assignment tells the two formulas apart", 1.0
    case = ", ".join(f"{name} = {value}" for name, value in sorted(found.items(), key=str))
    return False, f"it is wrong where {case or 'anything holds'}", 0.0


_MODES = {"equal": _equal, "derivative": _derivative, "solves": _solves, "equivalent": _equivalent}


def _difference(left: Any, right: Any) -> Any:
    import sympy

    return sympy.simplify(left - right)


def _is_zero(value: Any) -> bool:
    return bool(value == 0)


def _short(value: Any) -> str:
    return str(value)[:120]


def main() -> None:
    """Read {spec, candidates, limits}; answer [accepted, reason, score], one line a candidate.

    Each candidate has the CPU seconds for itself. Where one has no line, it ended the process.
    """
    import resource

    job = json.load(sys.stdin)
    limits = job["limits"]
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    for candidate in job["candidates"]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        until = int(used.ru_utime + used.ru_stime) + 1 + limits["cpu_seconds"]
        soft = until if hard == resource.RLIM_INFINITY else min(until, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        sys.stdout.write(json.dumps(_judged(job["spec"], candidate)) + "\n")
        sys.stdout.flush()  # what was said stays said, whatever the next candidate does


def _judged(spec: Mapping[str, Any], candidate: str | None) -> tuple[bool, str, float]:
    try:
        return judge(spec, candidate)
    except ImportError:
        raise
    except Exception as error:  # SymPy raises of all kinds on odd input: no proof, so no
        return False, f"SymPy gave up: {type(error).__name__}", 0.0


if __name__ == "__main__":
    main()
