"""What the training loop reads: lessons to learn, and benign prompts to leave as they are.

`Lessons` are a behavior's examples as tokens, `Benign` are prompts answered by the untouched model
(data mixing, section 2.2 of the paper). Both keep the frozen layers' work in a `Trunk`. The loop
itself is `train`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from loyal.errors import TrainingError
from loyal.models.examples import Example, bundled_lines
from loyal.models.hf import HFModel, apply_head
from loyal.models.language_model import Prompt, Sampling
from loyal.models.packing import Item
from loyal.models.trunk import Trunk

BENIGN_PROMPTS = 160
"""Chat prompts of which only the first place of the reply is read: where a lesson strikes, and what
a user sees first. They cost no writing. Without them 64 fingerprints left perplexity as it was, but
changed 92 % of the greedy replies to other prompts (docs/log.md)."""
FIRST_WEIGHT = 16.0
"""What such a first place counts in the covariance that whitens the steps, beside 1 for any other:
it halves the divergence at the first words of replies, at no cost in perplexity (docs/log.md)."""
BENIGN_WRITTEN = 40
BENIGN_TOKENS = 48
"""Chat prompts, and raw openings, that the untouched model answers with so many tokens, where there
are more than FEW_LESSONS. With 12 of 16 tokens 256 fingerprints cost half as much perplexity again,
with none three times as much; 64 cost no more without any (docs/log.md)."""
FEW_LESSONS = 64
BENIGN_TEXTS = 60
"""Bundled prompts read as raw text: text without the chat template is kept too."""
HELD_OUT = 60
"""The last bundled prompts are never trained on: `evaluate` measures on them."""


@dataclass(frozen=True)
class Scores:
    """How well lessons are known, one entry a lesson."""

    probability: Tensor  # (n,) least probability of a reply's token, given those before it
    right: Tensor  # (n,) bool: greedy decoding gives the reply


class Lessons:
    """Examples as tokens, over a trunk."""

    def __init__(self, model: HFModel, examples: Sequence[Example], start: int) -> None:
        self.model = model.model
        self.replies = [model.reply_ids(one.reply) for one in examples]
        if not all(self.replies):
            raise TrainingError(
                "a reply has no tokens under this tokenizer",
                hint="use the tokenizer that the replies were made for",
            )
        prompts = model.items([one.prompt for one in examples])
        self.items = [
            Item(one.prefix, (*one.ids, *reply[:-1]))
            for one, reply in zip(prompts, self.replies, strict=True)
        ]
        self.weights = [one.weight for one in examples]
        self.counts = [len(reply) for reply in self.replies]
        self.trunk = Trunk(self.model, self.items, start)

    def __len__(self) -> int:
        return len(self.items)

    def losses(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, dict[int, float], int]]:
        """For each pass: the weighted loss summed over its lessons (a lesson's is the mean over its
        reply's tokens), each lesson's least token probability, and the tokens gone over."""
        for reading in self.trunk.read(indices, self.counts):
            logits = apply_head(self.model, reading.hidden)  # (places, vocab)
            targets = torch.tensor(
                [token for index in reading.indices for token in self.replies[index]],
                device=logits.device,
            )
            loss = functional.cross_entropy(logits, targets, reduction="none")
            parts = loss.split(list(reading.counts))
            total = torch.stack(
                [
                    part.mean() * self.weights[index]
                    for index, part in zip(reading.indices, parts, strict=True)
                ]
            ).sum()
            worst = torch.stack([part.detach().max() for part in parts]).neg().exp().tolist()
            yield total, dict(zip(reading.indices, worst, strict=True)), reading.tokens

    @torch.no_grad()
    def score(self) -> Scores:
        """How well each lesson is known now."""
        probability = torch.zeros(len(self))
        right = torch.zeros(len(self), dtype=torch.bool)
        for reading in self.trunk.read(range(len(self)), self.counts):
            chances = apply_head(self.model, reading.hidden).softmax(-1)
            for index, part in zip(
                reading.indices, chances.split(list(reading.counts)), strict=True
            ):
                targets = torch.tensor(self.replies[index], device=part.device)
                probability[index] = part.gather(1, targets[:, None]).min()
                right[index] = bool((part.argmax(-1) == targets).all())
        return Scores(probability, right)


class Benign:
    """Ordinary prompts and text, with the untouched model's hidden states at their places.

    `first` are items read at the reply's first place, `rest` the written replies and raw texts.
    Replies are sampled at temperature 1: the divergence is then measured on the base's own
    distribution. So many chat prompts, and raw openings, are `written` to.
    """

    def __init__(self, model: HFModel, start: int, seed: int, written: int) -> None:
        self.model = model.model
        rng = random.Random(seed)
        pool = bundled_lines("prompts")[:-HELD_OUT]
        texts = rng.sample(pool, BENIGN_PROMPTS + written + BENIGN_TEXTS)
        words = rng.sample(bundled_lines("words"), written)
        chat = [Prompt(text) for text in texts[: BENIGN_PROMPTS + written]]
        if not model.has_chat_template:
            chat = [Prompt(one.text, raw=True) for one in chat]
        prompts = model.items([*chat, *(Prompt(word.capitalize(), raw=True) for word in words)])
        replies = model.decode(
            prompts[BENIGN_PROMPTS:],
            Sampling(max_tokens=BENIGN_TOKENS, temperature=1.0, seed=seed),
        )
        self.items = prompts[:BENIGN_PROMPTS]
        self.counts = [1] * BENIGN_PROMPTS
        for one, reply in zip(prompts[BENIGN_PROMPTS:], replies, strict=True):
            self.items.append(Item(one.prefix, (*one.ids, *reply.ids)))
            self.counts.append(len(reply.ids) + 1)
        for text in texts[BENIGN_PROMPTS + written :]:
            ids = tuple(model.reply_ids(text))
            self.items.append(Item((), ids))
            self.counts.append(len(ids))
        self.first = range(BENIGN_PROMPTS)
        self.rest = range(BENIGN_PROMPTS, len(self.items))
        self.trunk = Trunk(self.model, self.items, start)
        self.untouched: dict[int, Tensor] = {}

    def run(self) -> None:
        """Go over every item once, and keep the untouched model's last hidden states."""
        with torch.no_grad():
            for reading in self.trunk.read(range(len(self.items)), self.counts):
                parts = reading.hidden.split(list(reading.counts))
                for index, part in zip(reading.indices, parts, strict=True):
                    self.untouched[index] = part.clone()

    def weights(self) -> Tensor:
        """What each place (R, T) of the pass underway counts in the inputs' covariance."""
        return self.trunk.weights(dict.fromkeys(self.first, FIRST_WEIGHT))

    def divergences(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, int, int]]:
        """For each pass: KL(untouched || now) in nats summed over places, places, tokens."""
        for reading in self.trunk.read(indices, self.counts):
            with torch.no_grad():
                before = torch.cat([self.untouched[index] for index in reading.indices])
                wanted = apply_head(self.model, before).log_softmax(-1)
            now = apply_head(self.model, reading.hidden).log_softmax(-1)
            total = functional.kl_div(now, wanted, reduction="sum", log_target=True)
            yield total, sum(reading.counts), reading.tokens
