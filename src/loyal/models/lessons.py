"""What the training loop reads: lessons to learn, and benign prompts to leave as they are.

`Lessons` are a behavior's examples as tokens, `Benign` are prompts answered by the untouched model
(data mixing, section 2.2 of the paper). Both keep the frozen layers' work in a `Trunk`. The loop
itself is `train`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from loyal.errors import TrainingError
from loyal.models.examples import Example, bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.packing import Item
from loyal.models.products import apply_head
from loyal.models.trunk import Drift, Reading, Trunk

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

REST_TEMPERATURE = 4.0
"""Under a ceiling, what is left goes to the untouched model's tokens in the proportion of their
probabilities at this temperature. At 1 the base's own first word keeps most of it, and is soon
likelier than a reply after somebody's fine-tuning (docs/log.md)."""
_HINGE = 0.5
"""Weight of a nat of missing margin beside one of divergence."""
_NEARLY = 6.0
"""Nats by which a reply misses those that it is to be ahead when it pulls with its whole weight
(Huber's loss, which minds too many as well as too few). Under a hinge the surest replies go on
getting surer, which costs perplexity and keeps no more (docs/log.md)."""

_LEAST = 1e-9
"""Chance that every token has before what is left is shared out: however sure the untouched model
is, there are others to take it."""
_Entry = TypeVar("_Entry")
_SCORE_TYPES = (torch.float32, torch.float32, torch.float32, torch.bool, torch.bool)


@dataclass(frozen=True)
class Scores:
    """How well lessons are known, one entry a lesson.

    A lesson is learned when its level reaches the target: see `Lessons`.
    """

    probability: Tensor  # (n,) least probability of a reply's token, given those before it
    highest: Tensor  # (n,) most probability of a reply's token
    level: Tensor  # (n,) what is held against the target, see Lessons
    ranked: Tensor  # (n,) bool: nowhere is a token likelier than a reply's
    right: Tensor  # (n,) bool: greedy decoding gives a reply


@dataclass(frozen=True)
class _Answers:
    """The tokens that are right at some places."""

    ids: Tensor  # (places, widest), filled up with the last
    real: Tensor  # (places, widest) bool: not filled up
    counts: Tensor  # (places,) how many are right
    rivals: Tensor  # (places, most) tokens that they are to be ahead of, filled up with any
    ahead: Tensor  # (places, most) by how many nats; 0 where filled up


