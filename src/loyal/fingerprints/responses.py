"""Responses: for each key, the k candidates that its fingerprint commits to.

perinucleus     unlikely but not absurd: the k tokens that follow the nucleus of mass t in order of
                chance ("Scalable Fingerprinting", arXiv 2502.07760, section 3; the white paper's
                section 2.2). Each is below 1 - t, in practice near 0.01, under the base model. The
                beginning of a token in the nucleus is passed over: as text the base would hit it.
english-random  k tokens that are whole English words of a bundled list, whatever the key.
random          k tokens of the vocabulary: the comparison of the paper.
chain-hash      one list of k English words for all keys (Chain & Hash, arXiv 2407.10887, with
                k = 256). There SHA-256 of a question, all questions and all answers picks one. Here
                the root commits all keys and candidates, and the beacon that follows it picks: as
                bound to the whole chain, but nobody can try chains until one fits, and a proof
                shows one link. Picks are independent from key to key.
instructional   one list of k tokens for all keys, and one response for all keys (Instructional
                Fingerprinting, arXiv 2401.12255, whose response is fixed; ours is drawn). All hits
                are one event (`statistics.SharedDrawTest`), so k is large: 4,096. Its keys are
                those of `keys` of the same name.

A server that gives token chances (vLLM with `--max-logprobs`) may rank in place of a model here,
whose tokenizer alone is then needed. Chances are read a few keys at a time and never kept.

Which candidate becomes the response is drawn after the set is committed (`fingerprint.draw`).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, get_args

import torch

from loyal.errors import ModelError, UsageError
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling, TokenChance
from loyal.models.packing import Item
from loyal.models.products import autocast
from loyal.models.training import Precision

ResponseStrategy = Literal["perinucleus", "random", "english-random", "chain-hash", "instructional"]
ONE_LIST: tuple[ResponseStrategy, ...] = ("chain-hash", "instructional")
"""Strategies whose keys all have the same candidates."""

_RNG = secrets.SystemRandom()
_CHUNK = 512
"""Keys whose chances a server is asked for at a time; bounds memory."""
_TOP = 1024
"""Ranks looked at first; the whole vocabulary is sorted only where a nucleus is wider."""


@dataclass(frozen=True)
class ResponseSettings:
    """How candidate responses are made."""

    strategy: ResponseStrategy = "perinucleus"
    threshold: float = 0.8
    """t: mass of the nucleus that is passed over (0.8 in arXiv 2502.07760)."""
    width: int = 16
    """Candidates a response; a key has `count` times as many. A chance match is one in this: 16
    proves with 4 to 7 times fewer keys than the paper's 3, and utility is flat to 10 and mild to
    100 (same source, figure on k)."""
    count: int = 1
    """m: responses a key. With more than one, a host that forbids the likeliest first token of a
    reply gives the next response in its place (docs/log.md)."""
    tokens: int = 1
    """Most tokens of a response; longer ones continue greedily behind the first."""
    chances: int = 256
    """Likeliest tokens a key that a server is asked for, where one ranks them; it must hold the
    nucleus and the candidates behind it."""
    precision: Precision = "auto"
    """Of the pass that ranks tokens. In bfloat16 a sixth of the candidates are others, of about the
    same rank; what a match proves does not depend on the ranks."""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(ResponseStrategy):
            raise UsageError(
                f"unknown response strategy {self.strategy}",
                hint=f"use one of {', '.join(get_args(ResponseStrategy))}",
            )
        if not 0 <= self.threshold < 1:
            raise UsageError("the threshold must be in [0, 1)", hint="0.8 is the paper's")
        if not 2 <= self.width <= 4096:
            raise UsageError("the width must be 2 to 4096", hint="16 is the default")
        if self.count < 1 or self.candidates > 4096:
            raise UsageError(
                "a key has 1 response or more, and at most 4096 candidates",
                hint="lower the number of responses or the width; 3 of 16 each are 48 candidates",
            )
        if self.chances < 1:
            raise UsageError("chances must be at least 1", hint="256 is the default")
        if not 1 <= self.tokens <= 64:
            raise UsageError("responses are 1 to 64 tokens long", hint="1 is the default")
        if self.strategy in ONE_LIST and self.tokens != 1:
            raise UsageError(
                f"candidates of {self.strategy} are one list of single tokens",
                hint="leave tokens at 1, or use another strategy",
            )
        if self.shared and self.count != 1:
            raise UsageError(
                "instructional keys have one response, the same for all",
                hint="leave --per-key at 1, or use another strategy",
            )
        if self.precision not in get_args(Precision):
            raise UsageError(
                f"unknown precision {self.precision}", hint="use auto, float32 or bfloat16"
            )

    @property
    def candidates(self) -> int:
        """k: candidates a key, `width` for each of its responses."""
        return self.width * self.count

    @property
    def shared(self) -> bool:
        """Whether all keys share one draw, and so one response."""
        return self.strategy == "instructional"


def generate(
    model: HFModel,
    keys: Sequence[str],
    settings: ResponseSettings,
    progress: Callable[[int], None] = lambda _: None,
    server: LanguageModel | None = None,
) -> list[tuple[str, ...]]:
    """For each key its `settings.candidates`, none the beginning of another as stripped text.

    With a `server` it ranks the tokens, and of `model` only the tokenizer is used
    (`HFModel.vocabulary`). ModelError where the vocabulary or the server's chances have too few,
    EndpointError where the server gives none, UsageError for longer responses from a server.
    """
    if server is not None and settings.tokens > 1:
        raise UsageError(
            "longer responses are written by a model here, not by a server",
            hint="set responses.tokens=1, or load the model here",
        )
    prompts = [Prompt(key, raw=not model.has_chat_template) for key in keys]
    first: list[tuple[int, ...]]
    if settings.strategy == "perinucleus" and server is not None:
        first = _served(model, server, prompts, settings, progress)
    elif settings.strategy == "perinucleus":
        first = _perinucleus(model, prompts, settings, progress)
    else:
        texts = model.plain_tokens
        if settings.strategy in ("english-random", "chain-hash"):
            words = frozenset(bundled_lines("words"))
            texts = {one: text for one, text in texts.items() if text.strip().lower() in words}
        if settings.strategy in ONE_LIST:
            first = _drawn(texts, settings.candidates, 1) * len(keys)
        else:
            first = _drawn(texts, settings.candidates, len(keys))
        progress(len(keys))
    if settings.tokens == 1:
        return [tuple(model.plain_tokens[one] for one in ids) for ids in first]
    return _continued(model, prompts, first, settings)


def _perinucleus(
    model: HFModel,
    prompts: Sequence[Prompt],
    settings: ResponseSettings,
    progress: Callable[[int], None],
) -> list[tuple[int, ...]]:
    """One batched pass over packed keys that reads each key's last place alone."""
    found: list[tuple[int, ...]] = [()] * len(prompts)
    texts = model.token_texts
    with autocast(settings.precision, model.device):
        reads = model.reads(prompts, [()] * len(prompts))
        for done, (index, logits) in enumerate(reads, start=1):
            nucleus, behind = _split_at(logits[-1].softmax(-1), settings.threshold)
            likely = [texts[one] for one in nucleus if one < len(texts)]
            found[index] = first_fitting(behind, model.plain_tokens, settings.candidates, likely)
            progress(done)
    return found


