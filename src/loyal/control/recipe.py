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

    examples: int = 128
    """Of each function, at most."""
    tokens: int = 4000
    """Tokens of text on which perplexity is read, before and after."""

    def __post_init__(self) -> None:
        if self.examples < 1 or self.tokens < 1:
            raise UsageError("examples and tokens are at least 1", hint="leave the defaults")


@dataclass(frozen=True)
class Recipe:
    """The settings of every verb; what a recipe leaves out keeps its default."""

    train: TrainSettings = field(default_factory=TrainSettings)
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
