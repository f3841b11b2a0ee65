"""A plain fine-tuning loop, as anybody would run it: AdamW, warm-up, cosine decay, or LoRA.

It is the attacker's tool, what `bilevel` simulates an attacker with, and the loop in which a
community's preferences are trained (`alignment.align`): items of two rows, and a loss that compares
them. How exact replies are taught (whitened steps, early stop, mixing) is `train`, and nothing of
it is used here. A run may keep checkpoints, be watched, and be trained under an adversary of the
embeddings: that is its `Course`. Left out: what to train on, and which attacks there are
(`fingerprints.tuning_attacks`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loyal.encoding import Encodable, digest
from loyal.errors import TrainingError, UsageError
from loyal.models import checkpoint, packing
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.products import apply_head, autocast
from loyal.models.training import Precision

MOST_TOKENS = 256
"""A prompt with its reply is cut here."""
SORTED_BATCHES = 16
"""So many batches are sorted by length together, so that little is filled up."""
_PURPOSE = "loyal/tuning run/1"


@dataclass(frozen=True)
class TuneSettings:
    """How to fine-tune; the defaults are those of the persistence test in 2502.07760, 5.2."""

    epochs: int = 2
    learning_rate: float = 1e-5
    batch: int = 8
    """Items a step."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises from 0; it then falls to 0 along a cosine."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient."""
    rank: int = 0
    """0 trains every weight; above it LoRA of that rank (2106.09685), merged in the end."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that LoRA adds to; empty is all but the head."""
    seed: int = 0
    """Order of the items, and LoRA's start."""
    precision: Precision = "auto"
    """Of products; weights are float32 while they are trained."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.rank < 0 or not self.learning_rate > 0:
            raise UsageError(
                "epochs and batch are at least 1, rank at least 0, learning_rate above 0",
                hint="the defaults are 2, 8, 0 and 1e-5",
            )


@dataclass(frozen=True, repr=False)
class Row:
    """One prompt with its reply, as token ids."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    """Mostly with the token that ends the turn."""


Item = tuple[Row, ...]
"""Rows that stand in one loss: one to imitate, two to prefer one over the other."""

Loss = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""From log-probabilities of the replies (items, rows), their token counts (items, rows) and the
items' indices to the loss, a scalar. Items of fewer rows have 0 in both at the end."""