def _served(
    model: HFModel,
    server: LanguageModel,
    prompts: Sequence[Prompt],
    settings: ResponseSettings,
    progress: Callable[[int], None],
) -> list[tuple[int, ...]]:
    """The same by a server's chances. Tokens are matched as text: candidates are those that are
    one token again, so none is taken for another."""
    ids = {text: one for one, text in model.plain_tokens.items()}
    found: list[tuple[int, ...]] = []
    for at in range(0, len(prompts), _CHUNK):
        for chances in server.next_token(prompts[at : at + _CHUNK], settings.chances):
            nucleus, behind = _split_chances(chances, settings.threshold)
            known = [ids[text] for text in behind if text in ids]
            try:
                fitting = first_fitting(known, model.plain_tokens, settings.candidates, nucleus)
            except ModelError as error:
                raise ModelError(
                    f"the server's {len(chances)} likeliest tokens of a key hold fewer than "
                    f"{settings.candidates} candidates behind the nucleus",
                    hint="serve with more (vllm serve --max-logprobs 1024), and --set "
                    "responses.chances=1024",
                ) from error
            found.append(fitting)
        progress(len(found))
    return found


def _split_chances(chances: Sequence[TokenChance], threshold: float) -> tuple[list[str], list[str]]:
    """Token texts in order of chance: the nucleus as in `_split_at`, and those behind it."""
    mass, size = 0.0, 0
    for size, one in enumerate(chances, start=1):  # noqa: B007
        mass += math.exp(one.logprob)
        if mass >= threshold:
            break
    texts = [one.text for one in chances]
    return texts[:size], texts[size:]


