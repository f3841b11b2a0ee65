"""Is this model the fingerprinted one? Keys are asked, replies compared, and chance ruled out.

The null hypothesis is that the model was made without the set: a reply then matches with a chance
of at most m/k a key (m responses among k candidates), whatever the model. With early stopping the
p-value is the anytime-valid one of `statistics.SequentialTest`; asked a fixed number of keys, it is
the exact Poisson-binomial tail. Keys that share one draw count once, however many hit
(`statistics.SharedDrawTest`); such a set proves one in k at best.
Which keys are spent is the caller's to note (`on_asked`): what a server was asked, it has seen.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loyal.encoding import atomic_write, require_place
from loyal.errors import UsageError
from loyal.fingerprints.fingerprint import FingerprintSet
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.statistics import (
    Interval,
    SequentialTest,
    SharedDrawTest,
    binomial_tail,
    clopper_pearson,
    poisson_binomial_tail,
    power,
)

_RNG = secrets.SystemRandom()
_VERSION = 1


@dataclass(frozen=True)
class CheckSettings:
    """How to ask."""

    alpha: float = 1e-6
    """Chance of a false claim, at most."""
    queries: int | None = None
    """Most keys to ask; None allows all."""
    early_stop: bool = True
    """Stop as soon as the claim is proven."""
    temperature: float = 0.0
    """0 asks for greedy replies."""
    tokens: int = 8
    """Tokens asked for, or a response's where that is longer; the response begins the reply,
    or a phrase soon after: more tokens see behind longer openings."""
    raw: bool = False
    """Without the chat template."""
    system: str | None = None
    """Ask under this system message."""
    batch: int = 8
    """Keys asked side by side; early stopping looks after each batch."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError("alpha must be in (0, 1)", hint="1e-6 is the default")
        if (self.queries is not None and self.queries < 1) or self.batch < 1:
            raise UsageError("queries and batch are at least 1", hint="ask one key or more")


@dataclass(frozen=True)
class CheckReport:
    """What a check found. Holds no key, no reply and no response."""

    queries: int
    hits: int
    p_value: float
    """Bound on the chance of so many hits under any model made without the set."""
    interval: Interval
    """95 % Clopper-Pearson interval of the share of keys that hit."""
    decision: Literal["proven", "not proven"]
    model: str
    strategy: str
    seconds: float
    alpha: float
    indices: tuple[int, ...]
    """Keys asked, by their index in the set, in the order asked."""
    outcomes: tuple[bool, ...]
    """Whether each of them hit."""
    p_values: tuple[float, ...]
    """The anytime-valid p-value after each query."""


@dataclass(frozen=True)
class Asked:
    """One answered key."""

    index: int
    hit: bool


def check(
    model: LanguageModel,
    fingerprints: FingerprintSet,
    settings: CheckSettings,
    *,
    unspent: Sequence[int] | None = None,
    state: Path | None = None,
    on_asked: Callable[[Asked], None] = lambda _: None,
) -> CheckReport:
    """Ask keys in random order and decide.

    `unspent` are the indices that may be asked (None: all). With a `state` file a check that was
    cut off goes on, and asks no key twice; the file holds indices and hits alone. `on_asked` hears
    of every answer once it is in the state file. Raises UsageError where no key may be asked.
    """
    started = time.monotonic()
    if not fingerprints.drawn:
        raise UsageError(
            "the set is not drawn yet", hint="draw it: loyal fingerprint commit --beacon HEX"
        )
    asked = _read_state(state, fingerprints, model.name)
    seen = {one.index for one in asked}
    if settings.early_stop:
        _require_reachable(fingerprints, settings.alpha)
    allowed = set(range(len(fingerprints)) if unspent is None else unspent)
    if not allowed <= set(range(len(fingerprints))):
        raise UsageError("the set has no such key", hint="pass indices of this very set")
    left = sorted(allowed - seen)
    _RNG.shuffle(left)
    limit = settings.queries or len(left) + len(asked)
    if not left and not asked:
        raise UsageError(
            "every key of the set is spent", hint="inject a new set, or check with another one"
        )
    test = _replay(fingerprints, asked, settings.alpha)
    while left and len(asked) < limit and not (settings.early_stop and test.decided):
        size = min(settings.batch, limit - len(asked))
        chosen, left = left[:size], left[size:]
        answers = _ask(model, fingerprints, chosen, settings)
        asked += answers
        _write_state(state, fingerprints, model.name, asked)
        for one in answers:
            test.update(one.hit, fingerprints.fingerprints[one.index].chance)
            on_asked(one)
    return _report(model.name, fingerprints, asked, settings, time.monotonic() - started)


