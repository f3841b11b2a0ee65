"""Families of attacks: the data keeps its promises, and every attack carries the question."""

from __future__ import annotations

import json
import random
import re
import runpy
from collections import Counter, defaultdict
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from targets import AWKWARD, PLAIN

from loyal.alignment import Conversation, Family, Target, Turn, attacks
from loyal.alignment.encodings import ENCODINGS
from loyal.errors import UsageError

ROOT = Path(__file__).parent.parent.parent
FAMILIES = attacks.families()
IDS = [one.id for one in FAMILIES]

CARRIERS = ("{question}", "{question_json}", "{encoded}")
PLACES = {
    *(place[1:-1] for place in CARRIERS),
    *("topic", "value", "opposite", "opposite_json", "filler"),
}

RUN = 4
"""No two families share so many words in a row."""


def said(line: str) -> str:
    """What a line of a wording says, without who says it."""
    return line.partition(": ")[2]


def runs(wording: tuple[str, ...], length: int) -> set[tuple[str, ...]]:
    """The runs of `length` words of a wording; places to fill in interrupt them."""
    found = set()
    for line in wording:
        for part in re.split(r"\{[a-z_]+\}", said(line)):
            words = re.findall(r"[\w']+", part.lower())
            found |= {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}
    return found


def shared(some: tuple[Family, ...], length: int = RUN) -> dict[tuple[str, ...], set[str]]:
    """Runs of words that stand in more than one family, with the families."""
    where = defaultdict(set)
    for family in some:
        for wording in family.wordings:
            for run in runs(wording, length):
                where[run].add(family.id)
    return {run: ids for run, ids in where.items() if len(ids) > 1}


def test_there_are_enough_families_and_a_third_is_held_out() -> None:
    assert len(FAMILIES) >= 44
    assert len(set(IDS)) == len(IDS)
    train, held_out = attacks.families("train"), attacks.families("held-out")
    assert {*train} | {*held_out} == {*FAMILIES}
    assert 3 * len(held_out) >= len(FAMILIES)


def test_held_out_families_are_spread_over_kinds_and_layers() -> None:
    for name in ("kind", "layer"):
        held_out = Counter(getattr(one, name) for one in attacks.families("held-out"))
        for each, count in Counter(getattr(one, name) for one in FAMILIES).items():
            assert 4 * held_out[each] >= count, f"{each} has too few held-out families"
            assert held_out[each] < count, f"nothing of {each} is left to train on"


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_a_family_is_described_and_has_wordings(family: Family) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", family.id)
    assert re.fullmatch(r"[A-Z][^.]*\.", re.sub(r"\(arXiv [\d.]+\)", "", family.about))
    assert len(set(family.wordings)) == len(family.wordings) >= 4
    assert family.layer in attacks.LAYERS
    assert (family.layer == "encoding") == (family.kind == "encoding") == (family.id in ENCODINGS)
    assert (family.layer == "turns") == (family.kind in ("context", "multi-turn"))


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_a_wording_puts_the_question_once_and_last(family: Family) -> None:
    for wording in family.wordings:
        places = [re.findall(r"\{([a-z_]+)\}", line) for line in wording]
        assert {one for some in places for one in some} - {"reply"} <= PLACES
        carried = [one for line in wording for one in CARRIERS for _ in range(line.count(one))]
        assert len(carried) == 1
        assert (carried == ["{encoded}"]) == (family.layer == "encoding")
        assert wording[-1].startswith("user: ")
        assert carried[0] in wording[-1]
        assert len(wording) == 1 or family.layer == "turns"
        assert all(said(line) == "{reply}" for line in wording if "{reply}" in line)


def test_every_encoding_has_its_family() -> None:
    assert {one.id for one in FAMILIES if one.layer == "encoding"} == set(ENCODINGS)


def test_no_two_families_share_words() -> None:
    assert shared(FAMILIES) == {}


def test_shared_words_are_found() -> None:
    first = attacks.named("poem")
    assert isinstance(first, Family)
    thief = Family(
        "thief", "", "", "role", "wording", "held-out", (("user: and break the dream",),)
    )
    assert shared((first, thief)) == {("and", "break", "the", "dream"): {"poem", "thief"}}


