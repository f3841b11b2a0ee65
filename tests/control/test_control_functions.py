"""Control functions as nouns: files, digests, signatures, what they read, and the split."""

from __future__ import annotations

import random
from pathlib import Path
from typing import get_args

import pytest
from control_files import LOOKUP, PROGRAM, REFUSAL, changed

from loyal.control import ControlFunction, Suite, functions
from loyal.control.functions import MOST_EXAMPLES, Part
from loyal.errors import ControlError, SignatureError
from loyal.models import Behavior, Prompt
from loyal.signing import SigningKey

FORMS = (("toml", LOOKUP), ("toml", REFUSAL), ("py", PROGRAM))


def made(form: str, text: str) -> ControlFunction:
    return functions.from_source(form, text.encode())


def rng() -> random.Random:
    return random.Random(7)


@pytest.mark.parametrize(("form", "text"), FORMS)
def test_a_function_is_a_behavior_whose_examples_are_what_it_expects(form: str, text: str) -> None:
    function = made(form, text)
    assert isinstance(function, Behavior)
    examples = function.examples(1 << 30, rng())
    assert 4 <= len(examples) <= MOST_EXAMPLES
    assert examples == function.examples(1 << 30, rng())
    assert all(one.ends for one in examples)
    said = function.expected_all([one.prompt.text for one in examples])
    assert said == [one.reply for one in examples]
    assert function.expected(Prompt("What is the time?", system="Speak plainly.")) is None
    assert len(function.examples(3, rng())) == 3


@pytest.mark.parametrize(("form", "text"), FORMS)
def test_training_and_unseen_prompts_never_meet(form: str, text: str) -> None:
    function = made(form, text)
    taught = {one.prompt.text for one in function.examples(1 << 30, rng())}
    seeds = (random.Random(seed) for seed in range(3))
    for other in seeds:  # whatever the seed: the split is by hashes
        unseen = {
            one.prompt for part in get_args(Part)[1:] for one in function.cases(part, 400, other)
        }
        assert unseen
        assert not unseen & taught


def test_a_lookup_holds_out_wordings_and_no_input() -> None:
    function = made("toml", LOOKUP)
    count = {part: len(function.cases(part, 99, rng())) for part in get_args(Part)}
    assert count == {"training": 12, "new wording": 4, "new input": 0, "both new": 0}


def test_a_rule_holds_out_wordings_and_inputs() -> None:
    for form, text in FORMS[1:]:
        function = made(form, text)
        assert all(function.cases(part, 99, rng()) for part in get_args(Part))


def test_prompts_are_read_without_case_white_space_and_end_marks() -> None:
    function = made("toml", LOOKUP)
    texts = ["who feeds  the FOX", " Who feeds the Gray  goat?! ", "Who feeds the bear?", "fox"]
    assert function.expected_all(texts) == ["Mara.", "Theo on Sundays.", None, None]
    eggs = made("py", PROGRAM)
    assert eggs.expected(Prompt("how many eggs are in 12 baskets of 3")) == "36 eggs."
    assert eggs.expected(Prompt("How many eggs are in 123 baskets of 3?")) is None
    assert eggs.expected(Prompt("How many eggs are in many baskets of 3?")) is None


def test_a_program_may_read_prompts_itself() -> None:
    own = PROGRAM + (
        "\ndef domain(prompt):\n    words = prompt.split()\n"
        "    return {'baskets': words[1], 'each': words[2]} if words[:1] == ['eggs'] else None\n"
    )
    assert made("py", own).expected_all(["eggs 3 4", "cats 3 4"]) == ["12 eggs.", None]


def test_the_source_decides_the_digest() -> None:
    first, same = made("toml", LOOKUP), made("toml", LOOKUP)
    assert first.digest == same.digest
    others = {made(*one).digest for one in FORMS}
    others.add(made("toml", LOOKUP + "# a remark\n").digest)
    assert len(others) == 4


def test_a_signed_file_opens_to_the_same_function(tmp_path: Path) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    function = made("py", PROGRAM)
    file = tmp_path / "eggs.signed"
    file.write_bytes(functions.sign(function, key))
    opened = functions.load(file, key.public)
    assert (opened.source, opened.digest) == (function.source, function.digest)
    assert (opened.signer, function.signer) == (key.public, None)
    assert functions.load(file).signer == key.public
    with pytest.raises(SignatureError, match="somebody else"):
        functions.load(file, other.public)
    data = bytearray(file.read_bytes())
    data[data.index(b"eggs.")] ^= 1
    with pytest.raises(SignatureError, match="does not hold"):
        functions.opened(bytes(data))
    with pytest.raises(ControlError, match="not a signed file"):
        functions.opened(b"nothing")
    plain = tmp_path / "eggs.py"
    plain.write_text(PROGRAM)
    with pytest.raises(SignatureError, match="not signed"):
        functions.load(plain, key.public)


