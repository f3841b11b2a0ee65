"""Writes the 100 bundled tasks of algebra and logic: `python benchmarks/control_tasks.py`.

Ten kinds, five of each, of ten tasks and two solved examples; the numbers grow, and the sentences
lengthen, with a task's level (1 to 10). The same seed writes the same file, and a test compares.
No task can be answered by saying its text again. Every sentence of logic is made together with its
formula, every equation from its solution; which answers are right SymPy decides, not this file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 4
LEVELS = 10
FILE = Path(__file__).parent.parent / "src/loyal/control/bundled/tasks.json"

Made = tuple[str, str, dict[str, Any]]
"""The text, an answer, and the checker's spec without `kind`."""


def linear(level: int, rng: random.Random) -> Made:
    """One unknown; from level 4 small trials do not find it."""
    x, a = rng.randint(8 * level, 12 + 10 * level), 1 if level < 8 else 2
    b = rng.randint(1, 2 + 2 * level)
    left = f"x + {b}" if a == 1 else f"{a}*x + {b}"
    spec = {"mode": "solves", "equations": [f"{left} = {a * x + b}"], "unknowns": ["x"]}
    return f"Solve for x: {left} = {a * x + b}", f"x = {x}", spec


def pair(level: int, rng: random.Random) -> Made:
    """Two unknowns; the first is told by the second."""
    x, y = rng.randint(7 + level, 12 + 3 * level), rng.randint(1, 3 + level)
    equations = [f"x = {x}" if level < 4 else f"x + {level} = {x + level}", f"x + y = {x + y}"]
    text = f"Solve for x and y: {equations[0]} and {equations[1]}"
    return text, f"x = {x}, y = {y}", {
        "mode": "solves", "equations": equations, "unknowns": ["x", "y"],
    }  # fmt: skip


def polynomial(level: int, rng: random.Random) -> list[int]:
    """Coefficients, the constant first: of one term, of two, of three."""
    first = [0, 0] if level < 5 else [0, rng.randint(2, 9)]
    if level > 8:
        first[0] = rng.randint(2, 9)
    return [*first, *[0] * rng.randint(0, 1), rng.randint(2, 2 + level)]


def shown(coefficients: list[int]) -> str:
    """A polynomial as text, the highest power first."""
    terms = []
    for power in range(len(coefficients) - 1, -1, -1):
        if coefficients[power]:
            x = "" if power == 0 else "x" if power == 1 else f"x**{power}"
            number = "" if coefficients[power] == 1 and x else str(coefficients[power])
            terms.append(number + ("*" if number and x else "") + x)
    return " + ".join(terms)


def derivative(level: int, rng: random.Random) -> Made:
    """Of a polynomial."""
    given = polynomial(level, rng)
    found = shown([power * one for power, one in enumerate(given)][1:])
    text = f"Differentiate with respect to x: {shown(given)}"
    return text, found, {"mode": "equal", "expected": found}


def antiderivative(level: int, rng: random.Random) -> Made:
    """Of a polynomial; whole numbers come out."""
    whole = [0, *polynomial(level, rng)[1:]]
    given = shown([power * one for power, one in enumerate(whole)][1:])
    text = f"Integrate with respect to x: {given}"
    return text, shown(whole), {"mode": "derivative", "variable": "x", "expected": given}


