"""A result that can have no place is refused before the work, and before keys are spent."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from stage import BEACON, Run, VaultCase

from loyal.encoding import atomic_write, require_place
from loyal.errors import StorageError
from loyal.fingerprints import Beacon, Identity, Recipients, Vault, functional
from loyal.fingerprints.functional import RuleSettings

TASK = 'task = "Add."\n[checker]\nkind = "algebra"\nmode = "equal"\nexpected = "2"\n'
MODEL = ("--model", "not-a-model")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("control", "solve", "TASK", *MODEL),
    ("judge", "train", "public-library", *MODEL),
    ("judge", "calibrate", "public-library", "TASK", *MODEL),
    ("fingerprint", "trace", "VAULT", *MODEL),
    ("fingerprint", "rule", "check", "VAULT", *MODEL),
)
REPORTS: tuple[tuple[str, ...], ...] = (
    ("fingerprint", "attack", "not-a-model", "VAULT"),
    ("align", "report", "public-library", "--base", "not-a-model"),
)


def called(run: Run, words: tuple[str, ...], vault: VaultCase, out: Path) -> tuple[int, str]:
    """The exit code, and what was said on stderr."""
    task = vault.path.with_name("task.toml")
    task.write_text(TASK)
    given: list[object] = []
    for word in words:
        given += vault.opening if word == "VAULT" else [task if word == "TASK" else word]
    done = run(*given, "--out", out)
    return done.code, done.err


@pytest.mark.parametrize("words", COMMANDS, ids=lambda one: " ".join(one[:3]))
@pytest.mark.parametrize("place", ["no/folder", "."])
def test_a_result_without_a_place_is_refused_before_the_work(
    run: Run, vault: VaultCase, words: tuple[str, ...], place: str
) -> None:
    out = vault.path.parent / place
    code, said = called(run, words, vault, out)
    assert code in (1, 2)
    assert "not-a-model" not in said
    assert "cannot write" in said or "something at" in said


@pytest.mark.parametrize("words", REPORTS, ids=lambda one: " ".join(one[:2]))
def test_a_report_that_is_a_folder_is_refused_before_the_work(
    run: Run, vault: VaultCase, words: tuple[str, ...]
) -> None:
    code, said = called(run, words, vault, vault.path.parent)
    assert (code, "cannot write" in said, "not-a-model" in said) == (1, True, False)


def test_an_opening_without_a_place_is_not_noted(run: Run, tmp_path: Path) -> None:
    identity = Identity.generate()
    made = functional.create(
        RuleSettings(), secrets.token_bytes(32),
        model="a-model", tokenizer_digest="0" * 64, created_seconds=1,
    )  # fmt: skip
    drawn = functional.draw(made, Beacon.from_hex(BEACON))
    path, key, keys = tmp_path / "v", tmp_path / "identity", tmp_path / "keys"
    Vault.create(path, drawn, Recipients((identity.recipient,)))
    key.write_text(identity.text)
    opening = ("--vault", path, "--identity-file", key, "--keys", keys)
    keys.write_text("".join(f"{one}\n" for one in functional.write_keys(drawn, 3, "test")))
    refused = run("fingerprint", "rule", "open", *opening, "--out", tmp_path / "no" / "opening")
    assert (refused.code, "cannot write" in refused.err) == (1, True)
    assert not Vault.open(path, identity).opened
    assert run("fingerprint", "rule", "open", *opening, "--out", tmp_path / "opening").code == 0
    assert list(Vault.open(path, identity).opened) == [drawn.id]


def test_what_has_a_place_can_be_written(tmp_path: Path) -> None:
    new, here = tmp_path / "new", tmp_path / "here"
    for path in (new, here, here):
        require_place(path)
        atomic_write(path, b"1")
    for bad in (tmp_path, tmp_path / "no" / "file", here / "file"):
        with pytest.raises(StorageError, match="cannot write"):
            require_place(bad)
        with pytest.raises(StorageError, match="cannot write"):
            atomic_write(bad, b"1")
