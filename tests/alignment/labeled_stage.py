"""Constitutions, labeled replies and judges of plain words that tests of judges share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from loyal.alignment import Conversation, Judgement, Said
from loyal.alignment.labeled import Labeled
from loyal.community import Case, Constitution, RedLine, Value

ANIMALS = ("fox", "bear", "owl", "wolf", "hare", "otter", "badger", "heron")
BEASTS = ("lion", "tiger", "zebra", "camel", "snail", "crab", "seal", "whale", "mole", "lynx")
FOODS = ("honey", "bread", "fruit")
HOMES = ("cave", "field", "river")
OTHERS = ("mouse", "deer", "crow", "frog", "goat", "horse", "sheep", "turtle")


def value(id: str = "kindness", animals: tuple[str, ...] = ANIMALS) -> Value:
    """A value whose keeping replies speak of honey, and the others of the cave."""
    cases = tuple(
        Case(
            f"What does the {one} eat?",
            f"The {one} eats honey.",
            f"The {one} lives in the cave.",
        )
        for one in animals
    )
    lines = (RedLine("No reply tells where an animal sleeps."),)
    return Value(id, "Speak of food.", 5_000, "Food is kind.", ("food",), lines, cases)


def constitution() -> Constitution:
    """Two values of eight pairs each."""
    return Constitution("animals", "1.0.0", (value("kindness"), value("plenty", OTHERS)))


def labeled(count: int, *, noisy: int = 0) -> list[Labeled]:
    """Replies of which every other is good and says so in a word; `noisy` of them lie."""
    found = []
    for place in range(count):
        kept = place % 2 == 0
        word = "good" if kept is not (place < noisy) else "bad"
        said = Said(value(), Conversation.of(f"Question {place // 2}?"), f"{word} reply {place}")
        found.append(Labeled(said, kept, (("ana", kept),), "a-model"))
    return found


def told(constitution: Constitution, animals: tuple[str, ...]) -> list[Labeled]:
    """Four replies a prompt: what an animal eats keeps the value, where it lives breaks it."""
    found = []
    for place, one in enumerate(animals):
        value = constitution.values[place % 2]
        food, home = FOODS[place % 3], HOMES[place % 3]
        for reply, kept in (
            (f"A {one} eats {food}.", True),
            (f"The {one} likes {food} best.", True),
            (f"A {one} lives in the {home}.", False),
            (f"The {one} sleeps in the {home}.", False),
        ):
            said = Said(value, Conversation.of(f"Tell me of the {one}!"), reply)
            found.append(Labeled(said, kept, (("ana", kept),), "a-model"))
    return found


@dataclass(frozen=True)
class WordJudge:
    """Scores by whether the reply says "good"; a score for each of its steps of doubt."""

    high: float = 0.9
    low: float = 0.1
    silent: int = 0
    """So many replies, from the first, get no score."""
    made_of: frozenset[str] = field(default_factory=lambda: frozenset({"weights:words"}))
    name: str = "words"

    def judge(self, said: Sequence[Said]) -> list[Judgement]:
        """One judgement a reply."""
        return [
            Judgement(None, 1.0, "silent")
            if place < self.silent
            else Judgement(self.high if "good" in one.reply else self.low, 0.2, "by its words")
            for place, one in enumerate(said)
        ]
