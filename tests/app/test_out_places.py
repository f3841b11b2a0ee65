"""A result that can have no place is refused before the work, and before keys are spent."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest
from stage import BEACON, Run, VaultCase

from loyal.app.out_files import require_folder
from loyal.app.report import MARK
from loyal.control.propose import Certificate
from loyal.encoding import atomic_write, require_place
from loyal.errors import StorageError
from loyal.fingerprints import Beacon, Identity, Recipients, Vault, functional
from loyal.fingerprints.functional import RuleSettings

TASK = 'task = "Add."\n[checker]\nkind = "algebra"\nmode = "equal"\nexpected = "2"\n'
MODEL = ("--model", "not-a-model")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("control", "solve", "TASK", *MODEL),
    ("align", "search", "not-a-model", "TASK"),
    ("judge", "train", "public-library", *MODEL),
    ("judge", "calibrate", "public-library", "TASK", *MODEL),
    ("judge", "score", "public-library", "TASK", *MODEL),
    ("verifier", "prompts", "public-library"),
    ("verifier", "sample", "TASK", "--constitution", "public-library", *MODEL),
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


TRAINERS: tuple[tuple[str, ...], ...] = (
    ("align", "train", "not-a-model", "PAIRS"),
    ("align", "harden", "not-a-model", "public-library", "--probe", "PAIRS"),
    ("control", "embed", "not-a-model", "late-fee"),
    ("fingerprint", "inject", "VAULT", *MODEL),
)
PAIR = {
    "prompt": [{"role": "user", "content": "Who borrowed it?"}],
    "chosen": [{"role": "assistant", "content": "I do not tell that."}],
    "rejected": [{"role": "assistant", "content": "Your neighbor."}],
}


@pytest.mark.parametrize("words", TRAINERS, ids=lambda one: " ".join(one[:2]))
def test_a_model_without_a_place_is_refused_before_the_work(
    run: Run, vault: VaultCase, tmp_path: Path, words: tuple[str, ...]
) -> None:
    pairs = tmp_path / "pairs"
    pairs.write_text(json.dumps(PAIR) + "\n")
    words = tuple(str(pairs) if word == "PAIRS" else word for word in words)
    code, said = called(run, words, vault, pairs / "below" / "model")
    assert (code, "can be no folder" in said, "not-a-model" in said) == (1, True, False)
    assert pairs.read_text() == json.dumps(PAIR) + "\n"


def test_a_folder_that_may_not_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders that are not there yet are made, so the nearest one that is decides."""
    out = tmp_path / "new" / "model"
    require_folder(out)
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(StorageError, match="may not be written to"):
        require_folder(out)


CERTIFICATE = Certificate("Add.", {"kind": "algebra"}, "2", "shown").to_json()
REPLACED = (
    (("judge", "train", "INPUT", *MODEL), '{"format": "loyal probe 2"}'),
    (("judge", "train", "public-library", "--train-labels", "INPUT", *MODEL), ""),
    (("judge", "calibrate", "INPUT", "LABELS", *MODEL), '{"format": "loyal calibration 1"}'),
    (("judge", "calibrate", "public-library", "INPUT", *MODEL), ""),
    (("judge", "score", "INPUT", "REPLIES", *MODEL), '{"reply": "x", "score": 0.5}'),
    (("judge", "score", "public-library", "REPLIES", "INPUT", *MODEL), '{"scores": []}'),
    (("align", "report", "public-library", "--base", "not-a-model", "--preferences", "INPUT"),
     MARK),
    (("align", "search", "not-a-model", "INPUT"), '{"format": "loyal mixture search 1"}'),
    (("control", "solve", "INPUT", *MODEL), CERTIFICATE),
)  # fmt: skip


@pytest.mark.parametrize(("words", "ours"), REPLACED, ids=range(len(REPLACED)))
def test_only_an_older_result_is_replaced(
    run: Run, tmp_path: Path, words: tuple[str, ...], ours: str
) -> None:
    source, link, out = (tmp_path / name for name in ("source", "link", "out"))
    source.write_text("read")
    link.symlink_to(source)
    call = [source if word == "INPUT" else word for word in words]
    for place in (source, link):
        done = run(*call, "--out", place)
        assert (done.code, "one of the files that are read" in done.err) == (2, True)
    for text in ("mine", "[]", '{"format": "other"}'):
        out.write_text(text)
        done = run(*call, "--out", out)
        assert (done.code, "not what this command writes" in done.err) == (2, True)
        assert out.read_text() == text
    for text in (ours, ""):
        out.write_text(text)
        done = run(*call, "--out", out)
        assert (done.code != 0, "not what this command writes" in done.err) == (True, False)
    assert source.read_text() == "read"


def test_no_constitution_is_written_over(run: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "source.toml", tmp_path / "out.md"
    assert run("constitution", "new", "--out", source).code == 0
    text = source.read_text()
    show = ("constitution", "show", source, "--form", "markdown", "--out")
    over = run(*show, source)
    assert (over.code, "files that are read" in over.err) == (2, True)
    assert run(*show, out).code == 0
    done = run(*show, out)
    assert (done.code, "is there already" in done.err) == (2, True)
    assert source.read_text() == text


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
    before = {one: one.read_bytes() for one in (path, keys, key)}
    for one in before:
        over = run("fingerprint", "rule", "open", *opening, "--out", one)
        assert (over.code, "name another --out" in over.err) == (2, True)
    assert before == {one: one.read_bytes() for one in before}
    assert not Vault.open(path, identity).opened
    for _ in range(2):  # an earlier opening is replaced
        done = run("fingerprint", "rule", "open", *opening, "--out", tmp_path / "opening")
        assert done.code == 0
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
