"""What the tests of this room share: the tiny model, and that model with a function in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from control_files import LOOKUP

from loyal.control import functions

if TYPE_CHECKING:
    from loyal.control.embed import EmbedReport
    from loyal.control.recipe import Recipe


@dataclass(frozen=True)
class Embedded:
    """The tiny model with the lookup in it, on disk."""

    folder: Path
    report: EmbedReport


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


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained tiny model as a Hugging Face folder."""
    from loyal.models import tiny

    return tiny.build(tmp_path_factory.mktemp("models") / "tiny", 0)


@pytest.fixture(scope="session")
def embedded(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """The lookup, embedded."""
    from loyal.control.embed import embed
    from loyal.models.hf import HFModel

    out = tmp_path_factory.mktemp("embedded") / "out"
    model = HFModel.load(str(tiny_folder), device="cpu")
    lookup = functions.from_source("toml", LOOKUP.encode())
    return Embedded(out, embed(model, [lookup], out, quick()))
