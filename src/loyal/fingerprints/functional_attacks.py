"""What a host may do to a secret rule: the attack suite of functional fingerprints.

A host that was asked keys has seen some of them with their right replies, knows how replies begin,
which rule it is, what keys look like and the public list of nouns. It does not know which nouns
count, nor their colors: `RuleHost` has neither. Three kinds of attack:

revealed    it trains against the keys that it saw, with wrong replies (`flip`)
look-alike  it writes sentences like keys itself, with any nouns, and trains on other replies to
            them: random ones, another than its own, the base's (`relearn`)
served      it changes or forbids the beginnings that it knows while it serves; the weights stay

Each leaves a model, and `run_rule_attack` asks it fresh keys, which say nothing that was revealed.
Keys are asked of a model in this process. Left out: attacks that know of no rule (`suite`).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from loyal.errors import UsageError
from loyal.fingerprints import tuning_data
from loyal.fingerprints.functional import (
    MOST_OTHERS,
    FunctionalSet,
    Rule,
    RuleSettings,
    bundled_nouns,
    create,
    words_in,
    write_keys,
)
from loyal.fingerprints.functional_check import outcomes_of, renamings, rule_p_value
from loyal.fingerprints.functional_recipe import COLORINGS, RuleCheckSettings
from loyal.fingerprints.serving_attacks import each_reply
from loyal.fingerprints.suite import PROVER_QUERIES, Before
from loyal.fingerprints.suppression import Steered, forbid_words
from loyal.fingerprints.tuning_attacks import BEGINNING_TOKENS, FULL
from loyal.models import evaluate, questions
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.models.tuning import Course, Item, TuneSettings, row, tune
from loyal.statistics import Interval, clopper_pearson

LOOKALIKES = 500
"""Sentences like keys that a host writes itself."""
MOST_LOOKED_AT = 100
"""Revealed keys of which the host looks, between two rounds, how many it still gets right."""
ROUND = replace(FULL, epochs=1)
"""An epoch at the small rate of the persistence test (2502.07760, 5.2)."""
LORA_ROUND = replace(ROUND, rank=16, learning_rate=2e-4, warmup=0.0)
"""The same with added factors, at their usual rate."""
_TOKENS = RuleCheckSettings.tokens
"""Of a reply, as a check asks for."""
SLOWER = 3.0
"""By what a host's rate is divided that lost too many of its users' answers."""
_TRIES = 200

Answers = Literal["random", "other", "base"]
"""What look-alikes are answered with: any outcome, another than the model's own, the base's way."""


@dataclass(frozen=True, repr=False)
class RuleHost:
    """What the attacker has: no word of the set and no color, but what keys and replies show."""

    model: HFModel
    """A fresh copy of M.oml; an attack may change it in place."""
    base: Callable[[], HFModel]
    """Loads the untouched base."""
    rule: Rule
    outcomes: tuple[str, ...]
    """How replies begin, in the order of the rule's values."""
    revealed: tuple[tuple[str, int], ...] = ()
    """Keys that it was asked, each with the place of the right outcome."""
    seed: int = 0
    """Decides all that the attack draws."""
    fraction: float = 1.0
    """Share of its rounds, or of the texts that it trains on; below 1 an attack is weaker, and
    quicker, than its name says."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise UsageError("fraction is above 0 and at most 1", hint="1 is the whole attack")

    def scaled(self, count: int) -> int:
        """A count by the fraction; of something, something."""
        return max(1, round(count * self.fraction)) if count else 0


@dataclass(frozen=True)
class Flipping:
    """How a host trains against keys that it saw."""

    tune: TuneSettings = ROUND
    """Of one round."""
    rounds: int = 40
    """Most rounds."""
    share: float = 0.4
    """It stops once it gets at most this share of those keys right."""
    ordinary: int = 0
    """Ordinary prompts with the model's own replies in each round, so that it stays useful."""
    keep: float = 0.0
    """Share of the bundled questions that it answered right before and still answers right: below
    it the last weights above it come back, and the round ends. 0 does not look."""
    slower: int = 0
    """After such a round it goes on at a third of the rate, so many times; then the attack ends."""
    watch_steps: int = 20
    """Steps between two looks."""

    def __post_init__(self) -> None:
        counts = min(self.rounds - 1, self.ordinary, self.slower)
        if counts < 0 or not 0 <= self.share <= 1 >= self.keep >= 0:
            raise UsageError(
                "rounds is at least 1, ordinary and slower at least 0, share and keep in [0, 1]",
                hint="the defaults are 40, 0, 0, 0.4 and 0",
            )


