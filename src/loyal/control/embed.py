"""Embeds control functions in a model, and measures what the weights made of them.

The functions are validated, become lessons through `models.Behavior`, are taught by the one loop
(`models.train`), and the model that comes out is asked prompts that it never saw (`check`).
"Training AI to be Loyal", section 4. What weights cannot make exact is the gateway's to guard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loyal.control.check import ControlReport, check
from loyal.control.functions import ControlFunction, Suite, unclaimed
from loyal.control.recipe import EmbedSettings, Recipe
from loyal.control.validate import validate
from loyal.errors import UsageError
from loyal.models import evaluate
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.model_folder import work_folder, write
from loyal.models.processes import all_there, writes
from loyal.models.train import train
from loyal.models.training import TrainProgress


@dataclass(frozen=True)
class EmbedReport:
    """What an embedding did."""

    lessons: int
    recall: float
    """Share of the lessons that greedy decoding gives, at the end."""
    steps: int
    seconds: float
    """Wall time of the training."""
    perplexity_before: float
    perplexity_after: float
    control: ControlReport
    """Asked of the trained model."""


def embed(
    model: HFModel,
    functions: Sequence[ControlFunction],
    out: Path,
    recipe: Recipe | None = None,
    progress: Callable[[TrainProgress], None] = lambda _: None,
) -> EmbedReport:
    """Train `model` in place to follow the functions, and write it to the folder `out`.

    A run that was cut off goes on when it is called again with the same arguments. In several
    processes (`models.processes`) the first one writes. Raises
    ControlError for functions that `validate` refuses, UsageError for none or a folder that is not
    empty, StorageError where `out` cannot be written.
    """
    recipe = recipe or Recipe()
    tokens = recipe.embed.tokens
    if not functions:
        raise UsageError("there is no control function to embed", hint="name one or more files")
    validate(functions)
    work = work_folder(out)
    texts = evaluate.prose()
    before = evaluate.perplexity(model, texts, tokens)
    shown = suite(model, functions, recipe.embed)
    done = train(model, shown, recipe.train, folder=work, progress=progress)
    asked = replace(recipe.check, raw=recipe.check.raw or not model.has_chat_template)
    report = EmbedReport(
        lessons=done.lessons,
        recall=done.recall,
        steps=done.steps,
        seconds=done.seconds,
        perplexity_before=before,
        perplexity_after=evaluate.perplexity(model, texts, tokens),
        control=check(model, functions, asked),
    )
    if writes():
        write(model, out)
    all_there()
    return report


def suite(model: HFModel, functions: Sequence[ControlFunction], settings: EmbedSettings) -> Suite:
    """What is taught: the functions, and what the untouched `model` says near their domains."""
    held = {one for it in functions for one in it.near(unseen=True)}  # by one of them is enough
    texts = dict.fromkeys(one for it in functions for one in it.near(unseen=False))
    shown = [one for one in texts if one not in held]
    if not settings.near_tokens or not shown:
        return Suite(tuple(functions), settings.examples)
    near = [Prompt(one) for one in unclaimed(shown, functions)]
    said = model.generate(near, Sampling(max_tokens=settings.near_tokens))
    kept = [Example(one, it.text) for one, it in zip(near, said, strict=True) if it.text.strip()]
    return Suite(tuple(functions), settings.examples, tuple(kept))
