"""What a run of the alignment benchmark measures, and where its cells lie.

Left out: the cells themselves (alignment.py), and their rows (alignment_table.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import alignment_watch
from alignment_cells import QUICK, Size
from alignment_table import CONSTITUTIONS
from alignment_watch import WatchSize
from loyal.alignment.settings import Recipe
from loyal.community import constitution_file
from loyal.config import load

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m-instruct"
LABELS = Path(__file__).parent / "labeled_replies.jsonl"
MAIN = CONSTITUTIONS[0]
"""The constitution of the models that are kept."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    quick: bool = False
    seeds: int = 5
    only: tuple[str, ...] = ()
    """Rows and cells to measure; empty for all."""
    model: str = MODEL
    recipe: Path | None = None
    """Settings of training; without it the defaults, with the size's number of epochs."""
    labels: Path = LABELS
    judge: tuple[str, ...] = ()
    """What measures: the name of a model, "probe" and a model's name, or a server's URL and the
    name of its model; empty for none."""
    api_key_env: str = ""
    """The variable with the server's key; empty for none."""
    folder: Path = ROOT / "out" / "alignment"

    @property
    def key(self) -> str | None:
        """Of the server."""
        return os.environ[self.api_key_env] if self.api_key_env else None

    @property
    def results(self) -> str:
        """Name of the file of rows."""
        return "alignment-quick" if self.quick else "alignment"

    @property
    def size(self) -> Size:
        """How much is trained on and asked."""
        return QUICK if self.quick else Size()

    @property
    def watch(self) -> WatchSize:
        """How much hosts are asked."""
        return alignment_watch.QUICK if self.quick else WatchSize()

    def settings(self, seed: int) -> Recipe:
        """Of training."""
        if self.recipe is None:
            recipe = Recipe()
            recipe = replace(recipe, align=replace(recipe.align, epochs=self.size.epochs))
        else:
            recipe = load(Recipe, self.recipe)
        harden = replace(recipe.harden, seed=seed)
        if self.quick:
            harden = replace(harden, rounds=1, candidates=8, kept=8)
        return replace(recipe, align=replace(recipe.align, seed=seed), harden=harden)

    @property
    def place(self) -> Path:
        """Where this model's cells are; other settings, and other versions of the constitutions,
        have another folder. What hardens has one of its own in it (`hardening`)."""
        texts = map(constitution_file.bundled_text, CONSTITUTIONS)
        settings = asdict(self.settings(0))
        del settings["harden"]
        record = [settings, asdict(self.size), *map(_digest, texts)]
        tag = tag_of(json.dumps(record, sort_keys=True).encode())
        return self.folder / f"{Path(self.model).name}-{tag}"

    @property
    def hardening(self) -> str:
        """What stands in the names of folders of hardened models, and of their cells."""
        settings = asdict(self.settings(0).harden)
        return f"hardened-{tag_of(json.dumps(settings, sort_keys=True).encode())}"


@cache
def _digest(text: str) -> str:
    """Of the constitution in a file's text, in hex: of what it says, not of how it is written."""
    return constitution_file.from_text(text).digest.hex()


def tag_of(data: bytes) -> str:
    """Short, for a folder's name."""
    return hashlib.sha256(data).hexdigest()[:8]
