"""One fingerprinted model on disk, for benchmarks that do many things to it.

Its folder holds the secret set, so a model that is gone is injected again from the same pairs; sets
of benchmarks are made for them alone. Left out: which cells there are (robustness.py, curves.py),
and keeping what was measured (resumable.py).
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loyal.encoding import atomic_write
from loyal.errors import UsageError
from resumable import Record

if TYPE_CHECKING:
    from loyal.fingerprints import Beacon, FingerprintSet
    from loyal.fingerprints.recipe import Recipe
    from loyal.fingerprints.suite import Before, Subject, SuiteSettings
    from loyal.models.hf import HFModel

MODEL = "smollm2-135m-instruct"
INJECTION = "injection"
"""The cell that makes a model, in its folder: a model without it was never made."""
OML = "oml"
TEXT_TOKENS = 21_000
"""Of human-written English, on which the perplexity of an injection is read."""


@dataclass(frozen=True)
class Checkpoint:
    """What is injected into what, and where the result lies."""

    recipe: Recipe
    """Of keys, responses and training, with their count and seed."""
    folder: Path
    model: str = MODEL
    """The base: a name of the library or a folder."""
    tokens: int = TEXT_TOKENS

    @property
    def oml(self) -> Path:
        """The model's own folder."""
        return self.folder / OML

    def inject(self, model: HFModel) -> Record:
        """Make the set and the model, or go on with them; what it did, in numbers.

        `model` is the base; it is M.oml afterwards.
        """
        from loyal.fingerprints.inject import inject
        from loyal.models.model_folder import WORK_FOLDER

        if self.oml.exists() and not (self.oml / WORK_FOLDER).is_dir():
            shutil.rmtree(self.oml)  # whole, but killed before its numbers were kept
        made = self._made(model)
        report = inject(model, made, self.recipe.train, self.oml, tokens=self.tokens)
        return {
            "recall": report.recall,
            "change_percent": 100 * (report.perplexity_after / report.perplexity_before - 1),
            "tokens": report.perplexity_tokens,
            "steps": report.steps,
            "seconds": report.seconds,
            "peak_rss_bytes": report.peak_rss_bytes,
            "probability": report.probability,
        }

    def attack(self, name: str, settings: SuiteSettings) -> Record:
        """Do one attack of the suite to a fresh copy, and ask every key that did not leak."""
        from loyal.fingerprints import suite

        subject, before = self.subject(), self._before(settings)
        return asdict(suite.run_attack(suite.ATTACKS[name], subject, before, settings))

    def subject(self) -> Subject:
        """The model as the suite takes it; UsageError where it was not made."""
        from loyal.fingerprints import records, suite
        from loyal.models.hf import HFModel

        self._require_made()
        return suite.Subject(
            name=str(self.folder),
            fresh=lambda: HFModel.load(str(self.oml)),
            base=lambda: HFModel.load(self.model),
            fingerprints=records.decode_set((self.folder / "set.cbor").read_bytes()),
        )

    def restore(self) -> None:
        """Inject again where the model was dropped; UsageError where it was never made."""
        from loyal.models.hf import HFModel
        from loyal.models.model_folder import WORK_FOLDER

        self._require_made()
        if not self.oml.exists() or (self.oml / WORK_FOLDER).is_dir():
            self.inject(HFModel.load(self.model))

    def _require_made(self) -> None:
        if not (self.folder / f"{INJECTION}.json").exists():
            raise UsageError("the model was not made", hint="see why its injection failed")

    def _made(self, model: HFModel) -> FingerprintSet:
        """The drawn set: kept from an earlier run, else made of fresh keys."""
        from loyal.fingerprints import records

        path = self.folder / "set.cbor"
        if path.exists():
            return records.decode_set(path.read_bytes())
        made = fresh_set(model, self.recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, records.encode_set(made), private=True)
        return made

    def _before(self, settings: SuiteSettings) -> Before:
        """Perplexity and right answers before any attack, measured once."""
        from loyal.fingerprints import suite

        path = self.folder / "before.json"
        if path.exists():
            record = json.loads(path.read_text(encoding="utf-8"))
            return suite.Before(record["perplexity"], tuple(record["answered"]))
        before = suite.measure_before(self.subject(), settings)
        atomic_write(path, (json.dumps(asdict(before)) + "\n").encode())
        return before


def drop(folder: Path) -> None:
    """Delete the model below a checkpoint's folder and keep its set, from which `restore` makes the
    same pairs' model again. A kill leaves it whole or gone."""
    going = folder / "dropped"
    if (folder / OML).exists() and not going.exists():
        (folder / OML).rename(going)
    if going.exists():
        shutil.rmtree(going)


def with_size(recipe: Recipe, count: int, seed: int) -> Recipe:
    """The recipe for so many fingerprints, with another seed of its training."""
    return replace(
        recipe,
        keys=replace(recipe.keys, count=count),
        train=replace(recipe.train, seed=seed),
    )


def fresh_set(model: HFModel, recipe: Recipe, beacon: Beacon | None = None) -> FingerprintSet:
    """A usage set of fresh keys, made as the recipe says, and drawn by the beacon; without one by
    its owner's own."""
    from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, keys, responses
    from loyal.fingerprints.fingerprint import draw, new_owner_secret

    texts = keys.generate(model, recipe.keys).texts
    candidates = responses.generate(model, texts, recipe.responses)
    secret = new_owner_secret()
    members = tuple(
        Fingerprint.create(key, some, secret, recipe.responses.count)
        for key, some in zip(texts, candidates, strict=True)
    )
    strategy = f"{recipe.keys.strategy}/{recipe.responses.strategy}"
    made = FingerprintSet(
        "usage", strategy, model.name, model.tokenizer_digest, members, int(time.time()), secret
    )
    return draw(made, beacon or Beacon.self_drawn())
