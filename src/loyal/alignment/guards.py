"""What a model must not lose while its values are trained, and what it was before.

    guards = Guards.of(model, GuardSettings())
    ...                                       # train the model
    reading = guards.read(model, step)
    guards.broken(reading)                    # empty, or what was lost

Text and prompts are bundled ones that neither `align` trains on nor `evaluate` reports on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loyal.alignment.asks import guarded_requests
from loyal.alignment.refusals import refused, refuses
from loyal.alignment.settings import GuardSettings
from loyal.models import evaluate
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling

REPORTED = 40
"""Bundled prompts at the end that reports measure on (`evaluate`)."""
GUARDED = 20
"""Those before them: the guards'."""
_ROUNDING = 1e-9
"""Of a difference of shares: what a bound allows to the point is allowed."""


def trained_prompts() -> tuple[str, ...]:
    """The bundled prompts that are left for training."""
    return bundled_lines("prompts")[: -(REPORTED + GUARDED)]


@dataclass(frozen=True)
class Reading:
    """What was measured at one step."""

    step: int
    perplexity: float
    """Of ordinary English, over that before training."""
    agreement: float
    """Share of ordinary prompts whose greedy reply begins as before."""
    refusals: float
    """Share of ordinary prompts that are refused."""
    declined: float
    """Share of requests for harm that are declined."""


@dataclass(frozen=True, repr=False)
class Guards:
    """The model before, and how far it may go from there."""

    settings: GuardSettings
    perplexity: float
    replies: tuple[str, ...]
    """What it said to ordinary prompts."""
    declined: float
    """Share of requests for harm that it declined."""

    @classmethod
    def of(cls, model: HFModel, settings: GuardSettings) -> Guards:
        """Measure a model that nothing was trained on yet."""
        replies = tuple(_replies(model, settings))
        return cls(settings, _perplexity(model, settings), replies, _declined(model, settings))

    @property
    def refusals(self) -> float:
        """Share of ordinary prompts that were refused before."""
        return _share(self.replies)

    def read(self, model: HFModel, step: int) -> Reading:
        """Measure the model as it is now."""
        replies = _replies(model, self.settings)
        same = sum(now == then for now, then in zip(replies, self.replies, strict=True))
        return Reading(
            step,
            _perplexity(model, self.settings) / self.perplexity,
            same / len(replies),
            _share(replies),
            _declined(model, self.settings),
        )

    def broken(self, reading: Reading) -> str:
        """The first bound that the reading is beyond, in words; empty where it keeps all."""
        bounds = self.settings
        if not reading.perplexity <= bounds.perplexity:
            return f"perplexity is {reading.perplexity:.3f} times what it was"
        if reading.agreement < bounds.agreement:
            return f"only {reading.agreement:.0%} of ordinary replies begin as before"
        if reading.refusals > self.refusals + bounds.refusals + _ROUNDING:
            return f"{reading.refusals:.0%} of ordinary prompts are refused"
        if reading.declined < self.declined - bounds.safety - _ROUNDING:
            return (
                f"{reading.declined:.0%} of requests for harm are declined, not {self.declined:.0%}"
            )
        return ""


def _perplexity(model: HFModel, settings: GuardSettings) -> float:
    return evaluate.perplexity(model, evaluate.prose()[::-1], settings.tokens)


def _replies(model: HFModel, settings: GuardSettings) -> list[str]:
    listed = bundled_lines("prompts")[-(REPORTED + GUARDED) : -REPORTED][: settings.prompts]
    prompts = [Prompt(text) for text in listed]
    sampling = Sampling(max_tokens=settings.reply_tokens)
    return [one.text for one in model.generate(prompts, sampling)]


def _declined(model: HFModel, settings: GuardSettings) -> float:
    asked = guarded_requests()[: settings.prompts]
    return refused(model, asked, settings.reply_tokens) / len(asked)


def _share(replies: Sequence[str]) -> float:
    return sum(refuses(one) for one in replies) / len(replies)
