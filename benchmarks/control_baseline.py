"""What benchmarks/control.py compares with: candidates without a model, and a second judge.

`candidates` enumerates a task's answers, small ones first: whole numbers, polynomials, or formulas
in which every name stands once. It is told the names and the form, as the model is by its examples.
`confirmed` decides again whether an answer is right, by exact rationals and truth tables, and knows
nothing of SymPy nor of loyal's checkers.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

Spec = Mapping[str, Any]
Number = tuple[Fraction, Fraction]
"""A value and its derivative by x (a dual number)."""

POINTS = tuple(Fraction(a, b) for a, b in ((-7, 3), (-1, 5), (2, 7), (5, 4), (11, 6), (23, 9)))
"""Where expressions are compared: no polynomial of these tasks has so many common points."""


def candidates(spec: Spec) -> Iterator[str]:
    """Answers, small ones first, without end."""
    if spec["mode"] == "solves":
        return _values(spec["unknowns"])
    names = sorted(one.id for one in ast.walk(_tree(spec["expected"])) if isinstance(one, ast.Name))
    names = sorted(set(names)) or ["x"]
    return _formulas(names) if spec["mode"] == "equivalent" else _polynomials(names)


def _values(unknowns: list[str]) -> Iterator[str]:
    """0, 1, -1, 2, ... for one; by the sum of their sizes for more."""
    for size in itertools.count():
        for one in itertools.product(range(-size, size + 1), repeat=len(unknowns)):
            if sum(map(abs, one)) == size:
                yield ", ".join(f"{name} = {v}" for name, v in zip(unknowns, one, strict=True))


def _polynomials(names: list[str]) -> Iterator[str]:
    """Without negative coefficients; the size is their sum with the highest power."""
    powers = ["1", "x", "x**2", "x**3"] if names == ["x"] else ["1", *names]
    for size in itertools.count(1):
        for one in itertools.product(range(size + 1), repeat=len(powers)):
            degree = max((place for place, value in enumerate(one) if value), default=0)
            if any(one) and sum(one) + (degree if names == ["x"] else 0) == size:
                yield " + ".join(f"{v}*{m}" for v, m in zip(one, powers, strict=True) if v)


def _formulas(names: list[str]) -> Iterator[str]:
    """Formulas with every name once, by their negations."""
    for size in itertools.count():
        yield from _once(tuple(names), size)
        if size > 2 * len(names):
            return


def _once(names: tuple[str, ...], negations: int) -> Iterator[str]:
    if negations:
        yield from (f"~{one}" for one in _once(names, negations - 1) if one[0] != "~")
    if len(names) == 1:
        if not negations:
            yield names[0]
        return
    for count in range(1, len(names)):
        for left in itertools.combinations(names, count):
            right = tuple(one for one in names if one not in left)
            for first in range(negations + 1):
                for a in _once(left, first):
                    for b in _once(right, negations - first):
                        both = "&|^" if left[0] == names[0] else ""  # the other order is the same
                        yield from (f"({a} {gate} {b})" for gate in (*both, ">>"))


def confirmed(spec: Spec, answer: str) -> bool:
    """Whether an answer is right; False also where it cannot be read here."""
    try:
        return _CONFIRM[spec["mode"]](spec, answer)
    except (SyntaxError, ValueError, ZeroDivisionError, KeyError, OverflowError):
        return False


def _equal(spec: Spec, answer: str) -> bool:
    pairs = itertools.product(POINTS, repeat=2)
    return all(_value(answer, x, y)[0] == _value(spec["expected"], x, y)[0] for x, y in pairs)


def _derivative(spec: Spec, answer: str) -> bool:
    return all(_value(answer, x, x)[1] == _value(spec["expected"], x, x)[0] for x in POINTS)


def _solves(spec: Spec, answer: str) -> bool:
    parts = [one.split("=") for one in answer.replace("\n", ",").replace(" and ", ",").split(",")]
    told = {name.strip(): _value(value, None, None)[0] for name, value in parts}
    if len(told) < len(parts) or set(told) != set(spec["unknowns"]):
        return False
    at = (told.get("x"), told.get("y"))
    sides = [one.split("=") for one in spec["equations"]]
    return all(_value(left, *at)[0] == _value(right, *at)[0] for left, right in sides)


def _equivalent(spec: Spec, answer: str) -> bool:
    trees = _tree(answer), _tree(spec["expected"])
    names = sorted({one.id for it in trees for one in ast.walk(it) if isinstance(one, ast.Name)})
    rows = (
        dict(zip(names, one, strict=True))
        for one in itertools.product((False, True), repeat=len(names))
    )
    return all(_truth(trees[0], row) == _truth(trees[1], row) for row in rows)


_CONFIRM = {
    "equal": _equal, "derivative": _derivative, "solves": _solves, "equivalent": _equivalent,
}  # fmt: skip


def _tree(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def _truth(node: ast.expr, row: Mapping[str, bool]) -> bool:
    match node:
        case ast.Name(id=name):
            return row[name]
        case ast.Constant(value=bool(value)):
            return value
        case ast.UnaryOp(op=ast.Invert() | ast.Not(), operand=inner):
            return not _truth(inner, row)
        case ast.BoolOp(op=gate, values=parts):
            return (all if isinstance(gate, ast.And) else any)([_truth(one, row) for one in parts])
        case ast.BinOp(left=left, op=gate, right=right):
            a, b = _truth(left, row), _truth(right, row)
            match gate:
                case ast.BitAnd():
                    return a and b
                case ast.BitOr():
                    return a or b
                case ast.BitXor():
                    return a != b
                case ast.RShift():
                    return b or not a
    raise ValueError("no formula")


def _value(text: str, x: Fraction | None, y: Fraction | None) -> Number:
    return _number(_tree(text.replace("^", "**")), {"x": x, "y": y})


def _number(node: ast.expr, at: Mapping[str, Fraction | None]) -> Number:
    match node:
        case ast.Name(id=name) if at[name] is not None:
            return Fraction(at[name]), Fraction(name == "x")
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Fraction(str(value)), Fraction(0)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
            a, da = _number(inner, at)
            return (-a, -da) if isinstance(sign, ast.USub) else (a, da)
        case ast.BinOp(left=left, op=gate, right=right):
            return _combined(gate, _number(left, at), _number(right, at))
    raise ValueError("no expression of rationals")


def _combined(gate: ast.operator, left: Number, right: Number) -> Number:
    (a, da), (b, db) = left, right
    match gate:
        case ast.Add():
            return a + b, da + db
        case ast.Sub():
            return a - b, da - db
        case ast.Mult():
            return a * b, da * b + a * db
        case ast.Div():
            return a / b, (da * b - a * db) / (b * b)
        case ast.Pow() if b.denominator == 1 and db == 0 and abs(b) <= 20:
            return a ** int(b), (b * a ** (int(b) - 1) * da) if b else Fraction(0)
    raise ValueError("no expression of rationals")