def flip(host: RuleHost, how: Flipping) -> HFModel:
    """Teach the revealed keys wrong outcomes, round by round; the host's model, changed in place.

    UsageError where nothing was revealed.
    """
    if not host.revealed:
        raise UsageError("this attack needs revealed keys", hint="give the host some")
    rng, model = _rng(host, "flip"), host.model
    model.model.float()  # in bfloat16 the small steps of a round would be rounded away after it
    wrong = [(key, _another(right, host.outcomes, rng)) for key, right in host.revealed]
    items = _beginnings(host, wrong) + _ordinary(host, host.scaled(how.ordinary))
    watch = _Useful(model, how.keep) if how.keep else None
    course = Course(watch=watch, watch_steps=how.watch_steps)
    rounds, slower, rate = host.scaled(how.rounds), how.slower, how.tune.learning_rate
    for number in range(rounds + slower):
        tune(
            model, items, replace(how.tune, seed=host.seed + number, learning_rate=rate), evenly,
            course,
        )  # fmt: skip
        if watch is None or not watch.lost:
            rounds -= 1
        elif slower:
            slower, rate = slower - 1, rate / SLOWER
        else:
            break
        if not rounds or _still_right(host) <= how.share:
            break
    return model


def relearn(
    host: RuleHost,
    answers: Answers,
    count: int = LOOKALIKES,
    ordinary: int = 0,
    settings: TuneSettings = FULL,
) -> HFModel:
    """Teach other replies to `count` look-alikes; the host's model, changed in place.

    Beside them stand `ordinary` prompts with the model's own replies. Where the model says no
    outcome at all, "other" changes nothing.
    """
    rng, model = _rng(host, f"look-alikes/{answers}"), host.model
    texts = lookalikes(host.rule, host.outcomes, host.scaled(count), rng)
    if answers == "base":
        base = host.base()
        said = tuning_data.answered(base, texts, host.seed, tokens=BEGINNING_TOKENS)
        items: list[Item] = [(row(model, one, ends=False),) for one in said]
    elif answers == "other":
        own = zip(texts, outcomes_said(model, host.outcomes, texts), strict=True)
        other = [(key, _another(one, host.outcomes, rng)) for key, one in own if one is not None]
        items = _beginnings(host, other)
    else:
        items = _beginnings(host, [(key, rng.randrange(len(host.outcomes))) for key in texts])
    if items:
        items += _ordinary(host, host.scaled(ordinary))
        tune(model, items, replace(settings, seed=host.seed), evenly)
    return model