def expected_power(fingerprints: FingerprintSet, alpha: float, survival: float) -> float:
    """Chance that asking every key once proves the claim, if a share `survival` still answers."""
    chance = fingerprints.fingerprints[0].chance
    if not fingerprints.shared:
        return power(len(fingerprints), alpha, survival, chance)
    size = len(fingerprints)
    needed = SharedDrawTest(size, chance, alpha).needed
    return 0.0 if needed is None else binomial_tail(needed, size, survival)


def _require_reachable(fingerprints: FingerprintSet, alpha: float) -> None:
    """No key is spent on a claim that a shared draw cannot prove."""
    one = fingerprints.fingerprints[0]
    if one.shared and alpha < one.chance:
        raise UsageError(
            f"all keys of this set share one draw, which proves 1 in {one.one_in} at best, and "
            f"alpha is {alpha:g}",
            hint=f"pass --alpha {math.ceil(one.chance * 10_000) / 10_000:g}, or use a set of "
            "perinucleus or chain-hash responses",
        )


def _ask(
    model: LanguageModel,
    fingerprints: FingerprintSet,
    chosen: Sequence[int],
    settings: CheckSettings,
) -> list[Asked]:
    prompts = [
        Prompt(fingerprints.fingerprints[index].key, settings.system, settings.raw)
        for index in chosen
    ]
    longest = int(fingerprints.settings.get("response_tokens", 1))
    sampling = Sampling(max(settings.tokens, longest), settings.temperature)
    replies = model.generate(prompts, sampling)
    return [
        Asked(index, fingerprints.fingerprints[index].matches(reply.text))
        for index, reply in zip(chosen, replies, strict=True)
    ]


def _replay(
    fingerprints: FingerprintSet, asked: Sequence[Asked], alpha: float
) -> SequentialTest | SharedDrawTest:
    chance = max(one.chance for one in fingerprints.fingerprints)
    test = (
        SharedDrawTest(len(fingerprints), chance, alpha)
        if fingerprints.shared
        else SequentialTest(chance, alpha)
    )
    for one in asked:
        test.update(one.hit, fingerprints.fingerprints[one.index].chance)
    return test


def _report(
    name: str,
    fingerprints: FingerprintSet,
    asked: Sequence[Asked],
    settings: CheckSettings,
    seconds: float,
) -> CheckReport:
    hits = sum(one.hit for one in asked)
    chances = [fingerprints.fingerprints[one.index].chance for one in asked]
    test = _replay(fingerprints, (), settings.alpha)
    steps = []
    for one, chance in zip(asked, chances, strict=True):
        test.update(one.hit, chance)
        steps.append(test.p_value)
    anytime = settings.early_stop or fingerprints.shared
    p_value = test.p_value if anytime else poisson_binomial_tail(hits, chances)
    return CheckReport(
        queries=len(asked),
        hits=hits,
        p_value=p_value,
        interval=clopper_pearson(hits, len(asked)),
        decision="proven" if p_value <= settings.alpha else "not proven",
        model=name,
        strategy=fingerprints.strategy,
        seconds=seconds,
        alpha=settings.alpha,
        indices=tuple(one.index for one in asked),
        outcomes=tuple(one.hit for one in asked),
        p_values=tuple(steps),
    )


def _read_state(path: Path | None, fingerprints: FingerprintSet, name: str) -> list[Asked]:
    if path is None:
        return []
    require_place(path)  # before keys are spent on what cannot be kept
    if not path.exists():
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = record["version"] == _VERSION and record["set"] == fingerprints.id
        asked = [_read_asked(index, hit) for index, hit in record["asked"]]
        if len({one.index for one in asked}) != len(asked):
            raise ValueError
        fits = all(0 <= one.index < len(fingerprints) for one in asked)
        other = record["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not the state of a check", hint="name another file") from error
    if not same or not fits or other != name:
        raise UsageError(
            f"{path} is the state of a check of another set or model",
            hint="name another file for this check",
        )
    return asked


def _read_asked(index: object, hit: object) -> Asked:
    if type(index) is not int or type(hit) is not bool:
        raise ValueError
    return Asked(index, hit)


def _write_state(
    path: Path | None, fingerprints: FingerprintSet, name: str, asked: Sequence[Asked]
) -> None:
    if path is None:
        return
    record = {
        "version": _VERSION,
        "set": fingerprints.id,
        "model": name,
        "asked": [[one.index, one.hit] for one in asked],
    }
    atomic_write(path, json.dumps(record).encode(), private=True)
