"""`loyal fingerprint inject` in two processes, as `accelerate launch -m loyal` starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stage import BEACON, Run
from two_processes import launch

from loyal.fingerprints import Identity, Vault
from loyal.fingerprints.inject import greedy_recall
from loyal.models import tiny
from loyal.models.hf import HFModel
from loyal.models.model_folder import WORK_FOLDER

MAIN = "import sys; from loyal.app.cli import main; sys.exit(main(sys.argv[1:]))"
QUICK = (
    "train.steps=40", "train.learning_rate=2e-3", "train.whitened=false", "train.depth=1.0",
    "train.parts=all", "train.mixing=0", "train.precision=float32",
)  # fmt: skip


@pytest.mark.slow
def test_two_processes_write_one_model(run: Run, tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "tiny", 0)
    identity, out = Identity.generate(), tmp_path / "out"
    (tmp_path / "identity.txt").write_text(identity.text + "\n")
    opening = ("--vault", tmp_path / "v", "--identity-file", tmp_path / "identity.txt")
    made = run(
        *("fingerprint", "generate", "--model", folder, "--vault", tmp_path / "v"),
        *("--recipient", identity.recipient, "--count", 8, "--json"),
    )
    assert made.code == 0, made.err
    run("fingerprint", "commit", *opening, "--beacon", BEACON)
    settings = [word for one in QUICK for word in ("--set", one)]
    call = ("fingerprint", "inject", *opening, "--model", folder, "--out", out, "--tokens", 200)
    told = launch(MAIN, [str(one) for one in (*call, *settings, "--json")])
    results = [line for text in told for line in text.splitlines() if line.startswith("{")]
    (result,) = map(json.loads, results)
    assert result["recall"] == 1.0
    assert not (out / WORK_FOLDER).exists()
    drawn = Vault.open(tmp_path / "v", identity).get("usage")
    assert greedy_recall(HFModel.load(str(out), device="cpu"), drawn) == 1.0


def test_a_set_is_not_drawn_by_many_processes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.build(tmp_path / "tiny", 0)
    identity = Identity.generate()
    (tmp_path / "identity.txt").write_text(identity.text + "\n")
    opening = ("--vault", tmp_path / "v", "--identity-file", tmp_path / "identity.txt")
    run(
        *("fingerprint", "generate", "--model", folder, "--vault", tmp_path / "v"),
        *("--recipient", identity.recipient, "--count", 2),
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    call = ("fingerprint", "inject", *opening, "--model", folder, "--out", tmp_path / "out")
    for more in ((), ("--beacon", BEACON)):
        refused = run(*call, *more)
        assert refused.code == 2
        assert "each draw the set" in refused.err
    assert not Vault.open(tmp_path / "v", identity).get("usage").drawn