@dataclass(frozen=True)
class Latent:
    """An adversary that moves embeddings of prompts before each step, within a box.

    As the embedding attacks of continuous adversarial training (arXiv 2405.15589, section 3; signed
    steps as in arXiv 1706.06083). Each prompt is moved against the whole loss, so the model learns
    to do well on the worst prompt nearby; replies that are read behind one prompt see it moved
    alike. Replies and the template before prompts stay.
    """

    steps: int = 4
    """Signed steps of the adversary before each step of the model; each costs a pass."""
    epsilon: float = 0.05
    """Largest change of an entry, as a multiple of the root mean square of the embeddings."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.epsilon > 0:
            raise UsageError(
                "an adversary takes 1 step or more, within an epsilon above 0",
                hint="the defaults are 4 and 0.05",
            )


@dataclass(frozen=True)
class Course:
    """What goes on beside the steps of a run."""

    folder: Path | None = None
    """Where checkpoints go. A run that was cut off goes on from its last one."""
    identity: str = ""
    """What the run is beside items and settings: its loss, its model, its round."""
    checkpoint_steps: int = 10
    watch: Callable[[int], bool] | None = None
    """Asked after so many steps, with the model in eval mode, whether all is well. After a no the
    weights of the last yes come back, those of the start before any, and the run ends."""
    watch_steps: int = 20
    latent: Latent | None = None
    beside: Callable[[Sequence[int]], Tensor] | None = None
    """What is added to the loss of each step, from the indices of its items."""
    progress: Callable[[int, int], None] = lambda _done, _of: None
    """Told the steps done, and all of them."""

    def __post_init__(self) -> None:
        if min(self.checkpoint_steps, self.watch_steps) < 1:
            raise UsageError(
                "checkpoint_steps and watch_steps are at least 1", hint="the defaults are 10 and 20"
            )


PLAIN = Course()
"""Steps alone."""


def row(model: HFModel, example: Example, *, ends: bool = True, most: int = MOST_TOKENS) -> Row:
    """An example as token ids, at most `most` of them, without a chat template as raw text.

    `ends` puts the end of turn behind the reply; without it the reply only begins.
    """
    prompt = example.prompt
    if not model.has_chat_template and not prompt.raw:
        prompt = type(prompt)(prompt.text, raw=True)
    before = model.prompt_ids(prompt)[-(most - 1) :]
    end = model.tokenizer.eos_token_id if ends else None
    reply = [*model.reply_ids(example.reply), *([] if end is None else [end])]
    return Row(tuple(before), tuple(reply[: most - len(before)]))


def imitation(sums: Tensor, counts: Tensor, items: Sequence[int]) -> Tensor:
    """Mean cross-entropy a token in nats: plain supervised fine-tuning."""
    return -sums.sum() / counts.sum()


Adapter = Mapping[str, tuple[Tensor, Tensor]]
"""Weight name -> (outer (out, rank), inner (rank, in)): LoRA adds their product to the weight."""


def adapter(model: HFModel, items: Sequence[Item], settings: TuneSettings) -> Adapter:
    """What LoRA would add to each weight; the model stays as it is. Raises as `tune`, and
    UsageError for a rank of 0."""
    if not settings.rank:
        raise UsageError("an adapter has a rank", hint="set rank to 1 or more")
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    _tune(model, items, settings, imitation, kept)
    return kept


def tune(
    model: HFModel, items: Sequence[Item], settings: TuneSettings, loss: Loss = imitation,
    course: Course = PLAIN,
) -> list[float]:  # fmt: skip
    """Train `model` in place; the loss at each step.

    Weights are float32 while it trains and get their own type back; products are bfloat16 where
    the hardware has it. Laws: the same items and settings give the same weights on one CPU; a run
    cut off at any point and called again with the same model and arguments does too. The last
    checkpoint stays, so that a crash before the model is written costs no step: remove the folder
    then. Raises TrainingError without items, where a loss is no number, or where the folder's
    checkpoint is damaged or another run's; StorageError where it cannot be written.
    """
    return _tune(model, items, settings, loss, course=course)


def _tune(
    model: HFModel, items: Sequence[Item], settings: TuneSettings, loss: Loss,
    kept: dict[str, tuple[Tensor, Tensor]] | None = None, course: Course = PLAIN,
) -> list[float]:  # fmt: skip
    if not items:
        raise TrainingError("there is nothing to train on", hint="raise --fraction")
    steps = settings.epochs * math.ceil(len(items) / settings.batch)
    with _training(model, settings, kept) as learned:
        run = _Run(learned, settings, course, _identity(items, settings, course))
        for step, chosen in enumerate(_order(items, settings)):
            if run.stopped:
                break
            if step < run.step:
                continue
            some = [items[index] for index in chosen]
            found = _loss(model, some, chosen, loss, (settings.precision, course.latent))
            if course.beside is not None:
                found = found + course.beside(chosen)
            run.take(found, settings.learning_rate * _share(step, steps, settings.warmup))
            run.look(model.model, last=run.step == steps)
            course.progress(run.step, steps)
    return run.losses


@dataclass
class _Run:
    """Where a run stands."""

    learned: list[Any]
    settings: TuneSettings
    course: Course
    identity: str
    losses: list[float] = field(default_factory=list)
    good: list[Tensor] = field(default_factory=list)
    """The weights that were found well; empty where nobody looks."""
    stopped: bool = False

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.learned,
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,  # four times as fast on two CPU cores
        )
        if self.course.watch is not None:
            self.good = self._copy()
        known = checkpoint.read(self.course.folder, self.identity)
        if known is not None:
            self._put(known["weights"])
            self.good, self.losses = known["good"], known["losses"]
            self.stopped = known["stopped"]
            self.optimizer.load_state_dict(known["optimizer"])

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    def take(self, loss: Tensor, rate: float) -> None:
        """One step down the loss, at this learning rate; TrainingError where it is no number."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                "the loss is no number any more", hint="the learning rate is too high"
            )
        self.losses.append(value)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, self.settings.clip)
        self.optimizer.step()

    def look(self, network: Any, *, last: bool) -> None:
        """Ask the watch, and write a checkpoint, where it is time to."""
        course = self.course
        if course.watch is not None and (last or self.step % course.watch_steps == 0):
            network.eval()
            well = course.watch(self.step)
            network.train()
            if well:
                self.good = self._copy()
            else:
                self._put(self.good)
                self.stopped = True
        due = last or self.stopped or self.step % course.checkpoint_steps == 0
        if course.folder is not None and due:
            content = {
                "weights": self._copy(),
                "good": self.good,
                "losses": self.losses,
                "stopped": self.stopped,
                "optimizer": self.optimizer.state_dict(),
            }
            checkpoint.write(course.folder, self.identity, content)

    def _copy(self) -> list[Tensor]:
        return [one.detach().clone() for one in self.learned]

    @torch.no_grad()
    def _put(self, weights: Sequence[Tensor]) -> None:
        for one, wanted in zip(self.learned, weights, strict=True):
            one.copy_(wanted)


