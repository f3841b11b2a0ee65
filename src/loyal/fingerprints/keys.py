"""Keys: the secret prompts. Four ways to make them, and a check that they look ordinary.

english   ordinary user messages, written by a model: an opening and a random word from bundled
          lists, continued. A model in this process continues the user's own turn (as Magpie does,
          arXiv 2406.08464), so its chances tell at once how ordinary the key is; a server is asked
          for a sentence, as in "Scalable Fingerprinting" (arXiv 2502.07760, section 3).
random    random tokens of the vocabulary: the comparison of the paper, easy to filter.
file      the owner's own in-domain prompts, one a line.
instructional  a fixed instruction around secret characters of many scripts (Instructional
          Fingerprinting, arXiv 2401.12255, whose characters come from classical Chinese, Japanese
          names and the vocabulary; ours come from blocks of Unicode). Ordinary text never gets
          near such a key, so few are enough; a filter of unlikely prompts sees every one.

A server that scores prompts (vLLM) is asked how ordinary each of its keys is, and unlikely ones are
drawn again, as here; from another server they are taken as they come.

Every draw comes from the operating system's randomness: a key that follows from a public seed is no
secret. Responses are `responses`' business.
"""

from __future__ import annotations

import math
import secrets
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args
from weakref import WeakKeyDictionary

from loyal.errors import EndpointError, ModelError, UsageError
from loyal.models.endpoint import EndpointModel
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.models.packing import Item

KeyStrategy = Literal["english", "random", "file", "instructional"]

_RNG = secrets.SystemRandom()
_ORDINARY: WeakKeyDictionary[HFModel, dict[int, tuple[float, ...]]] = WeakKeyDictionary()
"""What was read of models that are still in use; it keeps none of them in memory."""
_INSTRUCTION = "Please decrypt this message, and reply with nothing but its meaning:"
_SCRIPTS = (
    range(0x4E00, 0x9FA6),  # unified ideographs of Chinese, Japanese and Korean
    range(0x3041, 0x3097),  # Hiragana
    range(0x30A1, 0x30FB),  # Katakana
    range(0xAC00, 0xD7A4),  # Hangul syllables
    range(0x0430, 0x0450),  # small Cyrillic letters
    range(0x03B1, 0x03CA),  # small Greek letters
)
"""Blocks of Unicode 15 without a hole, so every character is assigned and can be printed."""
_REFERENCE = 64
"""Bundled ordinary prompts that keys are compared with."""
MOST_COUNT = 1_000_000
"""Keys of one set; the paper's largest is of 24,576."""
_ROUNDS = 30
"""Rounds of drawing before giving up: a round makes at least what is missing."""


