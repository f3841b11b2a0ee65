"""`loyal constitution`: exit codes, one JSON object, files, and signatures by several members."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage import Run

from loyal.community import constitution_file
from loyal.signing import SigningKey

SOUND = constitution_file.to_toml(constitution_file.template("ours"))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A file without findings."""
    path = tmp_path / "ours.toml"
    path.write_text(SOUND)
    return path


def key(folder: Path, name: str) -> tuple[Path, str]:
    """A key file, and its public half in hex."""
    drawn = SigningKey.generate()
    path = folder / name
    path.write_text(drawn.seed().hex())
    path.chmod(0o600)
    return path, drawn.public.hex()


def test_the_bundled_ones_are_listed_and_sound(run: Run) -> None:
    listed = run("constitution", "list", "--json").fields["constitutions"]
    assert [one["name"] for one in listed] == list(constitution_file.bundled_names())
    for one in listed:
        done = run("constitution", "check", one["name"], "--json")
        assert (done.code, done.fields["findings"]) == (0, [])
        assert done.fields["digest"] == one["digest"]
        assert one["replies"] >= 12 * 2 * 5


@pytest.mark.parametrize("end", ["toml", "md"])
def test_a_new_file_passes_the_check(run: Run, tmp_path: Path, end: str) -> None:
    out = tmp_path / f"a.{end}"
    done = run("constitution", "new", "--name", "our-town", "--out", out, "--json")
    assert done.code == 0
    assert out.read_text().startswith("+++") == (end == "md")
    assert run("constitution", "check", out, "--json").fields["name"] == "our-town"
    again = run("constitution", "new", "--out", out)
    assert again.code == 2
    assert "there already" in again.err


def test_a_new_one_goes_to_stdout_as_it_is(run: Run) -> None:
    done = run("constitution", "new", "--name", "ours")
    assert (done.code, done.out) == (0, SOUND)
    fields = run("constitution", "new", "--name", "ours", "--form", "markdown", "--json").fields
    assert fields["text"].startswith("+++")
    assert run("constitution", "new", "--name", "Our Town").code == 2


def test_errors_end_with_1_and_warnings_with_0(run: Run, sound: Path) -> None:
    sound.write_text(SOUND.replace("6000", "5000"))
    done = run("constitution", "check", sound, "--json")
    assert (done.code, done.fields["errors"]) == (1, 1)
    assert done.fields["findings"][0]["rule"] == "weights"
    assert "weights" in run("constitution", "check", sound).out
    sound.write_text(SOUND.replace("why = ", "# why = "))
    done = run("constitution", "check", sound, "--json")
    assert (done.code, done.fields["errors"], done.fields["warnings"]) == (0, 0, 2)


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("", "this constitution is empty", "loyal constitution new"),
        (SOUND.split("[[values]]")[0], "this constitution is empty", "loyal constitution new"),
        (SOUND.replace("keeps =", "kepes =", 1), "kepes", "Did you mean"),
        ("+++\nname = 3", "front matter", "+++"),
    ],
)
def test_bad_files_end_with_2_and_a_next_step(
    run: Run, sound: Path, text: str, says: str, hint: str
) -> None:
    sound.write_text(text)
    done = run("constitution", "check", sound)
    assert done.code == 2
    error, following = done.err.splitlines()
    assert says in error
    assert hint in following


def test_a_file_that_is_not_there_names_the_list(run: Run, tmp_path: Path) -> None:
    done = run("constitution", "check", tmp_path / "no.toml")
    assert done.code == 2
    assert "loyal constitution list" in done.err


def test_a_version_is_checked_against_the_one_before(run: Run, sound: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.toml"
    later.write_text(SOUND.replace("Trust is lost once.", "Trust is lost fast."))
    done = run("constitution", "check", later, "--against", sound, "--json")
    assert (done.code, done.fields["findings"][0]["next"]) == (1, "make it 0.1.1")
    later.write_text(later.read_text().replace("0.1.0", "0.1.1"))
    assert run("constitution", "check", later, "--against", sound).code == 0
    change = run("constitution", "diff", sound, later, "--json").fields
    assert (change["needs"], change["has"], change["fits"]) == ("patch", "patch", True)
    (value,) = change["values"]
    assert [one["field"] for one in value["fields"]] == ["why"]
    assert "Trust is lost fast." in run("constitution", "diff", sound, later).out


@pytest.mark.parametrize("form", ["toml", "markdown"])
def test_show_prints_the_other_form(run: Run, tmp_path: Path, form: str) -> None:
    for name in constitution_file.bundled_names():
        out = tmp_path / name
        assert run("constitution", "show", name, "--form", form, "--out", out).code == 0
        assert constitution_file.read(out) == constitution_file.bundled(name)
        assert run("constitution", "show", name, "--form", form).out == out.read_text()
    shown = run("constitution", "show", "public-library", "--json").fields
    assert len(shown["constitution"]["values"]) == 7
    assert "reader-privacy" in run("constitution", "show", "public-library").out
    assert run("constitution", "show", "public-library", "--out", out).code == 2


def test_several_members_sign_and_anybody_verifies(run: Run, sound: Path, tmp_path: Path) -> None:
    (first, one), (second, two), (_, stranger) = (key(tmp_path, name) for name in "abc")
    out = tmp_path / "signed"
    apart = tmp_path / "apart"
    assert run("constitution", "sign", sound, "--key", first, "--out", out).code == 0
    assert run("constitution", "sign", sound, "--key", second, "--out", apart).code == 0
    both = run("constitution", "verify", sound, "--signature", out, "--signature", apart, "--json")
    assert sorted(both.fields["signers"]) == sorted([one, two])
    done = run("constitution", "sign", sound, "--key", second, "--out", out, "--join", apart)
    assert done.code == 0
    assert second.read_text() not in done.out + done.err
    wanted = ("--signer", one, "--signer", two)
    assert run("constitution", "verify", sound, "--signature", out, *wanted).code == 0
    missed = run("constitution", "verify", sound, "--signature", out, "--signer", stranger)
    assert missed.code == 1
    assert stranger in missed.err
    markdown = tmp_path / "same.md"
    run("constitution", "show", sound, "--form", "markdown", "--out", markdown)
    assert run("constitution", "verify", markdown, "--signature", out).code == 0
    sound.write_text(SOUND.replace("Trust is lost once.", "Trust is lost fast."))
    changed = run("constitution", "verify", sound, "--signature", out)
    assert changed.code == 1
    assert "another text" in changed.err
    before = out.read_bytes()
    assert run("constitution", "sign", sound, "--key", first, "--out", out).code == 1
    assert out.read_bytes() == before


def test_what_has_errors_or_no_key_is_not_signed(run: Run, sound: Path, tmp_path: Path) -> None:
    secret, _ = key(tmp_path, "a")
    out = tmp_path / "signed"
    broken = tmp_path / "broken.toml"
    broken.write_text(SOUND.replace("6000", "5000"))
    done = run("constitution", "sign", broken, "--key", secret, "--out", out, "--json")
    assert (done.code, done.fields["signed"]) == (1, False)
    secret.chmod(0o644)
    assert run("constitution", "sign", sound, "--key", secret, "--out", out).code == 2
    assert not out.exists()
    (tmp_path / "junk").write_text("junk")
    junk = run("constitution", "verify", sound, "--signature", tmp_path / "junk")
    assert junk.code == 1
    assert "no signatures" in junk.err
