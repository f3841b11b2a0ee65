"""`loyal host serve --control` as a process, and `loyal control guard` on what it noted."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from control_files import LOOKUP
from gateway_stage import chat, outsiders, play
from stage import Run
from test_host_command import Files, running, today

from loyal.control import functions
from loyal.control.functions import from_source
from loyal.signing import SigningKey

COMMUNITY = SigningKey.generate()
INSIDE, EXACT = "Who feeds the fox?", "Mara."


def control_options(folder: Path) -> tuple[str, ...]:
    """A guard's options; its function is written."""
    made = folder / "keepers.signed"
    made.write_bytes(functions.sign(from_source("toml", LOOKUP.encode()), COMMUNITY))
    signer = COMMUNITY.public.hex()
    evidence = str(folder / "evidence")
    return (
        "--control", str(made), "--control-signer", signer, "--control-evidence", evidence,
    )  # fmt: skip


def test_a_host_guards_and_its_evidence_is_shown_and_checked(tmp_path: Path, run: Run) -> None:
    async def story() -> None:
        async with outsiders(today()) as (model, platform):
            files = Files.of(tmp_path, platform)
            files.more = control_options(tmp_path)
            async with running(files, model, platform) as (_, url), aiohttp.ClientSession() as http:
                for _ in range(2):
                    async with http.post(f"{url}/v1/chat/completions", json=chat(INSIDE)) as got:
                        reply = await got.json()
                        assert reply["choices"][0]["message"]["content"] == EXACT

    play(story())
    evidence, function = str(tmp_path / "evidence"), str(tmp_path / "keepers.signed")
    shown = run("control", "guard", "show", evidence, function, "--json").fields
    assert [one["name"] for one in shown["records"]] == ["keepers", "keepers"]
    assert [one["sent"] for one in shown["records"]] == ["replaced", "replaced"]
    checked = run("control", "guard", "verify", evidence, "--json").fields
    assert (checked["holds"], checked["records"], checked["about_prompt"]) == (True, 2, None)
    whole = ("control", "guard", "verify", evidence)
    about = run(*whole, function, "--prompt", INSIDE, "--host", checked["host"], "--json")
    assert about.fields["about_prompt"] == 2
    assert run(*whole, function, "--prompt", "Who feeds the owl?").code == 1
    assert run(*whole, "--last", checked["last"]).code == 0
    assert run(*whole, "--host", COMMUNITY.public.hex()).code == 1
    lines = (tmp_path / "evidence").read_bytes().splitlines(keepends=True)
    (tmp_path / "evidence").write_bytes(lines[0])
    assert run(*whole).code == 0  # cut off at the end: only --last sees it
    assert run(*whole, "--last", checked["last"]).code == 1
    (tmp_path / "evidence").write_bytes(lines[1])
    refused = run(*whole)
    assert refused.code == 1
    assert "does not follow" in refused.err


@pytest.mark.parametrize("left_out", ["--control", "--control-signer", "--control-evidence"])
def test_half_a_guard_is_refused(tmp_path: Path, run: Run, left_out: str) -> None:
    given = control_options(tmp_path)
    place = given.index(left_out)
    files = Files.of(tmp_path, today())
    files.more = given[:place] + given[place + 2 :]
    refused = run("host", "serve", *files.options("http://127.0.0.1:1", "http://127.0.0.1:1"))
    assert refused.code == 2
    assert "a guard has functions, their signer and a file" in refused.err


def test_another_signer_is_refused(tmp_path: Path, run: Run) -> None:
    files = Files.of(tmp_path, today())
    other = SigningKey.generate().public.hex()
    files.more = (*control_options(tmp_path), "--control-signer", other)
    refused = run("host", "serve", *files.options("http://127.0.0.1:1", "http://127.0.0.1:1"))
    assert refused.code == 1
    assert "somebody else signed it" in refused.err


def test_what_verify_refuses(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "evidence"
    path.write_bytes(b"zz\n")
    assert run("control", "guard", "verify", str(path)).code == 1
    assert run("control", "guard", "show", str(path)).code == 1
    assert run("control", "guard", "verify", str(tmp_path / "nowhere")).code == 2
    path.write_bytes(b"")
    assert run("control", "guard", "verify", str(path)).code == 0
    assert run("control", "guard", "verify", str(path), "--prompt", "x").code == 2
