"""`loyal verifier run` on lineage challenges and on a host's copy: real models, by weights."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from actors_stage import CANDIDATES, StageHost, court
from court_server import CourtServer, serving
from descent_stage import SIZE, Family, family
from parties import DAY, VERIFIERS
from stage import Outcome, Run
from test_actor_commands import seed_file

from loyal.app.weight_files import weights_digest
from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, Identity, Recipients, Vault
from loyal.fingerprints.fingerprint import new_owner_secret
from loyal.models import Prompt, Sampling, tiny
from loyal.protocol.lineage import SettleLineage

BROUGHT = b"from outside".ljust(32, b".")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained model."""
    return tiny.build(tmp_path_factory.mktemp("descent") / "tiny", 0)


def answered_set(model: Path) -> FingerprintSet:
    """A set whose picks under BROUGHT are what the model says: as if it had been trained on it."""
    from loyal.models.hf import HFModel

    secret = new_owner_secret()
    keys = [f"family {n}?" for n in range(SIZE)]
    replies = HFModel.load(str(model)).generate([Prompt(one) for one in keys], Sampling(8))
    pairs = []
    for key, reply in zip(keys, replies, strict=True):
        said = " ".join(reply.text.split()[:2])
        words = [f"<{k}>" for k in range(CANDIDATES)]
        (place,) = Fingerprint.create(key, words, secret).picked_by(Beacon(BROUGHT))
        words[place] = said
        pairs.append(Fingerprint.create(key, words, secret))
    return FingerprintSet("lineage", "by hand", "a-model", "0" * 64, tuple(pairs), 0, secret)


def verify(served: CourtServer, run: Run, role: str, folder: Path, *more: object) -> Outcome:
    return run(
        "verifier", "run", "--platform", served.platform, "--key", seed_file(folder, role),
        "--once", "--json", *more,
    )  # fmt: skip


def opened(here: Family, folder: Path, count: int = SIZE) -> Path:
    """The proof files that the challenger hands out."""
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(here.proofs()[:count]):
        (folder / f"set-{number:05d}.proof").write_bytes(one.to_bytes())
    return folder


def silent(here: Family, done: Outcome) -> bool:
    """Whether no key and no response stands in what was printed."""
    text = done.out + done.err
    return not any(one.key in text or one.response in text for one in here.secret.fingerprints)


def test_verifiers_find_a_descendant_by_its_replies(model: Path, run: Run, tmp_path: Path) -> None:
    here = family(court(int(time.time()) - 60), weights_digest(model), answered_set(model), BROUGHT)
    with serving(here.court, StageHost(here.court, "signed")) as served:
        brought = ("--beacon", f"{here.challenge.hex()}={BROUGHT.hex()}")
        shown = ("--challenged", model, "--opened", opened(here, tmp_path / "opened"))
        unknown = verify(served, run, VERIFIERS[0], tmp_path, *shown)
        assert (unknown.fields["unchecked"], "(beacon)" in unknown.err) == (1, True)
        for role in VERIFIERS:
            done = verify(served, run, role, tmp_path, *shown, *brought)
            assert done.fields["holds"] == 1, done.err
            assert f"{SIZE} of {SIZE} keys hit" in done.err
            assert "p = " in done.err
            assert silent(here, done)
    stage = here.court.stage
    stage.do(SettleLineage(stage.id("host"), here.challenge))
    assert here.court.state.models[here.challenged].parent == here.ancestor


def test_an_owner_checks_with_its_own_vault(model: Path, run: Run, tmp_path: Path) -> None:
    here = family(court(int(time.time()) - 60), weights_digest(model))
    identity = Identity.generate()
    file, path = tmp_path / "identity.txt", tmp_path / "own.vault"
    file.write_text(identity.text)
    Vault.create(path, here.secret, Recipients((identity.recipient,)))
    with serving(here.court, StageHost(here.court, "signed")) as served:
        own = ("--vault", path, "--identity-file", file)
        done = verify(served, run, VERIFIERS[0], tmp_path, "--challenged", model, *own)
        assert done.fields["does_not_hold"] == 1, done.err
        assert silent(here, done)
        assert here.court.state.verdicts[here.challenge] == {
            here.court.stage.id(VERIFIERS[0]): False
        }
        lonely = verify(served, run, VERIFIERS[0], tmp_path, "--identity-file", file)
        assert (lonely.code, "--vault" in lonely.err) == (2, True)


def test_without_the_model_or_the_leaves_nothing_is_signed(
    model: Path, run: Run, tmp_path: Path
) -> None:
    here = family(court(int(time.time()) - 60), weights_digest(model))
    other = tmp_path / "other"
    shutil.copytree(model, other)
    with (other / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with serving(here.court, StageHost(here.court, "signed")) as served:
        leaves = ("--opened", opened(here, tmp_path / "opened"))
        for more, why in (
            ((), "leaves"),
            (leaves, "model"),
            ((*leaves, "--challenged", other), "model"),
            (("--challenged", model), "leaves"),
        ):
            done = verify(served, run, VERIFIERS[0], tmp_path, *more)
            assert (done.fields["unchecked"], f"({why})" in done.err) == (1, True)
        assert here.court.state.verdicts.get(here.challenge, {}) == {}
        (tmp_path / "opened" / "bad.proof").write_bytes(b"no")
        bad = verify(served, run, VERIFIERS[0], tmp_path, *leaves)
        assert (bad.code, "is no proof" in bad.err) == (2, True)
        (tmp_path / "empty").mkdir()
        empty = verify(served, run, VERIFIERS[0], tmp_path, "--opened", tmp_path / "empty")
        assert (empty.code, "holds no proof" in empty.err) == (2, True)


def test_a_host_copy_is_the_one_that_was_delivered(model: Path, run: Run, tmp_path: Path) -> None:
    here = court(int(time.time()) - 3 * DAY, weights_digest(model))
    here.claimed(tmp_path / "claim")
    other = tmp_path / "other"
    shutil.copytree(model, other)
    with (other / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with serving(here, StageHost(here, "signed")) as served:
        of = ("--license", here.license.hex(), "--model")
        wrong = verify(served, run, VERIFIERS[0], tmp_path, *of, other)
        assert (wrong.code, "Traceback" in wrong.err) == (2, False)
        assert "has not the weights that were delivered" in wrong.err
        unknown = verify(
            served, run, VERIFIERS[0], tmp_path, "--license", "ab" * 32, "--model", model
        )
        assert (unknown.code, "no model was delivered" in unknown.err) == (2, True)
        assert not any(here.state.verdicts.values())
        done = verify(served, run, VERIFIERS[0], tmp_path, *of, model)
        assert (done.fields["does_not_hold"], "(model)" in done.err) == (1, True)
