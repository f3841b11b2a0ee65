"""The folder that a trained model goes to: whether it is free, and how the model gets there whole.

While a run trains, its checkpoints are in WORK_FOLDER inside it, those of a run of several rounds
in a folder of their own there; the model is written there too and then moved, a rename a file, the
configuration last. Left out: what is trained (`train`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from loyal.errors import StorageError, UsageError

if TYPE_CHECKING:
    from loyal.models.hf import HFModel

WORK_FOLDER = ".loyal-training"
"""Folder of checkpoints, inside the folder the model goes to; gone when the model is written."""
MODEL = "model"
"""Folder inside it, where the model is written before it is moved."""
ROUNDS = "rounds"
"""Folder inside it, of a run of several rounds."""


def require_room(out: Path) -> None:
    """UsageError unless `out` is not there, is empty, or holds a run that was cut off."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="name a new folder with --out")
    unfinished = (out / WORK_FOLDER).is_dir()  # ours, cut off at any moment, even while writing
    if out.is_dir() and not unfinished and any(out.iterdir()):
        raise UsageError(f"the folder {out} is not empty", hint="name a new folder with --out")


def work_folder(out: Path, *, rounds: bool = False) -> Path:
    """Where the checkpoints of a run go that writes to `out`, one of several `rounds` or one alone.

    UsageError as `require_room`, and where a run of the other kind was cut off: writing the model
    would take away what it goes on from.
    """
    require_room(out)
    work = out / WORK_FOLDER
    there = {one.name for one in work.iterdir()} - {MODEL} if work.is_dir() else set[str]()
    if there - {ROUNDS} if rounds else ROUNDS in there:
        raise UsageError(
            f"in {out} lies what another command goes on from, that was cut off",
            hint="run that one again, or name another --out",
        )
    return work / ROUNDS if rounds else work


def write(model: HFModel, out: Path, notes: Mapping[str, bytes] | None = None) -> None:
    """Write the model beside `out`, then put it there in one rename a file. StorageError.

    `notes` are small files that are to lie beside the weights, by name.
    """
    part = out / WORK_FOLDER / MODEL
    try:
        model.save(part)
        for name, content in (notes or {}).items():
            (part / name).write_bytes(content)
        for file in sorted(part.iterdir(), key=lambda one: one.name == "config.json"):
            file.replace(out / file.name)
        shutil.rmtree(out / WORK_FOLDER)
    except OSError as error:
        raise StorageError(
            f"cannot write the model to {out}", hint="free some disk and run again"
        ) from error
