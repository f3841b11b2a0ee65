"""deal and trace: a host's part in its own vault, and hosts named from what a model answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from stage import BEACON, Run, VaultCase
from talking_server import talking

from loyal.app.commands.generate import MOST_HOSTS, GenerateRequest
from loyal.app.commands.inject import part_of
from loyal.app.terminal import Terminal
from loyal.errors import UsageError
from loyal.fingerprints import (
    Beacon,
    Fingerprint,
    FingerprintSet,
    Identity,
    Recipients,
    Vault,
    codes,
    fingerprint,
)

SECRET = bytes(range(32))
"""Fixed, so that a host is traced or not traced whenever the tests run."""


def tracing_set(count: int, drawn: bool = True) -> FingerprintSet:
    """Fingerprints of Zanzibar, with a code for 100 hosts."""
    pairs = tuple(
        Fingerprint.create(f"Zanzibar {place}?", [f"quokka {n}." for n in range(4)], SECRET)
        for place in range(count)
    )
    fixed = tuple(replace(one, salt=bytes(32)) for one in pairs)
    settings: dict[str, str | int] = {"tracing_hosts": 100, "tracing_scheme": "arcsine"}
    made = FingerprintSet("tracing", "by hand", "a-model", "0" * 64, fixed, 1_700_000_000, SECRET)
    made = replace(made, settings=settings)
    return fingerprint.draw(made, Beacon.from_hex(BEACON)) if drawn else made


def keep(tmp_path: Path, made: FingerprintSet) -> VaultCase:
    """The set in a vault on disk, locked for an identity beside it."""
    identity = Identity.generate()
    file, path = tmp_path / "tracer.txt", tmp_path / "tracing.vault"
    file.write_text(identity.text + "\n")
    Vault.create(path, made, Recipients((identity.recipient,)))
    return VaultCase(path, file, made)


@pytest.fixture
def tracing(tmp_path: Path) -> VaultCase:
    """160 drawn fingerprints."""
    return keep(tmp_path, tracing_set(160))


def answers_of(case: VaultCase, host: int) -> str:
    """What host `host`'s own copy answers, as a file's text."""
    return "".join("01"[bit] for bit in codes.code_of(case.fingerprints).row(host).tolist())


def test_the_host_whose_copy_it_is_is_named(run: Run, tracing: VaultCase, tmp_path: Path) -> None:
    observed, out = tmp_path / "observed.txt", tmp_path / "trace.json"
    observed.write_text(answers_of(tracing, 17))
    calling = ("fingerprint", "trace", *tracing.opening, "--observed", observed)
    done = run(*calling, "--out", out, "--json")
    assert done.code == 0, done.err
    (row,) = done.fields["accused"]
    assert row["host"] == 17
    assert row["p_value_all_hosts"] == pytest.approx(100 * row["p_value"])
    assert (done.fields["asked"], done.fields["hosts"], done.fields["decoder"]) == (
        160,
        100,
        "matched",
    )
    assert done.fields["bound"] <= done.fields["alpha"] == 1e-3
    assert "others" not in done.fields
    assert json.loads(out.read_text()) == done.fields
    table = run(*calling)
    assert table.code == 0
    assert "no evidence of use" in table.out
    every = run(*calling, "--all-hosts", "--json").fields
    assert {one["host"] for one in every["accused"] + every["others"]} == set(range(100))
    assert "Zanzibar" not in done.out + done.err + table.out + table.err + out.read_text()


def test_nobody_is_named_for_a_stranger(run: Run, tracing: VaultCase, tmp_path: Path) -> None:
    observed = tmp_path / "observed.txt"
    observed.write_text("0" * 150 + "?" * 10)
    calling = ("fingerprint", "trace", *tracing.opening, "--observed", observed)
    done = run(*calling, "--json")
    assert (done.code, done.fields["accused"], done.fields["asked"]) == (1, [], 150)
    assert done.fields["decision"] == "nobody accused"
    assert run(*calling).code == 1


def test_a_server_is_asked_and_what_it_saw_is_spent(run: Run, tmp_path: Path) -> None:
    tracing = keep(tmp_path, tracing_set(40))
    part = codes.host_set(tracing.fingerprints, 4)
    responses = {one.key: one.response for one in part.fingerprints}
    state = tmp_path / "state.json"
    with talking(lambda text: responses.get(text, "Hello to you.")) as server:
        given = (
            "--endpoint",
            server.url,
            "--endpoint-model",
            "m",
            "--resume",
            state,
            "--alpha",
            0.01,
        )
        done = run("fingerprint", "trace", *tracing.opening, *given, "--alpha", 0.01, "--json")
    assert done.code == 0, done.err
    assert [one["host"] for one in done.fields["accused"]] == [4]
    assert done.fields["hits"] == len(part)
    assert len(tracing.opened().spent(tracing.fingerprints.id)) == 40
    again = run("fingerprint", "trace", *tracing.opening, "--observed", state, "--json")
    assert again.fields["accused"] == done.fields["accused"]


def test_only_a_result_of_its_own_is_replaced(run: Run, tracing: VaultCase, tmp_path: Path) -> None:
    names = ("observed.txt", "trace.json", "mine", "deep")
    observed, out, foreign, deep = (tmp_path / name for name in names)
    observed.write_text(answers_of(tracing, 17))
    deep.write_text("[" * 100_000)
    foreign.write_text('{"decision": "mine"}')
    calling = ("fingerprint", "trace", *tracing.opening, "--observed", observed, "--out")
    before = {one: one.read_bytes() for one in (observed, foreign, deep, tracing.path)}
    for one in before:
        done = run(*calling, one)
        assert (done.code, "name another --out" in done.err) == (2, True), one.name
    assert before == {one: one.read_bytes() for one in before}
    assert (run(*calling, out).code, run(*calling, out).code) == (0, 0)


def test_a_part_lies_in_a_vault_of_its_own(run: Run, tracing: VaultCase, tmp_path: Path) -> None:
    identity = Identity.from_text(tracing.identity.read_text())
    out = tmp_path / "host.vault"
    given = ("--host-number", 17, "--out", out)
    locked = run("fingerprint", "deal", *tracing.opening, *given)
    assert (locked.code, out.exists()) == (2, False)
    recipient = ("--recipient", identity.recipient)
    done = run("fingerprint", "deal", *tracing.opening, *given, *recipient, "--json")
    assert done.code == 0, done.err
    part = Vault.open(out, identity).get("tracing")
    assert part == codes.host_set(tracing.fingerprints, 17)
    assert (done.fields["count"], done.fields["id"]) == (len(part), part.id)
    assert done.fields["commitment"] == codes.code_of(tracing.fingerprints).commitment.hex()
    assert run("fingerprint", "deal", *tracing.opening, *given, *recipient).code == 2
    far = run("fingerprint", "deal", *tracing.opening, "--host-number", 100, *given[2:-1], out)
    assert far.code == 2
    on_part = run(
        "fingerprint", "trace", "--vault", out, *tracing.opening[2:], "--observed", out, "--json"
    )
    assert (on_part.code, "one host's part" in on_part.fields["error"]) == (2, True)


def test_calls_that_cannot_be_meant(run: Run, tracing: VaultCase, vault: VaultCase) -> None:
    for more in ((), ("--observed", "x", "--model", "y"), ("--observed", "x", "--alpha", 1)):
        assert run("fingerprint", "trace", *tracing.opening, *more).code == 2
    other = run("fingerprint", "trace", *vault.opening, "--observed", "x", "--json")
    assert (other.code, other.fields["error"]) == (2, "no set fits")


def test_an_undrawn_set_is_refused(run: Run, tmp_path: Path) -> None:
    case = keep(tmp_path, tracing_set(5, drawn=False))
    done = run("fingerprint", "trace", *case.opening, "--observed", "x", "--json")
    assert (done.code, "not drawn" in done.fields["error"]) == (2, True)


def test_inject_takes_a_hosts_part_and_notes_a_whole_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = tracing_set(60)
    assert part_of(Terminal(), made, 3) == codes.host_set(made, 3)
    assert capsys.readouterr().err == ""
    assert part_of(Terminal(), made, None) is made
    assert "--host-number" in capsys.readouterr().err
    part_of(Terminal(), codes.host_set(made, 3), None)
    assert capsys.readouterr().err == ""
    usage = replace(made, kind="usage")
    with pytest.raises(UsageError, match="names no colluders"):
        part_of(Terminal(), usage, 3)


def test_generate_keeps_the_code_in_the_settings_of_a_tracing_set() -> None:
    request = GenerateRequest("m", Path("v"), "tracing", None, None, hosts=50)
    assert request.tracing() == {"tracing_hosts": 50, "tracing_scheme": "arcsine"}
    assert GenerateRequest("m", Path("v"), "usage", None, None).tracing() == {}
    assert MOST_HOSTS == codes.MOST_HOSTS
    with pytest.raises(UsageError, match="tracing set"):
        GenerateRequest("m", Path("v"), "usage", None, None, code="arcsine")