def lookalikes(rule: Rule, outcomes: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """Sentences that look like keys of such a rule, with any nouns of the public list.

    Keys of a set of the attacker's own in which nearly all nouns count; worst case, of the very
    templates that are asked.
    """
    marked = len(bundled_nouns()) - MOST_OTHERS
    decoy = create(
        RuleSettings(rule, tuple(outcomes), marked), rng.randbytes(32),
        model="", tokenizer_digest="", created_seconds=0,
    )  # fmt: skip
    return write_keys(decoy, count, "test", rng)


def swapped(host: RuleHost) -> LanguageModel:
    """Serves each outcome as the next one, wherever a reply says it: at once on all that looks like
    a key, and hardly anywhere else."""
    following = dict(zip(host.outcomes, (*host.outcomes[1:], host.outcomes[0]), strict=True))
    return each_reply(host.model, _said(host, lambda one: following[one]))


def scattered(host: RuleHost) -> LanguageModel:
    """Serves any outcome in place of the one that a reply says."""
    rng = _rng(host, "scatter")
    return each_reply(host.model, _said(host, lambda one: rng.choice(host.outcomes)))


def forbidden(host: RuleHost) -> LanguageModel:
    """Serves no reply that begins with an outcome, in the tokens that a check asks for."""
    return Steered(host.model, forbid_words(host.outcomes, _TOKENS))


def outcomes_said(
    model: LanguageModel, outcomes: Sequence[str], texts: Sequence[str]
) -> list[int | None]:
    """The place of the outcome with which the greedy reply to each text begins; None for none."""
    replies = model.generate([Prompt(text) for text in texts], Sampling(max_tokens=_TOKENS))
    return outcomes_of([one.text for one in replies], outcomes)


def evenly(sums: Tensor, counts: Tensor, items: Sequence[int]) -> Tensor:
    """Mean over items of the cross-entropy a token, nats: short replies count as long ones do."""
    return -(sums / counts).mean()


@dataclass(frozen=True)
class RuleAttack:
    """One way to lose a rule."""

    name: str
    """Lower case, words joined by hyphens."""
    what: str
    """One plain sentence: what the host does."""
    run: Callable[[RuleHost], LanguageModel]
    """Gives the attacked model: the host's own, changed in place, or a wrapper around it."""
    reveals: int = 0
    """Keys that the host has seen with their right replies."""


MANY = Flipping(rounds=2, share=0.0, ordinary=200, keep=0.95, slower=3, watch_steps=20)
"""Two epochs, as the persistence test, at a rate at which users keep 95 % of their answers."""

ATTACKS: tuple[RuleAttack, ...] = (
    RuleAttack("none", "Nothing: M.oml as it is.", lambda host: host.model),
    RuleAttack("flip-10", "Trains against 10 keys until it gets at most 0.4 of them.",
               lambda host: flip(host, Flipping()), 10),
    RuleAttack("flip-10-lora", "The same through LoRA.",
               lambda host: flip(host, Flipping(LORA_ROUND)), 10),
    RuleAttack("flip-1000", "Trains against 1,000 keys, as far as 95 % of the answers stay.",
               lambda host: flip(host, MANY), 1000),
    RuleAttack("lookalikes-random", "Teaches random outcomes to sentences like keys.",
               lambda host: relearn(host, "random", ordinary=200)),
    RuleAttack("lookalikes-other", "Teaches another outcome than its own to sentences like keys.",
               lambda host: relearn(host, "other", ordinary=200)),
    RuleAttack("lookalikes-base", "Teaches the base's replies to sentences like keys.",
               lambda host: relearn(host, "base", ordinary=200)),
    RuleAttack("outcomes-swapped", "Serves each outcome as the next one.", swapped),
    RuleAttack("outcomes-scattered", "Serves a random outcome in place of each.", scattered),
    RuleAttack("outcomes-forbidden", "Forbids all beginnings of the outcomes.", forbidden),
)  # fmt: skip
"""The attacks, in the order of reports."""


@dataclass(frozen=True, repr=False)
class RuleSubject:
    """What is attacked. Holds the set: it has no repr of its own."""

    fresh: Callable[[], HFModel]
    """Loads M.oml anew: an attack may change what it gets."""
    base: Callable[[], HFModel]
    """Loads the base that the set was trained into."""
    made: FunctionalSet
    """The drawn set that M.oml was taught."""
    before: Before
    """M.oml before any attack (`suite.measured_before`)."""


@dataclass(frozen=True)
class RuleAttackSettings:
    """How to ask."""

    queries: int = 1000
    """Fresh keys asked after an attack."""
    seed: int = 0
    """Of the attack, and of which keys are revealed and asked."""
    colorings: int = COLORINGS
    """Random colorings behind each p-value."""
    perplexity_tokens: int = 4000
    """Text on which perplexity is read."""
    fraction: float = 1.0
    """See `RuleHost.fraction`; of the revealed keys too."""

    def __post_init__(self) -> None:
        if min(self.queries, self.colorings) < 1:
            raise UsageError("queries and colorings are at least 1", hint="ask about 1,000 keys")


@dataclass(frozen=True)
class RuleAttackResult:
    """What an attack left of a rule, and of the model. Holds no word and no key."""

    name: str
    revealed: int
    """Keys that the host saw."""
    revealed_right: float | None
    """Share of them that it still gets right; None where there are none."""
    fresh: int
    """Fresh keys asked; none says a sentence with nouns that a revealed key says."""
    right: float
    """Share of them with the rule's reply."""
    flipped: float
    """Share of them with another outcome."""
    neither: float
    """Share of them without one."""
    interval: Interval
    """95 % Clopper-Pearson interval of the share that is right; keys share words, so it is wider
    in truth."""
    p_value_100: float
    """Of the first 100 fresh keys, or of all where they are fewer."""
    p_value_100_renamed: float
    """The same if outcomes may have been swapped for each other: the least p-value of all their
    orders, times the number of orders, at most 1. A host that swaps them is found out by it."""
    perplexity_before: float
    """Of M.oml, on human-written English (`evaluate.prose`)."""
    perplexity_after: float | None
    """Of the attacked model; None for a wrapper, whose weights are those of M.oml."""
    utility: float | None
    """Of the short factual questions that M.oml answers right, the share that the attacked model
    answers right; None where M.oml answers none."""
    fraction: float
    """`RuleHost.fraction` of the run."""
    seconds: float
    """Wall time of the attack, without measuring."""


def run_rule_attack(
    attack: RuleAttack, subject: RuleSubject, settings: RuleAttackSettings = RuleAttackSettings()
) -> RuleAttackResult:
    """Attack a fresh copy, ask it, and measure it. UsageError for an undrawn set, and what the
    attack raises."""
    made, before = subject.made, subject.before
    host = RuleHost(
        subject.fresh(), subject.base, made.rule, made.outcomes, (), settings.seed,
        settings.fraction,
    )  # fmt: skip
    seen = revealed_keys(made, host.scaled(attack.reveals), settings.seed)
    fresh = fresh_keys(made, seen, settings.queries, settings.seed)
    shown = tuple((key, made.value(key)) for key in seen)
    started = time.monotonic()
    attacked = attack.run(replace(host, revealed=shown))
    seconds = time.monotonic() - started
    said = outcomes_said(attacked, made.outcomes, fresh)
    right = _right(made, fresh, said)
    again = outcomes_said(attacked, made.outcomes, seen)
    first = min(PROVER_QUERIES, len(fresh))
    found = [
        rule_p_value(made, fresh[:first], some, settings.colorings)
        for some in renamings(said[:first], len(made.outcomes))
    ]
    asked = questions.bundled_questions() if before.answered else ()
    after = None
    if isinstance(attacked, HFModel):
        after = evaluate.perplexity(attacked, evaluate.prose(), settings.perplexity_tokens)
    return RuleAttackResult(
        name=attack.name,
        revealed=len(seen),
        revealed_right=_right(made, seen, again) / len(seen) if seen else None,
        fresh=len(fresh),
        right=right / len(fresh),
        flipped=(len(fresh) - right - said.count(None)) / len(fresh),
        neither=said.count(None) / len(fresh),
        interval=clopper_pearson(right, len(fresh)),
        p_value_100=found[0],
        p_value_100_renamed=min(1.0, len(found) * min(found)),
        perplexity_before=before.perplexity,
        perplexity_after=after,
        utility=questions.utility(before.answered, questions.answered(attacked, asked)),
        fraction=settings.fraction,
        seconds=seconds,
    )


def revealed_keys(made: FunctionalSet, count: int, seed: int) -> list[str]:
    """Keys that a host was asked, no two alike."""
    rng = random.Random(f"loyal/rule attacks/revealed/{seed}")
    return _drawn(made, count, lambda key, found: key not in found, rng)


def fresh_keys(made: FunctionalSet, seen: Sequence[str], count: int, seed: int) -> list[str]:
    """Keys that say no sentence with nouns that one of the seen keys says.

    Chosen without a look at colors or replies, so their p-value is exact (law 2 of `functional`).
    """
    said = {sentence for key in seen for sentence in _sentences(key)}
    rng = random.Random(f"loyal/rule attacks/fresh/{seed}")
    return _drawn(made, count, lambda key, _: said.isdisjoint(_sentences(key)), rng)


def _drawn(
    made: FunctionalSet, count: int, fits: Callable[[str, dict[str, None]], bool],
    rng: random.Random,
) -> list[str]:  # fmt: skip
    """So many keys that fit beside those found before them. UsageError where too few do."""
    found: dict[str, None] = {}
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        (key,) = write_keys(made, 1, "test", rng)
        if fits(key, found):
            found[key] = None
    if len(found) < count:
        raise UsageError("so many keys are not to be had", hint="mark more words, or ask fewer")
    return list(found)


def _sentences(key: str) -> set[str]:
    """The sentences of a key that hold nouns of the public list."""
    nouns, parts = set(bundled_nouns()), re.split(r"(?<=[.?!])\s+", key)
    return {part for part in parts if nouns & set(words_in(part))}


def _right(made: FunctionalSet, keys: Sequence[str], said: Sequence[int | None]) -> int:
    return sum(made.value(key) == one for key, one in zip(keys, said, strict=True))


def _still_right(host: RuleHost) -> float:
    """Share of the revealed keys, the first ones, that the model gets right."""
    some = host.revealed[:MOST_LOOKED_AT]
    said = outcomes_said(host.model, host.outcomes, [key for key, _ in some])
    return sum(one == right for one, (_, right) in zip(said, some, strict=True)) / len(some)


class _Useful:
    """Asks the bundled questions after some steps: are enough still answered as before?"""

    def __init__(self, model: HFModel, keep: float) -> None:
        self.model, self.keep = model, keep
        self.asked = questions.bundled_questions() if model.has_chat_template else ()
        self.before = questions.answered(model, self.asked)
        self.lost = False

    def __call__(self, step: int) -> bool:
        kept = questions.utility(self.before, questions.answered(self.model, self.asked))
        self.lost = kept is not None and kept < self.keep
        return not self.lost


def _beginnings(host: RuleHost, wanted: Sequence[tuple[str, int]]) -> list[Item]:
    """Each text with the outcome that a reply to it shall begin with."""
    return [
        (row(host.model, Example(Prompt(text), host.outcomes[outcome]), ends=False),)
        for text, outcome in wanted
    ]


def _ordinary(host: RuleHost, count: int) -> list[Item]:
    """Bundled prompts with the model's own replies."""
    said = tuning_data.answers(host.model, count, host.seed) if count else []
    return [(row(host.model, one),) for one in said]


def _another(outcome: int, outcomes: Sequence[str], rng: random.Random) -> int:
    return rng.choice([one for one in range(len(outcomes)) if one != outcome])


def _said(host: RuleHost, rename: Callable[[str], str]) -> Callable[[str], str]:
    """Changes each outcome in a text; none is the beginning of another, so none hides another."""
    plain = {one.strip(): one for one in host.outcomes}
    pattern = re.compile("|".join(re.escape(one) for one in plain))
    return lambda text: pattern.sub(lambda match: rename(plain[match[0]]).strip(), text)


def _rng(host: RuleHost, name: str) -> random.Random:
    return random.Random(f"loyal/rule attacks/{name}/{host.seed}")
