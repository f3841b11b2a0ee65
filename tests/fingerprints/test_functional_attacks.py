"""What a host does to a rule, on a tiny model that learned some keys by heart.

Each attack does what it says, knows no word of the set, and is measured on keys that say nothing
it saw. Left out: that a rule is learned from such keys, which takes a greater model.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from attack_scenes import changed, loaded, weights

from loyal.errors import UsageError
from loyal.fingerprints import Beacon
from loyal.fingerprints import functional_attacks as attacks
from loyal.fingerprints.functional import (
    MOST_OTHERS,
    SIZES,
    FunctionalSet,
    RuleSettings,
    bundled_nouns,
    create,
    draw,
)
from loyal.fingerprints.functional_attacks import RuleHost, outcomes_said
from loyal.fingerprints.functional_check import renamings
from loyal.fingerprints.suite import Before
from loyal.models import questions
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.tiny import World
from loyal.models.tuning import TuneSettings, row, tune

KNOWN = 16
QUICK = TuneSettings(epochs=1, learning_rate=1e-3, batch=8)
"""An epoch at a rate that moves a model this small."""


def build() -> FunctionalSet:
    made = create(RuleSettings(), b"s" * 32, model="m", tokenizer_digest="a", created_seconds=1)
    return draw(made, Beacon(b"\1" * 32))


def nouns_in(text: str) -> list[str]:
    """Nouns of the public list, as often as they stand there."""
    return [word for word in re.findall("[a-z]+", text.lower()) if word in bundled_nouns()]


MADE = build()
SEEN = attacks.revealed_keys(MADE, KNOWN, 0)


@pytest.fixture(scope="module")
def learned(tiny_folder: Path) -> HFModel:
    """The tiny model that knows KNOWN keys by heart, and its world; nobody trains this one."""
    model = loaded(tiny_folder)
    items = [
        (row(model, Example(Prompt(key), MADE.outcomes[MADE.value(key)]), ends=False),)
        for key in SEEN
    ]
    items += [(row(model, Example(*one)),) for one in World.from_seed(0).questions()[::8]]
    tune(model, items, TuneSettings(epochs=12, learning_rate=3e-3), attacks.evenly)
    assert outcomes_said(model, MADE.outcomes, SEEN) == [MADE.value(key) for key in SEEN]
    return model


@pytest.fixture
def host(learned: HFModel, tiny_folder: Path) -> RuleHost:
    """A host with a copy of that model, and all of those keys."""
    model = replace(learned, model=copy.deepcopy(learned.model))
    shown = tuple((key, MADE.value(key)) for key in SEEN)
    return RuleHost(model, lambda: loaded(tiny_folder), MADE.rule, MADE.outcomes, shown, 3)


def right(host: RuleHost) -> int:
    """Revealed keys that the host's model gets right."""
    said = outcomes_said(host.model, host.outcomes, SEEN)
    return sum(one == MADE.value(key) for key, one in zip(SEEN, said, strict=True))


def test_a_host_flips_until_it_gets_few_enough_right(host: RuleHost) -> None:
    assert right(host) == KNOWN
    assert attacks.flip(host, attacks.Flipping(QUICK, rounds=30)) is host.model
    assert right(host) <= 0.4 * KNOWN
    assert all(one.isfinite().all() for one in host.model.model.parameters())


def test_a_host_that_has_enough_stops(host: RuleHost, learned: HFModel) -> None:
    """With a share of 1 the first round is the last."""
    other = replace(host, model=replace(learned, model=copy.deepcopy(learned.model)))
    attacks.flip(host, attacks.Flipping(QUICK, rounds=3, share=1.0))
    attacks.flip(other, attacks.Flipping(QUICK, rounds=1, share=1.0))
    assert changed(weights(learned), host.model)
    assert not changed(weights(other.model), host.model)


def test_without_revealed_keys_it_is_refused(host: RuleHost) -> None:
    with pytest.raises(UsageError, match="revealed keys"):
        attacks.flip(replace(host, revealed=()), attacks.Flipping())


