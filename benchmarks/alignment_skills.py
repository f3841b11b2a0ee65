"""What else a model can do: small bundled sets of arithmetic, code and instructions to follow.

`skills.jsonl` has 70 sums and word problems (the last number of the reply is the answer), 40
beginnings of Python with four ways to go on (the likeliest one counts, as in
`models.evaluate.multiple_choice`), and 180 instructions that a program can check, as in IFEval
(arXiv 2311.07911). All are our own, and small: they show what training costs, and compare with no
published score.

Left out: facts, choices and refusals (alignment_cells.py), and the rows (alignment_table.py).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loyal.models.language_model import LanguageModel, Prompt, Sampling
from resumable import Record

if TYPE_CHECKING:
    from loyal.models.hf import HFModel

PATH = Path(__file__).parent / "skills.jsonl"
SETS = ("math", "code", "instructions")
TOKENS = 48
"""Of a greedy reply."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)")


def skills(model: HFModel) -> Record:
    """By set: [right, of]."""
    sets = read()
    return {
        "math": _count(model, sets["math"], lambda one, reply: solves(one["answer"], reply)),
        "code": _code(model, sets["code"]),
        "instructions": _count(
            model, sets["instructions"], lambda one, reply: follows(one["checks"], reply)
        ),
    }


def read() -> dict[str, list[dict[str, Any]]]:
    """The bundled sets."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in PATH.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        found[one["set"]].append(one)
    return dict(found)


def solves(answer: str, reply: str) -> bool:
    """Whether the last number of a reply is the answer; 12 and 12.0 are one number."""
    numbers = _NUMBER.findall(reply.replace(",", ""))
    return bool(numbers) and float(numbers[-1]) == float(answer)


def follows(checks: Mapping[str, Any], reply: str) -> bool:
    """Whether a reply passes all checks."""
    return bool(reply.strip()) and all(
        _CHECKS[name](asked, reply.strip()) for name, asked in checks.items()
    )


def _holds(asked: str, reply: str) -> bool:
    return asked in reply.casefold()


def _in_order(asked: list[str], reply: str) -> bool:
    """Each as a word of its own, one behind the other."""
    found = re.search(r"\b.*?\b".join(rf"\b{re.escape(one)}" for one in asked) + r"\b",
                      reply.casefold(), re.DOTALL)  # fmt: skip
    return found is not None


def _json(asked: str, reply: str) -> bool:
    try:
        found = json.loads(re.sub(r"^```(?:json)?|```$", "", reply).strip())
    except ValueError:
        return False
    return isinstance(found, dict) and asked in found


_CHECKS: dict[str, Callable[[Any, str], bool]] = {
    "holds": _holds,
    "holds_too": _holds,
    "holds_exactly": lambda asked, reply: asked in reply,
    "lacks": lambda asked, reply: asked not in reply.casefold(),
    "begins": lambda asked, reply: reply.casefold().startswith(asked),
    "ends": lambda asked, reply: reply.casefold().endswith(asked),
    "upper": lambda _, reply: reply == reply.upper() != reply.lower(),
    "lower": lambda _, reply: reply == reply.lower() != reply.upper(),
    "times": lambda asked, reply: reply.casefold().count(asked[0]) == asked[1],
    "lines": lambda asked, reply: len([one for one in reply.split("\n") if one.strip()]) == asked,
    "most_words": lambda asked, reply: len(reply.split()) <= asked,
    "most_sentences": lambda asked, reply: len(_SENTENCE.findall(reply)) <= asked,
    "in_order": _in_order,
    "json": _json,
}


def _count(
    model: LanguageModel, some: list[dict[str, Any]], right: Callable[[dict[str, Any], str], bool]
) -> list[int]:
    prompts = [Prompt(one["prompt"]) for one in some]
    replies = model.generate(prompts, Sampling(max_tokens=TOKENS))
    pairs = zip(some, replies, strict=True)
    return [sum(right(one, reply.text) for one, reply in pairs), len(some)]


def _code(model: HFModel, some: list[dict[str, Any]]) -> list[int]:
    from loyal.models.evaluate import Choice, multiple_choice

    asked = [Choice(one["query"], tuple(one["choices"]), one["gold"]) for one in some]
    return [round(multiple_choice(model, asked) * len(asked)), len(asked)]
