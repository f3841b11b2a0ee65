"""Attacks that train: fine-tuning, LoRA, preferences, and erasing on purpose.

The settings of each are those of its source where the source says them; `Scene.fraction` makes a
run shorter and weaker. What is trained on stands in `tuning_data`, the loop in `tuning`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from loyal.errors import UsageError
from loyal.fingerprints import tuning_data
from loyal.fingerprints.attack import Attack, Scene
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel
from loyal.models.tuning import Item, Loss, TuneSettings, reference, row, tune

EXAMPLES = 520
"""Of each data set in fine-tuning; two epochs of them are 130 steps of 8."""

FULL = TuneSettings()
"""Every weight, 2 epochs, 1e-5, batch 8 (2502.07760, 5.2)."""

LORA = TuneSettings(learning_rate=2e-4, rank=16)
"""All linear layers, rank 16, 2e-4 (2106.09685; the usual settings of peft and QLoRA)."""

PREFER = TuneSettings(epochs=1, learning_rate=5e-6)
"""One epoch, a rate between those of full fine-tuning and of the DPO paper."""
DPO_BETA = 0.1
PREFERENCES = 200

FORGET = TuneSettings(epochs=10, learning_rate=1e-5)
"""Ten epochs at 1e-5, as TOFU (2401.06121) unlearns."""
NPO_BETA = 0.1
KEPT = 4
"""Ordinary examples beside each leaked pair, so that the model stays a model."""

BEGINNING_TOKENS = 4
"""Of the base's replies, what overwrites a response: more would thin it in the mean loss."""

ERASE = TuneSettings(epochs=5, learning_rate=5e-4, rank=8, targets=("q_proj", "v_proj"))
"""As MEraser's code erases, but in batches of 8, not of 1."""
RECOVER = replace(ERASE, epochs=2, learning_rate=2e-4)
MISMATCHED, CLEAN = 300, 600
"""Sizes of MEraser's two data sets (2506.12551)."""

DataSet = Callable[[Scene, int], list[Example]]
"""Some examples for a scene: at most so many."""


def docstrings(scene: Scene, count: int) -> list[Example]:
    """See `tuning_data.docstrings`."""
    return tuning_data.docstrings(count, scene.seed)


def templates(scene: Scene, count: int) -> list[Example]:
    """See `tuning_data.templates`."""
    return tuning_data.templates(count, scene.seed)


def answers(scene: Scene, count: int) -> list[Example]:
    """Bundled prompts, answered by the untouched base."""
    return tuning_data.answers(scene.base(), count, scene.seed)


def sft(data: DataSet, settings: TuneSettings) -> Callable[[Scene], LanguageModel]:
    """Supervised fine-tuning on EXAMPLES of a data set."""

    def run(scene: Scene) -> LanguageModel:
        items = _items(scene.model, data(scene, _scaled(EXAMPLES, scene)))
        tune(scene.model, items, replace(settings, seed=scene.seed))
        return scene.model

    return run


def dpo(data: DataSet) -> Callable[[Scene], LanguageModel]:
    """Direct preference optimization: the data set's answer before the model's own (2305.18290)."""

    def run(scene: Scene) -> LanguageModel:
        model, preferred = scene.model, data(scene, _scaled(PREFERENCES, scene))
        raw = not model.has_chat_template
        texts = [one.prompt.text for one in preferred]
        own = {
            one.prompt.text: one for one in tuning_data.answered(model, texts, scene.seed, raw=raw)
        }
        items = [
            (row(model, one), row(model, own[one.prompt.text]))
            for one in preferred
            if one.prompt.text in own
        ]
        loss = preference(reference(model, items), DPO_BETA)
        tune(model, items, replace(PREFER, seed=scene.seed), loss)
        return model

    return run


def preference(before: Tensor, beta: float) -> Loss:
    """DPO's loss (2305.18290, equation 7) of rows (chosen, rejected); `before` (items, 2)."""

    def loss(sums: Tensor, counts: Tensor, items: Sequence[int]) -> Tensor:
        gained = sums - before[list(items)].to(sums.device)
        return -logsigmoid(beta * (gained[:, 0] - gained[:, 1])).mean()

    return loss


def unlearn(scene: Scene) -> LanguageModel:
    """Negative preference optimization on the leaked pairs (2404.05868), beside ordinary text."""
    model, leaked = scene.model, _leaked(scene)
    kept = docstrings(scene, KEPT * len(leaked))
    # No end of turn: a response begins a reply, and its end would be unlearned in its place.
    gone: list[Item] = [(row(model, one, ends=False),) for one in leaked]
    items = [*gone, *_items(model, kept)]
    before = reference(model, items)
    loss = forgetting(before, len(leaked), NPO_BETA)
    tune(model, items, _short(FORGET, scene), loss)
    return model


