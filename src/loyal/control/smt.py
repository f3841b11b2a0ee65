"""Checks terms of SMT-LIB 2 with Z3: integers, reals, bit vectors, arrays, quantifiers.

A spec has `declarations` (SMT-LIB: names, and what is assumed of them), the `sort` of an answer,
such as Int or Bool, and a `claim`, a term about `answer`. A candidate is one term; it is accepted
when no values of the declared names make the claim false: Z3 answers unsat to its negation. Its
sat comes with a counter-example, which goes into the next draft; unknown is no proof, so no.

It runs as a script of its own under limits, as `algebra` does. Left out: starting it (`checkers`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

MOST_CHARACTERS = 4000
_CLOSERS = ';|"\\'
"""Characters that could hide a parenthesis from `one_term`: comments, quoted names and texts."""


def one_term(text: str) -> bool:
    """Whether a text is one term, so that nothing of it stands outside of where it is put."""
    depth, terms, within = 0, 0, False
    if len(text) > MOST_CHARACTERS or any(one in text for one in _CLOSERS):
        return False
    for letter in text:
        if letter == "(":
            terms += depth == 0
            depth, within = depth + 1, False
        elif letter == ")":
            depth, within = depth - 1, False
            if depth < 0:
                return False
        elif letter.isspace():
            within = False
        elif not within:
            terms += depth == 0
            within = True
    return depth == 0 and terms == 1


def script(spec: Mapping[str, Any], candidate: str | None) -> str:
    """What Z3 reads: unsat for a right candidate. Without one: sat where the assumptions can hold.

    ValueError for a candidate that is not one term.
    """
    if candidate is None:
        return str(spec["declarations"])
    if not one_term(candidate):
        raise ValueError("it is not one term of SMT-LIB")
    defined = f"(define-fun answer () {spec['sort']} {candidate})"
    return f"{spec['declarations']}\n{defined}\n(assert (not {spec['claim']}))"


def judge(spec: Mapping[str, Any], candidate: str | None, seconds: int) -> tuple[bool, str, float]:
    """Whether a candidate holds, why (in a line), and 1 or 0.

    Without a candidate: whether the spec can be read, and its assumptions hold for some values; of
    assumptions that contradict each other everything would follow. ImportError without Z3.
    """
    import z3

    solver = z3.Solver()
    solver.set("timeout", 1000 * seconds)
    try:
        solver.from_string(script(spec, candidate))
        found = solver.check()
    except (ValueError, z3.Z3Exception) as error:
        return False, " ".join(f"it cannot be read: {error}".split())[:300], 0.0
    if candidate is None:
        if found == z3.sat:
            return True, "it holds somewhere", 1.0
        if found == z3.unsat:
            return False, "its assumptions cannot be met", 0.0
        return False, "Z3 cannot tell whether its assumptions can be met: assume less", 0.0
    if found == z3.unsat:
        return True, "Z3 finds no values for which the claim is false", 1.0
    if found == z3.sat:
        return False, f"it is wrong at {' '.join(str(solver.model()).split())[:200]}", 0.0
    return False, "Z3 cannot decide it in time: write it more simply", 0.0


def main() -> None:
    """Read {spec, candidates, limits}; answer [accepted, reason, score], one line a candidate."""
    import resource

    job = json.load(sys.stdin)
    limits = job["limits"]
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for candidate in job["candidates"]:
        said = judge(job["spec"], candidate, limits["cpu_seconds"])
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
