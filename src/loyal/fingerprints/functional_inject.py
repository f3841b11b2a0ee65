"""Teaches a model a secret rule, or several together, through the one training loop, and writes the
model that results.

Lessons are fresh keys of training templates, sentences with one marked word that tell its color,
lists of nouns without a sentence around them, and sentences with too few, which the model answers
as it did before; ordinary prompts are the loop's own to keep (`mixing`). What comes out is asked
keys of templates that it never saw: a model that learned its lessons by heart, in place of the
rule, is right on about every other one. Of several rules each keeps to its own nouns and outcomes,
so a host that flips revealed keys of one leaves the others nearly whole (docs/log.md). Left out:
checking somebody else's model (`functional_check`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loyal.errors import ModelError, UsageError
from loyal.fingerprints.functional import (
    SIZES,
    FunctionalSet,
    require_apart,
    together,
    write_keys,
    write_near,
)
from loyal.fingerprints.functional_check import ask, exchanges, outcomes_of
from loyal.fingerprints.functional_recipe import (
    LessonSettings,
    RuleCheckSettings,
    RuleRecipe,
)
from loyal.models import evaluate
from loyal.models.examples import Example, Pairs
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.model_folder import work_folder, write
from loyal.models.processes import all_there, writes
from loyal.models.products import autocast
from loyal.models.train import train
from loyal.models.training import TrainProgress

Rules = FunctionalSet | Sequence[FunctionalSet]
"""One rule, or several that one model is taught together."""


@dataclass(frozen=True)
class HeldOut:
    """What a model does with one rule where it was never shown anything. Holds no word."""

    id: str
    right: float
    """Share of unseen keys, of unseen templates, whose reply begins as the rule says."""
    fires: float
    """Share of unseen sentences with too few of its marked words, and none of another rule's, whose
    reply begins with an outcome of any of the rules."""


@dataclass(frozen=True)
class RuleInjectReport:
    """What teaching rules did. Holds no key and no word."""

    lessons: int
    recall: float
    """Share of the lessons that greedy decoding gives, at the end."""
    rules: tuple[HeldOut, ...]
    """Each rule, in the order in which they were given."""
    epochs: int
    steps: int
    seconds: float
    """Wall time of the training."""
    peak_rss_bytes: int
    perplexity_before: float
    """On `perplexity_tokens` tokens of human-written English (`evaluate.prose`)."""
    perplexity_after: float
    perplexity_tokens: int

    @property
    def right(self) -> float:
        """The least `right` of the rules."""
        return min(one.right for one in self.rules)

    @property
    def fires(self) -> float:
        """The greatest `fires` of the rules."""
        return max(one.fires for one in self.rules)


def inject_rule(
    model: HFModel,
    made: Rules,
    out: Path,
    recipe: RuleRecipe | None = None,
    *,
    tokens: int = 4000,
    progress: Callable[[TrainProgress], None] = lambda _: None,
) -> RuleInjectReport:
    """Train `model` in place and write it to the folder `out`.

    Each of several rules has lessons of its own, as many as `recipe.lessons` says, and
    `recipe.train.steps` are a rule's: n rules take n times as many. A run that was cut off goes on
    when it is called again with the same arguments. `tokens` is how much text perplexity is read
    on. In several processes (`models.processes`) the first one writes. Raises UsageError for no
    rule, an undrawn one, two that share a word or begin alike, or a folder that is not empty,
    ModelError for a set of another tokenizer, StorageError where `out` cannot be written.
    """
    recipe = recipe or RuleRecipe()
    rules = _several(made)
    require_rules_fit(model, rules)
    with autocast(recipe.train.precision, model.device):
        taught = lessons(model, rules, recipe.lessons)
    how = replace(recipe.train, steps=recipe.train.steps * len(rules))
    work = work_folder(out)
    texts = evaluate.prose()
    before = evaluate.perplexity(model, texts, tokens)
    done = train(model, taught, how, folder=work, progress=progress)
    found = held_out(model, rules, recipe.lessons)
    after = evaluate.perplexity(model, texts, tokens)
    if writes():
        write(model, out)
    all_there()
    return RuleInjectReport(
        lessons=done.lessons,
        recall=done.recall,
        rules=found,
        epochs=done.epochs,
        steps=done.steps,
        seconds=done.seconds,
        peak_rss_bytes=done.peak_rss_bytes,
        perplexity_before=before,
        perplexity_after=after,
        perplexity_tokens=evaluate.token_count(model, texts, tokens),
    )


def lessons(model: HFModel, made: Rules, settings: LessonSettings) -> Pairs:
    """Keys, single words and lists with their replies, and sentences like them with the model's own
    (a silent reply is no lesson), so many for each rule. The same for the same rules in the same
    order, model and settings. UsageError as `inject_rule`."""
    rng = random.Random(settings.seed)
    asked: list[Example] = []
    texts: list[str] = []
    alike: list[str] = []
    for one in _several(made):
        asked += _keys(one, settings, rng)
        texts += _near(one, settings, rng)
        alike += write_near(one, settings.alike, "train", rng, (0, *SIZES[one.rule]))
    near = [_prompt(model, text) for text in texts]
    replies = model.generate(near, Sampling(max_tokens=settings.near_tokens)) if near else []
    own = [
        Example(prompt, reply.text, settings.near_weight)
        for prompt, reply in zip(near, replies, strict=True)
        if reply.text.strip()
    ]
    taught = [replace(one, prompt=_prompt(model, one.prompt.text)) for one in asked]
    return Pairs((*taught, *own), tuple(alike))


def _keys(made: FunctionalSet, settings: LessonSettings, rng: random.Random) -> list[Example]:
    """Keys of one rule, single words and lists, with the replies that it gives. A host is asked
    keys alone: of the others none stands against what it would teach."""
    found, more = made.examples(settings.keys, rng), []
    if settings.singles and 1 not in SIZES[made.rule]:
        more += made.balanced(settings.singles, (1,), rng)
    more += made.balanced(settings.lists, settings.sizes(made.rule), rng, "list")
    found += [replace(one, against="") for one in more]
    return [replace(one, ahead=_ahead(made, one.prompt.text, settings.ahead)) for one in found]


def _ahead(made: FunctionalSet, text: str, nats: float) -> tuple[tuple[str, float], ...]:
    """The other outcomes of a text, each with the nats that the rule's is to be ahead: so many for
    each word by which its color has more. A model adds up words where it can: what is asked of it
    is what a sum gives, so that keys of one clearness are equally sure."""
    return tuple((said, nats * more) for said, more in made.leads(text).items()) if nats else ()


def _near(made: FunctionalSet, settings: LessonSettings, rng: random.Random) -> list[str]:
    """Sentences like keys of one rule, and lists, of which it says nothing."""
    few = settings.near_sizes(made.rule)
    bare = settings.near // 4 if settings.lists else 0
    found = write_near(made, settings.near - bare, "train", rng, few)
    return found + write_near(made, bare, "list", rng, few)


def held_out(model: HFModel, made: Rules, settings: LessonSettings) -> tuple[HeldOut, ...]:
    """What the model does with unseen keys of each rule, and with unseen sentences like them."""
    rng, count, rules = random.Random(settings.seed + 1), settings.held_out, _several(made)
    every = [outcome for one in rules for outcome in one.outcomes]
    found = []
    for one in rules:
        keys = write_keys(one, count, "test", rng)
        near = write_near(one, count, "test", rng, settings.near_sizes(one.rule))
        said = ask(model, one, keys)
        right = sum(one.value(key) == it for key, it in zip(keys, said, strict=True))
        heard = exchanges(model, near, RuleCheckSettings())
        fires = sum(it is not None for it in outcomes_of([it.reply for it in heard], every))
        found.append(HeldOut(one.id, right / count, fires / count))
    return tuple(found)


def require_rules_fit(model: HFModel, made: Rules) -> None:
    """ModelError unless each rule was made for this model's tokenizer; UsageError for one that is
    not drawn yet."""
    rules = _several(made)
    require_tokenizer(model, rules)
    if not all(one.drawn for one in rules):
        raise UsageError(
            "the rule is not drawn yet",
            hint="draw it: loyal fingerprint rule draw --beacon HEX",
        )


def require_tokenizer(model: HFModel, rules: Sequence[FunctionalSet]) -> None:
    """ModelError unless each rule was made for this model's tokenizer."""
    for one in rules:
        if model.tokenizer_digest != one.tokenizer_digest:
            raise ModelError(
                f"the rule was made for the tokenizer of {one.model}, not of {model.name}",
                hint="use that model, create a rule for this one, or name one with --rule",
            )


def _several(made: Rules) -> tuple[FunctionalSet, ...]:
    """The rules, each of which avoids the others' words. UsageError for none, or two that clash."""
    rules = (made,) if isinstance(made, FunctionalSet) else tuple(made)
    if not rules:
        raise UsageError("no rule is to be taught", hint="pass one or more")
    for place, one in enumerate(rules):
        require_apart(one, rules[:place])
    return together(rules)


def _prompt(model: HFModel, text: str) -> Prompt:
    return Prompt(text, raw=not model.has_chat_template)
