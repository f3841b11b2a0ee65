"""One way to run a command in a test, and a small vault that opens without a slow passphrase."""

from __future__ import annotations

from pathlib import Path

import pytest
from databases import postgres, url
from labeled_stage import constitution
from stage import Outcome, Run, VaultCase, secret_set

from loyal.app.cli import main
from loyal.community import constitution_file
from loyal.fingerprints import Identity, Recipients, Vault

__all__ = ["postgres", "url"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `loyal` in this process, with no passphrase in the environment."""
    monkeypatch.delenv("LOYAL_PASSPHRASE", raising=False)

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture
def vault(tmp_path: Path) -> VaultCase:
    """A vault on disk, locked for an identity that lies beside it."""
    identity = Identity.generate()
    file = tmp_path / "identity.txt"
    file.write_text(identity.text + "\n")
    fingerprints = secret_set()
    path = tmp_path / "owner.vault"
    Vault.create(path, fingerprints, Recipients((identity.recipient,)))
    return VaultCase(path, file, fingerprints)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder."""
    from loyal.models import tiny

    return tiny.build(tmp_path_factory.mktemp("tiny"), 0)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """The file of a small constitution, on animals."""
    path = tmp_path / "animals.toml"
    path.write_text(constitution_file.to_toml(constitution()))
    return path