def phrase(level: int, rng: random.Random) -> Made:
    """An expression in words."""
    a, b, c = (rng.randint(2, 9 + level) for _ in range(3))
    forms = (
        (f"{a} times x, plus {b}", f"{a}*x + {b}"),
        (f"{b} less than {a} times x", f"{a}*x - {b}"),
        (f"{a} times the sum of x and {b}", f"{a}*(x + {b})"),
        (f"the square of the sum of x and {b}, minus {a}", f"(x + {b})**2 - {a}"),
        (f"{a} times x, minus {b} times y, plus {c}", f"{a}*x - {b}*y + {c}"),
    )
    words, found = forms[(level - 1) // 2]
    return f"Write as an expression: {words}", found, {"mode": "equal", "expected": found}


def letters(count: int, rng: random.Random) -> list[str]:
    """Different names of statements, in a random order."""
    return rng.sample(["p", "q", "r", "s"], count)


def logic(words: str, found: str) -> Made:
    """A sentence to be written as a formula."""
    text = f"Write as a formula: {words}."
    return text, found, {"mode": "equivalent", "expected": found}


def conjunction(level: int, rng: random.Random) -> Made:
    """What holds and what does not."""
    a, b, c, d = letters(4, rng)
    if level <= 3:
        return logic(f"{a} is true, {b} is false", f"{a} & ~{b}")
    if level <= 7:
        return logic(f"{a} is true, {b} is false, {c} is true", f"{a} & ~{b} & {c}")
    return logic(
        f"{a} is false, {b} is true, {c} is false, {d} is true", f"~{a} & {b} & ~{c} & {d}"
    )


def neither(level: int, rng: random.Random) -> Made:
    """Neither, not both, none."""
    a, b, c, d = letters(4, rng)
    if level <= 3:
        return logic(f"neither {a} nor {b} is true", f"~{a} & ~{b}")
    if level <= 5:
        return logic(f"{a} is true, but neither {b} nor {c} is", f"{a} & ~{b} & ~{c}")
    if level <= 8:
        return logic(f"{a} is true, but not both {b} and {c} are", f"{a} & ~({b} & {c})")
    return logic(f"{a} or {b} is true, but neither {c} nor {d} is", f"({a} | {b}) & ~{c} & ~{d}")


def implication(level: int, rng: random.Random) -> Made:
    """If and then."""
    a, b, c, d = letters(4, rng)
    if level <= 2:
        return logic(f"if {a} is true, then {b} is false", f"{a} >> ~{b}")
    if level <= 4:
        return logic(f"if {a} and {b} are true, then {c} is true", f"({a} & {b}) >> {c}")
    if level <= 7:
        return logic(f"if {a} is true, then {b} or {c} is true", f"{a} >> ({b} | {c})")
    return logic(f"if {a} or {b} is true, then {c} and {d} are true", f"({a} | {b}) >> ({c} & {d})")


def either(level: int, rng: random.Random) -> Made:
    """Or in both senses."""
    a, b, c, d = letters(4, rng)
    if level <= 2:
        return logic(f"{a} or {b} is true, but not both", f"{a} ^ {b}")
    if level <= 5:
        return logic(f"{a} is true, and {b} or {c} is true", f"{a} & ({b} | {c})")
    if level <= 8:
        return logic(f"{a} or {b} is true, and {c} is false", f"({a} | {b}) & ~{c}")
    return logic(f"{a} or {b} is true, and {c} or {d} is true", f"({a} | {b}) & ({c} | {d})")


def equal(level: int, rng: random.Random) -> Made:
    """Conditions both ways, only if, unless."""
    a, b, c, _ = letters(4, rng)
    if level <= 2:
        return logic(f"{a} is true only if {b} is true", f"{a} >> {b}")
    if level <= 5:
        return logic(f"{a} is true exactly when {b} is false", f"{a} ^ {b}")
    if level <= 8:
        return logic(f"{a} is true only if {b} and {c} are true", f"{a} >> ({b} & {c})")
    return logic(f"unless {a} is true, {b} and {c} are true", f"{a} | ({b} & {c})")


ALGEBRA: tuple[Callable[[int, random.Random], Made], ...] = (
    linear, pair, derivative, antiderivative, phrase,
)  # fmt: skip
LOGIC: tuple[Callable[[int, random.Random], Made], ...] = (
    conjunction, neither, implication, either, equal,
)  # fmt: skip


def tables() -> list[dict[str, Any]]:
    """The kinds: name, field, examples, tasks."""
    found = []
    for field, makers in (("algebra", ALGEBRA), ("logic", LOGIC)):
        for make in makers:
            rng = random.Random(f"{SEED} {make.__name__}")
            tasks: dict[str, dict[str, Any]] = {}
            for level in range(1, LEVELS + 1):
                text, _, spec = _fresh(make, level, rng, tasks)
                checked = {"kind": "algebra", **spec}
                tasks[text] = {"level": level, "task": text, "checker": checked}
            examples = []
            for level in (1, 4, 7, LEVELS):
                text, answer, _ = _fresh(make, level, rng, tasks)
                examples.append({"task": text, "answer": answer})
            kind = {"name": make.__name__, "field": field, "examples": examples}
            found.append({**kind, "tasks": list(tasks.values())})
    return found


def _fresh(
    make: Callable[[int, random.Random], Made], level: int, rng: random.Random, taken: Any
) -> Made:
    """A task whose text is not taken."""
    return next(made for _ in range(1000) if (made := make(level, rng))[0] not in taken)


def written() -> str:
    """The file's text."""
    return json.dumps({"seed": SEED, "kinds": tables()}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), encoding="utf-8")