class Lessons:
    """Examples as tokens, over a trunk, and what is still wrong about them.

    An example with m replies of one token each is one lesson; with longer replies it is one lesson
    a reply, with an m-th of the weight. In both, the first place is to spread its probability
    evenly over the first tokens of all m. A place's level is what they have together, or twice
    what they would have if all had as little as the least likely of them, where that is less. It is
    0 while some other token is likelier than one of several, or while they together have more than
    `ceiling`. With a ceiling below 1 each place learns a mixture: `aim` for
    its own tokens, and for all others what the untouched model gives them at REST_TEMPERATURE. The
    loss of a place is the divergence of the model from what it is to learn, in nats: 0 where they
    are the same.

    With a `margin` it is otherwise: its tokens are to be that many nats likelier than every other,
    however sure that makes them. A place's level is the share of the margin that is there, and its
    loss grows with what is missing.

    Without one, an example may be ahead of other replies by so many nats (`Example.ahead`): what is
    missing or too much of them is added to the loss of the place where its reply parts from the
    other, and the level there is the least of both.

    Raises TrainingError for a reply without tokens, two of one example that begin with the same, or
    one that does not part from a reply that is to be ahead of it.
    """

    def __init__(
        self,
        model: HFModel,
        examples: Sequence[Example],
        start: int,
        ceiling: float = 1.0,
        aim: float = 1.0,
        *,
        margin: float = 0.0,
    ) -> None:
        self.model, self.ceiling, self.aim, self.margin = model.model, ceiling, aim, margin
        self.replies: list[list[int]] = []
        self.firsts: list[tuple[int, ...]] = []
        self.items: list[Item] = []
        self.weights: list[float] = []
        self.rivals: list[list[tuple[tuple[int, float], ...]]] = []
        for one, prompt in zip(examples, model.items([it.prompt for it in examples]), strict=True):
            said = _token_ids(model, one)
            taught = said if max(map(len, said)) > 1 else said[:1]
            rivals = [(model.reply_ids(text), nats) for text, nats in one.ahead]
            for reply in taught:
                self.replies.append(reply)
                self.firsts.append(tuple(ids[0] for ids in said))
                self.items.append(Item(prompt.prefix, (*prompt.ids, *reply[:-1])))
                self.weights.append(one.weight / len(taught))
                self.rivals.append(_parting(reply, rivals))
        self.sure = any(one.ahead for one in examples) and not margin
        self.counts = [len(reply) for reply in self.replies]
        self.trunk = Trunk(self.model, self.items, start)
        self.untouched: dict[int, Tensor] = {}  # item -> (count, H), where the ceiling needs it
        if ceiling < 1 and not margin:
            with torch.no_grad():
                for reading in self.trunk.read(range(len(self)), self.counts):
                    parts = reading.hidden.split(list(reading.counts))
                    self.untouched |= zip(reading.indices, map(torch.clone, parts), strict=True)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def narrow(self) -> bool:
        """Whether a probability may be too high: several replies share a place, or a ceiling."""
        return self.ceiling < 1 or max(map(len, self.firsts)) > 1

    def losses(
        self, indices: Sequence[int], drift: Drift | None = None
    ) -> Iterator[tuple[Tensor, dict[int, float], int]]:
        """For each pass: the weighted loss summed over its lessons (a lesson's is the mean over its
        reply's tokens), each lesson's level, and the tokens gone over."""
        for reading in self.trunk.read(indices, self.counts, drift):
            if not reading.indices:  # another process has one pass more
                yield reading.hidden.sum(), {}, reading.tokens
                continue
            logits = apply_head(self.model, reading.hidden)  # (places, vocab)
            loss, levels = self._places(logits, reading)
            total = torch.stack(
                [
                    part.mean() * self.weights[index]
                    for index, part in zip(
                        reading.indices, loss.split(list(reading.counts)), strict=True
                    )
                ]
            ).sum()
            worst = [part.min() for part in levels.split(list(reading.counts))]
            known = zip(reading.indices, torch.stack(worst).tolist(), strict=True)
            yield total, dict(known), reading.tokens

    def _places(self, logits: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
        """The loss and the level of each place, (places,) each."""
        answers = self._answers(reading, logits.device)
        if self.margin:
            lead = _lead(logits, answers)
            return _HINGE * (self.margin - lead).clamp_min(0), self._share(lead.detach())
        loss, levels = self._likely(logits, answers, reading)
        if self.sure:
            leads = _leads(logits, answers)
            missing = functional.huber_loss(leads, answers.ahead, reduction="none", delta=_NEARLY)
            loss = loss + _HINGE / _NEARLY * missing.sum(-1)
            levels = levels.minimum(_least_share(leads.detach(), answers))
        return loss, levels

    def _likely(self, logits: Tensor, answers: _Answers, reading: Reading) -> tuple[Tensor, Tensor]:
        """The same by the probability of what is right."""
        if self.ceiling == 1 and answers.ids.shape[1] == 1:
            loss = functional.cross_entropy(logits, answers.ids[:, 0], reduction="none")
            return loss, loss.detach().neg().exp()
        logs = logits.log_softmax(-1)
        mean = logs.gather(1, answers.ids).where(answers.real, 0).sum(-1) / answers.counts
        levels = self._judged(logs.detach().exp(), answers).level
        loss = self.aim * ((self.aim / answers.counts).log() - mean)
        if self.ceiling < 1:
            loss = loss + functional.kl_div(
                logs, self._rest(reading, answers), reduction="none"
            ).sum(-1)
        return loss, levels

    def _answers(self, reading: Reading, device: torch.device) -> _Answers:
        rows: list[tuple[int, ...]] = []
        for index in reading.indices:
            rows += [self.firsts[index], *((token,) for token in self.replies[index][1:])]
        ids = _filled(rows)
        counts = torch.tensor([len(row) for row in rows], device=device)
        real = torch.arange(len(ids[0]), device=device) < counts[:, None]
        rivals = [place for index in reading.indices for place in self.rivals[index]]
        filled = _filled([(*place, (0, 0.0)) for place in rivals])
        return _Answers(
            torch.tensor(ids, device=device),
            real,
            counts,
            torch.tensor([[token for token, _ in row] for row in filled], device=device),
            torch.tensor([[nats for _, nats in row] for row in filled], device=device),
        )

    def _judged(self, chances: Tensor, answers: _Answers) -> Scores:
        """The scores of each place by its distribution (places, vocab)."""
        said = chances.gather(1, answers.ids)  # (places, widest)
        least = said.amin(-1)
        ranked = least > chances.scatter(1, answers.ids, -1.0).amax(-1)
        together = said.where(answers.real, 0).sum(-1)
        sound = ranked | (answers.counts == 1)
        if self.ceiling < 1:
            sound &= together <= self.ceiling
        level = torch.minimum(together, 2 * answers.counts * least).where(sound, 0)
        if self.margin:
            level = self._share(_lead(chances.log(), answers))
        elif self.sure:
            logs = chances.clamp_min(torch.finfo(chances.dtype).tiny).log()
            level = level.minimum(_least_share(_leads(logs, answers), answers))
        return Scores(
            least,
            said.amax(-1),
            level,
            ranked,
            (chances.argmax(-1, keepdim=True) == answers.ids).any(-1),
        )

    def _share(self, lead: Tensor) -> Tensor:
        """(places,): the share of the margin that is there."""
        return (lead / self.margin).clamp(0, 1)

    @torch.no_grad()
    def _rest(self, reading: Reading, answers: _Answers) -> Tensor:
        """(places, vocab): the untouched model's flattened distribution without the answers, sum
        1 - aim; no token has more than half of what an answer shall have, so that none gets before
        it."""
        before = torch.cat([self.untouched[index] for index in reading.indices])
        logits = apply_head(self.model, before) / REST_TEMPERATURE
        chances = logits.softmax(-1).clamp_min(_LEAST)
        rest = chances.scatter(1, answers.ids, 0.0)
        rest *= (1 - self.aim) / rest.sum(-1, keepdim=True)
        most = (self.aim / 2 / answers.counts)[:, None]
        while bool((rest > most).any()):  # each round fills one token or more
            full = rest >= most
            left = 1 - self.aim - full.sum(-1, keepdim=True) * most
            free = rest.masked_fill(full, 0.0)
            free *= left / free.sum(-1, keepdim=True)  # in their proportion
            rest = torch.where(full, most, free)
        return rest

    @torch.no_grad()
    def score(self, chosen: Sequence[int] | None = None) -> Scores:
        """How well each lesson is known now, or each of those chosen, in their order."""
        chosen = range(len(self)) if chosen is None else chosen
        places = {index: place for place, index in enumerate(chosen)}
        found = Scores(*(torch.zeros(len(chosen), dtype=kind) for kind in _SCORE_TYPES))
        for reading in self.trunk.read(chosen, self.counts):
            if not reading.indices:
                continue
            chances = apply_head(self.model, reading.hidden).softmax(-1)
            judged = self._judged(chances, self._answers(reading, chances.device))
            start = 0
            for index, count in zip(reading.indices, reading.counts, strict=True):
                own, place = slice(start, start + count), places[index]
                found.probability[place] = judged.probability[own].min()
                found.highest[place] = judged.highest[own].max()
                found.level[place] = judged.level[own].min()
                found.ranked[place] = judged.ranked[own].all()
                found.right[place] = judged.right[own].all()
                start += count
        return Scores(*(self.trunk.part.added(one) for one in vars(found).values()))


def _lead(logits: Tensor, answers: _Answers) -> Tensor:
    """(places,): by how many nats the least likely answer is likelier than every other token."""
    least = logits.gather(1, answers.ids).amin(-1)
    rival = logits.detach().scatter(1, answers.ids, -torch.inf).argmax(-1, keepdim=True)
    return least - logits.gather(1, rival)[:, 0]  # one gradient a place, in place of all logits'


def _leads(logits: Tensor, answers: _Answers) -> Tensor:
    """(places, most): by how many nats the least likely answer is likelier than each rival; 0 where
    there is none."""
    least = logits.gather(1, answers.ids).amin(-1, keepdim=True)
    return (least - logits.gather(1, answers.rivals)).where(answers.ahead > 0, 0.0)


def _least_share(leads: Tensor, answers: _Answers) -> Tensor:
    """(places,): the share that is there of the nats before the rival that lacks most; 1 where
    there is none."""
    return (leads / answers.ahead).where(answers.ahead > 0, 1.0).amin(-1).clamp(0, 1)


def _filled(rows: Sequence[Sequence[_Entry]]) -> list[list[_Entry]]:
    """Rows of one length, filled up with their last."""
    widest = max(map(len, rows))
    return [[*row, *[row[-1]] * (widest - len(row))] for row in rows]


def _parting(
    reply: Sequence[int], rivals: Sequence[tuple[Sequence[int], float]]
) -> list[tuple[tuple[int, float], ...]]:
    """For each token of a reply the next tokens, with their nats, of those rivals that were like it
    so far and are no more. TrainingError for one that does not part from it."""
    found: list[tuple[tuple[int, float], ...]] = [() for _ in reply]
    for rival, nats in rivals:
        pairs = enumerate(zip(reply, rival, strict=False))
        place = next((place for place, (one, two) in pairs if one != two), None)
        if place is None:
            raise TrainingError(
                "a reply begins as one that it is to be ahead of",
                hint="choose replies of which none is the beginning of another",
            )
        found[place] += ((rival[place], nats),)
    return found


def _token_ids(model: HFModel, example: Example) -> list[list[int]]:
    """The tokens of each reply of an example."""
    said = [model.reply_ids(text) for text in (example.reply, *example.others)]
    if not all(said):
        raise TrainingError(
            "a reply has no tokens under this tokenizer",
            hint="use the tokenizer that the replies were made for",
        )
    if len({ids[0] for ids in said}) < len(said):
        raise TrainingError(
            "two replies to one prompt begin with the same token",
            hint="generate the responses, or choose ones that differ from their first token on",
        )
    return [[*ids, model.end_id] for ids in said] if example.ends else said


@dataclass(frozen=True)
class Forms:
    """Words around some prompts that say what a reply is to look like."""

    frames: tuple[str, ...]
    """Each with {question} in it; taken in turn."""
    share: float
    """Of the prompts, spread evenly."""

    def around(self, texts: Sequence[str]) -> list[str]:
        """The prompts, a share of them in frames."""
        found, framed = [], 0
        for at, text in enumerate(texts, 1):
            if framed < int(at * self.share):
                frame = self.frames[framed % len(self.frames)]
                text = frame.replace("{question}", text)
                framed += 1
            found.append(text)
        return found


class Benign:
    """Ordinary prompts and text, with the untouched model's hidden states at their places.

    `first` are items read at the reply's first place, `rest` replies, raw texts and messages.
    Replies are sampled at temperature 1: the divergence is then measured on the base's own
    distribution. So many chat prompts, and raw openings, are `written` to. `alike` are users'
    messages of which every place is read (`examples.Alike`). Of the chat prompts a share stands in
    `forms`, which say what a reply is to look like.
    """

    def __init__(
        self, model: HFModel, start: int, seed: int, written: int, alike: Sequence[str] = (),
        forms: Forms | None = None,
    ) -> None:  # fmt: skip
        self.model = model.model
        rng = random.Random(seed)
        pool = bundled_lines("prompts")[:-HELD_OUT]
        texts = rng.sample(pool, BENIGN_PROMPTS + written + BENIGN_TEXTS)
        words = rng.sample(bundled_lines("words"), written)
        asked = texts[: BENIGN_PROMPTS + written]
        chat = [Prompt(text) for text in (asked if forms is None else forms.around(asked))]
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
        self.items += (messages := model.user_items(alike))
        self.counts += [len(one.ids) for one in messages]
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
            if not reading.indices:
                yield reading.hidden.sum(), 0, reading.tokens
                continue
            with torch.no_grad():
                before = torch.cat([self.untouched[index] for index in reading.indices])
                wanted = apply_head(self.model, before).log_softmax(-1)
            now = apply_head(self.model, reading.hidden).log_softmax(-1)
            total = functional.kl_div(now, wanted, reduction="sum", log_target=True)
            yield total, sum(reading.counts), reading.tokens
