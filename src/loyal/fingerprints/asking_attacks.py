"""What a host changes around untouched weights without looking at a reply: who speaks, how hot.

System prompts and temperatures. What a server does to prompts and replies is `serving_attacks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from loyal.fingerprints.attack import Attack, Scene
from loyal.models.examples import bundled_lines
from loyal.models.language_model import LanguageModel, Prompt, Reply, Sampling, TokenChance

SYSTEMS = 20
"""System prompts that no training sees (`system_prompts_test`), one for each prompt by its text."""


@dataclass(frozen=True)
class Hosted:
    """A model behind a host's own settings. Satisfies `LanguageModel`."""

    model: LanguageModel
    systems: tuple[str, ...] = ()
    """One of them stands before each prompt, chosen by the prompt's text; raw prompts have none.
    A system message of the user's comes after it."""
    temperature: float | None = None
    """In place of the one that is asked for."""
    seed: int = field(default=0, repr=False)
    """Of sampled replies."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt, under the host's settings."""
        if self.temperature is not None:
            sampling = replace(sampling, temperature=self.temperature, seed=self.seed)
        return self.model.generate(self._under(prompts), sampling)

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The `top` most likely first tokens, under the host's system prompt."""
        return self.model.next_token(self._under(prompts), top)

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """Log-probabilities under the host's system prompt."""
        return self.model.logprobs(self._under(prompts), replies)

    def _under(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        return [one if one.raw or not self.systems else self._with_system(one) for one in prompts]

    def _with_system(self, prompt: Prompt) -> Prompt:
        drawn = hashlib.sha256(f"{self.seed} {prompt.text}".encode()).digest()
        system = self.systems[int.from_bytes(drawn[:8], "big") % len(self.systems)]
        return replace(prompt, system=f"{system}\n\n{prompt.system}" if prompt.system else system)


def system_prompts(scene: Scene) -> LanguageModel:
    """The model under one of SYSTEMS unseen system prompts a prompt."""
    unseen = bundled_lines("system_prompts_test")[:SYSTEMS]
    return Hosted(scene.model, systems=unseen, seed=scene.seed)


def hot(temperature: float) -> Callable[[Scene], LanguageModel]:
    """The model sampled at this temperature, whatever is asked for."""
    return lambda scene: Hosted(scene.model, temperature=temperature, seed=scene.seed)


ATTACKS: tuple[Attack, ...] = (
    Attack("system-prompts", "prompt", "One of 20 unseen system prompts before each prompt.",
           "arXiv 2502.07760, 5.3; arXiv 2407.10887", system_prompts, quick=True),
    Attack("temperature-0.7", "sampling", "Replies sampled at temperature 0.7.",
           "arXiv 2502.07760", hot(0.7), quick=True),
    Attack("temperature-1.0", "sampling", "Replies sampled at temperature 1.",
           "arXiv 2502.07760", hot(1.0)),
)  # fmt: skip