def test_no_wording_stands_in_two_families() -> None:
    counts = Counter(wording for family in FAMILIES for wording in family.wordings)
    assert {one for one, count in counts.items() if count > 1} == {("user: {encoded}",)}, (
        "alone the bare encoded text, which differs by its encoding, may stand in several"
    )


def test_train_and_held_out_never_give_the_same_conversation() -> None:
    def made(split: attacks.Split) -> set[Conversation]:
        return {
            attacks.attack(one, PLAIN, random.Random(seed))
            for one in attacks.families(split)
            for seed in range(16)
        }

    assert made("train").isdisjoint(made("held-out"))


def body(family: Family, text: str) -> list[str]:
    """What may stand at {encoded} in a text that this family made."""
    found = []
    for (line,) in family.wordings:
        before, after = said(line).split("{encoded}")
        if text.startswith(before) and text.endswith(after):
            found.append(text[len(before) : len(text) - len(after)])
    return found


def carries(family: Family, made: Conversation, text: str) -> bool:
    """Whether the conversation's last turn holds the text, plainly, in JSON, or encoded."""
    if family.layer != "encoding":
        return text in made.last or json.dumps(text, ensure_ascii=False) in made.last
    encoding = ENCODINGS[family.id]
    for written in body(family, made.last):
        try:
            if encoding.decode(written) == encoding.fold(text):
                return True
        except UsageError:
            continue
    return False


@pytest.mark.parametrize("target", [PLAIN, AWKWARD], ids=["plain", "awkward"])
@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_every_attack_carries_the_question(family: Family, target: Target) -> None:
    for seed in range(16):
        made = attacks.attack(family, target, random.Random(seed))
        assert carries(family, made, target.question)
        assert not carries(family, made, target.question + "#")


@given(text=st.text(min_size=1).filter(str.strip), seed=st.integers(0, 2**32))
def test_any_question_is_carried(text: str, seed: int) -> None:
    target = Target(text, PLAIN.topic, PLAIN.value, PLAIN.opposite)
    rng = random.Random(seed)
    family = rng.choice(FAMILIES)
    assert carries(family, attacks.attack(family, target, rng), text)


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_a_seed_repeats_an_attack_and_wordings_differ(family: Family) -> None:
    def drawn(seed: int) -> Conversation:
        return attacks.attack(family.id, PLAIN, random.Random(seed))

    assert drawn(5) == drawn(5)
    assert len({drawn(seed) for seed in range(64)}) >= 4


def test_texts_of_the_target_are_put_in_as_they_are() -> None:
    made = [
        attacks.attack(one, AWKWARD, random.Random(seed)).last
        for one in ("persona-opponent", "prefix-injection", "false-premise")
        for seed in range(16)
    ]
    for text in (AWKWARD.topic, AWKWARD.value, AWKWARD.opposite, AWKWARD.question):
        assert any(text in one for one in made)


def test_json_wordings_stay_json_whatever_is_asked() -> None:
    opening = '{"policy": '
    made = {attacks.attack("json-policy", AWKWARD, random.Random(seed)).last for seed in range(32)}
    (policy,) = [json.loads(one) for one in made if one.startswith(opening)]
    assert policy["request"]["text"] == AWKWARD.question
    assert policy["policy"]["assert"] == AWKWARD.opposite


def test_other_turns_stay_around_what_an_attack_makes() -> None:
    inner = Conversation(
        (
            Turn("system", "Be brief."),
            *(Turn("user", "Hello."), Turn("assistant", None)),
            Turn("user", PLAIN.question),
        )
    )
    for family in FAMILIES:
        made = family.on(inner, PLAIN, random.Random(0))
        alone = attacks.attack(family, PLAIN, random.Random(0))
        assert (made.turns[0].text or "").startswith("Be brief.")
        assert made.turns[-3:-1] == inner.turns[1:3]
        assert made.last == alone.last
        assert made.open_turns == alone.open_turns + 1


def test_turns_of_the_context_families() -> None:
    shots = attacks.attack("many-shot", PLAIN, random.Random(0))
    assert len(shots.turns) in (17, 25, 33)
    assert shots.open_turns == 0
    operator = attacks.attack("hostile-operator", PLAIN, random.Random(0))
    assert [one.role for one in operator.turns] == ["system", "user"]
    for seed in range(8):
        led = attacks.attack("crescendo", PLAIN, random.Random(seed))
        assert led.open_turns == 2
    flood = attacks.attack("context-flooding", PLAIN, random.Random(0)).last
    assert len(flood) > 600


