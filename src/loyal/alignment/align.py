"""Trains a model to prefer what a community prefers.

"Training AI to be Loyal", section 3. The loop is `loyal.models.tuning.tune`; the losses are
`objectives`; why not `loyal.models.train`, docs/decisions/0006 says. At each step:

1. pairs       of replies to one conversation, each times its weight (stake, value)
2. ordinary    the divergence from the untouched model on other prompts and text (`ordinary`);
               general data is imitated beside the pairs
3. reference   the untouched model's chances are computed once, and kept in the folder
4. adversary   where asked for, embeddings of prompts are moved against the loss before each step
5. guards      every few steps ordinary English and ordinary replies are looked at; what costs too
               much is taken back, and the run ends

Left out: attacks (`adversarial`), and what a model became (`evaluate`).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from loyal.alignment.conversation import Conversation
from loyal.alignment.guards import Guards, Reading, trained_prompts
from loyal.alignment.objectives import margins, normalized, pair, preference_loss
from loyal.alignment.ordinary import Ordinary
from loyal.alignment.preference import WHOLE_PPM, Preference
from loyal.alignment.settings import AlignSettings, Recipe
from loyal.encoding import Encodable, digest
from loyal.errors import TrainingError
from loyal.models import checkpoint, tuning
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.hidden import weights_digest
from loyal.models.language_model import Prompt, Sampling
from loyal.models.tuning import Course, Item, Latent, TuneSettings
from loyal.statistics import Interval, clopper_pearson

REFERENCE = "reference"
"""Folder of the untouched model's chances, inside that of the checkpoints."""
_PURPOSE = "loyal/alignment run/1"


@dataclass(frozen=True)
class Run:
    """What goes on around a training."""

    folder: Path | None = None
    """Where checkpoints go; a run that was cut off goes on from the last one."""
    guards: Guards | None = None
    """What the model was before; None measures it as it is given."""
    progress: Callable[[int, int], None] = lambda _done, _of: None
    """Told the steps done, and all of them."""


@dataclass(frozen=True)
class Wins:
    """Pairs whose chosen reply is likelier, token for token, than the rejected one."""

    won: int
    pairs: int
    margin: float
    """Mean over the pairs, in nats a token; 0 without any."""

    @property
    def rate(self) -> float:
        """Share of the pairs; 0 without any."""
        return self.won / max(1, self.pairs)

    @property
    def interval(self) -> Interval:
        """95 %, Clopper and Pearson; 0 to 1 without any pair."""
        return clopper_pearson(self.won, self.pairs) if self.pairs else Interval(0.0, 1.0)

    @classmethod
    def of(cls, found: Sequence[float]) -> Wins:
        """From margins in nats a token."""
        mean = sum(found) / max(1, len(found))
        return cls(sum(one > 0 for one in found), len(found), mean)


@dataclass(frozen=True)
class AlignReport:
    """What a training did."""

    pairs: int
    """Trained on."""
    general: int
    too_long: int
    """Pairs left out for their length."""
    steps: int
    first_loss: float
    last_loss: float
    before: Wins
    """On held-out pairs, of the model as it was given."""
    after: Wins
    readings: tuple[Reading, ...]
    """The guards', in this process's part of the run."""
    stopped: str
    """What a guard stopped the run for, and took back to the last look; empty for none."""
    seconds: float


