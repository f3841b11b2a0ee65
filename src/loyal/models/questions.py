"""Short factual questions with their accepted answers: is a model as useful as before?

Plain facts (capitals, sums, colors, months, animals) that small chat models know. A question counts
where the model that nobody attacked answers it right; `utility` is the share of those that the
attacked model still answers right. Needs no torch: any `LanguageModel` can be asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loyal.errors import UsageError
from loyal.models.examples import bundled_lines
from loyal.models.language_model import LanguageModel, Prompt, Sampling

ANSWER_TOKENS = 24
"""Tokens a reply may take: a full sentence of a small chat model."""


@dataclass(frozen=True)
class Question:
    """One question, and what counts as a right answer."""

    text: str
    answers: tuple[str, ...]
    """Accepted answers; one of them, as whole words in any case, makes a reply right."""

    def accepts(self, reply: str) -> bool:
        """Whether the reply holds an accepted answer as whole words, case and marks aside."""
        words = _words(reply)
        return any(f" {_words(answer).strip()} " in words for answer in self.answers)


def bundled_questions() -> tuple[Question, ...]:
    """The bundled questions, in the order of the file."""
    found = []
    for line in bundled_lines("questions"):
        text, *answers = (part.strip() for part in line.split("|"))
        found.append(Question(text, tuple(answers)))
    return tuple(found)


def answered(
    model: LanguageModel, questions: Sequence[Question], system: str | None = None
) -> list[bool]:
    """For each question, whether the model's greedy reply holds an accepted answer."""
    prompts = [Prompt(one.text, system) for one in questions]
    replies = model.generate(prompts, Sampling(max_tokens=ANSWER_TOKENS))
    return [one.accepts(reply.text) for one, reply in zip(questions, replies, strict=True)]


def utility(before: Sequence[bool], after: Sequence[bool]) -> float | None:
    """Share of what was answered right before that is answered right after; None if nothing was.

    Raises UsageError where the two are not about the same number of questions.
    """
    if len(before) != len(after):
        raise UsageError("before and after are not the same questions", hint="ask both the same")
    kept = [now for was, now in zip(before, after, strict=True) if was]
    return sum(kept) / len(kept) if kept else None


def _words(text: str) -> str:
    """Lower-case words between single spaces, a space at both ends."""
    return " ".join(["", *re.findall(r"[^\W_]+", text.casefold()), ""])
