"""Which judges a model learned from: a small file in its folder, so that others measure it.

Law: `read(folder)` after `content(some)` was put there gives `some`. It holds names and digests, no
text; whoever takes it away hides what it says. Left out: the judges (`judge.require_apart`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loyal.alignment.judge import TOGETHER
from loyal.alignment.preference import Record
from loyal.alignment.table_file import TableForm
from loyal.alignment.writers import LIKENESS

_RUBRIC = re.compile(r"rubric\((.*), \d+ examples\)", re.DOTALL)
_PROBE = re.compile(r"probe\((.*), layer \d+, ([0-9a-f]+)\)", re.DOTALL)
NAME = "loyal-hardening.json"
"""Of the file, in the model's folder."""
FORM = TableForm("loyal hardening 1", "record of a hardening", "loyal align harden", 64 << 20)


@dataclass(frozen=True)
class Hardening:
    """One hardening of a model, or of one that it was trained from; or a judge that chose the pairs
    of a training, of which the pairs tell the name alone."""

    judge: str
    """Its name."""
    made_of: frozenset[str]
    """Digests of the judge's texts and weights, and names of its models (`judge.made_of`); or, as
    `named` says, its name."""
    constitution: str
    """Hex digest; empty where the pairs do not say."""


def named(judge: str) -> frozenset[str]:
    """What a judge's name, or those of an ensemble's judges, say of it, as in `Hardening.made_of`:
    the model that it asks, by whatever rubric, or the model that it reads and the constitution, at
    whatever layer."""
    return frozenset(map(_named, judge.split(TOGETHER)))


def _named(judge: str) -> str:
    if asks := _RUBRIC.fullmatch(judge):
        return f"model:{asks[1]}"
    if reads := _PROBE.fullmatch(judge):
        return f"probe:{reads[1]}, {reads[2]}"
    return f"judge:{judge}"


def choosers(records: Iterable[Record]) -> list[Hardening]:
    """The judges that chose the pairs, each once; likeness to the authors' replies, by which those
    are told apart that authors wrote, is left out."""
    origins = (one.provenance for one in records)
    names = dict.fromkeys(one.judge for one in origins if one is not None and one.judge)
    return [Hardening(one, named(one), "") for one in names if not one.startswith(LIKENESS)]


def content(some: Sequence[Hardening]) -> bytes:
    """What the file holds, the earliest hardening first."""
    rows = [{**asdict(one), "made_of": sorted(one.made_of)} for one in some]
    return (json.dumps({"format": FORM.format, "hardenings": rows}, indent=1) + "\n").encode()


def read(folder: Path) -> tuple[Hardening, ...]:
    """The hardenings of a folder's model; none where it has no record, or is no folder here.

    ConfigError for a record that cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return ()
    rows = FORM.read(path).get("hardenings")
    try:
        if not isinstance(rows, list):
            raise TypeError
        found = tuple(Hardening(**{**one, "made_of": frozenset(one["made_of"])}) for one in rows)
    except (KeyError, TypeError, ValueError):
        raise FORM.misfit(path) from None
    texts = [text for one in found for text in (one.judge, one.constitution, *one.made_of)]
    if not all(isinstance(text, str) for text in texts):
        raise FORM.misfit(path)
    return found
