"""Preference files as `loyal align train | search | report` take them.

Left out: the files' form (loyal.alignment.preferences), and making them (align_data.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loyal.alignment import Preference, Record, preferences
from loyal.alignment.preference import Demonstration
from loyal.alignment.review import Listed
from loyal.community import Constitution
from loyal.errors import UsageError
from loyal.models.examples import Example


def read_records(files: Sequence[Path], constitution: Constitution | None = None) -> list[Record]:
    """All records to train on, in order; by a constitution they weigh as `balanced_records` says.

    UsageError for pairs that are held out, for signs of a chat template in a text, and for records
    that turn a case of the constitution around.
    """
    listed = None if constitution is None else Listed(constitution)
    found: list[Record] = []
    for path in files:
        for line, record in enumerate(preferences.read(path), 1):
            if _split(record) == "held-out":
                raise UsageError(
                    f"{path} holds pairs that are to be measured on",
                    hint="train on the other file of 'loyal align data', and give this one to "
                    "'loyal align report --preferences'",
                )
            _require_clean(record, listed, f"{path}, line {line}")
            found.append(record)
    return found if constitution is None else balanced_records(found, constitution)


def _require_clean(record: Record, listed: Listed | None, where: str) -> None:
    """UsageError for a record that 'loyal align review' would have taken out."""
    if preferences.is_marked(record):
        raise UsageError(
            f"{where} has a sign of a chat template in a text",
            hint="take it out: 'loyal align review FILE' names all of them",
        )
    if listed is not None and listed.opposes(record):
        raise UsageError(
            f"{where} prefers a reply that the constitution lists as breaking a value, or rejects "
            "one that keeps it",
            hint="take it out: 'loyal align review FILE --constitution NAME' names all of them",
        )


def held_out_pairs(files: Sequence[Path], constitution: Constitution) -> list[Preference]:
    """The pairs of files that are measured on, in order.

    UsageError for a file without any, with a pair that 'loyal align data' made to train on, or with
    one of a value that the constitution does not have.
    """
    values, found = {one.id for one in constitution.values}, list[Preference]()
    for path in files:
        records = [one for one in preferences.read(path) if isinstance(one.content, Preference)]
        if not records:
            raise UsageError(
                f"{path} holds no pair to measure on",
                hint="give the file of --held-out, of 'loyal align data'",
            )
        if any(_split(one) == "train" for one in records):
            raise UsageError(
                f"{path} holds pairs that were made to train on",
                hint="give the file of --held-out, of 'loyal align data'",
            )
        pairs = pairs_of(records)
        unknown = next((one.value for one in pairs if one.value and one.value not in values), None)
        if unknown is not None:
            raise UsageError(
                f"{path} holds a pair on {unknown}, which {constitution.name} does not name",
                hint="give pairs that were made from this constitution",
            )
        found += pairs
    return found


def _split(record: Record) -> str:
    """train or held-out, as the record says; empty where it does not."""
    return "" if record.provenance is None else record.provenance.split


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
