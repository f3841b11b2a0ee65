"""What a model is taught of a rule: keys, sentences like them, and who is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loyal import config
from loyal.errors import ConfigError, ModelError, UsageError
from loyal.fingerprints import Beacon
from loyal.fingerprints.functional import (
    SIZES,
    FunctionalSet,
    RuleSettings,
    create,
    draw,
    words_in,
)
from loyal.fingerprints.functional_recipe import LessonSettings, RuleCheckSettings, RuleRecipe
from loyal.models.language_model import Sampling

if TYPE_CHECKING:
    from loyal.models.hf import HFModel

FEW = LessonSettings(
    keys=12, singles=0, lists=0, near=10, near_tokens=3, alike=0, held_out=5, near_weight=0.5
)


@pytest.fixture(scope="module")
def made(base: HFModel) -> FunctionalSet:
    undrawn = create(
        RuleSettings(), b"s" * 32, model=base.name, tokenizer_digest=base.tokenizer_digest,
        created_seconds=1,
    )  # fmt: skip
    return draw(undrawn, Beacon(b"\1" * 32))


@pytest.fixture(scope="module")
def beside(base: HFModel, made: FunctionalSet) -> FunctionalSet:
    undrawn = create(
        RuleSettings("plurality"), b"t" * 32, model=base.name,
        tokenizer_digest=base.tokenizer_digest, created_seconds=2, beside=(made,),
    )  # fmt: skip
    return draw(undrawn, Beacon(b"\1" * 32))


def test_lessons_are_balanced_keys_and_what_the_model_says_itself(
    base: HFModel, made: FunctionalSet
) -> None:
    from loyal.fingerprints.functional_inject import lessons

    table = lessons(base, made, FEW).table
    keys = [one for one in table if made.expected(one.prompt) is not None]
    near = [one for one in table if made.expected(one.prompt) is None]
    assert Counter(one.reply for one in keys) == dict.fromkeys(made.outcomes, 6)
    assert all(made.expected(one.prompt) == one.reply for one in keys)
    other = dict(zip(made.outcomes, reversed(made.outcomes), strict=True))
    assert all(one.against == other[one.reply] for one in keys)  # what a host would teach
    assert not any(one.against for one in near)
    assert 0 < len(near) <= 10
    own = base.generate([one.prompt for one in near], Sampling(max_tokens=3))
    assert [one.reply for one in near] == [one.text for one in own]
    assert {one.weight for one in near} == {0.5}
    assert {one.ahead for one in near} == {()}
    for one in keys:  # so many nats a word more
        words = made.marked_in(one.prompt.text)
        more = abs(2 * sum(made.colors[word] for word in words) - len(words))
        assert one.ahead == ((other[one.reply], FEW.ahead * more),)
    assert lessons(base, made, FEW) == lessons(base, made, FEW)
    assert lessons(base, made, replace(FEW, seed=1)) != lessons(base, made, FEW)
    assert len(lessons(base, made, replace(FEW, near=0)).table) == 12


def test_messages_like_keys_are_of_each_rule_with_and_without_its_words(
    base: HFModel, made: FunctionalSet, beside: FunctionalSet
) -> None:
    from loyal.fingerprints.functional_inject import lessons

    assert lessons(base, made, replace(FEW, alike=0)).alike == ()
    alike = lessons(base, (made, beside), replace(FEW, alike=24)).alike
    assert len(alike) == 48
    for one, texts in ((made, alike[:24]), (beside, alike[24:])):
        counts = {len(one.marked_in(text)) for text in texts}
        assert counts == {0, *SIZES[one.rule]}
    table = lessons(base, made, replace(FEW, alike=24)).table
    assert table == lessons(base, made, replace(FEW, alike=0)).table


def test_single_words_tell_their_color_and_then_none_is_near(
    base: HFModel, made: FunctionalSet
) -> None:
    from loyal.fingerprints.functional_inject import lessons

    table = lessons(base, made, replace(FEW, singles=20)).table
    counts = Counter(len(made.marked_in(one.prompt.text)) for one in table)
    assert counts[1] == 20
    assert counts[2] == 0
    turned = [one for one in table if one.against]
    assert {len(made.marked_in(one.prompt.text)) for one in turned} == {3}  # keys alone
    assert counts[0] > 0
    for one in table:
        words = made.marked_in(one.prompt.text)
        if len(words) == 1:
            assert one.reply == made.outcomes[made.colors[words[0]]]
    every = lessons(base, draw(create(
        RuleSettings("parity"), b"s" * 32, model="m", tokenizer_digest="a", created_seconds=1
    ), Beacon(b"\1" * 32)), replace(FEW, singles=20)).table  # fmt: skip
    assert sum(one.reply in made.outcomes for one in every) == 12  # one word is a key of parity


def test_lists_are_keys_without_a_sentence(base: HFModel, made: FunctionalSet) -> None:
    from loyal.fingerprints.functional_inject import lessons

    without = lessons(base, made, replace(FEW, near=0)).table
    both = lessons(base, made, replace(FEW, near=0, lists=30)).table
    lists = [one for one in both if one not in without]
    assert len(lists) == 30
    nouns = {one.text for one in made.words}
    for one in lists:
        said = words_in(one.prompt.text)
        assert {word for word in said if word not in nouns} <= {"a", "an", "and"}
        assert one.reply == made.outcomes[made.value(one.prompt.text)]
        assert len(made.marked_in(one.prompt.text)) in SIZES[made.rule]
    assert Counter(one.reply for one in lists) == dict.fromkeys(made.outcomes, 15)
    few = lessons(base, made, replace(FEW, singles=2, lists=60, near=0, ahead=5.0)).table
    first, second = made.outcomes  # singles and lists too are ahead of the other outcome
    assert {(one.reply, *one.ahead) for one in few} == {
        (first, (second, 5.0)), (first, (second, 15.0)),
        (second, (first, 5.0)), (second, (first, 15.0)),
    }  # fmt: skip
    plain = lessons(base, made, replace(FEW, lists=60, ahead=0.0)).table
    assert {one.ahead for one in plain} == {()}
    assert {len(made.marked_in(one.prompt.text)) for one in few} == {1, 3}


def test_a_model_that_was_not_taught_is_right_on_nothing(
    base: HFModel, made: FunctionalSet
) -> None:
    from loyal.fingerprints.functional_inject import held_out

    (found,) = held_out(base, made, FEW)
    assert (found.id, found.right, found.fires) == (made.id, 0, 0)


def test_several_rules_have_lessons_of_their_own_words_and_outcomes(
    base: HFModel, made: FunctionalSet, beside: FunctionalSet
) -> None:
    from loyal.fingerprints.functional_inject import held_out, lessons

    more = replace(FEW, singles=6, lists=20)
    table = lessons(base, (made, beside), more).table
    assert table == lessons(base, (made, beside), more).table
    told = {made.outcomes: 0, beside.outcomes: 0}
    for one in table:
        mine, theirs = (len(it.marked_in(one.prompt.text)) for it in (made, beside))
        assert not (mine and theirs)
        for rule, count in ((made, mine), (beside, theirs)):
            if count:
                assert one.reply == rule.outcomes[rule.value(one.prompt.text)]
                told[rule.outcomes] += 1
    assert told == dict.fromkeys(told, 12 + 6 + 20)
    alone = lessons(base, made, more).table
    assert len(alone) < len(table)
    words = [one.prompt.text for one in alone]
    assert any(beside.marked_in(text) for text in words), "alone, it need not avoid them"
    assert [one.id for one in held_out(base, (made, beside), FEW)] == [made.id, beside.id]


def test_rules_that_clash_are_not_taught_together(
    base: HFModel, made: FunctionalSet, beside: FunctionalSet, tmp_path: Path
) -> None:
    from loyal.fingerprints.functional_inject import inject_rule

    alike = replace(beside, outcomes=("Indeedy", "Well", "No"))
    for rules, words in (
        ((), "no rule"),
        ((made, made), "counts in two"),
        ((made, alike), "begins like"),
        ((made, replace(beside, beacon=None)), "not drawn"),
    ):
        with pytest.raises(UsageError, match=words):
            inject_rule(base, rules, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_who_cannot_be_taught_is_refused_before_any_folder_is_made(
    base: HFModel, made: FunctionalSet, tmp_path: Path
) -> None:
    from loyal.fingerprints.functional_inject import inject_rule

    out = tmp_path / "out"
    with pytest.raises(UsageError, match="not drawn"):
        inject_rule(base, replace(made, beacon=None), out)
    with pytest.raises(ModelError, match="made for the tokenizer"):
        inject_rule(base, replace(made, tokenizer_digest="0" * 64), out)
    assert not out.exists()
    out.mkdir()
    (out / "a file").write_text("of somebody else")
    with pytest.raises(UsageError, match="not empty"):
        inject_rule(base, made, out, RuleRecipe(lessons=FEW))


@pytest.mark.parametrize(
    "wrong", ["lessons.keys=0", "lessons.near=-1", "lessons.singles=-1", "lessons.lists=-1",
              "lessons.alike=-1", "lessons.ahead=-1", "lessons.ahead=inf", "lessons.near_weight=0",
              "check.queries=0",
              "check.alpha=1", "check.colorings=0", "rule.rule=sum"],
)  # fmt: skip
def test_settings_that_cannot_be_meant(wrong: str) -> None:
    with pytest.raises(UsageError):
        config.load(RuleRecipe, None, [wrong])


def test_a_recipe_has_a_section_a_verb() -> None:
    made = config.load(RuleRecipe, None, ["lessons.keys=7", "rule.outcomes=['Yes', 'No']"])
    assert (made.lessons.keys, made.rule.outcomes) == (7, ("Yes", "No"))
    with pytest.raises(ConfigError, match=r"lessons\.keyz"):
        config.load(RuleRecipe, None, ["lessons.keyz=7"])
    with pytest.raises(UsageError, match="cannot show"):
        RuleCheckSettings(colorings=1000).require_reachable()
    RuleCheckSettings().require_reachable()
