"""commit, prove and verify-proof: what is said, what is saved, what is spent, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage import BEACON, SECRET_WORDS, Run, VaultCase


def test_commit_prints_the_root_and_draws_nothing(run: Run, vault: VaultCase) -> None:
    done = run("fingerprint", "commit", *vault.opening, "--json")
    assert done.code == 0
    assert done.fields["root"] == vault.fingerprints.root.hex()
    assert (done.fields["count"], done.fields["beacon"]) == (5, None)
    assert done.fields["width"] == 4
    assert not vault.opened().get("usage").drawn


def test_commit_with_a_beacon_draws_once(run: Run, vault: VaultCase) -> None:
    first = run("fingerprint", "commit", *vault.opening, "--beacon", BEACON, "--json")
    assert (first.code, first.fields["beacon_source"]) == (0, "external")
    assert first.fields["root"] == vault.fingerprints.root.hex()
    assert vault.opened().get("usage").drawn
    again = run("fingerprint", "commit", *vault.opening, "--beacon", BEACON, "--json")
    assert again.fields == first.fields
    other = run("fingerprint", "commit", *vault.opening, "--beacon", "6b" * 32, "--json")
    assert other.code == 2
    assert "drawn already" in other.fields["error"]


def prove(run: Run, vault: VaultCase, out: Path, *which: object) -> list[Path]:
    """Draw the set by the external beacon and open leaves."""
    run("fingerprint", "commit", *vault.opening, "--beacon", BEACON)
    done = run("fingerprint", "prove", *vault.opening, *which, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.fields["binding"]
    return [Path(proof["path"]) for proof in done.fields["proofs"]]


def verify(run: Run, proof: Path, root: str, *options: object) -> dict[str, object]:
    """verify-proof as JSON, its exit code beside it."""
    done = run("fingerprint", "verify-proof", proof, "--root", root, *options, "--json")
    return {"code": done.code, **done.fields}


def test_a_proof_is_checked_without_the_vault(run: Run, vault: VaultCase, tmp_path: Path) -> None:
    (proof,) = prove(run, vault, tmp_path / "proofs", "--index", 3)
    root = vault.fingerprints.root.hex()
    vault.path.unlink()
    found = verify(run, proof, root, "--beacon", BEACON)
    assert found["code"] == 0
    assert (found["valid"], found["binding"], found["index"]) == (True, True, 3)
    assert found["key"] == vault.fingerprints.fingerprints[3].key
    assert found["others"] == []


def test_without_its_beacon_a_proof_binds_nobody(
    run: Run, vault: VaultCase, tmp_path: Path
) -> None:
    (proof,) = prove(run, vault, tmp_path, "--index", 0)
    found = verify(run, proof, vault.fingerprints.root.hex())
    assert (found["valid"], found["binding"]) == (True, False)


def test_foreign_root_beacon_and_bytes_are_refused(
    run: Run, vault: VaultCase, tmp_path: Path
) -> None:
    (proof,) = prove(run, vault, tmp_path, "--index", 0)
    root = vault.fingerprints.root.hex()
    damaged = tmp_path / "damaged.proof"
    damaged.write_bytes(proof.read_bytes()[:-1])
    refused = [
        verify(run, proof, "ab" * 32, "--beacon", BEACON),
        verify(run, proof, root, "--beacon", "6b" * 32),
        verify(run, damaged, root, "--beacon", BEACON),
    ]
    assert [found["reason"] for found in refused] == ["root", "beacon", "malformed"]
    assert {found["code"] for found in refused} == {1}
    assert not any(found["valid"] or found["key"] for found in refused)


def test_a_replay_is_refused_where_keys_are_remembered(
    run: Run, vault: VaultCase, tmp_path: Path
) -> None:
    first, second = prove(run, vault, tmp_path, "--index", 0, "--index", 1)
    root, seen = vault.fingerprints.root.hex(), tmp_path / "seen"
    options = ("--beacon", BEACON, "--seen", seen)
    assert verify(run, first, root, *options)["valid"]
    assert verify(run, second, root, *options)["valid"]
    replay = verify(run, first, root, *options)
    assert (replay["valid"], replay["reason"], replay["code"]) == (False, "replay", 1)
    assert not any(word in seen.read_text() for word in SECRET_WORDS)


def test_opened_leaves_are_spent(run: Run, vault: VaultCase, tmp_path: Path) -> None:
    prove(run, vault, tmp_path, "--index", 0)
    assert len(prove(run, vault, tmp_path, "--count", 2)) == 2
    spent = {one.index for one in vault.opened().spent(vault.fingerprints.id)}
    assert spent == {0, 1, 2}
    too_many = run("fingerprint", "prove", *vault.opening, "--count", 3, "--out", tmp_path)
    assert too_many.code == 1
    assert len(vault.opened().spent(vault.fingerprints.id)) == 3


def test_a_spent_leaf_can_be_opened_as_evidence(run: Run, vault: VaultCase, tmp_path: Path) -> None:
    once = prove(run, vault, tmp_path, "--index", 4)
    assert prove(run, vault, tmp_path, "--index", 4) == once


@pytest.mark.parametrize(
    "which", [(), ("--index", 0, "--count", 1), ("--index", 9), ("--index", 1, "--index", 1)]
)
def test_prove_refuses_an_unclear_choice(
    run: Run, vault: VaultCase, tmp_path: Path, which: tuple[object, ...]
) -> None:
    run("fingerprint", "commit", *vault.opening, "--beacon", BEACON)
    done = run("fingerprint", "prove", *vault.opening, *which, "--out", tmp_path)
    assert done.code == 2
    assert vault.opened().spent(vault.fingerprints.id) == ()


def test_prove_refuses_an_undrawn_set(run: Run, vault: VaultCase, tmp_path: Path) -> None:
    done = run("fingerprint", "prove", *vault.opening, "--index", 0, "--out", tmp_path)
    assert done.code == 2
    assert "commit" in done.err


@pytest.mark.parametrize("command", ["commit", "info", "prove"])
def test_no_command_shows_a_secret(
    run: Run, vault: VaultCase, tmp_path: Path, command: str
) -> None:
    run("fingerprint", "commit", *vault.opening, "--beacon", BEACON)
    extra = ("--count", 1, "--out", tmp_path) if command == "prove" else ()
    for json_flag in ((), ("--json",)):
        done = run("fingerprint", command, *vault.opening, *extra, *json_flag)
        assert done.code == 0
        assert not any(word in done.out + done.err for word in SECRET_WORDS)
