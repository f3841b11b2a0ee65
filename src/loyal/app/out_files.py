"""Where a command's result may go: never over what it reads, nor over what somebody else wrote.

An earlier result of the same command is replaced, and so is an empty file, which holds nothing.
Asked before the work begins. Left out: writing (`encoding.atomic_write`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from loyal.encoding import require_place
from loyal.errors import LoyalError, StorageError, UsageError


def require_out(
    out: Path, inputs: Iterable[str | Path | None], ours: Callable[[Path], object]
) -> None:
    """UsageError where `out` is one of the `inputs`, by whatever name, or a file for which `ours`
    raises a LoyalError; StorageError as `encoding.require_place`."""
    require_place(out)
    require_unread(out, inputs)
    if out.exists() and out.stat().st_size:
        try:
            ours(out)
        except LoyalError:
            raise UsageError(
                f"{out} is there already, and is not what this command writes",
                hint="name another --out, or move that file away",
            ) from None


def require_unread(out: Path, inputs: Iterable[str | Path | None]) -> None:
    """UsageError where `out` is one of the files that a command reads, by whatever name."""
    for one in inputs:
        if one is not None and out.exists() and os.path.exists(one) and os.path.samefile(out, one):
            raise UsageError(f"{out} is one of the files that are read", hint="name another --out")


def require_folder(out: Path) -> None:
    """StorageError where no folder for a model can be made at `out`, or nothing be written into it;
    UsageError as `model_folder.require_room`. Folders that are not there are made later."""
    from loyal.models.model_folder import require_room

    require_room(out)
    require_reach(out)


def require_reach(out: Path) -> None:
    """StorageError where no folder can be made at `out`, or nothing be written into it."""
    here = Path(os.path.realpath(out))
    top = next(one for one in (here, *here.parents) if one.exists())
    if not top.is_dir():
        raise StorageError(f"{out} can be no folder: {top} is a file", hint="name another --out")
    if not os.access(top, os.W_OK | os.X_OK):
        raise StorageError(
            f"the folder {top} may not be written to", hint="name an --out that you may write to"
        )
