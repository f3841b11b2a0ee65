"""Every way a run can fail: the words, the next step, the exit code, no traceback unasked."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from quick_lock import quick_vault
from stage import BEACON, Run, VaultCase

from loyal import errors
from loyal.app import cli, failures
from loyal.app.failures import failure_of
from loyal.app.terminal import Terminal, command

ROOT = "ab" * 32


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `loyal doctor` raise."""

    def plant(error: BaseException) -> None:
        @command("doctor")
        def broken(terminal: Terminal) -> int:
            """Break."""
            raise error

        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: broken)

    return plant


FAILURES = (
    (errors.UsageError("bad path", hint="check it"), 2, "bad path"),
    (errors.WrongPassphrase("closed", hint="try again"), 1, "closed"),
    (errors.ModelError("not a model", hint="use one"), 2, "not a model"),
    (KeyboardInterrupt(), 130, "nothing that was saved is lost"),
    (click.Abort(), 130, "stopped"),
    (MemoryError(), 1, "not enough memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})(), 1, "not enough memory"),
    (OSError(errno.ENOSPC, "No space left on device", "M.oml"), 1, "the disk is full: M.oml"),
    (PermissionError(errno.EACCES, "denied", "x"), 1, "may not be read or written: x"),
    (FileNotFoundError(errno.ENOENT, "no", "x.toml"), 2, "no such file or folder: x.toml"),
    (IsADirectoryError(errno.EISDIR, "no", "x"), 2, "a file was expected"),
    (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
    (ModuleNotFoundError("no torch", name="torch"), 1, "needs the package torch"),
    (ModuleNotFoundError("no x", name="surprise"), 1, "unexpected ModuleNotFoundError"),
    (ZeroDivisionError("a secret key"), 1, "unexpected ZeroDivisionError at"),
)


@pytest.mark.parametrize(("error", "code", "words"), FAILURES)
def test_an_error_is_one_line_and_a_next_step(
    run: Run,
    failing: Callable[[BaseException], None],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    failing(error)
    done = run("doctor")
    assert (done.code, done.out) == (code, "")
    first, second = done.err.splitlines()
    assert first.startswith("error: ")
    assert words in first
    assert second.startswith("next: ")


def test_after_ctrl_c_only_what_is_true_of_the_command_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    @command("kept", click.option("--results"), kept_by="results")
    def kept(terminal: Terminal, results: str | None) -> int:
        """Break, with what was done kept in a file."""
        raise KeyboardInterrupt

    @command("lost")
    def lost(terminal: Terminal) -> int:
        """Break."""
        raise KeyboardInterrupt

    both = {"kept": kept, "lost": lost}
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda _, __, name: both[name])
    again = "next: run the same command again"
    for call, said in (
        (("lost",), again),
        (("kept",), f"{again}; with --results FILE a run that is stopped goes on"),
        (("kept", "--results", "x"), f"{again}; it goes on where it was stopped"),
    ):
        assert run(*call).err.splitlines()[1] == said


def test_json_carries_the_error_on_stdout(
    run: Run, failing: Callable[[BaseException], None]
) -> None:
    failing(errors.StorageError("the disk is full", hint="free some"))
    done = run("--json", "doctor")
    assert done.fields == {
        "error": "the disk is full",
        "hint": "free some",
        "code": 1,
        "kind": "StorageError",
    }


def test_an_unexpected_error_does_not_quote_its_text(
    run: Run, failing: Callable[[BaseException], None]
) -> None:
    failing(ValueError("key: which marzipan"))
    plain = run("doctor", "--json")
    assert "marzipan" not in plain.out + plain.err
    assert "Traceback" not in plain.err
    debug = run("doctor", "--debug")
    assert "Traceback" in debug.err
    assert "ValueError: key: which marzipan" in debug.err


def test_missing_extras_name_the_extra() -> None:
    for module, extra in failures.EXTRAS.items():
        failure = failure_of(ModuleNotFoundError("gone", name=f"{module}.sub"))
        assert f"loyal[{extra}]" in failure.hint


WRONG_CALLS: tuple[tuple[str, ...], ...] = (
    (),
    ("bogus",),
    ("models",),
    ("models", "bogus"),
    ("models", "info"),
    ("models", "info", "a", "b"),
    ("models", "info", "no/such/folder"),
    ("models", "list", "--bogus"),
    ("models", "list", "--recipe"),
    ("models", "list", "--set", "a=1"),
    ("--set", "a=1", "doctor"),
    ("fingerprint", "commit"),
    ("fingerprint", "commit", "--vault", "no.vault"),
    ("fingerprint", "info", "--vault", "no.vault", "--share", "no.txt"),
    ("fingerprint", "verify-proof", "no.proof", "--root", ROOT),
    ("fingerprint", "verify-proof", "no.proof", "--root", "xyz"),
    ("fingerprint", "verify-proof", "no.proof", "--root", ROOT, "--beacon", "xyz"),
    ("fingerprint", "verify-proof", ".", "--root", ROOT),
    ("fingerprint", "split", "--threshold", "3", "--members", "2", "--out", "shares"),
    ("fingerprint", "split", "--threshold", "two", "--members", "2", "--out", "shares"),
    ("fingerprint", "join", "--share", "no.txt", "--out", "identity.txt"),
)


@pytest.mark.parametrize("arguments", WRONG_CALLS, ids=" ".join)
def test_a_wrong_call_exits_with_2(
    run: Run, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = run(*arguments)
    assert plain.code == 2
    assert "error: " in plain.err
    assert "next: " in plain.err
    assert "Traceback" not in plain.err
    assert run("--json", *arguments).fields["code"] == 2
    assert list(tmp_path.iterdir()) == []


VAULT_TROUBLES = (
    ("two ways in", ("--passphrase-file", "x"), 2, "more than one way"),
    ("no such kind", ("--kind", "lineage"), 2, "no set fits"),
    ("no such id", ("--id", "ffff"), 2, "no set fits"),
    ("a beacon too short", ("--beacon", "abcd"), 2, "beacon"),
    ("a beacon that is not hex", ("--beacon", "hello"), 2, "not hexadecimal"),
)


@pytest.mark.parametrize(
    ("options", "code", "words"), [row[1:] for row in VAULT_TROUBLES], ids=lambda row: str(row)
)
def test_a_wrong_option_changes_no_vault(
    run: Run, vault: VaultCase, options: tuple[str, ...], code: int, words: str
) -> None:
    before = vault.path.read_bytes()
    done = run("fingerprint", "commit", *vault.opening, *options)
    assert done.code == code
    assert words in done.err
    assert vault.path.read_bytes() == before


def test_a_passphrase_opens_or_does_not(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vault: VaultCase
) -> None:
    locked = tmp_path / "locked.vault"
    quick_vault(locked, vault.fingerprints, "four plain words here")
    secret = tmp_path / "passphrase.txt"
    secret.write_text("four plain words here\nand a comment\n")
    info = ("fingerprint", "info", "--vault", locked)
    assert run(*info, "--passphrase-file", secret).code == 0
    nobody = run(*info)
    assert (nobody.code, "LOYAL_PASSPHRASE" in nobody.err) == (2, True)
    monkeypatch.setenv("LOYAL_PASSPHRASE", "wrong words")
    wrong = run(*info, "--json")
    assert (wrong.code, wrong.fields["kind"]) == (1, "WrongPassphrase")
    secret.write_text("\n")
    assert run(*info, "--passphrase-file", secret).code == 2


def test_a_flipped_byte_is_told_from_a_wrong_identity(run: Run, vault: VaultCase) -> None:
    data = bytearray(vault.path.read_bytes())
    data[-20] ^= 1
    vault.path.write_bytes(bytes(data))
    damaged = run("fingerprint", "commit", *vault.opening, "--beacon", BEACON, "--json")
    assert (damaged.code, damaged.fields["kind"]) == (1, "DamagedVault")
    assert vault.path.read_bytes() == bytes(data)


def test_several_sets_must_be_told_apart(run: Run, vault: VaultCase) -> None:
    from stage import secret_set

    opened = vault.opened()
    other = opened.add(secret_set("lineage", start=10))
    opened.save()
    unclear = run("fingerprint", "commit", *vault.opening)
    assert (unclear.code, other in unclear.err) == (2, True)
    for clear in (("--kind", "lineage"), ("--id", other[:6])):
        done = run("fingerprint", "commit", *vault.opening, *clear, "--json")
        assert (done.code, done.fields["id"]) == (0, other)


SCRIPT = [sys.executable, "-m", "loyal"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [*SCRIPT, "models", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (failures.BROKEN_PIPE, b"")


def test_a_full_disk_is_one_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("w") as sink:
        done = subprocess.run(
            [*SCRIPT, "models", "list"], stdout=sink, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "error: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script_exits_with_the_code_of_its_command(tmp_path: Path) -> None:
    for arguments, code in ((["models", "list", "--json"], 0), (["models", "bogus"], 2)):
        done = subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code
        assert code or json.loads(done.stdout)["models"]
