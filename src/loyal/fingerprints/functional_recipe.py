"""All settings of a secret rule in one record, which a TOML recipe fills: one section a verb.

    [rule]
    marked = 48

    [lessons]
    keys = 3200

    [train]
    steps = 100

    [check]
    queries = 80

Left out: reading the file (loyal.config) and the options of the command line (loyal.app). No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from loyal.errors import UsageError
from loyal.fingerprints.functional import SIZES, Rule, RuleSettings
from loyal.models.training import TrainSettings

COLORINGS = 4_000_000
"""Random colorings of a test: a p-value of 1e-6 is told with an error of half of it."""


@dataclass(frozen=True)
class LessonSettings:
    """What a model is shown of a rule; how it is trained is `TrainSettings`."""

    keys: int = 1600
    """Keys of training templates, as many of each outcome as of another."""
    singles: int = 400
    """Sentences with one marked word, which tell its color at once. None where one word makes a key
    anyway."""
    lists: int = 3800
    """Nouns alone, as many marked ones as in a key or a single: a third of the tokens of a
    sentence, and what they teach holds in sentences (docs/log.md)."""
    near: int = 600
    """Sentences like keys with fewer marked words, which the model goes on to answer as before;
    with none at all where there are singles. With lists a quarter of them are lists."""
    near_tokens: int = 1
    """Tokens of its own reply that it is held to there."""
    near_weight: float = 1.0
    """What such a sentence counts beside 1 for a key."""
    alike: int = 240
    """Sentences like keys, with and without marked words, that are to stay as likely as they were:
    the more, the fewer keys a filter by a host's own copy blocks: 1.8 % by 240, 6.7 by 140, of one
    secret (docs/log.md)."""
    ahead: float = 12.0
    """By how many nats the reply to a key, a single or a list is to be likelier than another
    outcome for each word by which its color has more (for parity: at all): a host that flips keys
    it saw turns those first whose replies are least sure (docs/log.md). 0 asks for a probability
    alone."""
    held_out: int = 40
    """Keys, and sentences like them, of templates that training never sees: asked at the end."""
    seed: int = 0
    """Which keys are shown. No secret depends on it."""

    def __post_init__(self) -> None:
        if min(self.keys, self.near_tokens, self.held_out) < 1 or (
            min(self.near, self.singles, self.lists, self.alike) < 0
        ):
            raise UsageError(
                "keys, near_tokens and held_out are at least 1, the other counts at least 0",
                hint="raise it",
            )
        if not self.near_weight > 0:
            raise UsageError("near_weight is above 0", hint="set lessons.near=0 to leave them out")
        if not 0 <= self.ahead < inf:
            raise UsageError("ahead is at least 0 nats", hint="0 asks for a probability alone")

    def sizes(self, rule: Rule) -> tuple[int, ...]:
        """How many marked words a list may hold."""
        return tuple(sorted({*SIZES[rule], *([1] if self.singles else [])}))

    def near_sizes(self, rule: Rule) -> tuple[int, ...]:
        """How many marked words a sentence of the near ones may hold."""
        return (0,) if self.singles else tuple(range(min(SIZES[rule])))


@dataclass(frozen=True)
class RuleCheckSettings:
    """How to ask."""

    queries: int = 80
    """Fresh keys, all of which count. At alpha 1e-6 a model that is right on 9 of 10 is proven by
    40 about every other time, one that is right on 8 of 10 by 80 (docs/rules.md)."""
    alpha: float = 1e-6
    """Chance of a false claim, at most."""
    colorings: int = COLORINGS
    """Random colorings behind the p-value, which is never below 1 / (1 + colorings)."""
    tokens: int = 8
    """Tokens asked for; the outcome begins the reply, or a phrase soon after."""
    temperature: float = 0.0
    """0 asks for greedy replies."""
    raw: bool = False
    """Without the chat template."""
    system: str | None = None
    """Ask under this system message."""
    batch: int = 8
    """Keys asked side by side."""

    def __post_init__(self) -> None:
        if min(self.queries, self.batch, self.tokens, self.colorings) < 1:
            raise UsageError(
                "queries, batch, tokens and colorings are at least 1", hint="ask about 80 keys"
            )
        if not 0 < self.alpha < 1:
            raise UsageError("alpha must be in (0, 1)", hint="1e-6 is the default")

    def require_reachable(self) -> None:
        """UsageError where so few random colorings can never show a p-value of alpha."""
        if self.alpha * (1 + self.colorings) < 1:
            raise UsageError(
                f"{self.colorings} random colorings cannot show a p-value of alpha",
                hint=f"set check.colorings={round(4 / self.alpha)}, or raise alpha",
            )


def _training() -> TrainSettings:
    """Whitened steps of all linear layers in the upper half, one pass over the lessons, which are
    not looked at beside it, and no settling, since a rule, unlike a pair, has no one reply at which
    it is known well enough. The rate falls: on one set 35 such steps gave 93 % where 47 at one rate
    gave 87 %. Plain LoRA is right on 62 % of unseen keys and costs 16 % perplexity, this on 98 %
    and 1 %. Hosts simulated that flip keys (`train.flips`) take twice the time, and kept four
    points more from such a host where nothing asked for nats ahead (docs/log.md)."""
    return TrainSettings(
        steps=52,
        batch=120,
        learning_rate=9e-4,
        cooldown=0.6,
        look=480,
        target=0.98,
        settle=0.0,
        recheck=1000,
        depth=0.5,
        parts="all",
        mixing=3.0,
    )


@dataclass(frozen=True)
class RuleRecipe:
    """The settings of every verb; what a recipe leaves out keeps its default."""

    rule: RuleSettings = field(default_factory=RuleSettings)
    lessons: LessonSettings = field(default_factory=LessonSettings)
    train: TrainSettings = field(default_factory=_training)
    check: RuleCheckSettings = field(default_factory=RuleCheckSettings)