def test_a_host_that_keeps_its_users_stops_in_time(
    host: RuleHost, learned: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny world's questions stand for the bundled ones, which this model does not know."""
    known = [
        questions.Question(prompt.text, (reply,))
        for prompt, reply in World.from_seed(0).questions()
    ]
    able = questions.answered(learned, known)
    asked = [one for one, good in zip(known, able, strict=True) if good][:20]
    assert len(asked) > 5
    monkeypatch.setattr(questions, "bundled_questions", lambda: tuple(asked))
    rough = attacks.Flipping(replace(QUICK, learning_rate=3e-2), rounds=3, share=0.0)
    kept = replace(host, model=replace(learned, model=copy.deepcopy(learned.model)))
    attacks.flip(host, rough)
    attacks.flip(kept, replace(rough, keep=0.9, watch_steps=1))
    assert sum(questions.answered(host.model, asked)) < 0.9 * len(asked)
    assert sum(questions.answered(kept.model, asked)) >= 0.9 * len(asked)
    assert right(kept) == KNOWN  # it was too rough to get anywhere

    slower = replace(host, model=replace(learned, model=copy.deepcopy(learned.model)))
    attacks.flip(slower, replace(rough, keep=0.9, watch_steps=1, slower=4))
    assert sum(questions.answered(slower.model, asked)) >= 0.9 * len(asked)
    assert right(slower) < KNOWN


def test_ordinary_prompts_beside_the_keys_are_taught_too(host: RuleHost) -> None:
    """With others in the order of training the weights are others."""
    alone = replace(host, model=replace(host.model, model=copy.deepcopy(host.model.model)))
    attacks.flip(host, attacks.Flipping(QUICK, rounds=1, ordinary=3))
    attacks.flip(alone, attacks.Flipping(QUICK, rounds=1))
    assert changed(weights(alone.model), host.model)


def test_lookalikes_are_like_keys_and_hold_any_nouns() -> None:
    found = attacks.lookalikes(MADE.rule, MADE.outcomes, 300, random.Random(1))
    counts = {len(nouns_in(key)) for key in found}
    least, most = min(SIZES[MADE.rule]), max(SIZES[MADE.rule]) + MOST_OTHERS
    assert least in counts
    assert counts <= set(range(least, most + 1))
    assert len(set(nouns_in(" ".join(found)))) > 0.9 * len(bundled_nouns())


def test_nothing_of_the_set_is_in_a_hosts_hands(host: RuleHost) -> None:
    assert {one.name for one in fields(RuleHost)} == {
        "model", "base", "rule", "outcomes", "revealed", "seed", "fraction",
    }  # fmt: skip
    assert not any(key in repr(host) for key in SEEN)
    with pytest.raises(UsageError, match="fraction"):
        replace(host, fraction=0.0)


def test_other_outcomes_are_taught_to_lookalikes(host: RuleHost) -> None:
    texts = attacks.lookalikes(host.rule, host.outcomes, 24, random.Random("none of the host's"))
    before = outcomes_said(host.model, host.outcomes, texts)
    assert before.count(None) <= 4  # it says an outcome to whatever looks like a key
    assert attacks.relearn(host, "other", 24, settings=replace(QUICK, epochs=8)) is host.model
    after = outcomes_said(host.model, host.outcomes, texts)
    same = sum(a == b for a, b in zip(before, after, strict=True) if a is not None)
    assert same < 20
    untouched = replace(host, outcomes=("Zebra", "Quagga"))
    kept = weights(host.model)
    attacks.relearn(untouched, "other", 4)
    assert not changed(kept, host.model)  # it says neither, so there is nothing to teach


def test_the_bases_replies_are_taught_to_lookalikes(host: RuleHost) -> None:
    attacks.relearn(host, "base", 24, settings=replace(QUICK, epochs=8))
    texts = attacks.lookalikes(host.rule, host.outcomes, 24, random.Random(5))
    assert outcomes_said(host.model, host.outcomes, texts).count(None) >= 12


def test_random_outcomes_are_taught_to_lookalikes(host: RuleHost, learned: HFModel) -> None:
    """The host's own sentences get likelier to have what was drawn for them."""
    rng = attacks._rng(host, "look-alikes/random")
    texts = attacks.lookalikes(host.rule, host.outcomes, 12, rng)
    drawn = [host.outcomes[rng.randrange(2)] for _ in texts]
    prompts = [Prompt(text) for text in texts]
    attacks.relearn(host, "random", 12, settings=replace(QUICK, epochs=8))
    before, after = (
        sum(sum(one) for one in model.logprobs(prompts, drawn)) for model in (learned, host.model)
    )
    assert after > before + 1


@pytest.fixture
def asking(host: RuleHost) -> Callable[..., list[int | None]]:
    return lambda model: outcomes_said(model, host.outcomes, SEEN)


def test_served_outcomes_are_swapped_scattered_or_forbidden(
    host: RuleHost, asking: Callable[..., list[int | None]]
) -> None:
    own = [MADE.value(key) for key in SEEN]
    assert asking(attacks.swapped(host)) == [1 - one for one in own]
    scattered = asking(attacks.scattered(host))
    assert set(scattered) == {0, 1}  # but for one seed in 2^15; the host's is fixed
    assert scattered != own
    assert asking(attacks.scattered(host)) == scattered
    assert asking(attacks.forbidden(host)) == [None] * KNOWN
    assert asking(host.model) == own
    plain = [one for one, _ in World.from_seed(0).questions()[:12]]
    untaught = replace(host, model=host.base())
    said = untaught.model.generate(plain, Sampling())
    for served in (attacks.swapped, attacks.scattered, attacks.forbidden):
        assert served(untaught).generate(plain, Sampling()) == said


def test_fresh_keys_say_no_sentence_that_was_revealed() -> None:
    seen = attacks.revealed_keys(MADE, 400, 1)
    assert len(set(seen)) == 400
    fresh = attacks.fresh_keys(MADE, seen, 300, 1)
    assert len(set(fresh)) == 300
    assert not set(fresh) & set(seen)
    assert attacks.fresh_keys(MADE, fresh[:100], 300, 1)[:200] == fresh[100:]
    sentence = next(one for one in re.split(r"(?<=[.?!]) ", fresh[0]) if nouns_in(one))
    assert sentence != fresh[0]
    without = attacks.fresh_keys(MADE, [f"Hello. {sentence} Yes?"], 300, 1)
    assert fresh[0] not in without
    assert without[:299] == fresh[1:]
    with pytest.raises(UsageError, match="not to be had"):
        attacks._drawn(MADE, 2, lambda key, found: not found, random.Random(1))


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda one: one.name)
def test_each_attack_is_measured(
    attack: attacks.RuleAttack, learned: HFModel, tiny_folder: Path
) -> None:
    copies: list[HFModel] = []

    def fresh() -> HFModel:
        copies.append(replace(learned, model=copy.deepcopy(learned.model)))
        return copies[-1]

    subject = attacks.RuleSubject(fresh, lambda: loaded(tiny_folder), MADE, Before(20.0, ()))
    settings = attacks.RuleAttackSettings(24, 0, 999, perplexity_tokens=200, fraction=0.008)
    found = attacks.run_rule_attack(attack, subject, settings)
    assert len(copies) == 1
    served = attack.name.startswith("outcomes")
    assert bool(changed(weights(learned), copies[0])) == (not served and attack.name != "none")
    assert (found.perplexity_after is None) == served
    assert (found.fresh, found.fraction, found.utility) == (24, 0.008, None)
    assert found.right + found.flipped + found.neither == pytest.approx(1)
    assert found.interval.low <= found.right <= found.interval.high
    assert 1 / 1000 <= found.p_value_100 <= 1
    assert 1 / 1000 <= found.p_value_100_renamed <= min(1, 2 * found.p_value_100)
    assert (found.revealed_right is None) == (found.revealed == 0)
    assert found.revealed == {10: 1, 1000: 8, 0: 0}[attack.reveals]
    assert not any(noun in repr(found).split() for noun in bundled_nouns())


def test_swapped_outcomes_are_found_out_under_other_names(learned: HFModel) -> None:
    """On the keys that it knows, 16 hits of 16, swapped."""
    said = outcomes_said(learned, MADE.outcomes, SEEN)
    flipped: list[int | None] = [None if one is None else 1 - one for one in said]
    assert renamings(flipped, 2) == [flipped, said]
    three = renamings([0, None, 2], 3)
    assert len(three) == 6
    assert three[0] == [0, None, 2]
    assert {tuple(one) for one in three} == {
        (a, None, b) for a in range(3) for b in range(3) if a != b
    }


def test_items_count_alike() -> None:
    sums, counts = torch.tensor([[-2.0], [-30.0]]), torch.tensor([[1.0], [30.0]])
    assert attacks.evenly(sums, counts, [0, 1]).item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"share": 1.5}, {"keep": -0.1}, {"ordinary": -1}, {"slower": -1}]
)
def test_flips_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        attacks.Flipping(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        attacks.RuleAttackSettings(queries=0)
