"""What a model's weights are called in the log: one digest of the files of a folder.

Left out: reading a model (loyal.models); this needs no torch.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from loyal.errors import UsageError


def weights_digest(folder: Path) -> bytes:
    """SHA-256 over the SHA-256 of a folder's .safetensors files, in the order of their names; 32
    bytes. UsageError where there is none, or one cannot be read."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UsageError(
            "the folder holds no weights", hint="name a model's folder, with .safetensors files"
        )
    whole = hashlib.sha256()
    try:
        for path in paths:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        raise UsageError(
            f"cannot read the weights: {reason}", hint="check the folder and its owner"
        ) from None
    return whole.digest()
