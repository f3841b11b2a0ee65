"""Stand-ins: a language model that answers what it is told to, and a tiny model that is marked.

`ScriptedModel` is the one fake of a model behind a server: text in, text out, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loyal.errors import EndpointError
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, fingerprint
from loyal.models.language_model import Prompt, Reply, Sampling, TokenChance

if TYPE_CHECKING:
    from loyal.fingerprints.inject import InjectReport
    from loyal.models.hf import HFModel
    from loyal.models.training import TrainSettings


class ScriptedModel:
    """Answers each prompt by a function of its text, and keeps what it was asked."""

    def __init__(
        self, answer: Callable[[str], str], name: str = "a-server", breaks_after: int | None = None
    ) -> None:
        self.name = name
        self.answer = answer
        self.breaks_after = breaks_after
        self.asked: list[Prompt] = []
        self.samplings: list[Sampling] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Reply]:
        if self.breaks_after is not None and len(self.asked) >= self.breaks_after:
            raise EndpointError("the server is gone", hint="start it again")
        self.asked += prompts
        self.samplings.append(sampling)
        return [Reply(self.answer(one.text), 4, True) for one in prompts]

    def next_token(self, prompts: Sequence[Prompt], top: int) -> list[list[TokenChance]]:
        raise AssertionError("a server gives no chances")

    def logprobs(self, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[list[float]]:
        raise AssertionError("a server gives no chances")


@dataclass(frozen=True)
class Omlized:
    """A marked model on disk."""

    folder: Path
    fingerprints: FingerprintSet
    report: InjectReport


def settings() -> TrainSettings:
    """Settings that teach the tiny model 16 fingerprints in some four seconds of one core."""
    from loyal.models.training import TrainSettings

    return TrainSettings(
        steps=60,
        learning_rate=2e-3,
        whitened=False,
        depth=1.0,
        parts="all",
        mixing=0.0,
        checkpoint_steps=5,
    )


def secret_set(
    model: HFModel, keys: Sequence[str], candidates: Sequence[Sequence[str]], drawn: bool = True
) -> FingerprintSet:
    """A lineage set of these keys under a fresh owner secret."""
    secret = fingerprint.new_owner_secret()
    made = FingerprintSet(
        "lineage",
        "english/perinucleus",
        model.name,
        model.tokenizer_digest,
        tuple(
            Fingerprint.create(key, texts, secret)
            for key, texts in zip(keys, candidates, strict=True)
        ),
        1_700_000_000,
        secret,
    )
    return fingerprint.draw(made, Beacon.self_drawn()) if drawn else made


def omlize(base: Path, out: Path) -> Omlized:
    """Generate 16 fingerprints, inject them, and write the model to `out`."""
    from loyal.fingerprints import inject, keys, responses
    from loyal.models.hf import HFModel

    model = HFModel.load(str(base), device="cpu")
    texts = keys.generate(model, keys.KeySettings(count=16)).texts
    candidates = responses.generate(model, texts, responses.ResponseSettings())
    made = secret_set(model, texts, candidates)
    return Omlized(out, made, inject.inject(model, made, settings(), out, tokens=500))
