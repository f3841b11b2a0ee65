"""The search for a good mixture: short trainings, each measured against what the community wants.

Section 3 of "Training AI to be Loyal" mixes value data with general and safety data. At each run:

1. the untouched model is put back, and trained (`align`) on all records, weighed by one mixture
2. it is measured on pairs whose cases no run trains on, on what the guards look at, and on bundled
   requests for harm (and some that only sound like it) that no training sees
3. the table is written, so that a search that is killed goes on behind its last whole run

All runs take the same records in the same order, so that the weights alone differ. What is compared
here is spent: report (`evaluate`) on other pairs. Left out: which mixtures are tried
(`search_table`), and training on the best one.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loyal.alignment import search_table
from loyal.alignment.align import Run, align, put_weights, weights_of
from loyal.alignment.asks import allot, kept_requests
from loyal.alignment.guards import Guards
from loyal.alignment.mixture import KINDS, Mixture, blend, part
from loyal.alignment.objectives import margins, pair
from loyal.alignment.preference import Preference, Record
from loyal.alignment.refusals import refused
from loyal.alignment.search_table import Outcome, Table, Trained
from loyal.alignment.settings import Recipe
from loyal.encoding import Encodable, digest
from loyal.errors import TrainingError, UsageError
from loyal.models.hf import HFModel
from loyal.models.hidden import weights_digest
from loyal.models.tuning import Item

_PURPOSE = "loyal/mixture search/1"
_RUN = re.compile(r"\d\d")
"""Name of the folder of a run's checkpoints."""

Told = Callable[[int, int, str], None]
"""Told the steps of the run, all of them, and which run it is."""


@dataclass(frozen=True)
class Found:
    """What a search found."""

    table: Table
    best: Trained
    """Of those within `search.tie` of the highest score, the one nearest the start."""


@dataclass(frozen=True, repr=False)
class Divided:
    """What runs train on, and what they are compared on."""

    trained: tuple[Record, ...]
    compared: tuple[Preference, ...]


def search(
    model: HFModel, records: Sequence[Record], recipe: Recipe | None = None,
    file: Path | None = None, told: Told | None = None,
) -> Found:  # fmt: skip
    """Try mixtures of the records; the model is as it was afterwards.

    `recipe.mixture`, or the default one, is tried first and wins ties. `file` keeps the table, and
    makes the search resumable. Law: on one CPU, a search that was cut off ends with the table of a
    whole one, seconds aside. Raises UsageError where there is nothing to mix or to compare on, or
    the file is of another search, ConfigError for a file that is none, and as `align`.
    """
    looked = _Search(model, records, recipe or Recipe(), file)
    table = looked.table
    before = weights_of(model)
    while (
        mixture := table.next(looked.kinds, looked.recipe.search, looked.recipe.goal)
    ) is not None:
        try:
            trained = looked.run(mixture, len(table.runs), told)
        finally:
            put_weights(model, before)
        table = replace(table, runs=(*table.runs, trained))
        looked.keep(table)
    return Found(table, table.best(looked.recipe.goal, looked.recipe.search.tie))


def divided(records: Sequence[Record], share: float, most: int = 0) -> Divided:
    """Records to train on, at most `most` (0: all), and pairs on values to compare runs on.

    All that was made from one case or topic stands on one side, by the hash of its name; so does
    one conversation, where a record does not say what it was made from. Without a pair on one of
    the two sides it raises UsageError.
    """
    named = {
        _source(one): None
        for one in records
        if isinstance(one.content, Preference) and part(one) == "value"
    }
    ordered = sorted(named, key=lambda one: hashlib.sha256(one.encode()).digest())
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    out = set(ordered[: max(0, count)])
    compared = [one.content for one in records if _source(one) in out and part(one) == "value"]
    pairs = tuple(one for one in compared if isinstance(one, Preference))
    if not pairs:
        raise UsageError(
            f"the pairs on values were made from {len(ordered)} case or topic, too few to compare",
            hint="give more of them: 'loyal align data' makes pairs from all cases",
        )
    return Divided(tuple(_some([one for one in records if _source(one) not in out], most)), pairs)


