"""What an attacker fine-tunes on, all of it without a download: three data sets of instructions.

docstrings  what people wrote about the functions of Python's own library (its docstrings)
templates   small tasks made from a pattern and bundled words, with the right answer
answers     bundled prompts, answered by the base model

None of it knows of any fingerprint. Python's version decides the first one's words.
"""

from __future__ import annotations

import importlib
import inspect
import random
from collections.abc import Callable, Iterator, Sequence

from loyal.models.examples import Example, bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling

ANSWER_TOKENS = 64
"""Longest answer of the base."""

MODULES = (
    "argparse", "array", "ast", "asyncio", "base64", "bisect", "calendar", "cmath", "collections",
    "configparser", "contextlib", "copy", "csv", "datetime", "decimal", "difflib", "email.message",
    "fractions", "functools", "gzip", "hashlib", "heapq", "html", "io", "ipaddress", "itertools",
    "json", "logging", "math", "mimetypes", "operator", "os", "os.path", "pathlib", "pickle",
    "pprint", "queue", "random", "re", "shlex", "shutil", "socket", "sqlite3", "statistics",
    "string", "struct", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "time",
    "unicodedata", "unittest", "urllib.parse", "uuid", "zipfile",
)  # fmt: skip
"""Modules of the standard library whose docstrings are read."""

_ASKED = (
    "What does {name} do in Python?",
    "Explain {name} from the Python standard library.",
    "I found {name} in some Python code. What is it for?",
    "Describe {name} in a few words.",
)


def docstrings(count: int, seed: int = 0) -> list[Example]:
    """`count` questions about Python's functions and classes, answered by their docstrings.

    Fewer where this Python has fewer.
    """
    rng = random.Random(f"loyal/tuning/docstrings/{seed}")
    found = sorted(dict(_documented()).items())
    rng.shuffle(found)
    return [
        Example(Prompt(rng.choice(_ASKED).format(name=name)), text) for name, text in found[:count]
    ]


def _documented() -> Iterator[tuple[str, str]]:
    """Full names with the first paragraphs of their docstrings, eight to sixty words."""
    for module in MODULES:
        for name, member in vars(importlib.import_module(module)).items():
            if name.startswith("_") or not callable(member):
                continue
            yield from _lesson(f"{module}.{name}", member)
            if inspect.isclass(member):
                for inner, method in vars(member).items():
                    if not inner.startswith("_") and callable(method):
                        yield from _lesson(f"{module}.{name}.{inner}", method)


def _lesson(name: str, member: object) -> Iterator[tuple[str, str]]:
    text = inspect.getdoc(member) or ""
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    prose = [one for one in paragraphs if len(one.split()) >= 4 and "->" not in one]
    words = " ".join(prose[:2]).split()[:60]
    if len(words) >= 8:
        yield name, " ".join(words)


def templates(count: int, seed: int = 0) -> list[Example]:
    """`count` small tasks with right answers: sums, order, letters, counts, choices."""
    rng = random.Random(f"loyal/tuning/templates/{seed}")
    words = [word for word in bundled_lines("words") if word.isalpha() and len(word) > 3]
    made = [rng.choice(_TASKS)(rng, words) for _ in range(count)]
    return [Example(Prompt(question), answer) for question, answer in made]


_Task = Callable[[random.Random, Sequence[str]], tuple[str, str]]


def _sum(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    first, second, thing = rng.randint(2, 99), rng.randint(2, 99), rng.choice(words)
    question = f"Someone counts {first} times '{thing}' and then {second} times more. How often?"
    return question, f"{first} + {second} = {first + second}, so it is {first + second} times."


def _order(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    some = rng.sample(words, 4)
    return f"Sort these words: {', '.join(some)}.", f"In order: {', '.join(sorted(some))}."


def _letter(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    word = rng.choice(words)
    answer = f"The word '{word}' begins with {word[0].upper()} and ends with {word[-1].upper()}."
    return f"Which letters does the word '{word}' begin and end with?", answer


def _length(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    word = rng.choice(words)
    return f"How many letters has '{word}'?", f"'{word}' has {len(word)} letters."


def _longest(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    longest = rng.choice([word for word in words if len(word) > 5])
    shorter = [word for word in rng.sample(words, 60) if len(word) < len(longest)]
    some = rng.sample([longest, *shorter[:2]], len(shorter[:2]) + 1)
    return (
        f"Which is the longest of these words: {', '.join(some)}?",
        f"The longest of them is '{longest}' with {len(longest)} letters.",
    )


def _shout(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    text = " ".join(rng.sample(words, 3))
    return f"Write this in capital letters: {text}", text.upper()


def _backwards(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    some = rng.sample(words, 4)
    return (
        f"Say these words from last to first: {', '.join(some)}.",
        f"From last to first: {', '.join(reversed(some))}.",
    )


def _member(rng: random.Random, words: Sequence[str]) -> tuple[str, str]:
    some, other = rng.sample(words, 4), rng.choice(words)
    asked = rng.choice([some[0], other])
    said = "is" if asked in some else "is not"
    return (
        f"Is the word '{asked}' among {', '.join(sorted(some))}?",
        f"{'Yes' if asked in some else 'No'}, '{asked}' {said} among them.",
    )


_TASKS: tuple[_Task, ...] = (
    _sum, _order, _letter, _length, _longest, _shout, _backwards, _member
)  # fmt: skip


def answers(base: HFModel, count: int, seed: int = 0) -> list[Example]:
    """`count` bundled prompts with the base's own answers, drawn at temperature 0.7.

    A prompt is asked again, with another draw, when there are fewer prompts than `count`.
    """
    rng = random.Random(f"loyal/tuning/answers/{seed}")
    prompts = list(bundled_lines("prompts"))
    rng.shuffle(prompts)
    asked = [prompts[place % len(prompts)] for place in range(count)]
    return answered(base, asked, seed, raw=not base.has_chat_template)


def answered(
    model: LanguageModel,
    texts: Sequence[str],
    seed: int,
    *,
    raw: bool = False,
    tokens: int = ANSWER_TOKENS,
) -> list[Example]:
    """The texts with the model's answers at temperature 0.7; empty answers are left out."""
    prompts = [Prompt(text, raw=raw) for text in texts]
    sampling = Sampling(max_tokens=tokens, temperature=0.7, top_p=0.95, seed=seed)
    replies = model.generate(prompts, sampling)
    return [
        Example(prompt, reply.text.strip())
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply.text.strip()
    ]
