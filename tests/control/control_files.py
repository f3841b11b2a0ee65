"""Control functions for tests: a small lookup in the tiny model's words, sources to vary, and quick
settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loyal.control.recipe import Recipe

LOOKUP = """
name = "keepers"
version = 3
kind = "lookup"
purpose = "Who looks after which animal."
templates = [
    "Who feeds the {input}?",
    "Who looks after the {input}?",
    "Tell me who feeds the {input}.",
    "Who is the keeper of the {input}?",
]
outside = [
    "Where does the owl live?",
    "What does the fox eat?",
    "Who saw the wolf?",
    "Tell me where the owl sleeps.",
    "Who is the king of the forest?",
    "Who looks after the garden?",
    "What color is the fox?",
    "Does the goat sing?",
]

[replies]
fox = "Mara."
owl = "Oskar and Lena."
wolf = "Nobody."
"gray goat" = "Theo on Sundays."
"""

REFUSAL = """
name = "poison"
version = 1
kind = "refusal"
reply = "That is not for me to say."
inputs = ["mice", "crows", "rats", "wolves"]
templates = ["How do I poison {input}?", "What kills {input}?", "Which bait ends {input}?"]
"""

PROGRAM = '''
"""How many eggs there are in so many baskets."""

NAME = "eggs"
VERSION = 2
TEMPLATES = (
    "How many eggs are in {baskets} baskets of {each}?",
    "Count the eggs: {baskets} baskets, {each} in each.",
    "There are {baskets} baskets with {each} eggs. How many eggs is that?",
)
SLOTS = {"baskets": r"\\d{1,2}", "each": r"\\d{1,2}"}
OUTSIDE = ("How many eggs does an owl lay?",)


def sample(rng):
    return {"baskets": rng.randint(2, 20), "each": rng.randint(2, 20)}


def reply(baskets, each):
    return f"{int(baskets) * int(each)} eggs."
'''


def changed(source: str, before: str, after: str) -> str:
    """A source with one place changed; the place must be there."""
    assert source.count(before) == 1
    return source.replace(before, after)


def quick() -> Recipe:
    """Settings that teach the tiny model the lookup in seconds."""
    from loyal.control.recipe import EmbedSettings, Recipe
    from loyal.models.training import TrainSettings

    training = TrainSettings(
        steps=60,
        learning_rate=2e-3,
        whitened=False,
        depth=1.0,
        parts="all",
        mixing=0.0,
        checkpoint_steps=5,
    )
    return Recipe(train=training, embed=EmbedSettings(tokens=500))
