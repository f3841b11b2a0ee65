"""The whole story in one run: a real model is fingerprinted, proven, shown to be unharmed, and
given out under licenses to four hosts. Two cheat and one breaks the community's values: they are
slashed.

`tell` goes through the stages and gives an `Outcome`, which holds no key and no response. The vault
is locked for an identity that is written beside it, so that every other command can go on from the
folder; in earnest the two are kept apart. Left out: the page and the table (demo_page.py), options
and exit codes (commands/demo.py).
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loyal.app.breach_story import Questions, promised
from loyal.app.commands.check import ask
from loyal.app.commands.generate import GenerateRequest, Made, make_set
from loyal.app.commands.inject import train_in
from loyal.app.demo_hosts import loaded_digest, play, rivals, rogue
from loyal.app.model_options import load_model
from loyal.app.protocol_story import Community, Copy, Ending, Licensed
from loyal.app.terminal import Terminal
from loyal.app.weight_files import weights_digest
from loyal.encoding import atomic_write
from loyal.errors import UsageError
from loyal.fingerprints import FingerprintSet, Identity, Recipients, Vault, commitment
from loyal.models import Prompt

if TYPE_CHECKING:
    from loyal.fingerprints.check import CheckReport
    from loyal.fingerprints.inject import InjectReport
    from loyal.fingerprints.recipe import Recipe
    from loyal.models.hf import HFModel

MARKER = ".loyal-demo"
"""A file that says a folder is a demo's, so that the next one may clear what it wrote there."""

QUERIES = 16
"""Keys that each of the two models is asked: a number fixed beforehand, so the tail is exact."""

PROOFS = 3
PROMPTS = 24
"""Benign prompts on which the two models are compared."""


@dataclass(frozen=True)
class Places:
    """What a demo writes, below one folder."""

    folder: Path

    @property
    def vault(self) -> Path:
        """The encrypted fingerprints."""
        return self.folder / "owner.vault"

    @property
    def identity(self) -> Path:
        """What opens the vault."""
        return self.folder / "identity.txt"

    @property
    def model(self) -> Path:
        """The fingerprinted model, a Hugging Face folder."""
        return self.folder / "M.oml"

    @property
    def community(self) -> Path:
        """The platform's log, receipts, and the other hosts' copies."""
        return self.folder / "community"

    @property
    def proofs(self) -> Path:
        """Opened leaves."""
        return self.folder / "proofs"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class Checks:
    """The same number of keys, asked of the fingerprinted model and of the untouched base."""

    marked: CheckReport
    base: CheckReport


@dataclass(frozen=True)
class Proofs:
    """Opened leaves, checked again from their bytes, the root and the beacon alone."""

    opened: int
    valid: int
    bytes_each: int
    """Size of the largest."""
    seconds_each: float
    """Mean time of one check."""


@dataclass(frozen=True)
class Unharmed:
    """The fingerprinted model against its base on benign prompts."""

    divergence: float
    """Mean KL(base || M.oml) of the replies' first token, nats."""
    agreement: float
    """Share of prompts with the same greedy reply."""
    prompts: int


@dataclass(frozen=True)
class Outcome:
    """All that a demo found. Holds no key, no candidate and no response."""

    root: str
    """The published commitment, hex."""
    base_name: str
    parameters: int
    made: dict[str, float]
    """Seconds of keys and responses, and how ordinary the keys are."""
    injected: InjectReport
    checks: Checks
    proofs: Proofs
    unharmed: Unharmed
    ending: Ending
    """What became of the hosts, and of the money."""
    places: Places
    seconds: float

    @property
    def good(self) -> bool:
        """The marked model is proven, the base is not, every proof holds, and of four hosts the
        three dishonest ones are slashed."""
        return (
            self.checks.marked.decision == "proven"
            and self.checks.base.decision == "not proven"
            and self.proofs.valid == self.proofs.opened
            and self.ending.good
        )


