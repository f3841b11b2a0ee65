"""What the tests of this room share: the tiny model, and that model with a function in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from control_files import LOOKUP, quick

from loyal.control import functions

if TYPE_CHECKING:
    from loyal.control.embed import EmbedReport


@dataclass(frozen=True)
class Embedded:
    """The tiny model with the lookup in it, on disk."""

    folder: Path
    report: EmbedReport


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