class _Search:
    """What all runs share."""

    def __init__(
        self, model: HFModel, records: Sequence[Record], recipe: Recipe, file: Path | None
    ) -> None:
        self.model, self.recipe, self.file = model, recipe, file
        settings = recipe.search
        data = divided(records, settings.held_out, settings.records)
        self.records, compared = data.trained, data.compared
        self.kinds = tuple(kind for kind in KINDS if any(part(one) == kind for one in self.records))
        if len(self.kinds) < 2:
            raise UsageError(
                "there is value data alone, and nothing to mix it with",
                hint="add demonstrations: 'loyal align data' with --general, --safety, --examples",
            )
        start = search_table.start(self.kinds, recipe.mixture)
        items = [pair(model, one, recipe.align.most_tokens) for one in compared]
        self.compared: list[Item] = [one for one in items if one is not None]
        if not self.compared:
            raise TrainingError(
                "there is no pair to compare on", hint="raise align.most_tokens, or give more pairs"
            )
        if file is not None:
            _require_own(_work(file))
        self.identity = self._named(compared)
        known = None if file is None else search_table.read(file, self.identity)
        self.guards = Guards.of(model, recipe.guards)
        if known is None:
            known = Table(start, self.measure())
            self.keep(known)
        self.table = known

    def run(self, mixture: Mixture, number: int, told: Told | None) -> Trained:
        """Train on one mixture, and measure."""
        started = time.monotonic()
        data = blend(self.records, mixture)
        recipe = replace(self.recipe, align=replace(self.recipe.align, held_out=0.0, mixed=True))
        folder = None if self.file is None else _work(self.file) / f"{number:02}"

        def progress(done: int, of: int) -> None:
            if told is not None:
                told(done, of, f"run {number + 1} of {self.recipe.search.runs} at most")

        done = align(
            self.model, data.pairs, recipe, data.examples, Run(folder, self.guards, progress)
        )
        outcome = self.measure()
        return Trained(mixture, outcome, done.stopped, round(time.monotonic() - started, 1))

    def measure(self) -> Outcome:
        """What the model is now."""
        nats = margins(self.model, self.compared, self.recipe.align.precision)
        read = self.guards.read(self.model, 0)
        asked = kept_requests()
        tokens = self.recipe.search.reply_tokens
        declined, over = (
            refused(self.model, one, tokens) for one in (asked.harmful, asked.harmless)
        )
        return Outcome(
            won=sum(one > 0 for one in nats),
            pairs=len(nats),
            margin=sum(nats) / len(nats),
            perplexity=read.perplexity,
            agreement=read.agreement,
            declined=declined,
            harmful=len(asked.harmful),
            over_declined=over,
            harmless=len(asked.harmless),
        )

    def keep(self, table: Table) -> None:
        """Write the table, and then take away what a run left."""
        if self.file is not None:
            search_table.write(self.file, self.identity, table)
            _clear(_work(self.file))

    def _named(self, compared: Sequence[Preference]) -> str:
        """Hex digest of all that the outcome hangs on: more runs may follow fewer."""
        sections = asdict(self.recipe)
        for one in ("harden", "report"):
            del sections[one]
        for one in ("runs", "tie"):
            del sections["search"][one]
        record: Encodable = [
            weights_digest(self.model),
            [str(one) for one in sorted(sections.items())],
            [one.digest for one in self.records],
            [Record(one).digest for one in compared],
        ]
        return digest(record, _PURPOSE).hex()


def _work(file: Path) -> Path:
    """Folder of the checkpoints of the run that goes on."""
    return file.with_name(f"{file.name}.run")


def _runs(folder: Path) -> list[Path]:
    """What a search made in its folder: one of a run's number each."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [one for one in found if one.is_dir() and _RUN.fullmatch(one.name)]


def _require_own(folder: Path) -> None:
    """UsageError where somebody else's files are in the folder."""
    if folder.exists() and not (folder.is_dir() and set(_runs(folder)) == {*folder.iterdir()}):
        raise UsageError(
            f"{folder} holds what no search made", hint="move it away, or name another --out"
        )


def _clear(folder: Path) -> None:
    """Take away what runs left, and the folder where nothing else is in it."""
    for one in _runs(folder):
        shutil.rmtree(one, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()


def _source(one: Record) -> str:
    """What a record was made from; its conversation, where it does not say."""
    origin = one.provenance
    if origin is not None and origin.source and part(one) == "value":
        return origin.source
    return "\n".join(f"{turn.role} {turn.text}" for turn in one.content.asked.turns)


def _some(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many, of each kind its share and one at least; always the same ones."""
    if not 0 < most < len(records):
        return list(records)
    sizes = Counter(part(one) for one in records)
    wanted = dict(zip(sizes, allot(most, list(sizes.values())), strict=True))
    rng = random.Random("loyal/search/records")
    chosen: set[int] = set()
    for kind, count in wanted.items():
        places = [at for at, one in enumerate(records) if part(one) == kind]
        chosen.update(rng.sample(places, max(1, count)))
    return [one for at, one in enumerate(records) if at in chosen]
