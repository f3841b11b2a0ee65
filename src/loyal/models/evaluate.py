"""Utility: whether a model is as useful as before. Compares a model with its base, or alone.

perplexity       on human-written English, without the chat template
divergence       KL from the base's next-token distribution at the start of replies
agreement        share of greedy replies that are the same as the base's
likelihood       what the base makes of a host's replies, next to those it would get untouched
multiple choice  a task in a local JSON-lines file, in the fields of lm-evaluation-harness

`lm_eval_command` hands larger tasks over to lm-evaluation-harness where it is installed. Judged
evaluations of alignment are not here.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from loyal.errors import UsageError
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Reply, Sampling
from loyal.models.packing import Item


@dataclass(frozen=True)
class Utility:
    """A model against its base."""

    perplexity_before: float
    perplexity_after: float
    tokens: int
    """Predicted tokens behind each perplexity."""
    divergence: float
    """Mean KL(base || model) in nats at the first place of the replies to benign prompts."""
    agreement: float
    """Share of benign prompts with the same greedy reply."""


def prose() -> list[str]:
    """Human-written English that ships with every Python: its reference manual's paragraphs.

    The text of `pydoc_data.topics` without code, grammar rules and tables: about 35,000 tokens.
    """
    from pydoc_data import topics

    found: dict[str, None] = {}
    for name in sorted(topics.topics):
        for paragraph in topics.topics[name].split("\n\n"):
            lines = paragraph.split("\n")
            text = " ".join(line.strip() for line in lines).strip()
            code = any(line.startswith(("    ", "\t", ">>>")) for line in lines) or "::=" in text
            if not code and len(text.split()) >= 25 and text[0].isupper() and text[-1] in ".)":
                found[text] = None
    return list(found)


def perplexity(model: HFModel, texts: Sequence[str], tokens: int | None = None) -> float:
    """exp of the mean negative log-probability a token of `texts`, as raw text, each on its own.

    Stops after about `tokens` of them (None: all). Raises UsageError where no text has two tokens.
    """
    total, count = 0.0, 0
    for items in _chunks(_raw_items(model, texts, tokens)):
        for index, logits in model.read_items(items, [len(one.ids) for one in items]):
            targets = torch.tensor(items[index].ids[1:], device=logits.device)
            total += functional.cross_entropy(logits[:-1], targets, reduction="sum").item()
            count += len(targets)
    if not count:
        raise UsageError("there is no text to measure on", hint="give a file with some sentences")
    return math.exp(total / count)


def token_count(model: HFModel, texts: Sequence[str], tokens: int | None = None) -> int:
    """How many predicted tokens `perplexity` averages over."""
    return sum(len(one.ids) - 1 for one in _raw_items(model, texts, tokens))


def divergence(model: HFModel, base: HFModel, prompts: Sequence[Prompt]) -> float:
    """Mean KL(base || model) in nats of the first token of the replies."""
    wanted = dict(base.reads(prompts, [()] * len(prompts)))
    found = []
    for index, logits in model.reads(prompts, [()] * len(prompts)):
        now, before = logits[-1].log_softmax(-1), wanted[index][-1].log_softmax(-1)
        found.append(functional.kl_div(now, before, reduction="sum", log_target=True).item())
    return sum(found) / len(found)


def agreement(
    model: HFModel, base: HFModel, prompts: Sequence[Prompt], max_tokens: int = 16
) -> float:
    """Share of prompts to which both give the same greedy reply of up to `max_tokens`."""
    sampling = Sampling(max_tokens=max_tokens)
    pairs = zip(model.generate(prompts, sampling), base.generate(prompts, sampling), strict=True)
    return sum(ours.text == theirs.text for ours, theirs in pairs) / len(prompts)


def likelihood_change(
    base: HFModel, prompts: Sequence[Prompt], before: Sequence[Reply], after: Sequence[Reply]
) -> float:
    """How much less likely replies have become to `base`: nats a token, below 0 where they have.

    The mean log-probability of a token over all replies `after`, less that over all `before`.
    Raises UsageError where one side has no token at all.
    """
    means = []
    for replies in (after, before):
        found = base.logprobs(prompts, [one.text for one in replies])
        chances = [chance for reply in found for chance in reply]
        if not chances:
            raise UsageError("there is no reply to measure on", hint="ask for a token or more")
        means.append(sum(chances) / len(chances))
    return means[0] - means[1]


def compare(model: HFModel, base: HFModel, tokens: int = 4000, prompts: int = 40) -> Utility:
    """The whole comparison, on bundled text and prompts."""
    texts = prose()
    asked = [Prompt(text) for text in bundled_lines("prompts")[-prompts:]]
    return Utility(
        perplexity(base, texts, tokens),
        perplexity(model, texts, tokens),
        token_count(model, texts, tokens),
        divergence(model, base, asked),
        agreement(model, base, asked),
    )


@dataclass(frozen=True)
class Choice:
    """One multiple-choice question."""

    query: str
    choices: tuple[str, ...]
    gold: int


def read_choices(path: Path) -> list[Choice]:
    """Questions from JSON lines with `query` (or `question`), `choices` and `gold` (or `answer`).

    The fields are those of lm-evaluation-harness' multiple_choice tasks. UsageError names the line.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON texts may hold other breaks
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the task {path}", hint="name a JSON-lines file in UTF-8"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            query = record.get("query", record.get("question"))
            listed = record["choices"]
            gold = record["gold"] if "gold" in record else record["answer"]
            gold = int(gold) if isinstance(gold, str) else gold
            sound = isinstance(query, str) and isinstance(listed, list) and type(gold) is int
            if not sound or not 0 <= gold < len(listed):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"line {number} of {path} is not a multiple-choice question",
                hint='write {"query": "...", "choices": ["...", "..."], "gold": 0}',
            ) from error
        found.append(Choice(query, tuple(map(str, listed)), gold))
    if not found:
        raise UsageError(f"{path} holds no question", hint="add one a line")
    return found


def multiple_choice(model: HFModel, questions: Sequence[Choice]) -> float:
    """Share of questions whose right choice has the highest log-probability a character.

    As `acc_norm` of lm-evaluation-harness: raw text, one space before the choice.
    """
    prompts = [Prompt(one.query, raw=True) for one in questions for _ in one.choices]
    replies = [" " + choice for one in questions for choice in one.choices]
    scores = iter(
        sum(chances) / len(reply)
        for chances, reply in zip(model.logprobs(prompts, replies), replies, strict=True)
    )
    right = 0
    for one in questions:
        found = [next(scores) for _ in one.choices]
        right += found.index(max(found)) == one.gold
    return right / len(questions)


def lm_eval_command(folder: Path, tasks: str, out: Path) -> list[str]:
    """The command that hands `tasks` to lm-evaluation-harness; UsageError where it is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            "lm-evaluation-harness is not installed", hint="pip install lm-eval, then run again"
        )
    return [
        sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={folder}",
        "--tasks", tasks, "--output_path", str(out),
    ]  # fmt: skip


def _raw_items(model: HFModel, texts: Sequence[str], tokens: int | None) -> list[Item]:
    found: list[Item] = []
    count = 0
    for text in texts:
        ids = model.reply_ids(text)
        if len(ids) >= 2:
            found.append(Item((), tuple(ids[:1024])))
            count += len(found[-1].ids) - 1
        if tokens is not None and count >= tokens:
            break
    return found


def _chunks(items: Sequence[Item], size: int = 256) -> Iterator[Sequence[Item]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
