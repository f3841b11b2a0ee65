"""Checks terms of SMT-LIB 2 with Z3: integers, reals, bit vectors, arrays, quantifiers.

A spec has `declarations` (SMT-LIB: names, and what is assumed of them), the `sort` of an answer,
such as Int or Bool, and a `claim`, a term about `answer`. A candidate is one term; it is accepted
when no values of the declared names make the claim false: Z3 answers unsat to its negation. Its
sat comes with a counter-example, which goes into the next draft; unknown is no proof, so no.

Z3 reads more than SMT-LIB, and some of it would prove what is not so. Declarations declare, define
and assume; they set no option (one names a file to write) and print nothing (which could be taken
for a verdict). A candidate has no annotation (`(! e :named RNE)` gives a name of the claim another
meaning) and no `choice` (which says the claim again, and no answer).

It runs as a script of its own under limits, as `algebra` does. Left out: starting it (`checkers`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

MOST_CHARACTERS = 4000
_CLOSERS = ';|"\\'
"""Characters that could hide a parenthesis from `one_term`: comments, quoted names and texts."""
_COMMANDS = frozenset(
    {
        *("declare-const", "declare-fun", "declare-sort", "declare-datatype", "declare-datatypes"),
        *("define-const", "define-fun", "define-fun-rec", "define-funs-rec", "define-sort"),
        *("assert", "set-logic"),
    }
)
"""What declarations may do."""
_PIECE = re.compile(
    r'\s+|;[^\n]*|"(?:[^"]|"")*"|\|[^|\\]*\||\((?:\s*(?P<head>[\w-]+))?|\)|(?:[^\s;"|()\\#]|#(?!\|))+'
)
"""One piece of declarations: space, comment, text, quoted name, parenthesis (with the word that
follows), word. Left out is what Z3 reads otherwise: a backslash in a name, comments after `#|`."""
_NO_ANSWER = re.compile(r"\(\s*(!|choice)(?![^\s()])")
_ERROR = re.compile(r'\(error "(?:line \d+ column \d+: )?(.*?)"\)', re.DOTALL)


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


def require_declarations(text: str) -> None:
    """ValueError for declarations that do something else than to declare, define and assume."""
    depth = at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            raise ValueError(f"the declarations, from {text[at : at + 40]!r} on")
        at, mark = piece.end(), piece.group()[0]
        if mark == "(" and depth == 0 and piece["head"] not in _COMMANDS:
            raise ValueError(f"({piece['head'] or ''} ...) declares, defines and assumes nothing")
        depth += (mark == "(") - (mark == ")")
        if depth < 0:
            raise ValueError("the declarations close a parenthesis that was never opened")


def script(spec: Mapping[str, Any], candidate: str | None) -> str:
    """What Z3 reads: unsat for a right candidate. Without one any value stands for it, so that Z3
    reads sort and claim.

    ValueError for a candidate that is not one term, or no answer.
    """
    defined = f"(declare-const answer {spec['sort']})"
    if candidate is not None:
        if not one_term(candidate):
            raise ValueError("it is not one term of SMT-LIB")
        if found := _NO_ANSWER.search(candidate):
            raise ValueError(f"an answer has no ({found[1]} ...)")
        defined = f"(define-fun answer () {spec['sort']} {candidate})"
    return f"{spec['declarations']}\n{defined}\n(assert (not {spec['claim']}))"


def judge(spec: Mapping[str, Any], candidate: str | None, seconds: int) -> tuple[bool, str, float]:
    """Whether a candidate holds, why (in a line), and 1 or 0.

    Without a candidate: whether the spec can be read, and its assumptions hold for some values; of
    assumptions that contradict each other everything would follow. ImportError without Z3.
    """
    import z3

    solver = z3.Solver(ctx=z3.Context())  # names of one candidate are none of the next one's
    solver.set("timeout", 1000 * seconds)
    try:
        if candidate is None:
            require_declarations(spec["declarations"])
            z3.Solver(ctx=z3.Context()).from_string(script(spec, None))
            solver.from_string(spec["declarations"])
        else:
            solver.from_string(script(spec, candidate))
        found = solver.check()
    except (ValueError, z3.Z3Exception) as error:
        return False, f"it cannot be read: {_said(error)}"[:300], 0.0
    if candidate is None:
        if found == z3.sat:
            return True, "it holds somewhere", 1.0
        if found == z3.unsat:
            return False, "its assumptions cannot be met", 0.0
        return False, "Z3 cannot tell whether its assumptions can be met: assume less", 0.0
    if found == z3.unsat:
        return True, "Z3 finds no values for which the claim is false", 1.0
    if found == z3.sat:
        values = " ".join(str(solver.model()).split())[:200]
        where = "whatever the values are" if values == "[]" else f"at {values}"
        return False, f"it is wrong {where}", 0.0
    return False, "Z3 cannot decide it in time: write it more simply", 0.0


def _said(error: Exception) -> str:
    """An error's words in one line: Z3's first one, without its place in a script nobody sees."""
    words = error.args[0] if error.args else ""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(error)
    first = _ERROR.search(text)
    return " ".join((first[1] if first else text).split())


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
