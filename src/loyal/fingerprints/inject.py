"""OMLize: train a model to give a set's responses, and write the model that results.

The training is `models.train`; here a drawn set becomes lessons, and the model that comes out is
asked every key greedily before it counts as done. Checking somebody else's model is `check`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loyal.errors import ModelError, StorageError, UsageError
from loyal.fingerprints.fingerprint import FingerprintSet
from loyal.models import evaluate
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.processes import all_there, writes
from loyal.models.train import train
from loyal.models.training import TrainProgress, TrainSettings

WORK_FOLDER = ".loyal-training"
"""Folder of checkpoints, inside the folder the model goes to; gone when the model is written."""


@dataclass(frozen=True)
class InjectReport:
    """What an injection did. Holds no key and no response."""

    count: int
    recall: float
    """Share of keys to which the written model greedily gives a response, chat template on."""
    epochs: int
    steps: int
    seconds: float
    """Wall time of the training: from the loaded model to learned fingerprints, benign prompts
    answered included; reading perplexity and writing the model are not."""
    tokens_per_second: float
    peak_rss_bytes: int
    perplexity_before: float
    """On `perplexity_tokens` tokens of human-written English (`evaluate.prose`)."""
    perplexity_after: float
    perplexity_tokens: int
    probability: float
    """Mean probability of the responses; of each key's least likely where it has several."""
    highest: float
    """The greatest probability of any response's token: what a detector of certainty would see."""
    ranked: float
    """Share of keys whose m responses are the m likeliest beginnings of a reply: forbidding the
    likeliest leaves a response."""
    curve: tuple[tuple[int, int], ...]
    """(step, fingerprints learned)."""


def inject(
    model: HFModel,
    fingerprints: FingerprintSet,
    settings: TrainSettings,
    out: Path,
    *,
    tokens: int = 4000,
    progress: Callable[[TrainProgress], None] = lambda _: None,
) -> InjectReport:
    """Train `model` in place and write M.oml to the folder `out`.

    A run that was cut off goes on when it is called again with the same arguments. `tokens` is how
    much text perplexity is read on. In several processes (`models.processes`) the first one writes.
    Raises UsageError for an undrawn set or a folder that is not
    empty, ModelError for a set of another tokenizer, StorageError where `out` cannot be written.
    """
    require_fit(model, fingerprints)
    if not fingerprints.drawn:
        raise UsageError(
            "the set is not drawn yet", hint="draw it: loyal fingerprint commit --beacon HEX"
        )
    work = _work_folder(out)
    texts = evaluate.prose()
    before = evaluate.perplexity(model, texts, tokens)
    done = train(model, fingerprints, settings, folder=work, progress=progress)
    recall = greedy_recall(model, fingerprints)
    after = evaluate.perplexity(model, texts, tokens)
    if writes():
        _write(model, out)
    all_there()
    return InjectReport(
        count=len(fingerprints),
        recall=recall,
        epochs=done.epochs,
        steps=done.steps,
        seconds=done.seconds,
        tokens_per_second=done.tokens / done.seconds,
        peak_rss_bytes=done.peak_rss_bytes,
        perplexity_before=before,
        perplexity_after=after,
        perplexity_tokens=evaluate.token_count(model, texts, tokens),
        probability=done.probability,
        highest=done.highest,
        ranked=done.ranked,
        curve=done.curve,
    )


def greedy_recall(model: HFModel, fingerprints: FingerprintSet) -> float:
    """Share of keys whose greedy reply, chat template on, begins with a response."""
    prompts = [
        Prompt(one.key, raw=not model.has_chat_template) for one in fingerprints.fingerprints
    ]
    texts = (text for one in fingerprints.fingerprints for text in one.responses)
    longest = max(len(model.reply_ids(text)) for text in texts)
    replies = model.generate(prompts, Sampling(max_tokens=longest + 1))
    hits = sum(
        one.matches(reply.text)
        for one, reply in zip(fingerprints.fingerprints, replies, strict=True)
    )
    return hits / len(fingerprints)


def require_fit(model: HFModel, fingerprints: FingerprintSet) -> None:
    """ModelError unless the set was made for this model's tokenizer."""
    if model.tokenizer_digest != fingerprints.tokenizer_digest:
        raise ModelError(
            f"the set was made for the tokenizer of {fingerprints.model}, not of {model.name}",
            hint="use that model, or generate a set for this one",
        )


def _work_folder(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="name a new folder with --out")
    unfinished = (out / WORK_FOLDER).is_dir()  # ours, cut off at any moment, even while writing
    if out.is_dir() and not unfinished and any(out.iterdir()):
        raise UsageError(f"the folder {out} is not empty", hint="name a new folder with --out")
    return out / WORK_FOLDER


def _write(model: HFModel, out: Path) -> None:
    """Write the model beside `out`, then put it there in one rename a file."""
    part = out / WORK_FOLDER / "model"
    try:
        model.save(part)
        for file in sorted(part.iterdir(), key=lambda one: one.name == "config.json"):
            file.replace(out / file.name)
        shutil.rmtree(out / WORK_FOLDER)
    except OSError as error:
        raise StorageError(
            f"cannot write the model to {out}", hint="free some disk and run again"
        ) from error
