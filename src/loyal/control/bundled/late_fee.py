"""What a book that comes back late costs: days times rate, in dollars and cents."""

from random import Random

NAME = "late-fee"
VERSION = 1

TEMPLATES = (
    "What is the fine for {days} days at {rate} cents a day?",
    "My book is {days} days late. The rate is {rate} cents a day. What do I owe?",
    "How much do I pay for {days} days late at {rate} cents per day?",
    "At {rate} cents a day, what does a delay of {days} days cost?",
    "A book is {days} days overdue at {rate} cents a day. How much is that?",
    "Tell me the late fee: {days} days, {rate} cents each.",
)

SLOTS = {"days": r"\d{1,3}", "rate": r"\d{1,3}"}

OUTSIDE = (
    "What is a late fee?",
    "How many days does a week have?",
    "What does a book cost?",
    "How much is 12 times 25?",
)


def sample(rng: Random) -> dict[str, int]:
    """Days and cents a day."""
    return {"days": rng.randint(2, 60), "rate": rng.choice((5, 10, 20, 25, 50))}


def reply(days: str, rate: str) -> str:
    """The fine."""
    cents = int(days) * int(rate)
    return f"The fine is ${cents // 100}.{cents % 100:02d}."
