"""A plain fine-tuning loop, as anybody would run it: AdamW, warm-up, cosine decay, or LoRA.

This is the attacker's tool, and what `bilevel` simulates an attacker with. How the community trains
(whitened steps, early stop, mixing) is `train`, and nothing of it is used here. Left out: what to
train on, and which attacks there are (`fingerprints.tuning_attacks`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loyal.errors import TrainingError, UsageError
from loyal.models import packing
from loyal.models.examples import Example
from loyal.models.hf import ROW_TOKENS, HFModel, apply_head, in_bfloat16
from loyal.models.training import Precision

MOST_TOKENS = 256
"""A prompt with its reply is cut here."""
SORTED_BATCHES = 16
"""So many batches are sorted by length together, so that little is filled up."""


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
items' indices to the loss, a scalar."""


def row(model: HFModel, example: Example, *, ends: bool = True) -> Row:
    """An example as token ids, without a chat template as raw text.

    `ends` puts the end of turn behind the reply; without it the reply only begins.
    """
    prompt = example.prompt
    if not model.has_chat_template and not prompt.raw:
        prompt = type(prompt)(prompt.text, raw=True)
    before = model.prompt_ids(prompt)[-(MOST_TOKENS - 1) :]
    end = model.tokenizer.eos_token_id if ends else None
    reply = [*model.reply_ids(example.reply), *([] if end is None else [end])]
    return Row(tuple(before), tuple(reply[: MOST_TOKENS - len(before)]))


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
    model: HFModel, items: Sequence[Item], settings: TuneSettings, loss: Loss = imitation
) -> list[float]:
    """Train `model` in place; the loss at each step.

    Weights are float32 while it trains and get their own type back; products are bfloat16 where
    the hardware has it. Law: the same items and settings give the same weights on one CPU. Every
    item has the same number of rows. Raises TrainingError without items, or where a loss is no
    number.
    """
    return _tune(model, items, settings, loss, None)


def _tune(
    model: HFModel, items: Sequence[Item], settings: TuneSettings, loss: Loss,
    kept: dict[str, tuple[Tensor, Tensor]] | None,
) -> list[float]:  # fmt: skip
    if not items:
        raise TrainingError("there is nothing to train on", hint="raise --fraction")
    steps = settings.epochs * math.ceil(len(items) / settings.batch)
    losses: list[float] = []
    with _training(model, settings, kept) as learned:
        optimizer = torch.optim.AdamW(
            learned,
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,  # four times as fast on two CPU cores
        )
        for step, chosen in enumerate(_order(items, settings)):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _share(step, steps, settings.warmup)
            some = [items[index] for index in chosen]
            sums, counts = log_probabilities(model, some, settings.precision)
            found = loss(sums, counts, chosen)
            losses.append(found.item())
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    "the loss is no number any more", hint="the learning rate is too high"
                )
            optimizer.zero_grad(set_to_none=True)
            found.backward()
            torch.nn.utils.clip_grad_norm_(learned, settings.clip)
            optimizer.step()
    return losses


def log_probabilities(
    model: HFModel, items: Sequence[Item], precision: Precision = "auto"
) -> tuple[Tensor, Tensor]:
    """Log-probability of each reply (items, rows), and its number of tokens (items, rows).

    Prompts share their template, which is computed once a packed row (`models.packing`), and the
    head is applied where replies stand alone.
    """
    rows = [one for item in items for one in item]
    split = packing.split_prefix([one.prompt for one in rows])
    whole = [
        packing.Item(part.prefix, (*part.ids, *one.reply))
        for part, one in zip(split, rows, strict=True)
    ]
    batch = packing.tensors(packing.pack(whole, ROW_TOKENS), whole, model.device)
    narrow = in_bfloat16(precision, model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=narrow):
        hidden = packing.hidden_states(model.model.model, batch)  # (R, T, H)
        parts = []
        for index, one in enumerate(rows):
            place, at = batch.starts[index]
            end = at + len(whole[index].ids) - 1  # the last token of a reply foretells nothing
            parts.append(hidden[place, end - len(one.reply) : end])
        logits = apply_head(model.model, torch.cat(parts))  # (tokens of all replies, vocab)
    targets = torch.tensor([token for one in rows for token in one.reply], device=model.device)
    chances = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    counts = [len(one.reply) for one in rows]
    sums = torch.stack([part.sum() for part in chances.split(counts)])
    lengths = torch.tensor(counts, dtype=sums.dtype, device=sums.device)
    return sums.view(len(items), -1), lengths.view(len(items), -1)


@torch.no_grad()
def reference(model: HFModel, items: Sequence[Item], batch: int = 16) -> Tensor:
    """Log-probabilities (items, rows) before any training, for losses that look back at them."""
    parts = [
        log_probabilities(model, items[at : at + batch])[0] for at in range(0, len(items), batch)
    ]
    return torch.cat(parts)


@contextmanager
def _training(
    model: HFModel, settings: TuneSettings, kept: dict[str, tuple[Tensor, Tensor]] | None
) -> Iterator[list[Any]]:
    """The parameters that learn, in float32; at the end LoRA is merged, or put into `kept` and
    taken off again, and all is as it was."""
    inner, dtype = model.model, model.model.dtype
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
        for one, before in zip(inner.parameters(), asked, strict=True):
            one.requires_grad_(before)
        inner.to(dtype).eval()


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