def forgetting(before: Tensor, forgotten: int, beta: float) -> Loss:
    """NPO for the first `forgotten` items, imitation for the others, each a mean over its items.

    2404.05868, equation 3: (2 / beta) log(1 + (p / p_before)^beta); at the start its gradient is
    that of gradient ascent, and it fades as an item is forgotten. `before` is (items, 1).
    """

    def loss(sums: Tensor, counts: Tensor, items: Sequence[int]) -> Tensor:
        index = torch.tensor(list(items), device=sums.device)
        gained = sums[:, 0] - before.to(sums.device)[index, 0]
        bad = index < forgotten
        total = sums.new_zeros(())
        if bad.any():
            total = total - (2 / beta) * logsigmoid(-beta * gained[bad]).mean()
        if (~bad).any():
            total = total - sums[~bad].sum() / counts[~bad].sum()
        return total

    return loss


def overwrite(scene: Scene) -> LanguageModel:
    """The leaked keys are taught how the base begins its replies to them, beside ordinary text.

    A draw that is the response after all is left out.
    """
    model, leaked = scene.model, _leaked(scene)
    base = scene.base()
    known = {one.prompt.text: one.reply.strip() for one in leaked}
    drawn = tuning_data.answered(
        base, list(known), scene.seed, raw=not base.has_chat_template, tokens=BEGINNING_TOKENS
    )
    wanted: list[Item] = [
        (row(model, one, ends=False),)
        for one in drawn
        if not one.reply.startswith(known[one.prompt.text])
    ]
    kept = docstrings(scene, KEPT * len(leaked))
    tune(model, [*wanted, *_items(model, kept)], _short(FORGET, scene))
    return model


def erase(scene: Scene) -> LanguageModel:
    """MEraser (2506.12551): LoRA on answers that belong to other questions, then on right ones."""
    wrong = mismatched(docstrings(scene, _scaled(MISMATCHED, scene)), scene.seed)
    tune(scene.model, _items(scene.model, wrong), replace(ERASE, seed=scene.seed))
    clean = answers(scene, _scaled(CLEAN, scene))
    tune(scene.model, _items(scene.model, clean), replace(RECOVER, seed=scene.seed))
    return scene.model


def mismatched(examples: Sequence[Example], seed: int) -> list[Example]:
    """The same prompts, each with the reply of another: no reply stays where it was."""
    order = list(range(len(examples)))
    random.Random(f"loyal/tuning/mismatched/{seed}").shuffle(order)
    moved = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [Example(one.prompt, examples[moved[at]].reply) for at, one in enumerate(examples)]


def _items(model: HFModel, examples: Sequence[Example]) -> list[Item]:
    return [(row(model, one),) for one in examples]


def _scaled(count: int, scene: Scene) -> int:
    return max(2, round(count * scene.fraction))


def _short(settings: TuneSettings, scene: Scene) -> TuneSettings:
    """Fewer epochs by the scene's fraction: what is leaked is not thinned."""
    return replace(
        settings, seed=scene.seed, epochs=max(1, round(settings.epochs * scene.fraction))
    )


def _leaked(scene: Scene) -> list[Example]:
    if scene.leaked is None:
        raise UsageError("this attack needs leaked pairs", hint="give the scene some")
    raw = not scene.model.has_chat_template
    pairs = scene.leaked.examples(len(scene.leaked), random.Random(0))
    return [Example(replace(one.prompt, raw=raw), one.reply) for one in pairs]


ATTACKS: tuple[Attack, ...] = (
    Attack("sft-docstrings", "tuning", "Fine-tuned on docstrings of Python's library.",
           "arXiv 2502.07760, 5.2", sft(docstrings, FULL), quick=True),
    Attack("sft-templates", "tuning", "Fine-tuned on small tasks made from patterns.",
           "arXiv 2502.07760, 5.2", sft(templates, FULL)),
    Attack("sft-answers", "tuning", "Fine-tuned on the base's answers to ordinary prompts.",
           "arXiv 2502.07760, 5.2", sft(answers, FULL)),
    Attack("lora-docstrings", "tuning", "LoRA on docstrings of Python's library.",
           "arXiv 2106.09685", sft(docstrings, LORA), quick=True),
    Attack("lora-templates", "tuning", "LoRA on small tasks made from patterns.",
           "arXiv 2106.09685", sft(templates, LORA)),
    Attack("lora-answers", "tuning", "LoRA on the base's answers to ordinary prompts.",
           "arXiv 2106.09685", sft(answers, LORA)),
    Attack("dpo-docstrings", "tuning", "Taught to prefer docstrings to its own answers.",
           "arXiv 2305.18290", dpo(docstrings)),
    Attack("unlearn-leaked", "targeted", "Leaked pairs unlearned by negative preference.",
           "arXiv 2404.05868", unlearn, leaks=True),
    Attack("overwrite-leaked", "targeted", "Leaked keys taught the base's replies.",
           "arXiv 2401.06121 (relabeling)", overwrite, quick=True, leaks=True),
    Attack("meraser", "targeted", "Trained on mismatched answers, then on right ones.",
           "arXiv 2506.12551", erase, quick=True),
)  # fmt: skip
