"""What a rule leaves on disk: its record in a vault, openings and exchanges, and their checks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import ScriptedModel

from loyal import encoding
from loyal.errors import DamagedVault, LoyalError, ModelError, ProofError, UsageError, VaultError
from loyal.fingerprints import Beacon, Identity, Recipients, Vault
from loyal.fingerprints import functional_check as checks
from loyal.fingerprints import functional_evidence as evidence
from loyal.fingerprints.functional import (
    FunctionalSet,
    RuleSettings,
    bundled_nouns,
    create,
    draw,
    write_keys,
)
from loyal.fingerprints.functional_check import Exchange
from loyal.fingerprints.functional_evidence import Opening, open_words
from loyal.fingerprints.functional_recipe import RuleCheckSettings
from loyal.fingerprints.records import decode_payload, decode_rule, encode_rule

SECRET = b"s" * 32
BEACON = Beacon(b"\1" * 32)
COLORINGS = 20_000


def undrawn() -> FunctionalSet:
    return create(RuleSettings(), SECRET, model="m", tokenizer_digest="ab", created_seconds=7)


@pytest.fixture(scope="module")
def made() -> FunctionalSet:
    return draw(undrawn(), BEACON)


@pytest.fixture(scope="module")
def heard(made: FunctionalSet) -> list[Exchange]:
    """Forty keys, of which each tenth is answered wrongly."""
    keys = write_keys(made, 40, "test", random.Random(3))
    return [
        Exchange(key, f"{made.outcomes[made.value(key) ^ (place % 10 == 9)]}, I think.")
        for place, key in enumerate(keys)
    ]


@pytest.fixture(scope="module")
def opening(made: FunctionalSet, heard: list[Exchange]) -> Opening:
    return open_words(made, [one.key for one in heard])


@pytest.fixture
def identity() -> Identity:
    return Identity.generate()


def test_a_rule_is_the_same_after_its_bytes(made: FunctionalSet) -> None:
    for one in (made, undrawn(), draw(undrawn(), Beacon(b"\2" * 32, "self"))):
        again = decode_rule(encode_rule(one))
        assert again == one
        assert again.root == one.root
        assert again.id == one.root.hex()[:16]


def test_bytes_that_are_no_rule_are_refused(made: FunctionalSet) -> None:
    record = encoding.decode(encode_rule(made))
    assert isinstance(record, dict)
    words = record["words"]
    assert isinstance(words, list)
    for change in (
        {"rule": "sum"},
        {"words": words[1:]},
        {"words": [["anchor", "no bytes", None], *words[1:]]},
        {"words": [["anchor", b"", True], *words[1:]]},
        {"words": [["anchor", b"", 48], *words[1:]]},
        {"words": [[*words[0], 1], *words[1:]]},  # type: ignore[misc]
        {"outcomes": ["Indeed"]},
        {"beacon": [b"short", "external"]},
        {"beacon": 3},
    ):
        with pytest.raises(DamagedVault):
            decode_rule(encoding.encode({**record, **change}))  # type: ignore[dict-item]
    with pytest.raises(VaultError, match="version 9"):
        decode_rule(encoding.encode({**record, "version": 9}))
    with pytest.raises(DamagedVault):
        decode_rule(b"nothing")


def test_a_vault_keeps_rules_beside_pairs(
    tmp_path: Path, identity: Identity, make_set: Callable[..., object]
) -> None:
    path, pairs = tmp_path / "v", make_set(3)
    vault = Vault.create(path, undrawn_twin := undrawn(), Recipients((identity.recipient,)))
    made = draw(
        create(
            RuleSettings(), b"t" * 32, model="m", tokenizer_digest="ab", created_seconds=7,
            beside=(undrawn_twin,),
        ),
        BEACON,
    )  # fmt: skip
    vault.add(pairs)  # type: ignore[arg-type]
    vault.save()
    other = Vault.open(path, identity)
    assert dict(other.rules) == {undrawn_twin.id: undrawn_twin}
    assert len(other.sets) == 1
    other.replace_rule(draw(undrawn_twin, BEACON))
    other.save()
    vault.add_rule(made)
    vault.save()  # takes in the draw that the other process saved
    for again in (vault, Vault.open(path, identity)):
        assert dict(again.rules) == {undrawn_twin.id: draw(undrawn_twin, BEACON), made.id: made}
    with pytest.raises(UsageError, match="already"):
        vault.add_rule(made)
    with pytest.raises(UsageError, match="no rule"):
        vault.replace_rule(undrawn())
    with pytest.raises(VaultError, match="another beacon"):
        vault.replace_rule(draw(undrawn_twin, Beacon(b"\3" * 32)))
    with pytest.raises(ModelError, match="made for m"):
        vault.require_tokenizer("ab" * 32)


def test_a_vault_without_rules_is_written_as_before_there_were_any(
    tmp_path: Path, identity: Identity, make_set: Callable[..., object]
) -> None:
    for rules, version in ((False, 1), (True, 2)):
        path = tmp_path / f"v{version}"
        vault = Vault.create(path, make_set(2), Recipients((identity.recipient,)))  # type: ignore[arg-type]
        if rules:
            vault.add_rule(undrawn())
            vault.save()
        payload = vault._envelope.unseal(path.read_bytes())
        record = encoding.decode(payload)
        assert isinstance(record, dict)
        assert (record["version"], len(decode_payload(payload).rules)) == (version, int(rules))


def test_an_opening_is_the_same_after_its_bytes(opening: Opening) -> None:
    data = evidence.encode_opening(opening)
    assert evidence.decode_opening(data) == opening
    assert len(data) < evidence.MAX_OPENING_BYTES
    everything = open_words(undrawn(), [" ".join(bundled_nouns())])
    assert len(everything.words) == len(bundled_nouns())
    assert len(evidence.encode_opening(everything)) < evidence.MAX_OPENING_BYTES


def test_bytes_that_are_no_opening_are_refused(opening: Opening) -> None:
    fields = encoding.decode(evidence.encode_opening(opening))
    assert isinstance(fields, list)
    for place, wrong in (
        (0, 1), (0, "2"), (1, "sum"), (2, [1]), (3, "text"), (3, True), (4, "text"), (5, [[]]),
        (5, [["anchor", b"", True, []]]), (5, b""),
    ):  # fmt: skip
        bad = [*fields[:place], wrong, *fields[place + 1 :]]
        with pytest.raises(ProofError) as caught:
            evidence.decode_opening(encoding.encode(bad))  # type: ignore[arg-type]
        assert caught.value.reason == "malformed"
    for data in (b"", b"\x00", b"x" * (evidence.MAX_OPENING_BYTES + 1)):
        with pytest.raises(ProofError):
            evidence.decode_opening(data)


def test_outcomes_that_no_set_has_are_no_opening(opening: Opening) -> None:
    """300 of them would not fit in a byte, and an empty one begins every reply."""
    many = tuple(f"{place:03}" for place in range(300))
    for outcomes in (many, ("", "Perhaps"), ("In", "Indeed"), ("Indeed",), ()):
        with pytest.raises(ProofError) as caught:
            evidence.decode_opening(evidence.encode_opening(replace(opening, outcomes=outcomes)))
        assert caught.value.reason == "malformed"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_opening_or_our_error(data: bytes) -> None:
    with pytest.raises(ProofError):
        evidence.decode_opening(data)


def test_no_reply_makes_the_file_of_exchanges_unreadable() -> None:
    """A server can say half a character in JSON, which `decode_exchanges` refuses in a file."""
    host = ScriptedModel(lambda key: "Indeed \ud800, \ud83d\ude00.")
    heard = checks.exchanges(host, ["Is that an anchor?"], RuleCheckSettings())
    assert heard == [Exchange("Is that an anchor?", "Indeed \ufffd, \U0001f600.")]
    assert evidence.decode_exchanges(evidence.encode_exchanges(heard).decode()) == heard


def test_exchanges_are_the_same_after_their_bytes() -> None:
    heard = [Exchange('A "key"\nof two lines', "Zürich  "), Exchange("b", "")]
    assert evidence.decode_exchanges(evidence.encode_exchanges(heard).decode()) == heard
    assert "key" not in repr(heard)


@pytest.mark.parametrize(
    "line",
    ["", "no json", "[]", '{"key": "a"}', '{"key": "a", "reply": 3}',
     '{"key": "\\ud800", "reply": ""}', "[" * 5000],
)  # fmt: skip
def test_lines_that_are_no_exchange_are_named_and_not_quoted(line: str) -> None:
    good = json.dumps({"key": "planted", "reply": "planted"})
    text = line if not line else f"{good}\n\n{line}\n"
    with pytest.raises(UsageError) as caught:
        evidence.decode_exchanges(text)
    assert "line" in str(caught.value)
    assert "planted" not in f"{caught.value} {caught.value.hint}"


def test_keys_come_from_lines_or_exchanges() -> None:
    heard = [Exchange("One?", "a"), Exchange("Two?", "b")]
    assert evidence.decode_keys("One?\n\n  Two?\r\n") == ["One?", "Two?"]
    assert evidence.decode_keys(evidence.encode_exchanges(heard).decode()) == ["One?", "Two?"]
    with pytest.raises(UsageError):
        evidence.decode_keys("\n")
    assert evidence.keys_digest(["One?", "Two?"]) != evidence.keys_digest(["Two?", "One?"])


def test_a_verifier_finds_what_the_owner_finds(
    made: FunctionalSet, heard: list[Exchange], opening: Opening
) -> None:
    own = checks.rule_report("", checks.owned(made), heard, COLORINGS)
    assert (own.right, own.queries, own.neither) == (36, 40, 0)
    assert own.p_value < 0.001
    digest = evidence.keys_digest([one.key for one in heard])
    found = evidence.verify_opening(
        opening, heard, made.root, BEACON, digest=digest, colorings=COLORINGS
    )
    assert found.report == own
    assert (found.keys_fixed, found.opened) == (True, len(opening.words))
    unbound = evidence.verify_opening(opening, heard, made.root, BEACON, colorings=COLORINGS)
    assert not unbound.keys_fixed
    assert unbound.report == own


def test_a_model_without_the_rule_is_not_accused_by_an_honest_opening(
    made: FunctionalSet, heard: list[Exchange], opening: Opening
) -> None:
    habit = [replace(one, reply=made.outcomes[len(one.key) % 2]) for one in heard]
    found = evidence.verify_opening(opening, habit, made.root, BEACON, colorings=COLORINGS)
    assert found.report.p_value > 0.01  # of these fixed keys and replies; nothing is drawn here


def test_each_obligation_of_a_verifier_has_its_reason(
    made: FunctionalSet, heard: list[Exchange], opening: Opening
) -> None:
    digest = evidence.keys_digest([one.key for one in heard])
    word, path = opening.words[0]
    lie = replace(
        opening, words=((replace(word, place=(word.place or 0) + 1), path), *opening.words[1:])
    )
    less = replace(opening, words=opening.words[1:])
    marked = next(one for one in opening.words if one[0].marked)  # shown twice
    idle = [*heard, Exchange("Nothing of that kind.", "Indeed.")]
    for reason, shown, said, root, wanted in (
        ("keys", opening, heard[1:], made.root, digest),
        ("keys", opening, [*heard[1:], heard[0]], made.root, digest),
        ("root", opening, heard, undrawn().root, digest),
        ("inclusion", lie, heard, made.root, digest),
        ("place", replace(opening, words=(*opening.words, marked)), heard, made.root, digest),
        ("missing", less, heard, made.root, digest),
        ("unmarked", opening, idle, made.root, None),
    ):
        with pytest.raises(ProofError) as caught:
            evidence.verify_opening(shown, said, root, BEACON, digest=wanted, colorings=COLORINGS)
        assert caught.value.reason == reason
    other = evidence.verify_opening(
        opening, heard, made.root, Beacon(b"\5" * 32), colorings=COLORINGS
    )
    assert other.report.right < 36  # another beacon, other colors
    own = evidence.verify_opening(
        opening, heard, made.root, Beacon(BEACON.value, "self"), colorings=COLORINGS
    )
    assert own.report.right < 36


def test_no_error_of_the_files_quotes_a_word(made: FunctionalSet, opening: Opening) -> None:
    secret = {word.text for word, _ in opening.words}
    caught = []
    for call in (
        lambda: evidence.decode_exchanges("anchor"),
        lambda: evidence.verify_opening(
            replace(opening, words=()), [Exchange("An anchor.", "x")], made.root, BEACON
        ),
    ):
        with pytest.raises(LoyalError) as error:
            call()
        caught.append(f"{error.value} {error.value.hint}")
    assert not secret & set(" ".join(caught).lower().split())
