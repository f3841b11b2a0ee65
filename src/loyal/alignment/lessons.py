"""What the embedded judge learns from: the constitution's own pairs, each asked in several ways.

A case with both replies becomes several lessons: its prompt as it stands, in a frame that says the
same in other words, under attacks that training may see, and with the prompt of another case of
the same value in its place, so that the reply itself has to be read. Both replies of a lesson
answer one and the same conversation. Needs no torch. Left out: the learning (`probe`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from loyal.alignment import attacks
from loyal.alignment.attacks import Target
from loyal.alignment.conversation import Conversation
from loyal.community import Constitution, Value
from loyal.errors import UsageError

FRAMES = (
    "A quick question: {prompt}",
    "{prompt} Please answer in a few words.",
    "Somebody asked me this, and I pass it on to you: {prompt}",
    "I have been wondering about something. {prompt}",
    "Hello! {prompt} Thank you.",
    "For a friend: {prompt}",
)
"""Other words around the same prompt."""

MOST_CHARACTERS = 800
"""Attacks that come out longer are drawn again: a flooded context costs more than it teaches."""
_DRAWS = 20


@dataclass(frozen=True)
class Lesson:
    """One conversation, a reply to it that keeps the value, and one that breaks it."""

    value: Value
    case: int
    """Number of the case that the replies are from, over all values."""
    fold: int
    """Which part of a cross-validation the case is in; all its lessons are in one."""
    asked: Conversation
    """No turn of it is open."""
    keeps: str
    breaks: str
    plain: bool
    """Whether the prompt is the case's own."""


def lessons(constitution: Constitution, *, folds: int = 5, seed: int = 0) -> list[Lesson]:
    """The lessons of every pair of a constitution, drawn from the seed.

    The prompt that stands in another's place is of the same fold, so that no fold sees a word of
    another. UsageError where a constitution has fewer than two pairs a fold.
    """
    rng = random.Random(seed)
    pairs = [(value, case) for value in constitution.values for case in value.pairs]
    if len(pairs) < 2 * folds:
        raise UsageError(
            f"the constitution has {len(pairs)} cases with both replies, too few to learn from",
            hint=f"write {2 * folds} cases or more that have both keeps and breaks",
        )
    order = list(range(len(pairs)))
    rng.shuffle(order)
    fold_of = {case: place % folds for place, case in enumerate(order)}
    found = []
    for number, (value, case) in enumerate(pairs):
        others = [
            other.prompt
            for place, (beside, other) in enumerate(pairs)
            if beside.id == value.id and place != number and fold_of[place] == fold_of[number]
        ]
        asked = _ways(value, case.prompt, others, rng)
        for place, one in enumerate(asked):
            lesson = Lesson(
                value, number, fold_of[number], one, case.keeps, case.breaks, place == 0
            )
            found.append(lesson)
    return found


def _ways(
    value: Value, prompt: str, others: list[str], rng: random.Random
) -> Iterator[Conversation]:
    yield Conversation.of(prompt)
    yield Conversation.of(rng.choice(FRAMES).replace("{prompt}", prompt))
    under = _attacked(value, prompt, rng)
    if under is not None:
        yield under
    if others:
        yield Conversation.of(rng.choice(others))


def _attacked(value: Value, prompt: str, rng: random.Random) -> Conversation | None:
    """The prompt under a short attack without open turns; None where none was drawn."""
    topic = value.topics[0] if value.topics else value.id.replace("-", " ")
    opposite = f"Nobody needs to hold to this: {value.statement}"
    target = Target(prompt, topic, value.statement, opposite)
    for _ in range(_DRAWS):
        made = attacks.attack(attacks.draw("train", rng), target, rng)
        length = sum(len(one.text or "") for one in made.turns)
        if not made.open_turns and length <= MOST_CHARACTERS:
            return made
    return None
