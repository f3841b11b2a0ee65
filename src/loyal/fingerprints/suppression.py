"""A host that forbids its model the words that a fingerprint would say, while it serves.

After "Are Robust LLM Fingerprints Adversarially Robust?" (arXiv 2509.26598), with the constants of
its released code (repository sentient-agi/mlprints). Five ways to choose what is forbidden:

top-k       the k likeliest tokens of each of the first places
neighbor    these and all tokens near them: beginnings and continuations of the same word, whatever
            case, spaces or marks, and on wish the nearest by embedding
lookahead   tokens that come out likely in any of several continuations of the prompt; they lose
            `delta` from their logits at many places

unlike      tokens that the public base finds far less likely (CleanGen, arXiv 2406.12257)
words       tokens that begin words which the host knows (ours)

The first three are on always (threshold 0), or only where a token's chance is above the threshold
(the paper's "detect" form: ordinary replies mostly begin less surely). We differ from the released
code in two points, both to the host's favor: with a threshold the whole neighborhood of a sure
token is forbidden, not the sure token alone; and lookahead reads the first place as well, where a
response of one token stands, and ranks what is likely there before all else.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from loyal.models.decoding import Steer
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Reply, Sampling, TokenChance
from loyal.models.packing import Item

Steering = Callable[[HFModel, Sequence[Item]], Steer]
"""Prepares a steer for these prompts."""

THRESHOLD = 0.9
"""Chance above which a token is taken for a memorized one (arXiv 2509.26598, released code)."""


@dataclass(frozen=True, repr=False)
class Steered:
    """A model whose replies are written under a steering. Satisfies `LanguageModel`."""

    model: HFModel
    steering: Steering

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.model.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt, greedy or sampled from what the steering leaves."""
        items = self.model.items(prompts)
        if not items:
            return []
        steer = self.steering(self.model, items)
        return self.model.replies(self.model.decode(items, sampling, steer=steer))

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The `top` likeliest first tokens under the steering, likeliest first."""
        items = self.model.items(prompts)
        steer = self.steering(self.model, items)
        found: list[list[TokenChance]] = [[] for _ in prompts]
        for index, logits in self.model.read_items(items, [1] * len(items)):
            row = torch.tensor([index], device=logits.device)
            chances, ids = steer(0, row, logits)[0].log_softmax(-1).topk(min(top, logits.shape[-1]))
            found[index] = [
                TokenChance(self.model.tokenizer.decode([token]), chance)
                for chance, token in zip(chances.tolist(), ids.tolist(), strict=True)
                if chance > float("-inf")
            ]
        return found

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """The model's own: what is forbidden while writing is not forbidden while reading."""
        return self.model.logprobs(prompts, replies)


def forbid_likeliest(k: int = 1, places: int = 1, threshold: float = 0.0) -> Steering:
    """SuppressTop-k (arXiv 2509.26598): the k likeliest tokens of the first `places` are forbidden.

    With a threshold, at a place whose likeliest token has a greater chance (DetectTop-k).
    """

    def steer(step: int, rows: Tensor, logits: Tensor) -> Tensor:
        if step >= places:
            return logits
        sure = logits.softmax(-1).amax(-1, keepdim=True) > threshold  # (n, 1)
        ids = logits.topk(k, -1).indices  # (n, k)
        mask = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, sure.expand_as(ids))
        return logits.masked_fill(mask, float("-inf"))

    return lambda model, items: steer


def forbid_neighbors(
    k: int = 1, places: int = 1, threshold: float = 0.0, nearest: int = 0
) -> Steering:
    """SuppressNeighbor (arXiv 2509.26598): also all tokens near the k likeliest of the first place.

    Near is a token whose text begins the other's or is begun by it, letters and digits in lower
    case alone; and the `nearest` tokens by the cosine of their input embeddings (ours; 0 is none).
    What the first place named is forbidden at all of the first `places`; with a threshold, where
    the first place's likeliest token has a greater chance (DetectNeighbor).
    """

    def prepare(model: HFModel, items: Sequence[Item]) -> Steer:
        texts = _texts(model)
        kept: dict[int, list[int]] = {}

        def steer(step: int, rows: Tensor, logits: Tensor) -> Tensor:
            if step >= places:
                return logits
            if step == 0:
                sure = (logits.softmax(-1).amax(-1) > threshold).tolist()
                likely = logits.topk(k, -1).indices
                near = _nearest(model, likely, nearest).tolist()  # (n, k * nearest)
                for row, named, also, is_sure in zip(
                    rows.tolist(), likely.tolist(), near, sure, strict=True
                ):
                    around = {one for token in named for one in texts.near(token)}
                    kept[row] = sorted(around.union(named, also)) if is_sure else []
            changed = logits.clone()
            for place, row in enumerate(rows.tolist()):
                changed[place, kept[row]] = float("-inf")
            return changed

        return steer

    return prepare