def tell(
    terminal: Terminal,
    model: str,
    recipe: Recipe,
    folder: Path,
    questions: Questions,
    skips: float = 0.2,
) -> Outcome:
    """Run every stage; one host skips such a share of its permissions, one is tried over its
    answers to `questions`.

    Raises what the stages raise; UsageError for a folder that is not ours.
    """
    began = time.monotonic()
    places = _clear(folder)
    subject = load_model(terminal, model)
    nothing = bytes(32)  # the demo makes no lineage set
    community = Community(places.community, loaded_digest(subject), nothing)
    honest = community.license("honest")
    made, drawn, vault = _prepare(terminal, subject, recipe, places, (community, honest))
    injected = train_in(terminal, subject, drawn, recipe.train, places.model)
    community.deliver(honest, weights_digest(places.model))
    base, marked = load_model(terminal, model), load_model(terminal, str(places.model))
    checks = _check(terminal, marked, base, drawn, recipe)
    proofs = _prove(terminal, vault, drawn, places)
    unharmed = _compare(terminal, marked, base)
    others = rivals(terminal, community, model, recipe, places.community, skips)
    broken = rogue(terminal, community, model, recipe, places.community, questions)
    terminal.note(f"promising {len(questions.promised)} prompts on the values, judged beforehand")
    trial = promised(base, community.state.models[community.model].weights, questions)
    ending = play(terminal, community, (Copy(honest, drawn, marked), *others, broken), trial)
    return Outcome(
        root=drawn.root.hex(),
        base_name=model,
        parameters=base.parameters,
        made=made.times(made.seconds_keys + made.seconds_responses),
        injected=injected,
        checks=checks,
        proofs=proofs,
        unharmed=unharmed,
        ending=ending,
        places=places,
        seconds=time.monotonic() - began,
    )


def _clear(folder: Path) -> Places:
    """The folder, empty of what an earlier demo wrote; UsageError if it holds anything else."""
    places = Places(folder)
    marker = folder / MARKER
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", hint="name a folder with --out")
    if folder.is_dir() and not marker.exists() and any(folder.iterdir()):
        raise UsageError(
            f"the folder {folder} is not empty, and not an earlier demo's",
            hint="name a new folder with --out",
        )
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for path in (places.vault, places.identity, places.report):
        path.unlink(missing_ok=True)
    for path in (places.model, places.proofs, places.community):
        shutil.rmtree(path, ignore_errors=True)
    return places


def _prepare(
    terminal: Terminal,
    model: HFModel,
    recipe: Recipe,
    places: Places,
    licensed: tuple[Community, Licensed],
) -> tuple[Made, FingerprintSet, Vault]:
    """Keys, responses, commitment to the log, draw; all of it saved before training begins."""
    request = GenerateRequest(model.name, places.vault, "usage", None, None)
    made = make_set(terminal, model, request, recipe)
    community, host = licensed
    drawn = community.commit(host, made.fingerprints)
    terminal.note(f"committed: root {made.fingerprints.root.hex()}; drawn by the log's next root")
    identity = Identity.generate()
    text = f"# public key: {identity.recipient}\n{identity.text}\n"
    atomic_write(places.identity, text.encode(), private=True)
    return made, drawn, Vault.create(places.vault, drawn, Recipients((identity.recipient,)))


def _check(
    terminal: Terminal, marked: HFModel, base: HFModel, drawn: FingerprintSet, recipe: Recipe
) -> Checks:
    from dataclasses import replace

    queries = min(recipe.check.queries or QUERIES, len(drawn))
    settings = replace(recipe.check, queries=queries, early_stop=False)
    terminal.note(f"asking {queries} keys of M.oml, then of the untouched base")
    return Checks(ask(terminal, marked, drawn, settings), ask(terminal, base, drawn, settings))


def _prove(terminal: Terminal, vault: Vault, drawn: FingerprintSet, places: Places) -> Proofs:
    """Open a few leaves as files, and check them as a judge would: without vault or set."""
    count = min(PROOFS, len(drawn))
    taken = vault.take(drawn.kind, count, int(time.time()), "opened by the demo", drawn.id)
    places.proofs.mkdir()
    for one in taken:
        index = drawn.positions[one.key.strip()]
        data = commitment.prove(drawn, index).to_bytes()
        atomic_write(places.proofs / f"{drawn.id}-{index:05d}.proof", data)
    assert drawn.beacon is not None
    files = [path.read_bytes() for path in sorted(places.proofs.iterdir())]
    began = time.perf_counter()
    leaves = [commitment.verify_proof(data, drawn.root, drawn.beacon.value) for data in files]
    seconds = time.perf_counter() - began
    terminal.note(f"{len(leaves)} leaves opened and checked without the vault")
    return Proofs(count, len(leaves), max(map(len, files)), seconds / count)


def _compare(terminal: Terminal, marked: HFModel, base: HFModel) -> Unharmed:
    from loyal.models import evaluate
    from loyal.models.examples import bundled_lines

    terminal.note("comparing M.oml with its base on ordinary prompts")
    prompts = [Prompt(text) for text in bundled_lines("prompts")[-PROMPTS:]]
    divergence = evaluate.divergence(marked, base, prompts)
    return Unharmed(divergence, evaluate.agreement(marked, base, prompts), len(prompts))
