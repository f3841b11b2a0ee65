"""Rows that a long run keeps one by one: each measured cell is a file of its own.

A cell whose file is there is not measured again, and a file appears in one step when its cell is
done. So whatever kills a run, SIGKILL too, costs the cell that was being measured and nothing else;
and two runs on different cells may share a folder.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loyal.encoding import atomic_write
from loyal.errors import LoyalError, UsageError
from rows import machine

_SPAWN = multiprocessing.get_context("spawn")

Record = dict[str, Any]
"""What a cell measured: names and numbers alone."""


@dataclass(frozen=True)
class Cell:
    """One measurement: what is done to the model of one recipe and one seed."""

    recipe: str
    """What made the model: "ours" or "paper", or a strategy and a count."""
    seed: int
    name: str
    """An attack of the suite, or "injection", "filter-keys"."""
    path: Path
    """Its file."""

    def kept(self) -> Record | None:
        """What an earlier run measured; None where nothing is. UsageError for other content."""
        if not self.path.exists():
            return None
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.path} holds no row", hint="delete it; it is measured again"
            ) from error
        if not isinstance(record, dict):
            raise UsageError(f"{self.path} holds no row", hint="delete it; it is measured again")
        return record

    def keep(self, record: Record) -> None:
        """Write the file in one step, with the machine's name unless the record says it;
        StorageError where the disk refuses."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": machine(), **record}
        atomic_write(self.path, (json.dumps(record, indent=1) + "\n").encode())


def resume(
    cells: Sequence[Cell],
    measure: Callable[[Cell], Record],
    after: Callable[[Cell], None] = lambda cell: None,
    jobs: int = 1,
) -> list[Cell]:
    """Measure the cells that have no file, in this order; the cells that failed.

    A cell that fails is said and passed over, so that one broken attack does not cost a night; the
    next run tries it again. `after` hears each cell that was measured. With more than one of
    `jobs` so many processes measure side by side (`measure` is pickled), each model's cells behind
    its injection: a GPU is not filled by one of them, a CPU is.
    """
    missing = [cell for cell in cells if cell.kept() is None]
    places = {cell: place for place, cell in enumerate(cells, start=1)}
    failed = []

    def say(cell: Cell) -> None:
        about = f"{cell.recipe}, seed {cell.seed}: {cell.name}"
        print(f"[{places[cell]}/{len(cells)}] {about}", flush=True)

    if jobs == 1:
        for cell in missing:
            say(cell)
            if _one(cell, measure):
                after(cell)
            else:
                failed.append(cell)
        return failed
    with ProcessPoolExecutor(jobs, _SPAWN, initializer=_end_with_parent) as pool:
        waiting, running = missing, dict[Future[bool], Cell]()
        while waiting or running:
            makers = {_model(one) for one in [*waiting, *running.values()] if _makes(one)}
            ready = [one for one in waiting if _makes(one) or _model(one) not in makers]
            waiting = [one for one in waiting if one not in ready]
            for cell in ready:
                running[pool.submit(_one, cell, measure)] = cell
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(done)
                say(cell)
                if done.result():
                    after(cell)
                else:
                    failed.append(cell)
    return failed


def _one(cell: Cell, measure: Callable[[Cell], Record]) -> bool:
    """Measure and keep one cell; whether that went well."""
    try:
        cell.keep(measure(cell))
    except LoyalError as error:
        print(f"  failed: {error}", flush=True)
        return False
    except Exception:  # one attack of many: the rest of the night goes on
        traceback.print_exc()
        return False
    return True


def _makes(cell: Cell) -> bool:
    """Whether it makes the model that other cells attack."""
    return cell.name == "injection"


def _model(cell: Cell) -> tuple[str, int]:
    return cell.recipe, cell.seed


def apart(work: Callable[..., Record], *arguments: Any) -> Record:
    """`work(*arguments)` in a process of its own, so that its peak memory is its own.

    It names the machine: this one may not have seen the GPU. The process ends with this one,
    SIGKILL too: no two runs ever write to one folder. Raises what `work` raises, and
    BrokenProcessPool where the process was killed.
    """
    with ProcessPoolExecutor(1, _SPAWN, initializer=_end_with_parent) as one:
        return one.submit(_named, work, *arguments).result()


def _named(work: Callable[..., Record], *arguments: Any) -> Record:
    return {"machine": machine(), **work(*arguments)}


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
