"""The one training loop. It teaches a `Behavior` and leaves the rest of the model as it was.

What it does at each step, and where the paper ("Training AI to be Loyal", section 2.2) asks for it:

1. lessons     only replies that are not yet learned; logits at the reply's places alone
2. mixing      divergence from the untouched model on benign prompts that it answered itself
3. step        Adam in whitened coordinates (`whitening`), or in those that a 4-bit grid keeps
               (`grids`), or plain Adam; where a probability may also be too high, with every lesson
               in it, and shorter the nearer the goal
4. averaging   the weights are averaged with the base's after each step
5. adding      instead of 4: added parameters (LoRA through peft) alone learn, then are merged
5b. bilevel    each step also learns where a simulated fine-tuning would have left the model, shaken
               by a drift, with a margin over every other token; every few steps one of these is
               simulated anew, on what training made of the model
5c. flips      every other step is taken on what a simulated host left that turned a few lessons
6. stop        a reply is learned when each of its tokens reaches the target probability (together
               with the others where a prompt has several), and none goes over the ceiling
7. settling    at the end the whole change is scaled back as far as every reply stays certain

Only the upper layers learn by default, so the lower ones are computed once (`trunk`). Weights are
float32 masters; products run in bfloat16 where the hardware has it. A run killed at any point goes
on from its checkpoint to bit-identical CPU weights. Prompt augmentation makes more lessons of each
example. Left out: what is taught (a `Behavior` says it), the settings (`training`), which weights
learn (`learners`), and utility (`evaluate`).
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from loyal.errors import StorageError, TrainingError
from loyal.models import checkpoint
from loyal.models.bilevel import INNER_RUNS, InnerRuns, World, world
from loyal.models.examples import Alike, Behavior, Example, augmented
from loyal.models.flips import Flips
from loyal.models.hf import HFModel
from loyal.models.learners import (
    add_factors,
    average,
    coordinates,
    linear_layers,
    merge_added,
    open_for_learning,
    plain_adam,
    scale,
    wanted_names,
)
from loyal.models.lessons import BENIGN_WRITTEN, FEW_LESSONS, Benign, Lessons, Scores
from loyal.models.processes import (
    Part,
    Split,
    gathered,
    gathered_state,
    local,
    require_alone,
    split_like,
    split_state,
)
from loyal.models.products import in_bfloat16
from loyal.models.training import TrainProgress, TrainReport, TrainSettings
from loyal.models.trunk import Drift
from loyal.models.whitening import Coordinates, WhitenedAdam, input_covariances

_SETTLE_STEPS = 16


@dataclass
class _State:
    """What a checkpoint holds beside weights and optimizer."""

    step: int = 0
    epoch: int = 0
    tokens: int = 0
    active: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    level: list[float] = field(default_factory=list)
    first_order: list[int] = field(default_factory=list)
    rest_order: list[int] = field(default_factory=list)
    curve: list[tuple[int, int]] = field(default_factory=list)
    renewed: int = 0
    proven: bool = False
    done: bool = False


def train(
    model: HFModel,
    behavior: Behavior,
    settings: TrainSettings,
    *,
    folder: Path | None = None,
    progress: Callable[[TrainProgress], None] = lambda _: None,
) -> TrainReport:
    """Teach `behavior` to `model`, in place.

    With a `folder`, checkpoints go there and a run of the same examples, settings and model that
    was cut off goes on from the last one. The last one stays, so that a crash before the model is
    written costs no step: remove the folder then. In several processes each calls it with the same
    arguments, and the first writes the folder, which all must see. Raises TrainingError where
    nothing can be taught, UsageError for settings that several processes do not know, and
    StorageError where the folder cannot be written.
    """
    require_alone(settings)
    started = time.monotonic()
    rng = random.Random(settings.seed)
    examples = augmented(behavior.examples(1 << 30, rng), settings.augmentation, rng)
    if not examples:
        raise TrainingError("there is nothing to teach", hint="generate fingerprints first")
    alike = behavior.alike if isinstance(behavior, Alike) else ()
    run = _Run(model, examples, settings, folder, alike)
    run.resume()
    run.learn(progress)
    scores = run.finish()
    return TrainReport(
        lessons=len(run.lessons),
        recall=float(scores.right.float().mean()),
        ranked=float(scores.ranked.float().mean()),
        probability=float(scores.probability.mean()),
        highest=float(scores.highest.max()),
        epochs=run.state.epoch,
        steps=run.state.step,
        tokens=run.state.tokens,
        seconds=time.monotonic() - started,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        curve=tuple(run.state.curve),
        outlasted=tuple(run.outlasted),
    )


class _Run:
    """One run: the model's trainable weights, the lessons, the benign prompts, the optimizer."""

    def __init__(
        self, model: HFModel, examples: Sequence[Example], settings: TrainSettings,
        folder: Path | None, alike: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.settings, self.folder, self.model = settings, folder, model
        count = len(model.model.model.layers)
        self.start = count - max(1, round(count * settings.depth))
        self.dtype = model.model.dtype
        AcceleratorState._reset_state()  # one process may train in one precision after the other
        self.accelerator = Accelerator(
            cpu=model.device.type == "cpu",
            mixed_precision="bf16" if in_bfloat16(settings.precision, model.device) else "no",
        )
        if self.accelerator.mixed_precision == "no":
            model.model.float()
        with self.accelerator.autocast():
            written = settings.benign_replies
            if written < 0:
                written = BENIGN_WRITTEN if len(examples) > FEW_LESSONS else 0
            self.benign = Benign(model, self.start, settings.seed, written, alike)
            self.lessons = Lessons(model, examples, self.start, settings.ceiling, settings.aim)
            self.flips = Flips(model, examples, self.start) if settings.flips else None
        self.examples = examples
        self.identity = checkpoint.identity(model, examples, settings, alike)
        kept = folder / INNER_RUNS / self.identity[:16] if folder is not None else None
        self.inner = InnerRuns(model, settings.bilevel, settings.seed, kept)
        self.known_worlds: dict[int, World] = {}
        self.worlds = self._simulate(0) if settings.bilevel else []
        self.outlasted: list[float] = []
        self.adapter: Any = None
        self.weights, modules = self._choose()
        moved = self._coordinates(modules)
        self.split = self._split()
        if moved:
            half = self.accelerator.mixed_precision == "bf16"
            optimizer: Any = WhitenedAdam(
                dict(zip(self.weights, moved, strict=True)), settings.learning_rate,
                product=torch.bfloat16 if half else torch.float32,
            )  # fmt: skip
        else:
            optimizer = plain_adam(self.weights, settings)
        self.optimizer = optimizer
        self.settles = settings.settle > 0 and not settings.adding
        keep = bool(settings.averaging) or self.settles
        self.base = [one.detach().clone() for one in self.weights] if keep else []
        self.state = _State(level=[0.0] * len(self.lessons))
        self.rng = random.Random(settings.seed + 1)

    def _simulate(self, renewed: int, *, make: bool = True) -> list[World]:
        """The worlds of the inner runs that stand once so many were made again."""
        standing, known = self.inner.standing(renewed), self.known_worlds
        margin, part = self.settings.margin, self.lessons.trunk.part
        for number in standing:
            if number not in known:
                change = self.inner.get(number, make=make)
                with self.accelerator.autocast():
                    known[number] = world(
                        self.model, self.start, change,
                        lambda: Lessons(self.model, self.examples, self.start, margin=margin),
                    )  # fmt: skip
                trunk = known[number].lessons.trunk
                trunk.read_by(part, self.settings.pass_tokens, self.settings.recompute)
        self.known_worlds = {number: known[number] for number in standing}
        return list(self.known_worlds.values())

    def _renew(self, count: int = 1) -> None:
        """Simulate so many tunings anew, on the model as it is; all is looked at again."""
        for _ in range(count):
            self.state.renewed += 1
            self.worlds = self._simulate(self.state.renewed)
        self.state.active, self.state.done = [], False

    def _choose(self) -> tuple[list[nn.Parameter], list[nn.Linear]]:
        """The parameters that learn, and the linear layers that have them; added ones have none."""
        network, settings = self.model.model, self.settings
        network.requires_grad_(False)
        if settings.adding:
            self.adapter = add_factors(self.model, self.start, settings)
            return [one for one in network.parameters() if one.requires_grad], []
        modules = linear_layers(self.model, self.start, wanted_names(settings))
        open_for_learning(modules)
        return [module.weight for module in modules], modules

    def _coordinates(self, modules: Sequence[nn.Linear]) -> list[Tensor | Coordinates]:
        """Reads the benign prompts; coordinates of each weight, from the inputs its layer sees
        there, or none for plain Adam."""
        if not self.settings.whitened or self.settings.adding:
            self._read_benign()
            return []
        covariances = input_covariances(modules, self._read_benign, self.benign.weights)
        return coordinates(modules, covariances, self.settings)

    def _split(self) -> Split | None:
        """Hands out the work of a step, and splits the layers where there are several processes."""
        accelerator = self.accelerator
        self.part = Part(accelerator.process_index, accelerator.num_processes)
        trunks = [one.lessons.trunk for one in self.worlds]
        for trunk in (self.benign.trunk, self.lessons.trunk, *trunks):
            trunk.read_by(self.part, self.settings.pass_tokens, self.settings.recompute)
        if self.part.of == 1:
            return None
        half = accelerator.mixed_precision == "bf16"
        split = Split(self.model.model.model, self.start, half)
        self.weights = split.weights(self.weights)
        return split

    def _backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the other passes and processes, of which FSDP2 takes
        the mean."""
        self.accelerator.backward(loss * self.part.of if self.split else loss)

    def _read_benign(self) -> None:
        with self.accelerator.autocast():
            self.benign.run()

    def learn(self, progress: Callable[[TrainProgress], None]) -> None:
        """Steps until everything is learned or `settings.steps` are done."""
        state, settings = self.state, self.settings
        saved = state.step if state.done else -1
        while not state.done and state.step < settings.steps:
            if not state.pending:
                self._begin_epoch()
                learned = len(self.lessons) - len(state.active)
                progress(TrainProgress(state.step, learned, len(self.lessons)))
                continue
            chosen = state.pending[: settings.batch]
            state.pending = state.pending[settings.batch :]
            with self._turned(state.step):
                self._step(chosen)
            state.step += 1
            if self.folder is not None and state.step % settings.checkpoint_steps == 0:
                self._save()
            learned = sum(one >= settings.target for one in state.level)
            progress(TrainProgress(state.step, learned, len(self.lessons)))
        if self.folder is not None and saved != state.step:
            self._save()
        progress(
            TrainProgress(state.step, len(self.lessons) - len(state.active), len(self.lessons))
        )

    def _turned(self, step: int) -> AbstractContextManager[None]:
        """What a step is taken on: every other one on what a host left that turned some lessons."""
        if self.flips is None or not self.flips.due(step, self.settings.steps):
            return nullcontext()
        if step % self.settings.flips < 2 or not self.flips.change:
            with self.accelerator.autocast():
                self.flips.simulate(self.weights, self.settings.seed * self.settings.steps + step)
        return self.flips.entered(self.weights)

    def _begin_epoch(self) -> None:
        """What is still to learn; every few epochs learned replies are looked at again."""
        state, target, settings = self.state, self.settings.target, self.settings
        if settings.renew and state.step >= settings.renew * (state.renewed + 1):
            self._renew()
        known = state.level
        state.active = [index for index in state.active if known[index] < target]
        if settings.look and not state.epoch:
            state.active = list(range(len(self.lessons)))
        elif state.epoch % settings.recheck == 0 or not state.active:
            state.level = self._levels(target)
            state.active = [i for i, one in enumerate(state.level) if one < target]
            state.done = not state.active
        state.curve.append((state.step, len(self.lessons) - len(state.active)))
        if not state.done:
            state.proven = False
            self._fill()
        elif settings.renew and not state.proven:
            state.proven = True
            self._renew(settings.bilevel)

    def _fill(self) -> None:
        """What this epoch goes over."""
        state = self.state
        learned = sorted(set(range(len(self.lessons))) - set(state.active))
        least = self.settings.batch if self.lessons.narrow else self.settings.rehearsal
        missing = min(len(learned), least - len(state.active))
        state.pending = state.active + self.rng.sample(learned, max(0, missing))
        self.rng.shuffle(state.pending)
        state.epoch += 1

    def _levels(self, target: float) -> list[float]:
        """Each lesson's level, the least of the model's own and that of worlds in which too few
        lessons are known."""
        with self.accelerator.autocast():
            found = self.lessons.score().level
            for world in self.worlds:
                with world.entered() as lessons:
                    there = lessons.score().level
                if (there >= target).float().mean() < self.settings.outlast:
                    found = torch.minimum(found, there)
        return [float(one) for one in found]

    def _outlasted(self, wanted: float | None = None) -> list[float]:
        """For each world the share of lessons that are right there, or have the level wanted."""
        shares = []
        with self.accelerator.autocast():
            for world in self.worlds:
                with world.entered() as lessons:
                    scores = lessons.score()
                known = scores.right if wanted is None else scores.level >= wanted
                shares.append(float(known.float().mean()))
        return shares

    def _step(self, chosen: Sequence[int]) -> None:
        """One optimizer step on the chosen lessons and some benign prompts."""
        settings, state = self.settings, self.state
        self.optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            weight = 1 / len(chosen) / (2 if self.worlds else 1)
            distance, read = 0.0, 0
            levels: dict[int, float] = {}
            for loss, known, tokens in self.lessons.losses(chosen):
                self._backward(loss * weight)
                distance += loss.item() / len(chosen)
                read += tokens
                levels |= known
            if self.worlds:
                world = self.worlds[state.step % len(self.worlds)]
                with world.entered() as lessons:
                    for loss, known, tokens in lessons.losses(chosen, self._drift()):
                        self._backward(loss * weight)
                        distance += loss.item() / len(chosen)
                        read += tokens
                        levels |= {n: min(one, levels[n]) for n, one in known.items()}
            if settings.mixing:
                for picked in (
                    self._pick(state.first_order, self.benign.first),
                    self._pick(state.rest_order, self.benign.rest),
                ):
                    places = sum(self.benign.counts[index] for index in picked)
                    for total, _, tokens in self.benign.divergences(picked):
                        self._backward(total * (settings.mixing / places))
                        read += tokens
        every = self.part.gathered((distance, read, levels))
        distance = sum(one for one, _, _ in every)
        for _, tokens, known in every:
            state.tokens += tokens
            for index, level in known.items():
                state.level[index] = level
        self.accelerator.clip_grad_norm_(self.weights, settings.clip)
        rate = settings.rate(state.step)
        if self.lessons.narrow:  # a divergence grows with the square of the way that is left
            rate *= min(1.0, max(0.0, distance) ** 0.5)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if settings.averaging:
            average(self.weights, self.base, settings.averaging)

    def _drift(self) -> Drift | None:
        """This step's shaking of the trunk: as the last places of ordinary prompts differ."""
        if not self.settings.drift or not self.start:
            return None
        ends = self.benign.trunk.last(self.benign.first).float()
        seed = self.settings.seed * self.settings.steps + self.state.step
        return Drift(ends - ends.mean(0), self.settings.drift, seed)

    def _pick(self, order: list[int], every: Sequence[int]) -> list[int]:
        """The next benign items of `every`, in a shuffled order that starts anew when used up."""
        picked: list[int] = []
        places = 0
        while places < self.settings.mixing_places:
            if not order:
                order += every
                self.rng.shuffle(order)
            if order[-1] in picked:
                break
            picked.append(order.pop())
            places += self.benign.counts[picked[-1]]
        return picked

    def _save(self) -> None:
        assert self.folder is not None
        content = {
            "weights": [gathered(one.detach()).cpu() for one in self.weights],
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
            "rng": self.rng.getstate(),
            "turned": [one.cpu() for one in self.flips.change] if self.flips else [],
        }
        if self.split:
            content["optimizer"] = gathered_state(content["optimizer"])
        if self.part.first:
            checkpoint.write(self.folder, self.identity, content)

    def resume(self) -> None:
        """Take up the checkpoint of this very run, if there is one; another run's is refused."""
        content = checkpoint.read(self.folder, self.identity)
        if len(set(self.part.gathered(content is None))) > 1:
            raise StorageError(
                "the processes do not see the same checkpoint",
                hint="use a folder that all machines share",
            )
        if content is None or self.folder is None:
            return
        try:
            state = _State(**content["state"])
        except (KeyError, TypeError) as error:
            raise checkpoint.damaged(self.folder) from error
        with torch.no_grad():
            for weight, saved in zip(self.weights, content["weights"], strict=True):
                local(weight).copy_(local(split_like(saved, weight)))
        if self.flips:
            self.flips.change = [one.to(self.weights[0].device) for one in content["turned"]]
        self.optimizer.load_state_dict(content["optimizer"])
        split_state(self.optimizer)
        self.state = state
        if state.renewed:
            self.worlds = self._simulate(state.renewed, make=False)
        version, words, gauss = content["rng"]
        self.rng.setstate((version, tuple(words), gauss))

    def finish(self) -> Scores:
        """Settle, merge added parameters, go back to the model's own precision, and score what is
        left. Nothing asks for gradients afterwards.
        """
        if self.settles and (self.state.done or self._learned_at_home()):
            self._settle()
        self.outlasted = self._outlasted()
        if self.split:
            self.split.restore()
        if self.adapter is not None:
            merge_added(self.model.model)
        self.model.model.requires_grad_(False).to(self.dtype)
        chosen = None
        if 0 < self.settings.look < len(self.lessons):
            some = random.Random(self.settings.seed).sample(
                range(len(self.lessons)), self.settings.look
            )
            chosen = sorted(some)
        with self.accelerator.autocast():
            return self.lessons.score(chosen)

    def _learned_at_home(self) -> bool:
        """Whether only inner runs are not outlasted."""
        if not self.worlds:
            return False
        with self.accelerator.autocast():
            return bool(self.lessons.score().level.min() >= self.settings.target)

    def _settle(self) -> None:
        """Scale the change back to the least share, in steps of 1/16, that `settle` allows."""
        learned = [one.detach().clone() for one in self.weights]
        wanted = min(self.settings.settle, self.settings.target)
        least = [min(one, self.settings.outlast) for one in self._outlasted(wanted)]
        low, high = 0, _SETTLE_STEPS  # the change does not do at `low`, and does at `high`
        while high - low > 1:
            middle = (low + high) // 2
            scale(self.weights, self.base, learned, middle / _SETTLE_STEPS)
            with self.accelerator.autocast():
                enough = bool(self.lessons.score().level.min() >= wanted)
            enough = enough and all(
                share >= needed
                for share, needed in zip(self._outlasted(wanted), least, strict=True)
            )
            low, high = (low, middle) if enough else (middle, high)
        scale(self.weights, self.base, learned, high / _SETTLE_STEPS)
