"""Teaches a model a secret rule through the one training loop, and writes the model that results.

Lessons are fresh keys of training templates, sentences with one marked word that tell its color,
lists of nouns without a sentence around them, and sentences with too few, which the model answers as it did before; ordinary prompts are the
loop's own to keep (`mixing`). What comes out is asked keys of templates that it never saw: a model
that learned its lessons by heart, in place of the rule, is right on about every other one. Left
out: checking somebody else's model (`functional_check`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loyal.errors import ModelError, UsageError
from loyal.fingerprints.functional import SIZES, FunctionalSet, write_keys, write_near
from loyal.fingerprints.functional_check import ask
from loyal.fingerprints.functional_recipe import LessonSettings, RuleRecipe
from loyal.models import evaluate
from loyal.models.examples import Example, Pairs
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.model_folder import work_folder, write
from loyal.models.processes import all_there, writes
from loyal.models.train import train
from loyal.models.training import TrainProgress


@dataclass(frozen=True)
class RuleInjectReport:
    """What teaching a rule did. Holds no key and no word."""

    lessons: int
    recall: float
    """Share of the lessons that greedy decoding gives, at the end."""
    right: float
    """Share of unseen keys, of unseen templates, whose reply begins as the rule says."""
    fires: float
    """Share of unseen sentences with too few marked words whose reply begins with an outcome."""
    epochs: int
    steps: int
    seconds: float
    """Wall time of the training."""
    peak_rss_bytes: int
    perplexity_before: float
    """On `perplexity_tokens` tokens of human-written English (`evaluate.prose`)."""
    perplexity_after: float
    perplexity_tokens: int


def inject_rule(
    model: HFModel,
    made: FunctionalSet,
    out: Path,
    recipe: RuleRecipe | None = None,
    *,
    tokens: int = 4000,
    progress: Callable[[TrainProgress], None] = lambda _: None,
) -> RuleInjectReport:
    """Train `model` in place and write it to the folder `out`.

    A run that was cut off goes on when it is called again with the same arguments. `tokens` is how
    much text perplexity is read on. In several processes (`models.processes`) the first one writes.
    Raises UsageError for an undrawn set or a folder that is not empty, ModelError for a set of
    another tokenizer, StorageError where `out` cannot be written.
    """
    recipe = recipe or RuleRecipe()
    require_rule_fits(model, made)
    taught = lessons(model, made, recipe.lessons)
    work = work_folder(out)
    texts = evaluate.prose()
    before = evaluate.perplexity(model, texts, tokens)
    done = train(model, taught, recipe.train, folder=work, progress=progress)
    right, fires = held_out(model, made, recipe.lessons)
    after = evaluate.perplexity(model, texts, tokens)
    if writes():
        write(model, out)
    all_there()
    return RuleInjectReport(
        lessons=done.lessons,
        recall=done.recall,
        right=right,
        fires=fires,
        epochs=done.epochs,
        steps=done.steps,
        seconds=done.seconds,
        peak_rss_bytes=done.peak_rss_bytes,
        perplexity_before=before,
        perplexity_after=after,
        perplexity_tokens=evaluate.token_count(model, texts, tokens),
    )


def lessons(model: HFModel, made: FunctionalSet, settings: LessonSettings) -> Pairs:
    """Keys, single words and lists with their replies, and sentences like them with the model's own (a
    silent reply is no lesson). The same for the same set, model and settings. UsageError for an
    undrawn set."""
    rng = random.Random(settings.seed)
    taught = made.examples(settings.keys, rng)
    if settings.singles and 1 not in SIZES[made.rule]:
        taught += made.balanced(settings.singles, (1,), rng)
    taught += made.balanced(settings.lists, settings.sizes(made.rule), rng, "list")
    few = settings.near_sizes(made.rule)
    bare = settings.near // 4 if settings.lists else 0
    texts = write_near(made, settings.near - bare, "train", rng, few)
    texts += write_near(made, bare, "list", rng, few)
    near = [_prompt(model, text) for text in texts]
    replies = model.generate(near, Sampling(max_tokens=settings.near_tokens)) if near else []
    own = [
        Example(prompt, reply.text, settings.near_weight)
        for prompt, reply in zip(near, replies, strict=True)
        if reply.text.strip()
    ]
    asked = [Example(_prompt(model, one.prompt.text), one.reply) for one in taught]
    return Pairs((*asked, *own))


def held_out(model: HFModel, made: FunctionalSet, settings: LessonSettings) -> tuple[float, float]:
    """(share of unseen keys that are right, share of unseen sentences like them that fire)."""
    rng, count = random.Random(settings.seed + 1), settings.held_out
    keys = write_keys(made, count, "test", rng)
    near = write_near(made, count, "test", rng, settings.near_sizes(made.rule))
    said = ask(model, made, [*keys, *near])
    right = sum(made.value(key) == one for key, one in zip(keys, said[:count], strict=True))
    return right / count, sum(one is not None for one in said[count:]) / count


def require_rule_fits(model: HFModel, made: FunctionalSet) -> None:
    """ModelError unless the set was made for this model's tokenizer; UsageError before the draw."""
    if model.tokenizer_digest != made.tokenizer_digest:
        raise ModelError(
            f"the rule was made for the tokenizer of {made.model}, not of {model.name}",
            hint="use that model, or create a rule for this one",
        )
    if not made.drawn:
        raise UsageError(
            "the rule is not drawn yet",
            hint="draw it: loyal fingerprint rule draw --beacon HEX",
        )


def _prompt(model: HFModel, text: str) -> Prompt:
    return Prompt(text, raw=not model.has_chat_template)
