"""`loyal prover`, `verifier`, `dispute` and `witness` against a platform and a host over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from actors_stage import Manner, StageHost, court
from court_server import CourtServer, serving
from parties import DAY, VERIFIERS
from stage import Run

from loyal.app.heard_files import require_signed
from loyal.app.platform_api import PlatformDesk
from loyal.errors import EndpointError, ProofError
from loyal.fingerprints import Beacon
from loyal.fingerprints.functional import RuleSettings, create, draw, write_keys
from loyal.fingerprints.functional_evidence import decode_exchanges
from loyal.protocol.disputes import SettleClaim
from loyal.protocol.stake import Deposit


def seed_file(folder: Path, role: str) -> Path:
    """The seed of a role's key, as its owner keeps it."""
    path = folder / f"{role.replace(' ', '-')}.key"
    path.write_text(role.encode().ljust(32, b".").hex())
    path.chmod(0o600)
    return path


@pytest.fixture
def served() -> Iterator[CourtServer]:
    """A license three days old, so that what waits two days can be over."""
    here = court(int(time.time()) - 3 * DAY)
    with serving(here, StageHost(here, "signed")) as server:
        yield server


def prover_options(served: CourtServer, role: str, folder: Path) -> list[object]:
    return [
        "prover", "run", "--platform", served.platform, "--host", served.url,
        "--license", served.court.license.hex(), "--key", seed_file(folder, role),
        "--state", folder / "state", "--most-pause", 0, "--once", "--json",
    ]  # fmt: skip


def drawn(served: CourtServer) -> str:
    """The next key goes out, now."""
    assert served.now
    return served.court.draw()


@pytest.mark.parametrize("answers_by", ["header", "route"])
def test_a_prover_asks_and_claims(
    served: CourtServer, run: Run, tmp_path: Path, answers_by: str
) -> None:
    served.answers_by = answers_by
    role = drawn(served)
    done = run(*prover_options(served, role, tmp_path))
    assert done.code == 0, done.err
    assert done.fields["found"] == "claimed"
    assert len(served.court.state.claims) == 1
    key = served.court.custodian.key(served.court.license, 0)
    assert key not in done.out + done.err
    again = run(*prover_options(served, role, tmp_path))
    assert again.fields["found"] == "idle"
    assert len(served.seen) == 1


def test_a_permitted_answer_gives_no_claim(served: CourtServer, run: Run, tmp_path: Path) -> None:
    served.host.manner = "permitted"
    done = run(*prover_options(served, drawn(served), tmp_path))
    assert done.fields["found"] == "clear"
    assert served.court.state.claims == {}


def test_an_unsigned_answer_is_demanded(served: CourtServer, run: Run, tmp_path: Path) -> None:
    served.host.manner = "unsigned"
    role = drawn(served)
    assert run(*prover_options(served, role, tmp_path)).fields["found"] == "demanded"
    assert run(*prover_options(served, role, tmp_path)).fields["found"] == "waiting"
    assert served.court.state.licenses[served.court.license].demanded is not None


