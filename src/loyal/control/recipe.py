"""All settings of the room in one record, which a TOML recipe fills: one section a verb.

    [train]
    steps = 100

    [embed]
    examples = 256

    [check]
    prompts = 100

Left out: reading the file (loyal.config) and the options of the command line (loyal.app).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loyal.control.check import CheckSettings
from loyal.errors import UsageError
from loyal.models.training import TrainSettings


@dataclass(frozen=True)
class EmbedSettings:
    """How much is taught and measured; how it is trained is `TrainSettings`."""

    examples: int = 1400
    """Of each function, at most."""
    near_tokens: int = 8
    """Tokens of the untouched model's own reply that it is held to on the prompts that functions
    list as outside, a quarter of which are kept for `check`. 0 shows it none of them."""
    tokens: int = 4000
    """Tokens of text on which perplexity is read, before and after."""

    def __post_init__(self) -> None:
        if min(self.examples, self.tokens) < 1 or self.near_tokens < 0:
            raise UsageError(
                "examples and tokens are at least 1, near_tokens at least 0",
                hint="leave the defaults",
            )


def _training() -> TrainSettings:
    """Whitened steps of all linear layers in the upper half, at a rate that falls; nothing is
    settled, since a rule has no one reply at which it is known well enough (docs/log.md)."""
    return TrainSettings(
        steps=120, batch=96, learning_rate=7e-4, cooldown=0.5, look=480, target=0.95, settle=0.0,
        recheck=3, depth=0.5, parts="all",
    )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The settings of every verb; what a recipe leaves out keeps its default."""

    train: TrainSettings = field(default_factory=_training)
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
