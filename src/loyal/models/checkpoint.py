"""The file from which a training run goes on after a crash: whole or not there, and its own.

Holds no training: what is in it is `train`'s.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from loyal.encoding import Encodable, digest
from loyal.errors import StorageError, TrainingError
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.hidden import weights_digest
from loyal.models.training import TrainSettings

CHECKPOINT = "checkpoint.pt"
_PURPOSE = "loyal/training run/1"


def identity(
    model: HFModel, examples: Sequence[Example], settings: TrainSettings, alike: Sequence[str] = ()
) -> str:
    """Names a run of a model as it is before the first step, so that no other one goes on from what
    it left: not even one of the same name, whose folder holds other weights by now."""
    record: Encodable = [
        [str(pair) for pair in sorted(asdict(settings).items())],
        [model.name, weights_digest(model)],
        [
            [
                *(one.prompt.text, one.prompt.system, one.prompt.raw, *one.prompt.history),
                *(one.reply, str(one.weight), *one.others),
                *([one.ends] if one.ends else []),
                *(["ahead", str(one.ahead)] if one.ahead else []),
                *(["against", one.against] if one.against else []),
            ]
            for one in examples
        ],
        *([list(alike)] if alike else []),
    ]
    return digest(record, _PURPOSE).hex()


def write(folder: Path, identity: str, content: Mapping[str, Any]) -> None:
    """Write the checkpoint beside the old one, then rename: a crash leaves one of the two.

    `identity` names the run. StorageError where the disk refuses.
    """
    path = folder / CHECKPOINT
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            part.chmod(0o600)
            torch.save({"identity": identity, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write the checkpoint {path}",
            hint="free some disk, or let the folder be written to, and run again: training goes on "
            "from the last checkpoint",
        ) from error


def read(folder: Path | None, identity: str) -> dict[str, Any] | None:
    """The content that this very run wrote last; None where there is none.

    TrainingError for a damaged checkpoint, or another run's.
    """
    if folder is None or not (folder / CHECKPOINT).is_file():
        return None
    path = folder / CHECKPOINT
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        same = content["identity"] == identity
    except Exception as error:  # torch.load raises what the damage happens to hit
        raise damaged(folder) from error
    if not same:
        raise TrainingError(
            f"the checkpoint {path} belongs to another run",
            hint="repeat the call that began it, or name another --out",
        )
    return content


def damaged(folder: Path) -> TrainingError:
    """What to raise for a checkpoint that does not hold what it should."""
    return TrainingError(
        f"the checkpoint {folder / CHECKPOINT} is damaged",
        hint="delete it to start from the beginning",
    )
