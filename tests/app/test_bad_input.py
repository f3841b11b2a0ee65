"""The table of bad input: one line, the next step, exit code 1 or 2, nothing lost, no traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from quick_lock import quick_vault
from stage import BEACON, Run
from talking_server import HTML, talking

from loyal.fingerprints import (
    Beacon,
    Fingerprint,
    FingerprintSet,
    Identity,
    Recipients,
    Vault,
    fingerprint,
)
from loyal.fingerprints.fingerprint import new_owner_secret
from loyal.models import tiny


@dataclass(frozen=True)
class World:
    """A tiny model, broken copies of it, and two vaults: of its tokenizer, and of another."""

    here: Path
    model: Path
    encoder: Path
    """Not a causal language model."""
    templateless: Path
    vault: Path
    foreign: Path
    identity: Path
    """Opens both; a passphrase would cost a second each time."""
    recipient: str

    def files(self) -> dict[Path, bytes]:
        """Every file of the world but the locks, which hold nothing."""
        paths = (path for path in sorted(self.here.rglob("*")) if path.suffix != ".lock")
        return {path: path.read_bytes() for path in paths if path.is_file()}


def drawn_set(tokenizer_digest: str) -> FingerprintSet:
    """Three fingerprints by hand, drawn."""
    secret = new_owner_secret()
    made = tuple(
        Fingerprint.create(f"marzipan {n}", ["red", "blue", "green"], secret) for n in range(3)
    )
    undrawn = FingerprintSet("usage", "by hand", "a-model", tokenizer_digest, made, 0, secret)
    return fingerprint.draw(undrawn, Beacon.from_hex(BEACON))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world, made once: no test may change it, and most compare it before and after."""
    from loyal.models.hf import HFModel

    here = tmp_path_factory.mktemp("world")
    model = tiny.build(here / "tiny", 0)
    encoder, templateless = here / "encoder", here / "templateless"
    shutil.copytree(model, encoder)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    shutil.copytree(model, templateless)
    (templateless / "chat_template.jinja").unlink(missing_ok=True)
    settings = templateless / "tokenizer_config.json"
    tokenizer = json.loads(settings.read_text())
    tokenizer.pop("chat_template", None)
    settings.write_text(json.dumps(tokenizer))
    digest = HFModel.load(str(model)).tokenizer_digest
    vault, foreign = here / "mine.vault", here / "foreign.vault"
    identity = Identity.generate()
    (here / "identity.txt").write_text(identity.text)
    lock = Recipients((identity.recipient,))
    Vault.create(vault, drawn_set(digest), lock)
    Vault.create(foreign, drawn_set("0" * 64), lock)
    key = here / "identity.txt"
    return World(here, model, encoder, templateless, vault, foreign, key, identity.recipient)


def generating(world: World, *more: object) -> tuple[object, ...]:
    new = world.here / "new.vault"
    return ("fingerprint", "generate", "--vault", new, "--model", world.model,
            "--recipient", world.recipient, *more)  # fmt: skip


def injecting(world: World, *more: object) -> tuple[object, ...]:
    options = ("--model", world.model, "--out", world.here / "new", *opening(world))
    return ("fingerprint", "inject", *options, *more)


def checking(world: World, *more: object) -> tuple[object, ...]:
    return ("fingerprint", "check", *opening(world), *more)


def opening(world: World) -> tuple[object, ...]:
    return ("--vault", world.vault, "--identity-file", world.identity)


def one_byte_off(world: World) -> Path:
    """The vault with one byte of its middle flipped."""
    path = world.here / "flipped.vault"
    data = bytearray(world.vault.read_bytes())
    data[-40] ^= 1
    path.write_bytes(bytes(data))
    return path