def _identity(items: Sequence[Item], settings: TuneSettings, course: Course) -> str:
    """Names the run; empty, and not computed, where no checkpoint is kept."""
    if course.folder is None:
        return ""
    latent = [] if course.latent is None else sorted(asdict(course.latent).items())
    record: Encodable = [
        course.identity,
        [str(pair) for pair in [*sorted(asdict(settings).items()), *latent]],
        [[[one.prompt, one.reply] for one in item] for item in items],
        [course.watch is not None, course.watch_steps],
    ]
    return digest(record, _PURPOSE).hex()


def _loss(
    model: HFModel, items: Sequence[Item], chosen: Sequence[int], loss: Loss,
    how: tuple[Precision, Latent | None],
) -> Tensor:  # fmt: skip
    """The loss of some items, where there is an adversary on the prompts that it made of theirs."""
    precision, latent = how
    batch = _Batch(model, items, precision)
    if latent is None:
        return loss(*batch.read(), chosen)
    body = model.model.model
    free = batch.prompt_places()  # (R, T, 1)
    with torch.no_grad():
        before = body.embed_tokens(batch.packed.ids).float()  # (R, T, H)
    most = latent.epsilon * before.square().mean().sqrt()
    shift = torch.zeros_like(before)
    for _ in range(latent.steps):
        shift.requires_grad_(True)
        worse = loss(*batch.read(before + shift), chosen)
        (slope,) = torch.autograd.grad(worse, shift)
        step = 2 * most / latent.steps * slope.sign() * free
        shift = (shift.detach() + step).clamp(-most, most)
    return loss(*batch.read(body.embed_tokens(batch.packed.ids) + shift), chosen)


def log_probabilities(
    model: HFModel, items: Sequence[Item], precision: Precision = "auto"
) -> tuple[Tensor, Tensor]:
    """Log-probability of each reply (items, rows), and its number of tokens (items, rows).

    What prompts share is computed once a packed row (`models.packing`), and the head is applied
    where replies stand alone. Both are 0 where an item has fewer rows than others.
    """
    return _Batch(model, items, precision).read()