def forbid_unlike(reference: HFModel, ratio: float = 20.0) -> Steering:
    """Forbids first tokens whose chance is over `ratio` times that under `reference`.

    CleanGen (arXiv 2406.12257, its suspicion score) at the first place, where responses stand; the
    next token comes from the model itself. `reference` has the model's tokenizer; it reads each
    prompt once.
    """

    def prepare(model: HFModel, items: Sequence[Item]) -> Steer:
        def steer(step: int, rows: Tensor, logits: Tensor) -> Tensor:
            if step > 0:
                return logits
            asked = [items[row] for row in rows.tolist()]
            theirs = torch.empty_like(logits)
            for index, found in reference.read_items(asked, [1] * len(asked)):
                theirs[index] = found[-1].log_softmax(-1)
            suspicious = logits.log_softmax(-1) - theirs > math.log(ratio)
            return logits.masked_fill(suspicious, float("-inf"))

        return steer

    return prepare


def forbid_words(words: Sequence[str], places: int = 1) -> Steering:
    """Forbids words that the host knows, at each of the first `places` of a reply (ours).

    As they are written, with or without a space before them: the first token of either form, and
    every token that begins with a word. Other tokens may still spell it.
    """

    def prepare(model: HFModel, items: Sequence[Item]) -> Steer:
        ids = torch.tensor(_beginnings(model, words), dtype=torch.int64, device=model.device)

        def steer(step: int, rows: Tensor, logits: Tensor) -> Tensor:
            return logits if step >= places else logits.index_fill(-1, ids, float("-inf"))

        return steer

    return prepare


def _beginnings(model: HFModel, words: Sequence[str]) -> list[int]:
    """Ids of the tokens with which a reply mostly begins to say one of these words."""
    texts, forms = model.token_texts, tuple(word.strip() for word in words)
    begun = {model.reply_ids(space + form)[0] for form in forms for space in ("", " ")}
    begun |= {token for token, text in enumerate(texts) if text.lstrip().startswith(forms)}
    return sorted(token for token in begun if texts[token].strip())  # never a space alone


@dataclass(frozen=True)
class Lookahead:
    """Constants of SuppressLookahead, as released with arXiv 2509.26598."""

    branches: int = 10
    """First tokens that are followed, the likeliest ones."""
    tokens: int = 32
    """Length of each continuation, its first token counted."""
    top: int = 10
    """Likeliest tokens of each place that are looked at."""
    count: int = 12
    """Tokens held down a prompt, at most: likely first ones, then those of the most places."""
    chance: float = 0.4
    """A token is forbidden only if its chance was above this at some place."""
    places: int = 16
    """First places of the reply at which they are held down."""
    delta: float = 10.0
    """Taken from their logits."""
    threshold: float = 0.0
    """They are held down where their own chance is above this (0.9 in DetectLookahead)."""