def align(
    model: HFModel, preferences: Sequence[Preference], recipe: Recipe | None = None,
    general: Sequence[Example] = (), run: Run | None = None,
) -> AlignReport:  # fmt: skip
    """Train `model` in place to prefer the chosen replies.

    `general` is imitated beside the pairs; with `align.mixed` its weights are on one scale with
    theirs. Laws: the
    same arguments give the same weights on one CPU; so does a run that was cut off at any point and
    called again with the model as it was. The folder's last checkpoint stays: remove it once the
    model is written. Raises TrainingError where no pair is left to train on, a loss is no number,
    or the folder holds another run; StorageError where it cannot be written.
    """
    started = time.monotonic()
    recipe, run = recipe or Recipe(), run or Run()
    settings = recipe.align
    learned, kept_out = held_out(preferences, settings.held_out)
    items, weights, too_long = _pairs(model, learned, settings)
    if not items:
        raise TrainingError(
            "there is no pair to train on", hint="give more preferences, or raise align.most_tokens"
        )
    count = len(items)
    if settings.mixed:
        whole = sum(one.weight_ppm for one in preferences)
        _add_mixed(model, items, weights, general, (whole, settings.most_tokens))
    else:
        _add_general(model, items, weights, general, settings)
    tested = _pairs(model, kept_out, settings)[0]
    loss, identity = _loss(model, items, weights, recipe, run.folder)
    ordinary = Ordinary(model, settings) if settings.divergence else None
    before = Wins.of(margins(model, tested, settings.precision))
    watched = _Watch(model, recipe, run)
    course = Course(
        folder=run.folder,
        identity=identity,
        checkpoint_steps=settings.checkpoint_steps,
        watch=watched if recipe.guards.steps else None,
        watch_steps=max(1, recipe.guards.steps),
        latent=Latent(recipe.latent.steps, recipe.latent.epsilon) if recipe.latent.steps else None,
        beside=ordinary.loss if ordinary is not None else None,
        progress=run.progress,
    )
    losses = tuning.tune(model, items, _tune_settings(settings), loss, course)
    if len(losses) < settings.epochs * math.ceil(len(items) / settings.batch):
        watched.stopped = watched.stopped or "a guard, before the run was cut off"
    return AlignReport(
        pairs=count,
        general=len(items) - count,
        too_long=too_long,
        steps=len(losses),
        first_loss=losses[0],
        last_loss=losses[-1],
        before=before,
        after=Wins.of(margins(model, tested, settings.precision)),
        readings=tuple(watched.readings),
        stopped=watched.stopped,
        seconds=time.monotonic() - started,
    )


def weights_of(model: HFModel) -> dict[str, Tensor]:
    """A copy of all weights by name, for `put_weights`."""
    return {name: one.detach().clone() for name, one in model.model.named_parameters()}


def put_weights(model: HFModel, weights: dict[str, Tensor]) -> None:
    """Give a model the weights that it had."""
    with torch.no_grad():
        for name, one in model.model.named_parameters():
            one.copy_(weights[name])


def held_out(
    preferences: Sequence[Preference], share: float
) -> tuple[list[Preference], list[Preference]]:
    """Those to train on, and those of a share of the conversations, which are not.

    A conversation stands on one side with all its pairs, chosen by its digest alone: more data
    moves few, and no order does.
    """
    named = {one.asked: _name(one.asked) for one in preferences}
    ordered = sorted(named, key=lambda one: named[one])
    out = set(ordered[: round(share * len(ordered))])
    return (
        [one for one in preferences if one.asked not in out],
        [one for one in preferences if one.asked in out],
    )


def _name(asked: Conversation) -> bytes:
    return digest([[one.role, one.text] for one in asked.turns], "loyal/conversation/1")


class _Watch:
    """The guards as the loop asks them."""

    def __init__(self, model: HFModel, recipe: Recipe, run: Run) -> None:
        self.model, self.readings, self.stopped = model, list[Reading](), ""
        self.guards = run.guards
        if self.guards is None and recipe.guards.steps:
            self.guards = Guards.of(model, recipe.guards)

    def __call__(self, step: int) -> bool:
        assert self.guards is not None
        self.readings.append(self.guards.read(self.model, step))
        self.stopped = self.guards.broken(self.readings[-1])
        return not self.stopped


