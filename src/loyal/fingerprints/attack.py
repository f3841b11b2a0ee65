"""What a host may do to lose its fingerprints: the nouns of the attack suite. No torch.

An attack takes a scene (a copy of M.oml, and what the attacker has) and gives back a language
model: the same one with other weights, or a wrapper that serves it in another way. The attacks
themselves are in `weight_attacks` (weights without training), `tuning_attacks` (training),
`asking_attacks` (system prompts, temperatures) and `serving_attacks` (what a server does to prompts
and replies); each of these lists its own in ATTACKS. `suite` names them all and measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from loyal.errors import UsageError
from loyal.fingerprints.fingerprint import FingerprintSet
from loyal.models.language_model import LanguageModel
from loyal.statistics import Interval

if TYPE_CHECKING:
    from loyal.models.hf import HFModel

Family = Literal[
    "none",
    "tuning",
    "quantization",
    "pruning",
    "merge",
    "prompt",
    "sampling",
    "filter",
    "suppression",
    "paraphrase",
    "targeted",
]


@dataclass(frozen=True)
class Scene:
    """What an attacker has. Its repr tells the model's name, and no key."""

    model: HFModel
    """A fresh copy of M.oml; the attack may change it in place."""
    base: Callable[[], HFModel]
    """Loads the untouched base. Worst case: a base that nobody published is not at hand."""
    leaked: FingerprintSet | None = None
    """Pairs that the attacker has learned; they are not asked afterwards. None for most attacks."""
    seed: int = 0
    """Decides all that the attack draws: the same seed gives the same attacked model on a CPU."""
    fraction: float = 1.0
    """Share of its training examples that an attack that trains uses; below 1 it is a weaker, and
    quicker, attack than its name says."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise UsageError("fraction is above 0 and at most 1", hint="1 is the whole attack")


@dataclass(frozen=True)
class Attack:
    """One way to lose fingerprints."""

    name: str
    """Lower case, words joined by hyphens, for instance "int4-symmetric"."""
    family: Family
    what: str
    """One plain sentence: what the host does."""
    source: str
    """The arXiv id or tool that it follows."""
    run: Callable[[Scene], LanguageModel]
    """Gives the attacked model: the scene's own, changed in place, or a wrapper around it."""
    quick: bool = False
    """Whether the quick suite holds it."""
    leaks: bool = False
    """Whether it needs leaked pairs (`Scene.leaked`)."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack left of the fingerprints, and of the model. Holds no key and no reply."""

    name: str
    family: Family
    asked: int
    """Keys asked, once each; leaked ones are not among them."""
    hits: int
    survival: float
    """hits / asked."""
    interval: Interval
    """95 % Clopper-Pearson interval of the share of keys that hit."""
    p_value: float
    """Exact tail of these hits among these keys, under any model made without the set."""
    p_value_100: float
    """Where a prover stands after 100 keys. With 100 or more asked: the exact tail of the first
    100, in the random order in which they were asked. With fewer: the exact tail of
    floor(100 hits / asked) hits of 100 at the largest chance of a key, an extrapolation."""
    perplexity_before: float
    """Of M.oml, on human-written English (`evaluate.prose`)."""
    perplexity_after: float | None
    """Of the attacked model; None for a wrapper, whose weights are those of M.oml."""
    utility: float | None
    """Of the short factual questions that M.oml answers right, the share that the attacked model
    answers right; None where M.oml answers none."""
    fraction: float
    """`Scene.fraction` of the run."""
    seconds: float
    """Wall time of the attack, without measuring."""
