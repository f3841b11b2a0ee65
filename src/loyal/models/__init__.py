"""The only room that knows transformers: models, examples, and the one training loop.

    from loyal.models import Prompt, Sampling
    from loyal.models.hf import HFModel

    model = HFModel.load("smollm2-135m-instruct")
    model.generate([Prompt("What is the capital of France?")], Sampling(max_tokens=8))

Nouns are exported here and need no torch; verbs are modules (`hf`, `endpoint`, `library`, `tiny`,
`train`, `evaluate`).
"""

from loyal.models.examples import Behavior, Example, Pairs
from loyal.models.language_model import (
    Form,
    LanguageModel,
    Prompt,
    Reply,
    Sampling,
    TokenChance,
)

__all__ = [
    "Behavior",
    "Example",
    "Form",
    "LanguageModel",
    "Pairs",
    "Prompt",
    "Reply",
    "Sampling",
    "TokenChance",
]
