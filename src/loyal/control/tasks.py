"""The bundled tasks of algebra and logic: 100, graded, each with its checker.

They measure what drafting and checking gains over decoding (benchmarks/control.py), and show what
tasks look like. benchmarks/control_tasks.py writes their file. Left out: solving them (`propose`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from loyal.control.checkers import Spec


@dataclass(frozen=True)
class Task:
    """One task."""

    kind: str
    """Such as linear or implication; ten tasks a kind."""
    field: Literal["algebra", "logic"]
    level: int
    """1 (easiest) to 10, within its kind."""
    text: str
    """What the model reads."""
    spec: Spec
    """Of the checker."""
    examples: tuple[tuple[str, str], ...]
    """Other tasks of the kind, each with an answer."""

    @property
    def name(self) -> str:
        """Short name, such as linear-3."""
        return f"{self.kind}-{self.level}"


def bundled() -> tuple[Task, ...]:
    """The 100 tasks, 50 of algebra and 50 of logic, kind by kind, easier ones first."""
    text = (files("loyal.control") / "bundled" / "tasks.json").read_text(encoding="utf-8")
    return tuple(
        Task(
            kind["name"], kind["field"], one["level"], one["task"], one["checker"],
            tuple((shown["task"], shown["answer"]) for shown in kind["examples"]),
        )
        for kind in json.loads(text)["kinds"]
        for one in kind["tasks"]
    )  # fmt: skip