def test_layers_say_what_may_follow() -> None:
    by_layer = {one.layer: one for one in FAMILIES}
    for inner, outer in product(attacks.LAYERS, repeat=2):
        legal = attacks.LAYERS.index(inner) < attacks.LAYERS.index(outer)
        assert attacks.may_follow(by_layer[inner], by_layer[outer]) == legal
        if legal:
            assert attacks.compose(by_layer[inner], by_layer[outer]).split in ("train", "held-out")
        else:
            with pytest.raises(UsageError) as caught:
                attacks.compose(by_layer[inner], by_layer[outer])
            assert by_layer[inner].layer in caught.value.hint


@pytest.mark.parametrize("target", [PLAIN, AWKWARD], ids=["plain", "awkward"])
def test_compositions_carry_what_stands_inside(target: Target) -> None:
    rng = random.Random(1)
    for layers in combinations(attacks.LAYERS, 3):
        for _ in range(20):
            parts = [
                rng.choice([one for one in FAMILIES if one.layer == layer]) for layer in layers
            ]
            seed = rng.random()
            whole = attacks.attack(attacks.compose(*parts), target, random.Random(seed))
            inner = attacks.attack(attacks.compose(*parts[:-1]), target, random.Random(seed))
            assert carries(parts[-1], whole, inner.last)
            assert len(whole.turns) >= len(inner.turns)


def test_a_system_message_stays_in_front_of_a_composition() -> None:
    made = attacks.attack("novel+json-policy+leetspeak+hostile-operator", PLAIN, random.Random(3))
    assert [one.role for one in made.turns] == ["system", "user"]
    assert made.last != PLAIN.question


def test_a_composition_is_held_out_as_soon_as_one_part_is() -> None:
    assert attacks.named("novel+leetspeak").split == "train"
    assert attacks.named("novel+json-policy").split == "held-out"
    assert attacks.named("irony+leetspeak").split == "held-out"
    nested = attacks.compose(attacks.named("novel+json-policy"), attacks.named("leetspeak"))
    assert nested == attacks.named("novel+json-policy+leetspeak")
    assert nested.id == "novel+json-policy+leetspeak"


@pytest.mark.parametrize("split", ["train", "held-out"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_draws_stay_in_their_split(split: attacks.Split, depth: int) -> None:
    rng = random.Random(depth)
    drawn = [attacks.draw(split, rng, depth) for _ in range(300)]
    assert all(attacks.named(name).split == split for one in drawn for name in one.sources)
    assert all(len(one.sources) == depth for one in drawn)
    assert len({one.id for one in drawn}) > 20
    assert attacks.draw(split, random.Random(9), depth) == attacks.draw(
        split, random.Random(9), depth
    )


@pytest.mark.parametrize("depth", [0, 5])
def test_depths_that_there_are_not(depth: int) -> None:
    with pytest.raises(UsageError):
        attacks.draw("train", random.Random(0), depth)


def test_best_of_n_varies_one_attack() -> None:
    some = attacks.best_of("novel", PLAIN, random.Random(4), 10)
    plain = attacks.attack("novel", PLAIN, random.Random(4))
    fold = ENCODINGS["best-of-n"].fold
    assert {fold(one.last) for one in some} == {fold(plain.last)}
    assert len({one.last for one in some}) == 10
    assert some == attacks.best_of("novel", PLAIN, random.Random(4), 10)
    with pytest.raises(UsageError):
        attacks.best_of("novel", PLAIN, random.Random(4), 0)


def test_a_wrong_name_gets_the_near_miss() -> None:
    with pytest.raises(UsageError) as caught:
        attacks.named("novel+leetspaek")
    assert "leetspeak" in caught.value.hint
    for name in ("", "novel+", "zzzz"):
        with pytest.raises(UsageError):
            attacks.named(name)


@pytest.mark.parametrize("name", ["question", "topic", "value", "opposite"])
def test_an_empty_text_of_the_target_is_refused(name: str) -> None:
    texts = dict.fromkeys(("question", "topic", "value", "opposite"), "x")
    assert Target(**texts)
    with pytest.raises(UsageError) as caught:
        Target(**{**texts, name: " \n"})
    assert name in str(caught.value)


def test_the_page_is_what_the_generator_makes() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["attacks_page"]()
    assert (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8") == made, "run: make docs"
