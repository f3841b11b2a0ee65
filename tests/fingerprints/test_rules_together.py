"""Several secret rules of one model: words and outcomes of their own, and which was opened."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from loyal import encoding
from loyal.errors import DamagedVault, UsageError
from loyal.fingerprints import Beacon, Identity, Recipients, Vault
from loyal.fingerprints.functional import (
    OUTCOMES,
    SPARE,
    FunctionalSet,
    Part,
    Rule,
    RuleSettings,
    bundled_nouns,
    create,
    draw,
    require_apart,
    together,
    words_in,
    write_keys,
    write_near,
)
from loyal.fingerprints.functional_evidence import open_words, opened_colors
from loyal.fingerprints.records import decode_payload

BEACON = Beacon(b"\1" * 32)


def build(
    number: int, *beside: FunctionalSet, rule: Rule = "majority", marked: int = 48,
    outcomes: tuple[str, ...] = (), digest: str = "ab",
) -> FunctionalSet:  # fmt: skip
    """The rule of one number; the same each time, but for its salts."""
    undrawn = create(
        RuleSettings(rule, outcomes, marked), bytes([number]) * 32, model="m",
        tokenizer_digest=digest, created_seconds=number, beside=beside,
    )  # fmt: skip
    return draw(undrawn, BEACON)


def four() -> tuple[FunctionalSet, ...]:
    """As many rules of 48 words as the list holds."""
    found: tuple[FunctionalSet, ...] = ()
    for number in range(1, 5):
        found = (*found, build(number, *found))
    return together(found)


def test_rules_side_by_side_share_no_word_and_no_outcome() -> None:
    rules = four()
    assert [one.outcomes for one in rules] == [OUTCOMES[at : at + 2] for at in (0, 2, 4, 6)]
    every = [word for one in rules for word in one.marked]
    assert len(every) == len(set(every)) == 4 * 48
    for one in rules:
        assert one.avoided == set(every) - one.marked
        assert len(one.colors) == 48


@pytest.mark.parametrize("part", ["train", "test", "list"])
def test_no_key_of_a_rule_holds_a_word_of_another(part: Part) -> None:
    rules = four()
    for one in rules:
        rng = random.Random(1)
        for text in (*write_keys(one, 200, part, rng), *write_near(one, 200, part, rng)):
            assert not one.avoided.intersection(words_in(text))
    careless = write_keys(replace(rules[0], avoided=frozenset()), 200, part, random.Random(1))
    assert any(rules[0].avoided.intersection(words_in(key)) for key in careless)


def test_a_rule_beside_none_is_what_it_was() -> None:
    """The first rule of a vault: same words, root and keys, whatever is made beside it later."""
    alone = build(1)
    first, _ = together((alone, build(2, alone)))
    assert (first.root, first.marked, first.colors) == (alone.root, alone.marked, alone.colors)
    assert first == alone
    assert alone.outcomes == ("Indeed", "Perhaps")
    assert not alone.avoided
    assert together((alone,)) == (alone,)
    assert together((first,))[0].avoided == first.avoided  # what it avoided before it avoids still


def test_openings_of_several_rules_keep_law_4() -> None:
    """A noun that counts in another rule is opened where it stands in a key, as one that does not
    count in this one; an opening of keys that avoid it says nothing of it."""
    first, second = together(((alone := build(1)), build(2, alone)))
    keys = write_keys(first, 30, "test", random.Random(2))
    opening = open_words(first, keys)
    assert not second.marked & {word.text for word, _ in opening.words}
    foreign = sorted(second.marked)[0]
    mixed = [*keys, f"{keys[0]} A {foreign}, too."]
    found = opened_colors(open_words(first, mixed), first.root, BEACON, mixed)
    assert found[foreign] is None
    assert first.value(mixed[-1]) == first.value(keys[0])


def test_outcomes_that_begin_alike_and_words_that_run_out_are_refused() -> None:
    first = build(1)
    for outcomes in (("Indeed", "No"), ("In", "No"), ("Indeedy", "No"), ("No", " perhaps")):
        with pytest.raises(UsageError, match="begins like") as caught:
            build(2, first, outcomes=outcomes)
        assert "--outcomes" in caught.value.hint
    assert build(2, first, outcomes=("Yes", "No")).outcomes == ("Yes", "No")
    assert build(2, first, rule="plurality").outcomes == ("Surely", "Rather", "Naturally")
    mixed = build(2, first, outcomes=("Sure", "No"))
    assert build(3, first, mixed).outcomes == ("Rather", "Naturally")  # not Surely
    rules = four()
    left = len(bundled_nouns()) - 4 * 48 - SPARE
    with pytest.raises(UsageError, match=f"{left} of them free"):
        build(5, *rules)
    with pytest.raises(UsageError, match="used up"):
        build(5, *rules, marked=left)
    fifth = build(5, *rules, marked=left, outcomes=("Yes", "No"))
    last = together((*rules, fifth))[-1]
    assert write_near(last, 50, "test", random.Random(1), (0,))
    with pytest.raises(UsageError, match="counts in two"):
        require_apart(first, (first,))
    with pytest.raises(UsageError, match="avoided"):
        replace(first, avoided=frozenset(first.marked))


@pytest.fixture
def identity() -> Identity:
    return Identity.generate()


def test_a_vault_lets_its_rules_avoid_each_other(tmp_path: Path, identity: Identity) -> None:
    first, path = build(1), tmp_path / "v"
    vault = Vault.create(path, first, Recipients((identity.recipient,)))
    assert not vault.rules[first.id].avoided
    second, foreign = build(2, first), build(3, digest="cd")
    vault.add_rule(second)
    vault.add_rule(foreign)  # of another model: it may share words
    vault.save()
    for again in (vault, Vault.open(path, identity)):
        assert again.rules[first.id].avoided == second.marked
        assert again.rules[second.id].avoided == first.marked
        assert not again.rules[foreign.id].avoided
    with pytest.raises(UsageError, match="counts in two"):
        vault.add_rule(build(4))
    other = Vault.open(path, identity)
    third, rival = build(5, first, second), build(6, first, second)
    vault.add_rule(third)
    vault.save()
    other.add_rule(rival)
    with pytest.raises(UsageError, match=r"counts in two|begins like"):
        other.save()  # made beside it, without knowing
    assert set(Vault.open(path, identity).rules) == {
        one.id for one in (first, second, third, foreign)
    }


def test_a_vault_notes_when_a_rule_was_first_opened(tmp_path: Path, identity: Identity) -> None:
    first, path = build(1), tmp_path / "v"
    second = build(2, first)
    vault = Vault.create(path, first, Recipients((identity.recipient,)))
    vault.add_rule(second)
    vault.save()
    other = Vault.open(path, identity)
    other.note_opened(first.id, 20)
    other.save()
    vault.note_opened(first.id, 30)
    assert dict(vault.opened) == {first.id: 30}
    vault.save()  # takes in the earlier time
    for again in (vault, Vault.open(path, identity)):
        assert dict(again.opened) == {first.id: 20}
    for wrong in (("none", 1), (first.id, -1)):
        with pytest.raises(UsageError, match="opened at a time"):
            vault.note_opened(*wrong)


def test_a_vault_is_written_as_before_until_a_rule_is_opened(
    tmp_path: Path, identity: Identity
) -> None:
    made = build(1)
    vault = Vault.create(tmp_path / "v", made, Recipients((identity.recipient,)))
    for version in (2, 3):
        payload = vault._envelope.unseal((tmp_path / "v").read_bytes())
        record = encoding.decode(payload)
        assert isinstance(record, dict)
        assert record["version"] == version
        assert dict(decode_payload(payload).opened) == ({made.id: 9} if version == 3 else {})
        vault.note_opened(made.id, 9)
        vault.save()
    for wrong in ({"none": 9}, {made.id: "9"}, {made.id: True}, [made.id], 9):
        with pytest.raises(DamagedVault):
            decode_payload(encoding.encode({**record, "opened": wrong}))  # type: ignore[dict-item]