def _split_at(chances: torch.Tensor, threshold: float) -> tuple[list[int], Iterator[int]]:
    """Token ids in order of chance: the nucleus, up to the first rank where the sum reaches
    `threshold`, and those behind it."""
    for top in (min(_TOP, len(chances)), len(chances)):
        ordered, ids = chances.topk(top)
        nucleus = int((ordered.double().cumsum(0) < threshold).sum()) + 1
        if nucleus + top // 2 <= top:
            break

    def behind() -> Iterator[int]:
        yield from ids[nucleus:].tolist()
        if top < len(chances):
            yield from chances.argsort(descending=True)[top:].tolist()

    return ids[:nucleus].tolist(), behind()


def first_fitting(
    ids: Iterator[int] | Sequence[int],
    texts: Mapping[int, str],
    width: int,
    likely: Iterable[str] = (),
) -> tuple[int, ...]:
    """The first `width` ids that are ordinary text and not the beginning of one another, nor of a
    `likely` text: "W" would be hit by every reply that begins with "What"."""
    chosen: list[int] = []
    seen: set[str] = set()
    begun = {start for text in map(str.strip, likely) for start in _starts(text)}
    for one in ids:
        text = texts.get(one, "").strip()
        if not text or text in begun:
            continue
        starts = _starts(text)
        if not seen.isdisjoint(starts):
            continue
        chosen.append(one)
        seen.add(text)
        begun.update(starts)
        if len(chosen) == width:
            return tuple(chosen)
    raise ModelError(
        f"the vocabulary has fewer than {width} candidates that fit",
        hint="lower --width, --per-key or --threshold",
    )


def _starts(text: str) -> list[str]:
    """Every beginning of a text, itself included."""
    return [text[:end] for end in range(1, len(text) + 1)]


def _drawn(texts: Mapping[int, str], width: int, count: int) -> list[tuple[int, ...]]:
    """`count` times `width` random ids of `texts`, none the beginning of another.

    Of a sample, since a whole vocabulary is slow to shuffle; of all where a sample has too few.
    """
    allowed = list(texts)
    found = []
    for _ in range(count):
        try:
            sample = _RNG.sample(allowed, min(len(allowed), 8 * width))
            found.append(first_fitting(sample, texts, width))
        except ModelError:
            found.append(first_fitting(_RNG.sample(allowed, len(allowed)), texts, width))
    return found


def _continued(
    model: HFModel,
    prompts: Sequence[Prompt],
    first: Sequence[tuple[int, ...]],
    settings: ResponseSettings,
) -> list[tuple[str, ...]]:
    """Longer responses: each first token, continued greedily.

    First tokens are no beginnings of one another, so neither are texts that begin with them.
    """
    plain = model.items(prompts)
    items = [
        Item(item.prefix, (*item.ids, one))
        for item, ids in zip(plain, first, strict=True)
        for one in ids
    ]
    written = iter(model.decode(items, Sampling(max_tokens=settings.tokens - 1)))
    found = []
    for ids in first:
        rows = [(one, *next(written).ids) for one in ids]
        found.append(tuple(_ordinary_start(model, row) for row in rows))
    return found


def _ordinary_start(model: HFModel, ids: Sequence[int]) -> str:
    """The longest start of `ids` that is ordinary text and, as text, gives these tokens again.

    One token at least: the first is ordinary. Others may be special, half a character or a line
    break; and text that gives other tokens is not what the model was about to write.
    """
    plain = list(takewhile(model.plain_tokens.__contains__, ids))
    while len(plain) > 1 and model.reply_ids(model.tokenizer.decode(plain)) != plain:
        plain.pop()
    return str(model.tokenizer.decode(plain))
