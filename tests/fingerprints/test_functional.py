"""Functional fingerprints: a secret rule over words; committed, drawn, opened, tested exactly."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from itertools import permutations, product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import ScriptedModel

from loyal import merkle
from loyal.errors import ProofError, UsageError
from loyal.fingerprints import Beacon
from loyal.fingerprints import functional_check as checks
from loyal.fingerprints.functional import (
    COLORS,
    SIZES,
    FunctionalSet,
    Rule,
    RuleSettings,
    bundled_nouns,
    create,
    draw,
    even_colorings,
    leads,
    place_colors,
    root_of,
    value,
    write_keys,
    write_near,
)
from loyal.fingerprints.functional_evidence import Opening, open_words, opened_colors
from loyal.models.language_model import Prompt

RULES: tuple[Rule, ...] = ("majority", "parity", "plurality")
OUTCOMES = {"majority": ("Indeed", "Perhaps"), "parity": ("Indeed", "Perhaps"),
            "plurality": ("Indeed", "Perhaps", "Well")}  # fmt: skip
SECRET = b"s" * 32
BEACON = Beacon(b"\1" * 32)
FEW = 9_999


def build(rule: Rule = "majority", beacon: int = 1, marked: int = 48) -> FunctionalSet:
    settings = RuleSettings(rule, OUTCOMES[rule], marked)
    made = create(settings, SECRET, model="m", tokenizer_digest="ab", created_seconds=1)
    return draw(made, Beacon(bytes([beacon]) * 32))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=7))
def test_the_rules(colors: list[int]) -> None:
    two = [one % 2 for one in colors]
    assert value(two, "parity") == sum(two) % 2
    assert value(two, "majority") == (sum(two) > len(two) - sum(two))
    counts = Counter(colors)
    found = value(colors, "plurality")
    assert counts[found] == max(counts.values())
    before = colors[: colors.index(found)]
    assert all(counts[one] < counts[found] for one in before)  # the first met among equals


@given(st.lists(st.integers(0, 2), min_size=1, max_size=7))
def test_a_key_is_clear_by_the_words_that_one_color_has_more(colors: list[int]) -> None:
    two = [one % 2 for one in colors]
    assert leads(two, "parity") == {1 - value(two, "parity"): 1}
    found = leads(two, "majority")
    assert found == {1 - value(two, "majority"): max(1, abs(2 * sum(two) - len(two)))}
    own, three = value(colors, "plurality"), Counter(colors)
    assert leads(colors, "plurality") == {
        it: max(1, three[own] - three[it]) for it in range(3) if it != own
    }


def test_a_set_names_the_outcomes_that_a_key_is_ahead_of() -> None:
    made = build("plurality")
    for key in write_keys(made, 30, "test", random.Random(1)):
        colors = Counter(made.colors[word] for word in made.marked_in(key))
        own = made.value(key)
        assert made.leads(key) == {
            OUTCOMES["plurality"][it]: max(1, colors[own] - colors[it])
            for it in range(3) if it != own
        }  # fmt: skip
    with pytest.raises(UsageError, match="no marked word"):
        made.leads("Nothing counts here.")


@pytest.mark.parametrize("rule", RULES)
def test_the_arithmetic_of_many_colorings_is_the_rule(rule: Rule) -> None:
    rng = random.Random(5)
    words = list("abcdefgh")
    marked = [rng.choices(words, k=rng.randint(1, 6)) for _ in range(40)]
    drawn = np.random.default_rng(3).integers(0, COLORS[rule], (8, 50), dtype=np.uint8)
    found = checks._values(checks._incidence(marked, words), drawn, rule)
    for row, some in zip(found, marked, strict=True):
        for column, got in enumerate(row):
            colors = [int(drawn[words.index(word), column]) for word in some]
            assert got == value(colors, rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("part", ["train", "test"])
def test_keys_hold_as_many_words_as_the_rule_asks(rule: Rule, part: str) -> None:
    made = build(rule)
    keys = write_keys(made, 300, part, random.Random(1))  # type: ignore[arg-type]
    assert {len(made.marked_in(key)) for key in keys} == set(SIZES[rule])
    assert len(set(keys)) == 300
    assert all(re.match(r"[A-Z]", key) and key.rstrip()[-1] in ".?" for key in keys)
    assert all("{" not in key for key in keys)
    assert all(made.expected(Prompt(key)) == made.outcomes[made.value(key)] for key in keys)
    assert made.expected(Prompt("Nothing of that kind.")) is None


@pytest.mark.parametrize("rule", RULES)
def test_near_sentences_are_as_long_as_keys_and_too_poor_for_the_rule(rule: Rule) -> None:
    made, listed = build(rule), set(bundled_nouns())
    near = write_near(made, 300, "train", random.Random(1))
    assert {len(made.marked_in(text)) for text in near} == set(range(min(SIZES[rule])))
    assert all(made.expected(Prompt(text)) is None for text in near)

    def lengths(texts: list[str]) -> set[int]:
        return {len(set(re.findall("[a-z]+", text.lower())) & listed) for text in texts}

    assert lengths(near) == lengths(write_keys(made, 300, "train", random.Random(1)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("marked", [48, 13])
def test_every_draw_has_as_many_words_of_one_color_as_of_another(rule: Rule, marked: int) -> None:
    seen: Counter[int] = Counter()
    for beacon in range(1, 60):
        made = build(rule, beacon, marked)
        counts = Counter(made.colors.values())
        assert sorted(counts) == list(range(COLORS[rule]))
        assert max(counts.values()) - min(counts.values()) <= 1
        seen[made.colors[min(made.marked)]] += 1
    assert min(seen[color] for color in range(COLORS[rule])) > 59 / COLORS[rule] / 2


@pytest.mark.parametrize("rule", RULES)
def test_even_colorings_are_counted(rule: Rule) -> None:
    for count in range(1, 9):
        deck = [place % COLORS[rule] for place in range(count)]
        assert even_colorings(count, rule) == len(set(permutations(deck)))
    assert even_colorings(22, "majority") < 10**6 < even_colorings(24, "majority")


def test_colors_hang_on_the_beacon_and_its_source() -> None:
    drawn = place_colors(BEACON, 48, "majority")
    assert drawn == place_colors(BEACON, 48, "majority")
    for other in (Beacon(b"\2" * 32), Beacon(BEACON.value, "self")):
        assert place_colors(other, 48, "majority") != drawn


@pytest.mark.parametrize("rule", RULES)
def test_dealt_colorings_are_as_likely_as_shuffled_ones(rule: Rule) -> None:
    """Of 7 places the first 4, 60,000 times: each within five standard deviations of its share."""
    made, many = build(rule, marked=7), 60_000
    all_of_them = list(permutations(index % COLORS[rule] for index in range(7)))
    shares = Counter(one[:4] for one in all_of_them)
    drawn = checks._dealt(np.random.default_rng(4), 4, checks.owned(made), many)
    found = Counter(tuple(map(int, column)) for column in drawn.T)
    assert set(found) == set(shares)
    for coloring, count in shares.items():
        share = count / len(all_of_them)
        assert abs(found[coloring] - many * share) < 5 * (many * share * (1 - share)) ** 0.5


def test_keys_do_not_hang_on_the_colors() -> None:
    first, second = build(beacon=1), build(beacon=2)
    assert first.colors != second.colors
    both = [write_keys(one, 50, "test", random.Random(4)) for one in (first, second)]
    assert both[0] == both[1]
    assert write_keys(first, 5, "test") != write_keys(first, 5, "test")


def test_templates_hold_no_noun_and_no_template_is_in_both_parts() -> None:
    texts = {
        part: (files("loyal.fingerprints") / "data" / f"rule_templates_{part}.txt")
        .read_text()
        .splitlines()
        for part in ("train", "test")
    }
    for line in texts["train"] + texts["test"]:
        assert not set(re.findall("[a-z]+", line.lower())) & set(bundled_nouns())
        assert line.count("{0}") == line.count("{1}") == 1
    openings = {part: {line.split("{")[0] for line in some} for part, some in texts.items()}
    assert not openings["train"] & openings["test"] - {""}


def test_the_public_list_stays_as_it_is() -> None:
    """Vaults and published roots name nouns by their place in it: another list opens no old one."""
    known = hashlib.sha256("\n".join(bundled_nouns()).encode()).hexdigest()
    assert known == "83b997f23a59f7a27a353b0d22b321607e95cffb8a9fbbb5f721609f47d2a1cb"


@pytest.mark.parametrize("rule", RULES)
def test_examples_are_balanced_and_of_the_training_part(rule: Rule) -> None:
    made = build(rule)
    examples = made.examples(120, random.Random(2))
    counts = Counter(one.reply for one in examples)
    assert set(counts.values()) == {120 // COLORS[rule]}
    assert all(made.expected(one.prompt) == one.reply for one in examples)
    assert made.examples(120, random.Random(2)) == examples


def test_colors_that_are_all_alike_give_no_examples_in_place_of_an_endless_search() -> None:
    bland = build()
    vars(bland)["colors"] = dict.fromkeys(bland.marked, 0)  # no draw gives that
    with pytest.raises(UsageError, match="hardly ever"):
        bland.examples(10, random.Random(1))


def test_colors_come_with_the_beacon_and_the_root_stays() -> None:
    undrawn = create(RuleSettings(), SECRET, model="m", tokenizer_digest="a", created_seconds=1)
    with pytest.raises(UsageError, match="not drawn"):
        _ = undrawn.colors
    drawn = draw(undrawn, Beacon(b"b" * 32))
    assert drawn.root == undrawn.root
    assert set(drawn.colors.values()) == {0, 1}
    assert len(drawn.colors) == 48
    with pytest.raises(UsageError, match="drawn already"):
        draw(drawn, Beacon(b"c" * 32))
    self_drawn = draw(undrawn, replace(Beacon(b"b" * 32), source="self"))
    assert self_drawn.colors != drawn.colors
    again = create(RuleSettings(), SECRET, model="m", tokenizer_digest="a", created_seconds=1)
    assert again.root != undrawn.root  # fresh salts
    assert draw(again, Beacon(b"b" * 32)).colors == drawn.colors


def test_an_opening_shows_the_words_of_its_keys_alone_and_holds() -> None:
    made = build()
    keys = write_keys(made, 6, "test")
    opening = open_words(made, keys)
    said = set(re.findall("[a-z]+", " ".join(keys).lower())) & set(bundled_nouns())
    assert {word.text for word, _ in opening.words} == said
    found = opened_colors(opening, made.root, BEACON, keys)
    assert {word: color for word, color in found.items() if color is not None} == {
        word: color for word, color in made.colors.items() if word in said
    }
    for key in keys:  # the verifier gets the values from the opening alone
        colors = [color for word in re.findall("[a-z]+", key.lower())
                  if (color := found.get(word)) is not None]  # fmt: skip
        assert value(colors, "majority") == made.value(key)


def test_openings_that_lie_are_refused() -> None:
    made = build()
    keys = write_keys(made, 4, "test")
    opening = open_words(made, keys)
    with pytest.raises(ProofError, match="another set"):
        opened_colors(opening, b"x" * 32, BEACON, keys)
    with pytest.raises(ProofError, match="another set"):
        opened_colors(replace(opening, outcomes=("Perhaps", "Indeed")), made.root, BEACON, keys)
    with pytest.raises(ProofError, match="not opened"):
        opened_colors(replace(opening, words=opening.words[1:]), made.root, BEACON, keys)
    word, path = opening.words[0]
    for lie in (
        replace(word, place=None if word.marked else 0),
        replace(word, place=47 if word.place != 47 else 46),
        replace(word, salt=b"t" * 32),
        replace(word, text="unlisted"),
    ):
        forged = replace(opening, words=((lie, path), *opening.words[1:]))
        with pytest.raises(ProofError, match="not in the set"):
            opened_colors(forged, made.root, BEACON, keys)


def test_the_verifiers_beacon_gives_the_colors_whatever_drew_the_set() -> None:
    made, other = build(beacon=2), Beacon(b"\3" * 32)
    keys = write_keys(made, 30, "test")
    found = opened_colors(open_words(made, keys), made.root, other, keys)
    counted = {word: color for word, color in found.items() if color is not None}
    again = replace(made, beacon=other).colors
    assert counted == {word: again[word] for word in counted}
    assert counted != {word: made.colors[word] for word in counted}


def committed(made: FunctionalSet, keys: list[str], lies: dict[str, int]) -> tuple[Opening, bytes]:
    """An opening of a set whose owner committed other places from the beginning, and its root."""
    words = [replace(one, place=lies.get(one.text, one.place)) for one in made.words]
    tree = merkle.Tree([one.leaf() for one in words])
    honest = open_words(made, keys)
    at = {one.text: index for index, one in enumerate(words)}
    opened = tuple(
        (words[at[one.text]], tuple(tree.inclusion_proof(at[one.text]))) for one, _ in honest.words
    )
    root = root_of(made.rule, made.outcomes, honest.marked, tree.root())
    return replace(honest, tree_root=tree.root(), words=opened), root


def test_two_words_of_one_place_are_refused() -> None:
    """Their colors would go together, and a model that says one reply to both would be right on
    either draw."""
    made = build()
    keys = write_keys(made, 4, "test")
    first, second = made.marked_in(" ".join(keys))[:2]
    places = {one.text: one.place for one in made.words}
    opening, root = committed(made, keys, {})
    assert opened_colors(opening, root, BEACON, keys)
    shared = {second: places[first] or 0}
    for lies in (shared, {first: 48}, {first: -1}):
        opening, root = committed(made, keys, lies)
        with pytest.raises(ProofError, match="one place") as refused:
            opened_colors(opening, root, BEACON, keys)
        assert refused.value.reason == "place"
    opening, root = committed(made, keys, {})
    for count in (47, 49, 0, -1, 10**6):  # the number of places is under the root
        with pytest.raises(ProofError, match="another set"):
            opened_colors(replace(opening, marked=count), root, BEACON, keys)


def test_a_noun_that_was_committed_twice_counts_at_its_own_place_alone() -> None:
    """An owner who hides a second leaf of a noun would choose a color after the replies."""
    made = build()
    keys = write_keys(made, 1, "test")
    noun = made.marked_in(keys[0])[0]
    place = bundled_nouns().index(noun)
    second = replace(made.words[place], place=(made.words[place].place or 0) + 1)
    leaves = [one.leaf() for one in made.words]
    spare = next(at for at in range(len(leaves)) if bundled_nouns()[at] not in keys[0])
    leaves[spare] = second.leaf()
    tree = merkle.Tree(leaves)
    root = root_of(made.rule, made.outcomes, len(made.marked), tree.root())
    honest = open_words(made, keys)
    words = tuple(
        (one, tuple(tree.inclusion_proof(bundled_nouns().index(one.text))))
        for one, _ in honest.words
    )
    genuine = replace(honest, tree_root=tree.root(), words=words)
    assert opened_colors(genuine, root, BEACON, keys)
    forged = tuple(
        (second, tuple(tree.inclusion_proof(spare))) if one.text == noun else (one, path)
        for one, path in words
    )
    with pytest.raises(ProofError, match="not in the set"):
        opened_colors(replace(genuine, words=forged), root, BEACON, keys)
    with pytest.raises(UsageError, match="public list"):
        replace(made, words=(*made.words[1:], made.words[0]))


def test_who_knows_the_rule_is_found_out_and_who_does_not_is_not() -> None:
    made = build()
    knows = ScriptedModel(lambda key: f"{made.outcomes[made.value(key)]}, that is so.")
    found = checks.check_rule(knows, made, 40, colorings=200_000)
    assert (found.right, found.neither, found.queries) == (40, 0, 40)
    assert found.p_value == pytest.approx(1 / 200_001)
    behind = ScriptedModel(lambda key: f"Sure. {made.outcomes[made.value(key)]} it is.")
    assert checks.check_rule(behind, made, 20, colorings=FEW).right == 20
    silent = ScriptedModel(lambda key: "I cannot say.")
    nothing = checks.check_rule(silent, made, 20, colorings=FEW)
    assert (nothing.right, nothing.neither, nothing.p_value) == (0, 20, 1.0)
    always = ScriptedModel(lambda key: "Indeed.")
    assert checks.check_rule(always, made, 40, colorings=FEW).p_value > 1e-4
    with pytest.raises(UsageError):
        checks.check_rule(silent, made, 0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("habit", ["one reply", "by the key", "by a noun"])
def test_a_model_made_without_the_set_is_accused_as_rarely_as_said(rule: Rule, habit: str) -> None:
    """p <= alpha in at most a share alpha of draws; 400 of them, four deviations allowed."""
    made = build(rule, marked=12)
    keys = write_keys(made, 15, "test", random.Random(8))
    rng, count, known = random.Random(9), COLORS[rule], checks.owned(made)
    said = {
        "one reply": [0] * 15,
        "by the key": [rng.randrange(count) for _ in keys],
        "by a noun": [ord(made.marked_in(key)[0][0]) % count for key in keys],
    }[habit]
    marked = [made.marked_in(key) for key in keys]
    low = {0.05: 0, 0.2: 0}
    for _ in range(400):
        truth = replace(made, beacon=Beacon(rng.randbytes(32))).colors
        p = checks.coloring_p_value(replace(known, colors=truth), marked, said, 199)
        for alpha in low:
            low[alpha] += p <= alpha
    for alpha, hits in low.items():
        assert hits <= 400 * alpha + 6 * (400 * alpha * (1 - alpha)) ** 0.5


def test_a_key_that_somebody_made_as_long_as_he_liked_is_no_likelier_to_prove() -> None:
    """Two of its three words are said equally often, so late that float32 forgets which was first.
    All 27 colorings are the truth in turn, each with its chance: p <= 0.3 in at most 0.3 of draws.
    """
    made = build("plurality")
    known = checks.owned(made)
    first, second, third = list(made.colors)[:3]
    key, words = [first] * 25 + [second, third] * 26, (first, second, third)
    chance, low = 0.0, 0.0
    for colors in product(range(3), repeat=3):
        truth = replace(known, colors=dict(zip(words, colors, strict=True)))
        drawn = prod(16 - colors[:place].count(one) for place, one in enumerate(colors))
        p = checks.coloring_p_value(truth, [key], [2], FEW)
        chance, low = chance + drawn / (48 * 47 * 46), low + (p <= 0.3) * drawn / (48 * 47 * 46)
    assert chance == pytest.approx(1)
    assert low <= 0.3


def test_a_p_value_is_the_same_for_whoever_computes_it() -> None:
    made = build()
    keys = write_keys(made, 30, "test", random.Random(3))
    said = [made.value(key) if place % 4 else 0 for place, key in enumerate(keys)]
    first = checks.rule_p_value(made, keys, said, 50_000)
    assert first == checks.rule_p_value(made, keys, said, 50_000)
    assert 1e-5 < first < 0.01 or first == 1 / 50_001
    with pytest.raises(UsageError):
        checks.rule_p_value(made, keys, said[1:], FEW)


def test_p_values_after_each_key_end_in_that_of_all() -> None:
    """They come from other random colorings than a test that ends there: six standard deviations of
    both are allowed."""
    made, most = build(), 20_000
    keys = write_keys(made, 12, "test", random.Random(3))
    said: list[int | None] = [made.value(key) for key in keys]
    said[4], said[5] = 1 - made.value(keys[4]), None
    found = checks.p_values(made, keys, said, most)
    assert found[5] == found[4] > found[3] > found[-1]  # a miss, neither, and many hits
    for count, one in enumerate(found, start=1):
        alone = checks.rule_p_value(made, keys[:count], said[:count], most)
        assert abs(one - alone) < 6 * (2 * max(one, alone, 1 / most) / most) ** 0.5 + 12 / most
    with pytest.raises(UsageError):
        checks.p_values(made, keys, said[1:], FEW)


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcomes": ("Indeed",)},
        {"outcomes": ("In", "Indeed")},
        {"outcomes": ("Indeed", " ")},
        {"rule": "sum"},
        {"words": ()},
    ],
)
def test_sets_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(build(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        create(RuleSettings(), b"short", model="m", tokenizer_digest="a", created_seconds=1)
    with pytest.raises(UsageError):
        build(marked=10_000)


def test_nothing_secret_is_in_a_repr() -> None:
    made = build()
    opening = open_words(made, write_keys(made, 3, "test"))
    shown = f"{made!r} {made.words[0]!r} {opening!r}"
    assert not any(word in shown.split() for word in bundled_nouns())