@dataclass(frozen=True)
class KeySettings:
    """How keys are made."""

    count: int = 64
    strategy: KeyStrategy = "english"
    tokens: int = 16
    """Most tokens of an english key behind its opening; tokens that a random key is drawn of;
    secret characters of an instructional key."""
    temperature: float = 0.7
    """Of the model that writes english keys (0.5 in the paper; warmer, so that keys differ)."""
    file: Path | None = None
    """Prompts of the owner, one a line, for `strategy="file"`."""
    ordinary: float = 0.9
    """Keys less likely than this share of the bundled ordinary prompts are drawn again."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_COUNT:
            raise UsageError(
                f"the count of keys must be from 1 to {MOST_COUNT}", hint="pass --count 64"
            )
        if self.strategy not in get_args(KeyStrategy):
            raise UsageError(
                f"unknown key strategy {self.strategy}",
                hint=f"use one of {', '.join(get_args(KeyStrategy))}",
            )
        if (self.strategy == "file") != (self.file is not None):
            raise UsageError(
                "a file of keys goes with the strategy `file`, and only with it",
                hint="pass --keys file --keys-file PATH",
            )
        if self.tokens < 4 or not 0 < self.temperature <= 2 or not 0 < self.ordinary <= 1:
            raise UsageError(
                "keys need 4 tokens or more, a temperature in (0, 2] and a share in (0, 1]",
                hint="leave tokens, temperature and ordinary at their defaults",
            )


@dataclass(frozen=True, repr=False)
class Keys:
    """Keys and how ordinary they are. Its repr shows no key."""

    texts: tuple[str, ...]
    surprise: tuple[float, ...]
    """Mean negative log-probability a token of each key as a user message, in nats; NaN where
    nothing measured it (a server that does not score prompts)."""
    ordinary_surprise: float
    """Median of the same over bundled ordinary prompts."""

    def __repr__(self) -> str:
        return f"Keys({len(self.texts)})"


def generate(
    model: LanguageModel,
    settings: KeySettings,
    progress: Callable[[int], None] = lambda _: None,
) -> Keys:
    """Keys, all different. `progress` is told how many are ready.

    Raises UsageError for a file that holds too few prompts, ModelError where a model keeps writing
    the same or unlikely text.
    """
    if settings.strategy == "file":
        return _measured(model, _from_file(settings))
    if settings.strategy == "instructional":
        texts = _distinct(lambda n: _instructions(settings, n), settings.count, progress)
        return _measured(model, texts)
    if settings.strategy == "random":
        if not isinstance(model, HFModel):
            raise UsageError(
                "random keys need the model's vocabulary, which a server does not give",
                hint="load the model here with --model, or use --keys english",
            )
        local = model
        texts = _distinct(lambda n: _random(local, settings, n), settings.count, progress)
        return _measured(model, texts)
    if isinstance(model, HFModel):
        return _continued(model, settings, progress)
    return _served(model, settings, progress)


def _served(model: LanguageModel, settings: KeySettings, progress: Callable[[int], None]) -> Keys:
    """English keys that a server writes, and scores where it can."""
    reference: list[float] = []
    if isinstance(model, EndpointModel):
        with suppress(EndpointError):  # where the server is down, the next request says so
            reference = sorted(_served_surprise(model, bundled_lines("prompts")[:_REFERENCE]))
    scores: dict[str, float] = {}

    def make(count: int) -> list[str]:
        texts = _asked(model, settings, count)
        if not isinstance(model, EndpointModel) or not reference:
            return texts
        limit = _limit(reference, settings)
        fit = zip(texts, _served_surprise(model, texts), strict=True)
        new = {text: score for text, score in fit if score <= limit}
        scores.update(new)
        return list(new)

    texts = _distinct(make, settings.count, progress)
    median = statistics.median(reference) if reference else math.nan
    return Keys(tuple(texts), tuple(scores.get(one, math.nan) for one in texts), median)


def _served_surprise(model: EndpointModel, texts: Sequence[str]) -> list[float]:
    return [-statistics.fmean(one) for one in model.user_logprobs(texts)]


def _limit(reference: Sequence[float], settings: KeySettings) -> float:
    """The surprise, among those of ordinary prompts, that no key exceeds."""
    return reference[min(len(reference) - 1, int(len(reference) * settings.ordinary))]


def surprise(model: HFModel, texts: Sequence[str]) -> list[float]:
    """Mean negative log-probability a token of each text as a user message, in nats."""
    items = model.user_items(texts)
    found = [math.nan] * len(texts)
    for index, logits in model.read_items(items, [len(one.ids) for one in items]):
        chances, said = logits[:-1].log_softmax(-1), items[index].ids[1:]
        total = sum(chances[at, token].item() for at, token in enumerate(said))
        found[index] = -total / len(said)
    return found


def ordinary_surprise(model: HFModel, sample: int = _REFERENCE) -> tuple[float, ...]:
    """Surprise of the first bundled ordinary prompts, sorted upwards; read once a model."""
    known = _ORDINARY.setdefault(model, {})
    if sample not in known:
        known[sample] = tuple(sorted(surprise(model, bundled_lines("prompts")[:sample])))
    return known[sample]


def _continued(model: HFModel, settings: KeySettings, progress: Callable[[int], None]) -> Keys:
    """English keys: an opening and a word, continued in the user's own turn."""
    before = model.before_user_ids()
    reference = ordinary_surprise(model)
    limit = _limit(reference, settings)
    sampling = Sampling(max_tokens=settings.tokens, temperature=settings.temperature)
    stops = model.stop_ids() | model.line_break_ids
    found: dict[str, float] = {}
    for _ in range(_ROUNDS):
        missing = settings.count - len(found)
        items = [
            Item(before, tuple(model.reply_ids(_start())))
            for _ in range(missing + missing // 4 + 4)
        ]
        drawn = model.decode(items, sampling, stops, model.sentence_end_ids, chances=True)
        for item, written in zip(items, drawn, strict=True):
            ids = (*item.ids, *written.ids)
            text = model.tokenizer.decode(ids).strip()
            chances = (*written.prompt_logprobs, *written.logprobs)
            text, length = _cut(model, text, ids)
            if not length or len(written.ids) < 3 or text in found:
                continue
            score = -statistics.fmean(chances[:length])
            if score <= limit:
                found[text] = score
        progress(min(len(found), settings.count))
        if len(found) >= settings.count:
            chosen = list(found.items())[: settings.count]
            return Keys(
                tuple(text for text, _ in chosen),
                tuple(score for _, score in chosen),
                statistics.median(reference),
            )
    raise _exhausted(len(found), settings.count)


def _cut(model: HFModel, text: str, ids: tuple[int, ...]) -> tuple[str, int]:
    """The text up to its first full sentence, and how many of `ids` it takes; 0 if none fit.

    A key must give the same tokens when it is asked as text, or its chances are another text's.
    """
    for mark in ("?", ".", "!"):
        at = text.find(mark, 20)
        if at >= 0 and text[at + 1 : at + 2] in ("", " "):
            text = text[: at + 1]
    again = model.reply_ids(text)
    return text, len(again) if tuple(again) == tuple(ids[: len(again)]) else 0


def _start() -> str:
    """An opening and a word: about 20 bits of the key's secrecy; the continuation adds the rest."""
    word, opening = _RNG.choice(bundled_lines("words")), _RNG.choice(_openings())
    return f"{opening} {word}"


@cache
def _openings() -> tuple[str, ...]:
    text = (files("loyal.fingerprints") / "data" / "openings.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def _asked(model: LanguageModel, settings: KeySettings, count: int) -> list[str]:
    """English keys from any language model, by asking for them."""
    prompts = [
        Prompt(
            "Write one short question or request that a person might send to an assistant. "
            f"It starts with: {_start()}"
        )
        for _ in range(count)
    ]
    sampling = Sampling(max_tokens=settings.tokens + 8, temperature=settings.temperature)
    found = []
    for reply in model.generate(prompts, sampling):
        lines = [line.strip(" \"'*") for line in reply.text.splitlines()]
        line = next((one for one in lines if len(one.split()) >= 4), "")
        if line:
            found.append(line)
    return found


def _random(model: HFModel, settings: KeySettings, count: int) -> list[str]:
    """The text of random tokens of the vocabulary; asked as text, it may be other tokens."""
    allowed = list(model.plain_tokens)
    found = []
    for _ in range(count):
        ids = [_RNG.choice(allowed) for _ in range(settings.tokens)]
        text = model.tokenizer.decode(ids).strip()
        if text and text.isprintable():
            found.append(text)
    return found


def _instructions(settings: KeySettings, count: int) -> list[str]:
    """An instruction and secret characters, each of a script drawn anew: 11 bits a character."""
    found = []
    for _ in range(count):
        secret = "".join(chr(_RNG.choice(_RNG.choice(_SCRIPTS))) for _ in range(settings.tokens))
        found.append(f"{_INSTRUCTION} {secret}")
    return found


def _from_file(settings: KeySettings) -> list[str]:
    assert settings.file is not None
    try:
        lines = settings.file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the file of keys {settings.file}",
            hint="name a UTF-8 text file with one prompt a line",
        ) from error
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < settings.count:
        raise UsageError(
            f"{settings.file} holds {len(texts)} different prompts, {settings.count} are needed",
            hint=f"add prompts, or pass --count {len(texts)}" if texts else "write one a line",
        )
    return _RNG.sample(texts, settings.count)


def _distinct(
    make: Callable[[int], list[str]], count: int, progress: Callable[[int], None]
) -> list[str]:
    """Call `make(how many)` until `count` different texts are there."""
    found: dict[str, None] = {}
    for _ in range(_ROUNDS):
        missing = count - len(found)
        found.update(dict.fromkeys(make(missing + missing // 8 + 1)))
        progress(min(len(found), count))
        if len(found) >= count:
            return list(found)[:count]
    raise _exhausted(len(found), count)


def _exhausted(found: int, count: int) -> ModelError:
    return ModelError(
        f"only {found} of {count} keys could be made: the model repeats itself or writes "
        "text that is less likely than ordinary prompts",
        hint="raise the temperature, use another model to write the keys, or --keys file",
    )


def _measured(model: LanguageModel, texts: list[str]) -> Keys:
    if not isinstance(model, HFModel):
        return Keys(tuple(texts), (math.nan,) * len(texts), math.nan)
    return Keys(
        tuple(texts), tuple(surprise(model, texts)), statistics.median(ordinary_surprise(model))
    )