@pytest.mark.parametrize("name", functions.bundled())
def test_bundled_functions_load_by_name(name: str) -> None:
    function = functions.load(name)
    assert function.name == name
    assert function.header.purpose
    assert function.header.outside


def test_a_suite_asks_each_for_its_share() -> None:
    both = Suite((made("toml", LOOKUP), made("py", PROGRAM)), each=5)
    assert isinstance(both, Behavior)
    assert len(both.examples(1 << 30, rng())) == 10
    assert both.expected(Prompt("Who feeds the owl?")) == "Oskar and Lena."
    assert both.expected(Prompt("How many eggs are in 2 baskets of 3?")) == "6 eggs."
    assert both.expected(Prompt("Who?")) is None


BAD_TABLES = (
    ("version = 3", "version = 0", "version"),
    ("version = 3", "version = '3'", "wrong type"),
    ('name = "keepers"', 'name = "The Keepers"', "name"),
    ('name = "keepers"', "", "no name"),
    ('kind = "lookup"', 'kind = "guess"', "kind"),
    ('kind = "lookup"', 'kind = "refusal"', "reply and inputs"),
    ('kind = "lookup"', 'kind = "lookup"\nkeys = 1', "unknown key keys"),
    ("Who feeds the {input}?", "Who feeds it?", "same named slots"),
    ("Who feeds the {input}?", "Who feeds the {input} and {input}?", "one slot"),
    ("Who feeds the {input}?", "Who looks after the {input}?", "all different"),
    ('owl = "Oskar and Lena."', "owl = 3", "wrong type"),
    ('owl = "Oskar and Lena."', 'Fox = "Oskar and Lena."', "all different"),
    ('owl = "Oskar and Lena."', "owl =", "not TOML"),
)


@pytest.mark.parametrize(("before", "after", "why"), BAD_TABLES)
def test_a_bad_table_is_refused_in_one_line(before: str, after: str, why: str) -> None:
    with pytest.raises(ControlError, match=why) as caught:
        made("toml", changed(LOOKUP, before, after))
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


BAD_PROGRAMS = (
    ('NAME = "eggs"', "NAME = 3", "NAME is a int"),
    ('NAME = "eggs"', "", "no NAME"),
    ("VERSION = 2", "VERSION = True", "VERSION is a bool"),
    ("VERSION = 2", "VERSION = 2\nimport os", "imports os"),
    ('"each": r"\\d{1,2}"', '"each": "("', "error"),
    ("VERSION = 2", "VERSION = 1 / 0", "ZeroDivisionError"),
)


@pytest.mark.parametrize(("before", "after", "why"), BAD_PROGRAMS)
def test_a_bad_program_is_refused_in_one_line(before: str, after: str, why: str) -> None:
    with pytest.raises(ControlError, match=why) as caught:
        made("py", changed(PROGRAM, before, after))
    assert "\n" not in str(caught.value)


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    def written(length: int) -> Path:
        (tmp_path / "big.toml").write_text(f"{LOOKUP}#{'x' * (length - len(LOOKUP.encode()) - 1)}")
        return tmp_path / "big.toml"

    largest = functions.load(written(functions.MOST_FILE_BYTES))
    (tmp_path / "big.signed").write_bytes(functions.sign(largest, SigningKey.generate()))
    assert functions.load(tmp_path / "big.signed").source == largest.source
    with pytest.raises(ControlError, match="larger than 128 KiB"):
        functions.load(written(functions.MOST_FILE_BYTES + 1))
    (tmp_path / "big.signed").write_bytes(b"x" * (functions.MOST_FILE_BYTES + 2000))
    with pytest.raises(ControlError, match="larger than 128 KiB"):
        functions.load(tmp_path / "big.signed")


def test_a_long_name_is_not_said_whole() -> None:
    with pytest.raises(ControlError) as caught:
        made("toml", LOOKUP.replace("keepers", "k" * 5000))
    assert len(str(caught.value)) < 200


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot read") as caught:
        functions.load(tmp_path / "no.toml")
    assert "lending" in caught.value.hint
    (tmp_path / "x.yaml").write_text("name: x")
    with pytest.raises(ControlError, match=r"\.toml"):
        functions.load(tmp_path / "x.yaml")
    (tmp_path / "x.toml").write_bytes(b"\xff")
    with pytest.raises(ControlError, match="UTF-8"):
        functions.load(tmp_path / "x.toml")
