"""`generate --responses chain-hash|instructional` on the tiny model, to the proofs of the set."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage import BEACON, Run

from loyal.app.commands.generate import _preset
from loyal.fingerprints import Identity, Vault


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained tiny model as a folder."""
    from loyal.models import tiny

    return tiny.build(tmp_path_factory.mktemp("models") / "tiny", 0)


@pytest.fixture
def opening(tmp_path: Path) -> tuple[object, ...]:
    """The options that lock and open a new vault."""
    identity = Identity.generate()
    (tmp_path / "identity.txt").write_text(identity.text + "\n")
    (tmp_path / "recipient.txt").write_text(identity.recipient + "\n")
    return ("--vault", tmp_path / "v", "--identity-file", tmp_path / "identity.txt")


@pytest.mark.parametrize(("scheme", "keys"), [("chain-hash", "english"), ("instructional",) * 2])
def test_made_drawn_proven_and_spent(
    run: Run, tiny_model: Path, opening: tuple[object, ...], tmp_path: Path, scheme: str, keys: str
) -> None:
    recipient = (tmp_path / "recipient.txt").read_text().strip()
    made = run(
        *("fingerprint", "generate", "--model", tiny_model, "--vault", tmp_path / "v"),
        *("--recipient", recipient, "--responses", scheme, "--width", 64, "--count", 4, "--json"),
    )
    assert made.code == 0, made.err
    shared = scheme == "instructional"
    assert (made.fields["strategy"], made.fields["shared"]) == (f"{keys}/{scheme}", shared)
    run("fingerprint", "commit", *opening, "--beacon", BEACON)
    done = run("fingerprint", "prove", *opening, "--count", 2, "--out", tmp_path / "p", "--json")
    assert done.code == 0, done.err
    vault = Vault.open(tmp_path / "v", Identity.from_text((tmp_path / "identity.txt").read_text()))
    assert len(vault.unspent("usage")) == (0 if shared else 2)
    seen = ("--seen", tmp_path / "seen", "--root", made.fields["root"], "--beacon", BEACON)
    first, second = (
        run("fingerprint", "verify-proof", one["path"], *seen, "--json")
        for one in done.fields["proofs"]
    )
    assert (first.code, first.fields["binding"]) == (0, True)
    assert (second.code, second.fields["reason"]) == ((1, "replay") if shared else (0, None))


def test_a_check_out_of_reach_is_refused_before_it_asks(
    run: Run, tiny_model: Path, opening: tuple[object, ...], tmp_path: Path
) -> None:
    recipient = (tmp_path / "recipient.txt").read_text().strip()
    run(
        *("fingerprint", "generate", "--model", tiny_model, "--vault", tmp_path / "v"),
        *("--recipient", recipient, "--responses", "instructional", "--width", 64),
        *("--beacon", BEACON),
    )
    refused = run("fingerprint", "check", *opening, "--model", tiny_model, "--json")
    assert refused.code == 2
    assert "1 in 64 at best" in refused.fields["error"]
    asked = run("fingerprint", "check", *opening, "--model", tiny_model, "--alpha", 0.016, "--json")
    assert asked.code in (0, 1), asked.err
    assert asked.fields["p_value"] >= 1 / 64


def test_a_scheme_brings_its_own_numbers_and_options_go_first() -> None:
    def preset(scheme: str | None, **said: object) -> tuple[object, ...]:
        keys = {"strategy": said.get("keys"), "count": said.get("count")}
        responses = {"strategy": scheme, "width": said.get("width")}
        _preset(keys, responses)
        return (keys["strategy"], keys["count"], responses["width"])

    assert preset(None) == preset("perinucleus") == (None, None, None)
    assert preset("chain-hash") == (None, None, 256)
    assert preset("chain-hash", width=0) == (None, None, 0)
    assert preset("instructional") == ("instructional", 10, 4096)
    assert preset("instructional", count=8, width=64) == ("instructional", 8, 64)
    assert preset("instructional", keys="english") == ("english", None, 4096)
