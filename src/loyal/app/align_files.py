"""Preference files as `loyal align train | search | report` take them.

Left out: the files' form (loyal.alignment.preferences), and making them (align_data.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loyal.alignment import Preference, Record, preferences
from loyal.alignment.preference import Demonstration
from loyal.community import Constitution
from loyal.errors import UsageError
from loyal.models.examples import Example


def read_records(files: Sequence[Path], *, held_out: bool = False) -> list[Record]:
    """All records, in order. UsageError for held-out pairs where none may be."""
    found: list[Record] = []
    for path in files:
        for record in preferences.read(path):
            origin = record.provenance
            if origin is not None and origin.split == "held-out" and not held_out:
                raise UsageError(
                    f"{path} holds pairs that are to be measured on",
                    hint="train on the other file of 'loyal align data', and give this one to "
                    "'loyal align report --preferences'",
                )
            found.append(record)
    return found


def pairs_of(records: Sequence[Record]) -> list[Preference]:
    """The pairs among them."""
    return [one.content for one in records if isinstance(one.content, Preference)]


def examples_of(records: Sequence[Record]) -> list[Example]:
    """The demonstrations among them, as examples."""
    return [one.content.example for one in records if isinstance(one.content, Demonstration)]


def balanced_records(records: Sequence[Record], constitution: Constitution) -> list[Record]:
    """The records with pairs weighed as `objectives.balanced` does; those of no weight left out.

    TrainingError for a value that the constitution does not have.
    """
    from loyal.alignment.objectives import balanced

    idle = {one.id for one in constitution.values if not one.weight_bps}
    kept = [
        one
        for one in records
        if not (isinstance(one.content, Preference) and one.content.value in idle)
    ]
    weighed = iter(balanced(pairs_of(kept), constitution))
    return [
        replace(one, content=next(weighed)) if isinstance(one.content, Preference) else one
        for one in kept
    ]