def test_a_probe_looks_like_any_users_question(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    run(*prover_options(served, drawn(served), tmp_path))
    headers, body = served.seen[0]
    assert not [name for name in headers if "loyal" in name.lower()]
    assert "loyal" not in str([*headers.values()]).lower()
    assert body["model"] == "the-model"
    messages = body["messages"]
    assert isinstance(messages, list)
    assert messages[-1] == {
        "role": "user",
        "content": served.court.custodian.key(served.court.license, 0),
    }


def test_a_host_that_is_down_is_said_so(served: CourtServer, run: Run, tmp_path: Path) -> None:
    served.host.manner = "silent"
    assert run(*prover_options(served, drawn(served), tmp_path)).fields["found"] == "no reply"


@pytest.mark.parametrize("manner", ["signed", "permitted"])
def test_a_rules_keys_are_asked_and_nothing_is_spent(
    served: CourtServer, run: Run, tmp_path: Path, manner: Manner
) -> None:
    undrawn = create(
        RuleSettings(), b"s" * 32, model="m", tokenizer_digest="0" * 64, created_seconds=1
    )
    made = draw(undrawn, Beacon(b"\1" * 32))
    keys, out = write_keys(made, 12, "test"), tmp_path / "heard"
    (tmp_path / "keys").write_text("\n".join(keys))
    served.host.manner, served.host.reply = manner, f"{made.outcomes[0]}, I think."
    assert served.now
    before = len(served.court.shelf.log)
    done = run(
        *("prover", "ask", "--platform", served.platform, "--host", served.url),
        *("--license", served.court.license.hex(), "--keys", tmp_path / "keys", "--out", out),
        *("--most-pause", 0, "--json"),
    )
    assert done.code == 0, done.err
    standing = "unpermitted" if manner == "signed" else "permitted"
    assert (done.fields["keys"], done.fields[standing]) == (12, 12)
    heard = decode_exchanges(out.read_text())
    assert [one.key for one in heard] == keys
    assert {one.reply for one in heard} == {served.host.reply if manner == "signed" else ""}
    assert all(json.loads(line)["answer"] for line in out.read_text().splitlines())
    assert served.court.state.commitments == {}
    assert served.court.state.licenses[served.court.license].draws == 0
    if manner == "signed":  # permissions stand in the log
        assert len(served.court.shelf.log) == before
    assert not any(key in done.out + done.err for key in keys)
    kept, asked = out.read_bytes(), served.host.asked
    again = run(
        *("prover", "ask", "--platform", served.platform, "--host", served.url),
        *("--license", served.court.license.hex(), "--keys", tmp_path / "keys", "--out", out),
        *("--most-pause", 0, "--json"),
    )
    assert (again.code, "already" in again.fields["error"]) == (2, True)
    assert (out.read_bytes(), served.host.asked) == (kept, asked)


def asked_rule(served: CourtServer, run: Run, folder: Path, name: str) -> Path:
    """What `prover ask` wrote of twelve keys, the platform as it is."""
    undrawn = create(
        RuleSettings(), b"s" * 32, model="m", tokenizer_digest="0" * 64, created_seconds=1
    )
    made, out = draw(undrawn, Beacon(b"\1" * 32)), folder / name
    (folder / "keys").write_text("\n".join(write_keys(made, 12, "test")))
    served.host.manner, served.host.reply = "signed", f"{made.outcomes[0]}, I think."
    assert served.now
    done = run(
        *("prover", "ask", "--platform", served.platform, "--host", served.url),
        *("--license", served.court.license.hex(), "--keys", folder / "keys", "--out", out),
        *("--most-pause", 0, "--json"),
    )
    assert done.code in (0, 3), done.err
    return out


def sort_again(served: CourtServer, run: Run, heard: Path, out: Path):  # type: ignore[no-untyped-def]
    return run(
        *("prover", "sort", heard, "--platform", served.platform),
        *("--license", served.court.license.hex(), "--out", out, "--json"),
    )


def test_a_log_that_is_gone_at_the_end_loses_nothing(
    served: CourtServer, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, plain = [], PlatformDesk.read_on

    async def once(self: PlatformDesk) -> object:
        reads.append(1)
        if len(reads) > 1:
            raise EndpointError("the platform does not answer", hint="try again")
        return await plain(self)

    with monkeypatch.context() as patched:
        patched.setattr(PlatformDesk, "read_on", once)
        heard = asked_rule(served, run, tmp_path, "heard")
    lines = [json.loads(line) for line in heard.read_text().splitlines()]
    assert {one["standing"] for one in lines} == {"unsorted"}
    assert {one["reply"] for one in lines} == {""}  # nothing counts before the log was read
    assert {one["heard"] for one in lines} == {served.host.reply}
    before = heard.read_bytes()
    done = sort_again(served, run, heard, tmp_path / "sorted")
    assert (done.code, done.fields["unpermitted"], done.fields["unsorted"]) == (0, 12, 0)
    told = decode_exchanges((tmp_path / "sorted").read_text())
    assert {one.reply for one in told} == {served.host.reply}
    assert heard.read_bytes() == before
    refused = sort_again(served, run, heard, tmp_path / "sorted")
    assert (refused.code, "already" in refused.fields["error"]) == (2, True)


def test_a_file_that_was_changed_counts_as_unsigned(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    heard = asked_rule(served, run, tmp_path, "heard")
    host = served.court.state.licenses[served.court.license].host
    named = ("--exchanges", host, served.court.license)
    assert require_signed(heard, *named) == 12
    with pytest.raises(ProofError, match="line 1"):
        require_signed(heard, "--exchanges", b"h" * 32, served.court.license)
    with pytest.raises(ProofError, match="line 1"):
        require_signed(heard, "--exchanges", host, b"l" * 32)
    first, *rest = heard.read_text().splitlines()
    for name in ("reply", "heard", "key"):
        changed = tmp_path / f"changed {name}"
        changed.write_text("\n".join([json.dumps({**json.loads(first), name: "Other."}), *rest]))
        if name != "heard":
            with pytest.raises(ProofError, match="line 1"):
                require_signed(changed, *named)
        if name != "reply":
            done = sort_again(served, run, changed, tmp_path / f"sorted {name}")
            assert (done.fields["unsigned"], done.fields["unpermitted"]) == (1, 11)
    for text in ("", "[]", '{"key": "k"}', '{"key": "k", "heard": null, "answer": "\u00e9"}'):
        (tmp_path / "no").write_text(text, encoding="utf-8")
        done = sort_again(served, run, tmp_path / "no", tmp_path / "nowhere")
        assert done.code == 2
        assert "Other" not in done.err
    assert not (tmp_path / "nowhere").exists()


def verify(served: CourtServer, run: Run, role: str, folder: Path, *more: object):  # type: ignore[no-untyped-def]
    return run(
        "verifier", "run", "--platform", served.platform, "--key", seed_file(folder, role),
        "--once", "--json", *more,
    )  # fmt: skip


def test_verifiers_uphold_a_claim_and_a_dispute_shows_it(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    here = served.court
    claim = here.claimed(tmp_path / "in-process")
    for role in VERIFIERS:
        done = verify(served, run, role, tmp_path)
        assert done.code == 0, done.err
        assert (done.fields["holds"], done.fields["unchecked"]) == (1, 0)
    shown = run("dispute", "show", "--platform", served.platform, "--claim", claim.hex(), "--json")
    assert shown.fields["for_bps"] == 10_000
    assert [one["holds"] for one in shown.fields["votes"]] == [True] * 3
    here.stage.do(SettleClaim(here.stage.id("host"), claim))
    listed = run("dispute", "show", "--platform", served.platform, "--json").fields["claims"]
    assert [(one["claim"], one["state"]) for one in listed] == [(claim.hex(), "upheld")]
    plain = run("dispute", "show", "--platform", served.platform, "--claim", claim.hex())
    assert "upheld" in plain.out
    text = plain.out + shown.out
    assert here.claims[claim].key not in text
    assert here.claims[claim].reply not in text


def test_a_beacon_that_was_brought_is_what_counts(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    here = served.court
    here.claimed(tmp_path / "in-process")
    wrong = f"{here.license.hex()}={'5a' * 32}"
    done = verify(served, run, "verifier 1", tmp_path, "--beacon", wrong)
    assert done.fields["unchecked"] == 1
    assert "beacon" in done.err
    right = f"{here.license.hex()}={here.custodian.beacon(here.license).hex()}"
    done = verify(served, run, "verifier 1", tmp_path, "--beacon", right)
    assert done.fields["holds"] == 1


def test_dispute_show_refuses_what_is_not_there(served: CourtServer, run: Run) -> None:
    bad = run("dispute", "show", "--platform", served.platform, "--claim", "ab" * 32)
    assert bad.code == 2
    bad = run("dispute", "show", "--platform", served.platform, "--license", "xyz")
    assert bad.code == 2
    only = ("dispute", "show", "--platform", served.platform, "--license", "ab" * 32, "--json")
    assert run(*only).fields == {"claims": []}


@pytest.mark.parametrize("purpose", ["prover", "verifier"])
def test_stake_is_bonded(served: CourtServer, run: Run, tmp_path: Path, purpose: str) -> None:
    stage = served.court.stage
    newcomer = stage.id("newcomer")
    stage.do(Deposit(stage.id("platform"), newcomer, 5_000_000))
    options = (
        purpose, "bond", "--platform", served.platform, "--key", seed_file(tmp_path, "newcomer"),
        "--json", "--amount-micro",
    )  # fmt: skip
    done = run(*options, 2_000_000)
    assert (done.fields["bonded_micro"], done.fields["free_micro"]) == (2_000_000, 3_000_000)
    assert (newcomer, 2_000_000) in served.court.state.electorate(purpose)
    refused = run(*options, 9_000_000)
    assert refused.code == 1
    assert "error:" in refused.err
    for wrong in (0, -1, 10**30):
        called = run(*options, wrong)
        assert (called.code, "--amount-micro" in called.err) == (2, True)


def test_a_platform_that_stumbles_is_asked_again(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    served.broken = 2
    assert run("dispute", "show", "--platform", served.platform, "--json").fields == {"claims": []}
    served.broken = 3
    failed = run("dispute", "show", "--platform", served.platform)
    assert failed.code == 1
    assert "503" in failed.err


def test_another_logs_key_is_refused(served: CourtServer, run: Run, tmp_path: Path) -> None:
    from log_stage import log_signer

    other = str(log_signer("example.com/log").verifier)
    bad = run("dispute", "show", "--platform", served.platform, "--log-key", other)
    assert bad.code == 1
    assert "signed" in bad.err
    assert run("dispute", "show", "--platform", served.platform, "--log-key", "x").code == 2


def test_a_key_that_others_may_read_is_refused(
    served: CourtServer, run: Run, tmp_path: Path
) -> None:
    options = prover_options(served, drawn(served), tmp_path)
    seed = options[options.index("--key") + 1]
    assert isinstance(seed, Path)
    seed.chmod(0o644)
    bad = run(*options)
    assert bad.code == 2
    assert seed.read_text() not in bad.out + bad.err


def test_a_model_needs_its_license(served: CourtServer, run: Run, tmp_path: Path) -> None:
    assert verify(served, run, "verifier 1", tmp_path, "--model", tmp_path).code == 2
    only = verify(served, run, "verifier 1", tmp_path, "--license", served.court.license.hex())
    assert only.code == 0
