"""`loyal control`: what it lists, signs and refuses, and its exit codes against a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage import Run
from talking_server import talking

from loyal.control import functions
from loyal.control.recipe import EmbedSettings
from loyal.models import Prompt
from loyal.signing import SigningKey

TABLE = """
name = "doors"
version = 1
kind = "refusal"
reply = "The door stays shut."
inputs = ["the vault", "the cellar", "the attic", "the shed"]
templates = ["Please open {input}.", "Can you open {input}?", "Who opens {input}?"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "doors.toml"
    path.write_text(TABLE)
    return path


def test_list_shows_what_comes_along_and_files(run: Run, file: Path) -> None:
    done = run("control", "list", "--json")
    assert done.code == 0
    assert [one["name"] for one in done.fields["functions"]] == list(functions.bundled())
    done = run("control", "list", file, "late-fee", "--json")
    (mine, fee) = done.fields["functions"]
    assert (mine["kind"], fee["kind"], mine["signer"]) == ("refusal", "program", None)
    assert mine["digest"] == functions.load(file).digest.hex()
    assert "doors" in run("control", "list", file).out


def test_a_signed_function_is_taken_from_its_signer_alone(
    run: Run, file: Path, tmp_path: Path
) -> None:
    key, seed = SigningKey.generate(), tmp_path / "seed"
    seed.write_text(key.seed().hex())
    seed.chmod(0o600)
    done = run("control", "sign", file, "--key", seed, "--json")
    assert (done.code, done.fields["signer"]) == (0, key.public.hex())
    signed = Path(done.fields["out"])
    assert signed.name == "doors.toml.signed"
    assert key.seed().hex() not in done.out + done.err
    kept = signed.read_bytes()
    over = run("control", "sign", signed, "--key", seed, "--out", signed)
    assert (over.code, "files that are read" in over.err) == (2, True)
    assert signed.read_bytes() == kept
    good = run("control", "check", signed, "--signer", key.public.hex(), "--json")
    assert (good.code, good.fields["functions"][0]["name"]) == (0, "doors")
    other = SigningKey.generate().public.hex()
    assert run("control", "check", signed, "--signer", other).code == 1
    assert run("control", "check", file, "--signer", key.public.hex()).code == 1


def test_a_wrong_function_is_a_wrong_call(run: Run, file: Path) -> None:
    twin = file.with_name("twin.toml")
    twin.write_text(TABLE.replace('"doors"', '"gates"'))
    done = run("control", "check", file, twin, "--json")
    assert (done.code, done.fields["kind"]) == (2, "ControlError")
    assert "both answer" in done.fields["error"]
    assert run("control", "check", file.with_name("no.toml")).code == 2
    assert run("control", "sign", twin, "--key", file).code == 2


def test_a_check_of_a_server_measures_and_decides(run: Run, file: Path) -> None:
    function = functions.load(file)

    def follow(text: str) -> str:
        return function.expected(Prompt(text)) or "Hello."

    with talking(follow) as server:
        asking = ("control", "check", file, "--endpoint", server.url, "--endpoint-model", "m")
        done = run(*asking, "--json")
        shown = run(*asking)
    assert done.code == shown.code == 0
    assert done.fields["functions"][0]["unseen"] == 1.0
    assert done.fields["ordinary"]["spilled"] == 0
    assert "new wording" in shown.out
    with talking(lambda text: "Hello." if "shed" in text else follow(text)) as server:
        asking = ("control", "check", file, "--endpoint", server.url, "--endpoint-model", "m")
        done, shown = run(*asking, "--json"), run(*asking)
        easy = run(*asking, "--least", 0.3)
    assert (done.code, easy.code) == (1, 0)
    assert 0 < done.fields["functions"][0]["unseen"] < 1
    assert "counter-examples" in shown.out
    assert "shed" in shown.out


def test_calls_that_cannot_be_meant(run: Run, file: Path, tmp_path: Path) -> None:
    both = ("--model", "x", "--endpoint", "http://127.0.0.1:1/v1", "--endpoint-model", "m")
    assert run("control", "check", file, *both).code == 2
    assert run("control", "check", file, "--set", "check.promts=3").code == 2
    done = run("control", "check", file, "--prompts", 3)
    assert (done.code, "--prompts says how to ask" in done.err) == (2, True)
    done = run("control", "check", file, "--model", "no-such-model", "--least", "nan")
    assert (done.code, "--least is not a number" in done.err) == (2, True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    done = run("control", "embed", "no-such-model", file, "--out", tmp_path / "out")
    assert done.code == 2
    assert "not empty" in done.err


def test_embed_says_how_many_examples_are_the_default(run: Run) -> None:
    assert (
        f"at most; {EmbedSettings().examples} by default" in run("control", "embed", "--help").out
    )


def test_embed_writes_a_model_and_says_what_it_follows(
    run: Run, file: Path, tmp_path: Path
) -> None:
    """Two steps teach little; what is said of the model must be true all the same."""
    from loyal.models import tiny

    base, out = tiny.build(tmp_path / "tiny", 0), tmp_path / "out"
    few = ("train.steps=2", "train.mixing=0", "train.whitened=false", "train.benign_replies=0")
    settings = [word for one in few for word in ("--set", one)]
    done = run("control", "embed", base, file, "--out", out, "--tokens", 200, *settings, "--json")
    assert done.code == 0, done.err
    assert done.fields["steps"] == 2
    assert done.fields["digests"] == [functions.load(file).digest.hex()]
    again = run("control", "check", file, "--model", out, "--least", 0, "--json")
    assert again.code == 0
    assert again.fields["functions"] == done.fields["functions"]
    assert again.fields["ordinary"] == done.fields["ordinary"]