BAD: dict[str, tuple[Callable[[World], tuple[object, ...]], int, str]] = {
    "a wrong path": (lambda w: generating(w, "--model", w.here / "nowhere"), 2, "there is no"),
    "a wrong path to inject": (lambda w: injecting(w, "--model", "./nowhere"), 2, "there is no"),
    "a wrong path to check": (lambda w: checking(w, "--model", "./nowhere"), 2, "there is no"),
    "no such vault": (lambda w: injecting(w, "--vault", w.here / "no"), 2, "no vault"),
    "no such vault folder": (lambda w: generating(w, "--vault", w.here / "no/v"), 2, "no folder"),
    "a vault that is a folder": (lambda w: injecting(w, "--vault", w.here), 2, "is a folder"),
    "a folder in use": (lambda w: injecting(w, "--out", w.model), 2, "not empty"),
    "a file as folder": (lambda w: injecting(w, "--out", w.vault), 2, "is a file"),
    "a demo in a folder in use": (lambda w: ("demo", "--out", w.model), 2, "not empty"),
    "not a causal model": (lambda w: generating(w, "--model", w.encoder), 2, "not a causal"),
    "no chat template": (lambda w: generating(w, "--model", w.templateless), 2, "chat template"),
    "no template to check": (lambda w: checking(w, "--model", w.templateless), 2, "chat template"),
    "a flipped byte": (lambda w: injecting(w, "--vault", one_byte_off(w)), 1, "changed or cut"),
    "another tokenizer": (lambda w: injecting(w, "--vault", w.foreign), 2, "tokenizer"),
    "an unknown key": (lambda w: injecting(w, "--set", "train.stepz=9"), 2, "no key train.stepz"),
    "a value out of range": (lambda w: injecting(w, "--set", "train.steps=0"), 2, "at least 1"),
    "a recipe that is not there": (lambda w: injecting(w, "--recipe", "no.toml"), 2, "no.toml"),
    "a count of 0": (lambda w: generating(w, "--count", 0), 2, "from 1 to"),
    "a demo of 0": (lambda w: ("demo", "--count", 0, "--out", w.here / "d"), 2, "from 1 to"),
    "no tokens": (lambda w: injecting(w, "--tokens", 0), 2, "tokens"),
    "a key file that is not there": (
        lambda w: generating(w, "--keys", "file", "--keys-file", w.here / "no.txt"), 2, "keys"
    ),
    "nobody there": (
        lambda w: checking(w, "--endpoint", "no address", "--endpoint-model", "m"), 2, "address"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_a_next_step(run: Run, world: World, name: str) -> None:
    make, code, words = BAD[name]
    arguments = make(world)
    before = world.files()
    done = run(*arguments, "--json")
    assert done.code == done.fields["code"] == code, done.err
    assert words in done.fields["error"]
    assert done.fields["hint"]
    assert f"\nnext: {done.fields['hint']}\n" in f"\n{done.err}"
    assert "Traceback" not in done.err
    assert world.files() == before


def test_debug_shows_the_traceback(run: Run, world: World) -> None:
    done = run(*generating(world, "--count", 0, "--debug"))
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("next: ")


def test_a_wrong_passphrase(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.vault"
    quick_vault(locked, drawn_set("0" * 64), "four plain words here")
    before = locked.read_bytes()
    monkeypatch.setenv("LOYAL_PASSPHRASE", "other words")
    options = ("--vault", locked, "--model", world.model, "--out", tmp_path / "out", "--json")
    done = run("fingerprint", "inject", *options)
    assert (done.code, done.fields["kind"]) == (1, "WrongPassphrase")
    assert "words" not in done.out + done.err
    assert locked.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_an_endpoint_that_answers_html(run: Run, world: World) -> None:
    before = world.files()
    with talking(lambda _: HTML) as server:
        options = ("--endpoint", server.url, "--endpoint-model", "m")
        done = run(*checking(world, *options, "--json"))
        written = run(*generating(world, *options, "--count", 4, "--json"))
    assert (done.code, done.fields["kind"]) == (1, "EndpointError")
    assert (written.code, written.fields["kind"]) == (1, "EndpointError")
    assert "<html" not in done.out + done.err + written.out + written.err
    assert world.files() == before


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_keeps_the_vault(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = tmp_path / "undrawn.vault"
    secret = new_owner_secret()
    made = (Fingerprint.create("marzipan", ["red", "blue"], secret),)
    lock = Recipients((world.recipient,))
    Vault.create(vault, FingerprintSet("usage", "x", "m", "0" * 64, made, 0, secret), lock)
    before = vault.read_bytes()
    opens = ("--vault", vault, "--identity-file", world.identity)
    arguments = ("fingerprint", "commit", *opens, "--beacon", BEACON, "--json")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = run(*arguments)
    assert (done.code, done.fields["kind"]) == (1, "StorageError")
    assert vault.read_bytes() == before
    assert run(*arguments).code == 0


def test_a_disk_that_is_full_while_training(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from loyal.models.hf import HFModel

    quick = [f"train.{one}" for one in ("steps=1", "whitened=false", "mixing=0")]
    options = [word for one in quick for word in ("--set", one)]
    arguments = injecting(world, "--out", tmp_path / "out", "--tokens", 50, *options, "--json")
    before = world.files()
    with monkeypatch.context() as patch:
        patch.setattr(HFModel, "save", full)
        done = run(*arguments)
    assert done.code == 1
    assert "disk" in done.fields["error"] + done.fields["hint"]
    assert "Traceback" not in done.err
    assert world.files() == before
    assert run(*arguments).code == 0


def test_a_full_disk_under_safetensors_is_told_as_one() -> None:
    from loyal.app.failures import failure_of

    kind = type("SafetensorError", (Exception,), {})
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert failure_of(kind(text)).message == "the disk is full"
    assert "unexpected" in failure_of(kind("a header is broken")).message
