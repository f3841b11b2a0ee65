"""A host that refuses prompts whose wording stands out, with a threshold set on ordinary prompts.

The perplexity filter of arXiv 2509.26598, which blocks keys of random or optimized tokens; and its
mirror image (ours), which blocks prompts that are too likely, as text from a model may be. The
bundled prompts are parted: one half sets the threshold, the other tells what it costs users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loyal.errors import UsageError
from loyal.fingerprints.keys import surprise
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Reply, Sampling, TokenChance
from loyal.statistics import Interval, clopper_pearson

REFUSAL = "I am sorry, I did not understand that. Please ask in other words."
BLOCKED_SHARE = 0.01
"""Share of ordinary prompts that a host lets its filter refuse."""

Side = Literal["unlikely", "likely"]


@dataclass(frozen=True, repr=False)
class Filter:
    """Refuses prompts that are too unlikely, or too likely, as a user's message."""

    judge: HFModel
    """Reads the prompts; the base is as good as M.oml, for it is public."""
    lowest: float
    highest: float
    """Mean negative log-probability a token, in nats: outside of [lowest, highest] is refused."""

    def blocks(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is refused; an empty one never is."""
        places = [place for place, text in enumerate(texts) if text]
        found = [False] * len(texts)
        for place, score in zip(
            places, surprise(self.judge, [texts[place] for place in places]), strict=True
        ):
            found[place] = not self.lowest <= score <= self.highest
        return found


@dataclass(frozen=True, repr=False)
class Filtered:
    """A model behind a filter. Satisfies `LanguageModel`; chances are the model's own."""

    model: LanguageModel
    filter: Filter

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.model.name

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        """One reply a prompt: REFUSAL where the filter refuses it."""
        blocked = self.filter.blocks([one.text for one in prompts])
        open_ = [one for one, refused in zip(prompts, blocked, strict=True) if not refused]
        replies = iter(self.model.generate(open_, sampling))
        return [Reply(REFUSAL, 0, True) if refused else next(replies) for refused in blocked]

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        """The model's own."""
        return self.model.next_token(prompts, top)

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        """The model's own."""
        return self.model.logprobs(prompts, replies)


@dataclass(frozen=True)
class FilterReport:
    """What a filter refuses. Holds no key."""

    ordinary: int
    """Ordinary prompts asked, none of which set the threshold."""
    ordinary_blocked: Interval
    """95 % Clopper-Pearson interval of the share of them that is refused."""
    keys: int
    keys_blocked: Interval
    """The same of the keys."""
    ordinary_share: float
    keys_share: float


def calibrated(
    judge: HFModel,
    prompts: Sequence[str],
    share: float = BLOCKED_SHARE,
    side: Side = "unlikely",
) -> Filter:
    """A filter that refuses floor(share * n) of these n prompts, the least likely ones.

    arXiv 2509.26598 filters at perplexity 100; a threshold on ordinary prompts needs no such guess.
    With side "likely" the likeliest are refused: keys that a model wrote itself may stand out so.
    Raises UsageError where the prompts are too few to refuse one, or the share is not in (0, 1).
    """
    if not 0 < share < 1 or int(share * len(prompts)) < 1:
        raise UsageError(
            f"{len(prompts)} prompts set no threshold at a share of {share}",
            hint="give more ordinary prompts, or let the filter refuse a greater share",
        )
    scores, cut = sorted(surprise(judge, prompts)), int(share * len(prompts))
    if side == "likely":
        return Filter(judge, scores[cut], float("inf"))
    return Filter(judge, float("-inf"), scores[-1 - cut])


def ordinary_halves() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The bundled prompts in two: every other one to set a threshold, the rest to test it."""
    lines = bundled_lines("prompts")
    return lines[::2], lines[1::2]


def measure_filter(found: Filter, keys: Sequence[str]) -> FilterReport:
    """Shares of the test half of the bundled prompts, and of the keys, that the filter refuses.

    Raises UsageError where there is no key.
    """
    if not keys:
        raise UsageError("there is no key to ask", hint="give the keys of a set")
    ordinary = found.blocks(ordinary_halves()[1])
    blocked = found.blocks(keys)
    return FilterReport(
        len(ordinary),
        clopper_pearson(sum(ordinary), len(ordinary)),
        len(blocked),
        clopper_pearson(sum(blocked), len(blocked)),
        sum(ordinary) / len(ordinary),
        sum(blocked) / len(blocked),
    )
