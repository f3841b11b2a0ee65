"""All settings of the room in one record, which a TOML recipe fills: one section a verb.

    [keys]
    count = 256

    [responses]
    width = 16

    [train]
    averaging = 0.05

    [check]
    alpha = 1e-9

Left out: reading the file (loyal.config) and the options of the command line (loyal.app).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loyal.fingerprints.check import CheckSettings
from loyal.fingerprints.keys import KeySettings
from loyal.fingerprints.responses import ResponseSettings
from loyal.models.training import TrainSettings


@dataclass(frozen=True)
class Recipe:
    """The settings of every verb; what a recipe leaves out keeps its default."""

    keys: KeySettings = field(default_factory=KeySettings)
    responses: ResponseSettings = field(default_factory=ResponseSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