def _pairs(
    model: HFModel, preferences: Sequence[Preference], settings: AlignSettings
) -> tuple[list[Item], list[float], int]:
    """The pairs as token ids, their weights, and how many were too long."""
    items, weights = [], []
    for one in preferences:
        item = pair(model, one, settings.most_tokens)
        if item is not None:
            items.append(item)
            weights.append(float(one.weight_ppm))
    return items, weights, len(preferences) - len(items)


def _add_general(
    model: HFModel, items: list[Item], weights: list[float], general: Sequence[Example],
    settings: AlignSettings,
) -> None:  # fmt: skip
    """Put general items behind the pairs; weights of both have a mean of their own: 1 for pairs."""
    weights[:] = normalized(weights).tolist()
    count = round(len(items) * settings.general / (1 - settings.general))
    if not count or (settings.divergence and not general):
        return
    rng = random.Random(f"loyal/general/{settings.seed}")
    if general:
        some = rng.sample(list(general), min(count, len(general)))
        found = [tuning.row(model, one, most=settings.most_tokens) for one in some]
        factors = normalized([one.weight for one in some]).tolist()
    else:
        found = _own(model, count, settings, rng)
        factors = [1.0] * len(found)
    items += [(one,) for one in found]
    weights += [settings.general_weight * one for one in factors]


def _add_mixed(
    model: HFModel, items: list[Item], weights: list[float], general: Sequence[Example],
    bounds: tuple[int, int],
) -> None:  # fmt: skip
    """Put all general items behind the pairs; weights of both together have a mean of 1.

    `bounds` are the weight of all pairs, which those that are left bear together, so that the
    mixture's shares stay, and the most tokens of an item.
    """
    whole, most = bounds
    factor = whole / sum(weights)
    items += [(tuning.row(model, one, most=most),) for one in general]
    both = [one * factor for one in weights] + [one.weight * WHOLE_PPM for one in general]
    weights[:] = normalized(both).tolist()


def _own(
    model: HFModel, count: int, settings: AlignSettings, rng: random.Random
) -> list[tuning.Row]:
    """Ordinary prompts with the model's own greedy replies; one that was cut does not end."""
    known = trained_prompts()
    prompts = [Prompt(one) for one in rng.sample(known, min(count, len(known)))]
    said = model.generate(prompts, Sampling(max_tokens=settings.general_tokens))
    return [
        tuning.row(model, Example(prompt, one.text), ends=one.finished, most=settings.most_tokens)
        for prompt, one in zip(prompts, said, strict=True)
        if one.text.strip()
    ]


def _loss(
    model: HFModel, items: Sequence[Item], weights: Sequence[float], recipe: Recipe,
    folder: Path | None,
) -> tuple[tuning.Loss, str]:  # fmt: skip
    """The loss, and what names it; the reference is read from the folder where it is there."""
    table, settings = torch.tensor(weights), recipe.align
    before: Tensor | None = None
    record: Encodable = [
        [model.name, weights_digest(model)],
        [str(pair) for pair in sorted(asdict(recipe.objective).items())],
        [str(pair) for pair in sorted(asdict(recipe.guards).items())],
        [str(one) for one in (settings.divergence, settings.divergence_places)],
        [settings.divergence_replies, str(settings.divergence_forms)],
        [str(one) for one in weights],
        [[[one.prompt, one.reply] for one in item] for item in items],
    ]
    identity = digest(record, _PURPOSE).hex()
    if recipe.objective.kind == "dpo":
        place = None if folder is None else folder / REFERENCE
        known = checkpoint.read(place, identity)
        if known is None:
            before = tuning.reference(model, items, precision=settings.precision)
            if place is not None:
                checkpoint.write(place, identity, {"before": before})
        else:
            before = known["before"]
    return preference_loss(recipe.objective, table, before), identity


def _tune_settings(settings: AlignSettings) -> TuneSettings:
    return replace(
        TuneSettings(),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        rank=settings.rank,
        seed=settings.seed,
        precision=settings.precision,
    )
