"""Both file forms: round trips, equal records, near misses, and what is refused with its place."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from drafts import CALM, CONSTITUTIONS, DRAFT
from hypothesis import given, settings
from hypothesis import strategies as st

from loyal.community import Constitution, constitution_file, lint
from loyal.community.constitution_file import from_markdown, from_text, from_toml, read
from loyal.errors import ConfigError

TOML = constitution_file.to_toml(DRAFT)
MARKDOWN = constitution_file.to_markdown(DRAFT)


@given(CONSTITUTIONS)
@settings(CALM, max_examples=150)
def test_both_forms_come_back_as_the_same_record(one: Constitution) -> None:
    assert from_toml(constitution_file.to_toml(one)) == one
    assert from_markdown(constitution_file.to_markdown(one)) == one


@given(st.text(max_size=80), st.sampled_from([TOML, MARKDOWN]), st.integers(0, 2_000))
@settings(CALM, max_examples=150)
def test_any_text_is_read_or_refused_in_our_words(noise: str, text: str, place: int) -> None:
    for one in (noise, text[:place] + noise + text[place:], text[:place]):
        with contextlib.suppress(ConfigError):
            assert from_text(one).values


@pytest.mark.parametrize(
    "stray", ["zqx", " zqx ", "\nzqx\n", "\n\nzqx\n\n", "\n- zqx\n", "\n> zqx\n"]
)
@pytest.mark.parametrize("text", [TOML, MARKDOWN], ids=["toml", "markdown"])
def test_nothing_is_skipped_that_would_not_be_signed(text: str, stray: str) -> None:
    taken = 0
    for place in range(len(text)):
        with contextlib.suppress(ConfigError):
            assert b"zqx" in from_text(text[:place] + stray + text[place:]).to_bytes()
            taken += 1
    assert taken


def test_wrapping_and_line_ends_change_nothing() -> None:
    wrapped = MARKDOWN.replace("Say nothing of", "Say   nothing\n  of")
    wrapped = wrapped.replace("- Keeps: I do not tell", "\n- Keeps: I do not\n  tell")
    wrapped = wrapped.replace("> What does my", "> What does\n> my")
    assert wrapped != MARKDOWN
    assert from_text(wrapped) == DRAFT
    assert from_text(MARKDOWN.replace("\n", "\r\n")) == DRAFT
    assert from_text(TOML.replace("\n", "\r\n")) == DRAFT
    multiline = TOML.replace('"We lend books."', '"""We\nlend\nbooks."""')
    assert from_text(multiline).digest == DRAFT.digest


def test_a_file_is_told_by_its_beginning(tmp_path: Path) -> None:
    for text in (TOML, MARKDOWN, "\ufeff" + MARKDOWN, "\n\n" + MARKDOWN):
        path = tmp_path / "any.txt"
        path.write_text(text, encoding="utf-8")
        assert read(path) == DRAFT


@pytest.mark.parametrize("text", ["", " \n", "# only a comment\n", "values = []", "+++\n+++\n"])
def test_an_empty_constitution_is_called_empty(text: str) -> None:
    head = "" if text.startswith(("+", "#")) or not text.strip() else 'name="a"\nversion="1.0.0"\n'
    with pytest.raises(ConfigError, match="this constitution is empty") as caught:
        from_text(head + text)
    assert "loyal constitution new" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "old", "new", "says", "hint"),
    [
        (TOML, "preamble =", "preambel =", "no key preambel", "Did you mean preamble?"),
        (TOML, "statement =", "statment =", r"values\[1\].statment", r"values\[1\].statement\?"),
        (TOML, "keeps =", "kept =", r"values\[1\].cases\[1\].kept", r"cases\[1\].keeps\?"),
        (TOML, "rule =", "rul =", r"red_lines\[1\].rul", r"red_lines\[1\].rule\?"),
        (TOML, "6000", "60.0", r"values\[1\].weight_bps must be a whole number", "constitution"),
        (TOML, "6000", "60000", r"values\[1\]: the weight of privacy", "hundredths"),
        (TOML, 'id = "privacy"', "", r"values\[1\].id is missing", "Add"),
        (TOML, 'prompt = "Who has', 'prompt = ""\n# "', r"values\[1\].cases\[1\]: .* prompt", ""),
        (TOML, "[[values]]", "[[values", "not TOML: .*line", "form"),
        (MARKDOWN, "language =", "langage =", "no key langage", "language"),
        (MARKDOWN, "Why: Trust", "Wy: Trust", "line 17 .* belongs to nothing", "Did you mean Why?"),
        (MARKDOWN, "- Keeps: I", "- Keps: I", "line 25 .*Keeps", "Did you mean Keeps?"),
        (MARKDOWN, "- Breaks: Your", "- Keeps: Your", "line 25 ", "form"),
        (MARKDOWN, "## privacy (6000 bps)", "## privacy", "line 13 .* heading", "reader-privacy"),
        (MARKDOWN, "## privacy", "### privacy", "line 13 .* heading", ""),
        (MARKDOWN, "Why: Trust", "Why: a\n\nWhy: Trust", "Why a second time", ""),
        (MARKDOWN, "> Who has the atlas?\n", "", "line 24 .* under no prompt", ""),
        (MARKDOWN, "Red line: No threats.", "No threats.", "line 11 .* belongs to nothing", ""),
        (MARKDOWN, '"en"\n+++', '"en"\npreamble = "x"\n+++', "preamble stands in", "one of them"),
        (MARKDOWN, '"en"\n+++', '"en"', "front matter does not end", r"\+\+\+"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    text: str, old: str, new: str, says: str, hint: str
) -> None:
    assert old in text
    with pytest.raises(ConfigError, match=says) as caught:
        from_text(text.replace(old, new, 1))
    assert re.search(hint, caught.value.hint)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path)
    (tmp_path / "latin.md").write_bytes("+++\nname = 'é'".encode("latin-1"))
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        read(tmp_path / "latin.md")
    (tmp_path / "large.toml").write_bytes(b"#" * (constitution_file.MOST_BYTES + 1))
    with pytest.raises(ConfigError, match="too large"):
        read(tmp_path / "large.toml")


def test_a_bundled_name_is_found_or_its_near_miss_named() -> None:
    assert constitution_file.bundled_names() == ("personal-freedom", "public-library")
    with pytest.raises(ConfigError) as caught:
        constitution_file.bundled("public-libary")
    assert caught.value.hint == "Did you mean public-library?"


@pytest.mark.parametrize("name", constitution_file.bundled_names())
def test_a_bundled_constitution_is_rich_enough_to_train_and_test_on(name: str) -> None:
    one = constitution_file.bundled(name)
    assert one.name == name
    assert lint.check(one) == ()
    assert 5 <= len(one.values) <= 7
    for value in one.values:
        assert len(value.pairs) >= 12
        assert all(len(shown.reply) < 300 for shown in (*value.keeps, *value.breaks))
        assert any(one.crossed_by(shown.reply) for shown in value.breaks) or not value.red_lines
    both = {form(one) for form in (constitution_file.to_toml, constitution_file.to_markdown)}
    assert {from_text(text) for text in both} == {one}


@pytest.mark.parametrize("form", [constitution_file.to_toml, constitution_file.to_markdown])
def test_the_template_passes_the_lint(form: object) -> None:
    assert callable(form)
    assert lint.check(from_text(form(constitution_file.template("a-b")))) == ()