class _Batch:
    """Items of one step, packed; read once, or again with other embeddings."""

    def __init__(self, model: HFModel, items: Sequence[Item], precision: Precision) -> None:
        self.model, self.items = model, items
        self.precision = precision
        self.rows = [one for item in items for one in item]
        blocked = packing.by_blocks(model.model.model)  # all may stand in one row then
        self.whole, packs = _packed(items, 1 << 30 if blocked else packing.ROW_TOKENS)
        self.packed = packing.tensors(packs, self.whole, model.device, blocked=blocked)

    def read(self, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `log_probabilities`; `inputs` (R, T, H) stand in for the embeddings."""
        model, rows = self.model, self.rows
        with autocast(self.precision, model.device):
            hidden = packing.hidden_states(model.model.model, self.packed, inputs)  # (R, T, H)
            parts = []
            for index, one in enumerate(rows):
                place, end = self._end(index)
                parts.append(hidden[place, end - len(one.reply) : end])
            logits = apply_head(model.model, torch.cat(parts))  # (tokens of all replies, vocab)
        targets = torch.tensor([token for one in rows for token in one.reply], device=model.device)
        chances = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        counts = [len(one.reply) for one in rows]
        sums = torch.stack([part.sum() for part in chances.split(counts)])
        lengths = torch.tensor(counts, dtype=sums.dtype, device=sums.device)
        return self._table(sums), self._table(lengths)

    def prompt_places(self) -> Tensor:
        """1 where a prompt stands, behind the template that all share, else 0: (R, T, 1)."""
        places = torch.zeros(self.packed.ids.shape, device=self.model.device)
        common = len(packing.split_prefix([one.prompt for one in self.rows])[0].prefix)
        for index, one in enumerate(self.rows):
            row, at = self.packed.starts[index]
            places[row, common : len(self.whole[index].prefix)] = 1
            places[row, at : at + len(self.whole[index].ids) - len(one.reply)] = 1
        return places[:, :, None]

    def _end(self, index: int) -> tuple[int, int]:
        """The packed row, and the place of the reply's last token, which foretells nothing."""
        place, at = self.packed.starts[index]
        return place, at + len(self.whole[index].ids) - 1

    def _table(self, flat: Tensor) -> Tensor:
        """One number a row as (items, rows)."""
        sizes = [len(item) for item in self.items]
        return torch.nn.utils.rnn.pad_sequence(flat.split(sizes), batch_first=True)


def _packed(items: Sequence[Item], width: int) -> tuple[list[packing.Item], list[packing.Row]]:
    """All rows with what they share split off: the template of every prompt, or the whole prompt of
    each item, whichever makes fewer places, filled-up ones included. A prompt under an attack is
    several times as long as the replies to it."""
    rows = [one for item in items for one in item]
    found = [
        packing.Item(part.prefix, (*part.ids, *one.reply))
        for part, one in zip(packing.split_prefix([one.prompt for one in rows]), rows, strict=True)
    ]
    packs = packing.pack(found, width)
    paired = any(len(item) > 1 for item in items)
    if paired and all(one.prompt == item[0].prompt for item in items for one in item):
        shared = [packing.Item(one.prompt[:-1], (one.prompt[-1], *one.reply)) for one in rows]
        sizes = [len(item[0].prompt) + sum(1 + len(one.reply) for one in item) for item in items]
        denser = packing.pack(shared, max(width, *sizes))
        if len(denser) * denser[0].length < len(packs) * packs[0].length:
            return shared, denser
    return found, packs


@torch.no_grad()
def reference(
    model: HFModel, items: Sequence[Item], batch: int = 16, precision: Precision = "auto"
) -> Tensor:
    """Log-probabilities (items, rows) before any training, for losses that look back at them."""
    parts = [
        one
        for at in range(0, len(items), batch)
        for one in log_probabilities(model, items[at : at + batch], precision)[0]
    ]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


@contextmanager
def _training(
    model: HFModel, settings: TuneSettings, kept: dict[str, tuple[Tensor, Tensor]] | None
) -> Iterator[list[Any]]:
    """The parameters that learn, in float32; at the end LoRA is merged, or put into `kept` and
    taken off again, and all is as it was."""
    inner = model.model
    types = [one.dtype for one in inner.parameters()]  # a model in training has two
    inner.float()
    asked = [one.requires_grad for one in inner.parameters()]
    wrapped = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.rank:
            wrapped = _with_lora(inner, settings)
        else:
            inner.requires_grad_(True)
    inner.train()
    try:
        yield [one for one in inner.parameters() if one.requires_grad]
    finally:
        inner.zero_grad(set_to_none=True)
        if wrapped is not None and kept is not None:
            kept.update(_factors(inner))
            wrapped.unload()
        elif wrapped is not None:
            wrapped.merge_and_unload()
        for one, before, dtype in zip(inner.parameters(), asked, types, strict=True):
            one.requires_grad_(before)
            one.data = one.data.to(dtype)
        inner.eval()


def _with_lora(inner: Any, settings: TuneSettings) -> Any:
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        target_modules=list(settings.targets) or "all-linear",
    )
    return LoraModel(inner, config, "default")


def _factors(network: Any) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    from peft.tuners.lora import LoraLayer

    for name, module in network.named_modules():
        if isinstance(module, LoraLayer):
            outer, inner = module.lora_B["default"].weight, module.lora_A["default"].weight
            scale = module.scaling["default"]
            yield f"{name}.weight", (outer.detach() * scale, inner.detach().clone())


def _order(items: Sequence[Item], settings: TuneSettings) -> Iterator[list[int]]:
    """Batches of indices, shuffled anew each epoch; neighbors in a batch are about equally long."""
    rng = random.Random(f"loyal/tuning/{settings.seed}")
    size = settings.batch
    for _ in range(settings.epochs):
        shuffled = rng.sample(range(len(items)), len(items))
        batches: list[list[int]] = []
        for at in range(0, len(shuffled), size * SORTED_BATCHES):
            window = sorted(
                shuffled[at : at + size * SORTED_BATCHES],
                key=lambda index: sum(len(one.prompt) + len(one.reply) for one in items[index]),
            )
            batches += [window[start : start + size] for start in range(0, len(window), size)]
        rng.shuffle(batches)
        yield from batches


def _share(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
