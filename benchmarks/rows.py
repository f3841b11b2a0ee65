"""What all benchmarks share: rows of results, kept as JSON and printed as one table.

Each row answers one figure of an issue: `{"id", "what", "value", "unit", "bound", "sense", "holds",
"how"}`. Rows are replaced one by one, so that a benchmark can be run in parts.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure. `value` None: it could not be measured, and `how` says why."""

    id: str
    what: str
    value: float | None
    unit: str
    bound: float | None
    """None: a figure to know, without a claim."""
    sense: Literal["at_least", "at_most"]
    how: str
    machine: str = ""
    """What it was measured on; empty: this machine."""

    @property
    def holds(self) -> bool | None:
        """Whether the bound is met; None where nothing was measured or nothing is claimed."""
        if self.value is None or self.bound is None:
            return None
        return self.value >= self.bound if self.sense == "at_least" else self.value <= self.bound


def put(name: str, rows: list[Row]) -> None:
    """Replace these rows in `results/NAME.json`; others stay, in their order."""
    kept = {one["id"]: one for one in read(name)}
    for row in rows:
        record = {**asdict(row), "holds": row.holds}
        del record["how"], record["machine"]
        kept[row.id] = {**record, "how": f"{row.how} [{row.machine or machine()}]"}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(list(kept.values()), indent=2) + "\n", encoding="utf-8")


def machines(records: Iterable[Mapping[str, Any]]) -> str:
    """What measured records were measured on; empty where they do not say."""
    return " and ".join(sorted({one["machine"] for one in records if "machine" in one}))


def machine() -> str:
    """The processor and its cores, and the GPU where one is used: what figures are measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    native = ", native bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else ""
    torch = sys.modules.get("torch")  # not imported for its name's sake
    used = torch is not None and torch.cuda.is_available()
    gpu = f"{torch.cuda.get_device_name(0)}, " if used else ""
    return f"{gpu}{os.cpu_count()} cores, {names[0] if names else platform.machine()}{native}"


def read(name: str) -> list[dict]:
    """The rows of `results/NAME.json`; empty where it was never run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def show(name: str) -> None:
    """Print the rows as a table."""
    table = Table(title=f"benchmarks/results/{name}.json")
    for column in ("figure", "value", "bound", "holds", "how"):
        table.add_column(column, overflow="fold")
    for row in read(name):
        value = "not measured" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        sign = "≥" if row["sense"] == "at_least" else "≤"
        holds = {True: "yes", False: "NO", None: "-"}[row["holds"]]
        bound = "-" if row["bound"] is None else f"{sign} {row['bound']:g}"
        table.add_row(row["what"], value, bound, holds, row["how"])
    Console(width=150).print(table)
