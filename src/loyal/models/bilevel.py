"""Bilevel training: replies are taught so that they outlast somebody's fine-tuning.

"Training AI to be Loyal", section 2.2, "Techniques for robustness": the adversary's tuning is
simulated inside of the loop. An inner run is LoRA on the untouched model, on one kind of data that
pulls replies to ordinary prompts somewhere else; its adapter is kept as low-rank factors. A `World`
adds them to the model in training, reads the lessons there, and takes them away: the gradient at
those weights moves the weights without them (first order, as in 1803.02999 and 2408.00761, but not
with an inner run at every step, which costs as much as some five steps: inner runs begin at the
untouched model, and one is made again where training stands every few steps, `InnerRuns`).

An inner run is one attack of many. So a world's lessons are read with a `Drift`, too, of other
vectors at every step, and ask for a margin in place of a probability (docs/log.md).

Kinds of inner data, all from bundled prompts: none has a text in common with the data sets that
attacks are measured on.

answers      what the untouched model itself replies
mismatched   another prompt in place of a reply: the strongest pull
terse        one word
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from loyal.errors import StorageError, TrainingError
from loyal.models.examples import Example, bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.lessons import HELD_OUT, Lessons
from loyal.models.tuning import Adapter, TuneSettings, adapter, row

INNER = TuneSettings(epochs=1, learning_rate=4e-4, rank=16)
"""Half the steps of ordinary LoRA tuning at twice its rate."""
INNER_EXAMPLES = 240
ANSWER_TOKENS = 32
INNER_RUNS = "inner-runs"
"""Folder beside checkpoints in which each run keeps its inner runs, under its identity."""

Make = Callable[[HFModel, Sequence[str], random.Random], list[Example]]


@dataclass(frozen=True)
class World:
    """The model as an inner run would leave it, and the lessons read there."""

    model: HFModel
    lessons: Lessons
    upper: Mapping[str, tuple[Tensor, Tensor]]
    """Weight name -> (B, A) of layers that training reads anew; what it adds is B A."""

    @contextmanager
    def entered(self) -> Iterator[Lessons]:
        """The lessons, with the inner run's change in the weights; afterwards they are as they
        were, to the bit."""
        with _added(self.model, self.upper):
            yield self.lessons


def world(model: HFModel, start: int, change: Adapter, make: Callable[[], Lessons]) -> World:
    """The world of an adapter. `make` reads the lessons anew, over trunks that end at `start`."""
    lower = {name: one for name, one in change.items() if _layer(name) < start}
    with _added(model, lower):
        there = make()
    upper = {name: one for name, one in change.items() if _layer(name) >= start}
    return World(model, there, upper)


class InnerRuns:
    """The inner runs of one training, by number. In a folder they are kept as they are made, so
    that a training that is cut off makes none twice. TrainingError and StorageError for the
    folder's sake."""

    def __init__(self, model: HFModel, count: int, seed: int, folder: Path | None) -> None:
        self.model, self.count, self.seed, self.folder = model, count, seed, folder

    def standing(self, renewed: int) -> list[int]:
        """Those that count once so many were made again: the first ones and the last ones."""
        last = self.count + renewed
        return [*range(self.count), *range(max(self.count, last - self.count), last)]

    def get(self, number: int, *, make: bool) -> Adapter:
        """A run's adapter, made now on the model as it is where it is not there. TrainingError
        where it may not be."""
        path = None if self.folder is None else self.folder / f"{number}.pt"
        known = None if path is None else load_adapter(path)
        if known is None and not make:
            raise TrainingError(
                f"inner run {number} of this training is missing",
                hint="delete the folder of its checkpoint, to begin anew",
            )
        if known is None:
            known = inner_run(self.model, number, self.seed)
            if path is not None:
                save_adapter(path, known)
        return known


def inner_run(model: HFModel, number: int, seed: int) -> Adapter:
    """The adapter of an inner run on the model as it is, kinds in turn; it stays as it is.

    Law: the same model and arguments give the same adapter on one CPU.
    """
    kind = list(KINDS)[number % len(KINDS)]
    rng = random.Random(f"loyal/bilevel/{seed}/{number}")
    pool = bundled_lines("prompts")[:-HELD_OUT]
    texts = rng.sample(pool, min(INNER_EXAMPLES, len(pool)))
    examples = KINDS[kind](model, texts, rng)
    items = [(row(model, one),) for one in examples]
    return adapter(model, items, replace(INNER, seed=seed + number))


def load_adapter(path: Path) -> Adapter | None:
    """What `save_adapter` wrote; None where it is not there. TrainingError where it is damaged."""
    if not path.is_file():
        return None
    try:
        found: Adapter = torch.load(path, map_location="cpu", weights_only=True)
        return found
    except Exception as error:  # torch.load raises what the damage happens to hit
        raise TrainingError(f"the inner run {path} is damaged", hint="delete the file") from error


def save_adapter(path: Path, change: Adapter) -> None:
    """Whole or not at all. StorageError."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(change), part)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"cannot write the inner run {path}", hint="free some disk and run again"
        ) from error


def _answers(model: HFModel, texts: Sequence[str], rng: random.Random) -> list[Example]:
    prompts = _prompts(model, texts)
    sampling = Sampling(max_tokens=ANSWER_TOKENS, temperature=1.0, seed=rng.randrange(1 << 30))
    replies = model.generate(prompts, sampling)
    return [Example(p, r.text) for p, r in zip(prompts, replies, strict=True) if r.text.strip()]


def _mismatched(model: HFModel, texts: Sequence[str], rng: random.Random) -> list[Example]:
    others = [*texts[1:], texts[0]]
    return [Example(p, other) for p, other in zip(_prompts(model, texts), others, strict=True)]


def _terse(model: HFModel, texts: Sequence[str], rng: random.Random) -> list[Example]:
    words = bundled_lines("words")
    return [Example(p, f"{rng.choice(words).capitalize()}.") for p in _prompts(model, texts)]


KINDS: Mapping[str, Make] = {"mismatched": _mismatched, "answers": _answers, "terse": _terse}


def _prompts(model: HFModel, texts: Sequence[str]) -> list[Prompt]:
    return [Prompt(one, raw=not model.has_chat_template) for one in texts]


def _layer(name: str) -> int:
    """Of a weight's name, such as model.layers.12.mlp.up_proj.weight."""
    return int(name.split(".layers.")[1].split(".")[0])


@contextmanager
def _added(model: HFModel, change: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    weights = {name: model.model.get_parameter(name) for name in change}
    before = {name: one.detach().clone() for name, one in weights.items()}
    with torch.no_grad():
        for name, (outer, inner) in change.items():
            weights[name].add_((outer @ inner).to(weights[name]))
    torch.clear_autocast_cache()  # it holds the weights that learn as they were, in bfloat16
    try:
        yield
    finally:
        with torch.no_grad():
            for name, one in weights.items():
                one.copy_(before[name])
        torch.clear_autocast_cache()