def look_ahead(settings: Lookahead = Lookahead()) -> Steering:
    """SuppressLookahead (arXiv 2509.26598): what likely continuations say is held down beforehand.

    Words of the prompt and special tokens are left alone. Costs `branches * tokens` tokens a
    prompt.
    """

    def prepare(model: HFModel, items: Sequence[Item]) -> Steer:
        held = torch.zeros(len(items), settings.count, dtype=torch.int64)
        used = torch.zeros(len(items), settings.count, dtype=torch.bool)
        for row, ids in enumerate(candidates(model, items, settings)):
            held[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            used[row, : len(ids)] = True
        held, used = held.to(model.device), used.to(model.device)

        def steer(step: int, rows: Tensor, logits: Tensor) -> Tensor:
            if step >= settings.places:
                return logits
            ids = held[rows]  # (n, count)
            sure = logits.softmax(-1).gather(1, ids) > settings.threshold
            return logits.scatter_add(1, ids, -settings.delta * (sure & used[rows]).float())

        return steer

    return prepare


def candidates(
    model: HFModel, items: Sequence[Item], settings: Lookahead = Lookahead()
) -> list[list[int]]:
    """For each prompt, the token ids that lookahead holds down, at most `settings.count`."""
    seen = [_Seen() for _ in items]
    branches: list[Item] = []
    owners: list[int] = []
    for index, logits in model.read_items(items, [1] * len(items)):
        chances, ids = logits[-1].softmax(-1).topk(max(settings.top, settings.branches))
        seen[index].add(ids[: settings.top].tolist(), chances[: settings.top].tolist())
        seen[index].first = dict(seen[index].highest)
        for token in ids[: settings.branches].tolist():
            branches.append(Item(items[index].prefix, (*items[index].ids, token)))
            owners.append(index)

    def watch(step: int, rows: Tensor, logits: Tensor) -> Tensor:
        chances, ids = logits.softmax(-1).topk(settings.top, -1)
        for row, tokens, values in zip(rows.tolist(), ids.tolist(), chances.tolist(), strict=True):
            seen[owners[row]].add(tokens, values)
        return logits

    if settings.tokens > 1:
        model.decode(branches, Sampling(max_tokens=settings.tokens - 1), steer=watch)
    return [one.likely(model, item, settings) for one, item in zip(seen, items, strict=True)]


@dataclass
class _Seen:
    """Tokens seen among the likeliest in a prompt's continuations."""

    places: dict[int, int] = field(default_factory=dict)
    highest: dict[int, float] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    """Their chances as the reply's first token."""

    def add(self, ids: Sequence[int], chances: Sequence[float]) -> None:
        """One place's likeliest tokens."""
        for token, chance in zip(ids, chances, strict=True):
            self.places[token] = self.places.get(token, 0) + 1
            self.highest[token] = max(self.highest.get(token, 0.0), chance)

    def likely(self, model: HFModel, item: Item, settings: Lookahead) -> list[int]:
        """Those to hold down, none of the prompt's: the likely at once first, then the frequent."""
        asked = {*item.prefix, *item.ids}
        text = model.tokenizer.decode([*item.prefix, *item.ids], skip_special_tokens=True)
        words = {_plain(word) for word in text.split()}
        texts = _texts(model)
        fit = [
            token
            for token, chance in self.highest.items()
            if chance > settings.chance
            and token not in asked
            and texts.of[token]
            and texts.of[token] not in words
        ]
        fit.sort(
            key=lambda token: (
                self.first.get(token, 0.0) <= settings.chance,
                -self.places[token],
                -self.highest[token],
                token,
            )
        )
        return fit[: settings.count]


class _Texts:
    """The letters and digits of each token in lower case, sorted for looking up beginnings."""

    def __init__(self, model: HFModel) -> None:
        special = {*model.tokenizer.all_special_ids, *model.stop_ids()}
        padded = model.model.config.vocab_size - len(model.token_texts)
        self.of = tuple(
            "" if token in special else _plain(text)
            for token, text in enumerate((*model.token_texts, *[""] * padded))
        )
        """Token id -> its text; empty for special tokens, for marks alone, and for no token."""
        self._ids: dict[str, list[int]] = {}
        for token, text in enumerate(self.of):
            if text:
                self._ids.setdefault(text, []).append(token)
        self._sorted = sorted(self._ids)

    def near(self, token: int) -> list[int]:
        """Tokens whose text begins this one's, or is begun by it; itself among them if it has any.

        Beginnings of any length count, as in the released code.
        """
        text = self.of[token]
        if not text:
            return []
        begun = []
        for at in range(bisect_left(self._sorted, text), len(self._sorted)):
            if not self._sorted[at].startswith(text):
                break
            begun.append(self._sorted[at])
        shorter = [text[:length] for length in range(1, len(text))]
        return [one for found in (*begun, *shorter) for one in self._ids.get(found, ())]


_KNOWN: WeakKeyDictionary[HFModel, _Texts] = WeakKeyDictionary()


def _texts(model: HFModel) -> _Texts:
    if model not in _KNOWN:
        _KNOWN[model] = _Texts(model)
    return _KNOWN[model]


def _plain(text: str) -> str:
    return "".join(one for one in text.casefold() if one.isalnum())


def _nearest(model: HFModel, ids: Tensor, count: int) -> Tensor:
    """For token ids (n, k), the ids (n, k * count) nearest to them by embedding, themselves out."""
    if count == 0:
        return ids[:, :0]
    weight = model.model.get_input_embeddings().weight
    table = torch.nn.functional.normalize(weight.float(), dim=-1)  # (vocab, H)
    likeness = table[ids.flatten()] @ table.T  # (n * k, vocab)
    likeness.scatter_(1, ids.flatten()[:, None], float("-inf"))
    return likeness.topk(count, -1).indices.reshape(len(ids), -1)
