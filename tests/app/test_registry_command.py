"""`loyal registry` against a real platform: publish, challenge, settle, the bond's way back."""

from __future__ import annotations

import asyncio
import hashlib
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from parties import DAY, VERIFIERS
from platform_stage import Played, playing_platform
from stage import Outcome, Run
from test_actor_commands import seed_file

from loyal.app.weight_files import weights_digest
from loyal.errors import UsageError
from loyal.protocol.parameters import Parameters
from loyal.protocol.voting import GiveVerdict

BOND = Parameters().publish_bond_micro
Call = Callable[..., Awaitable[Outcome]]


def registry(run: Run, play: Played, folder: Path) -> Call:
    """Runs `loyal registry NAME` as a role, in a thread: the platform has the loop."""

    async def call(role: str, name: str, *options: object) -> Outcome:
        key = () if name == "show" else ("--key", seed_file(folder, role))
        return await asyncio.to_thread(
            run, "registry", name, "--platform", play.url, *key, *options, "--json"
        )

    return call


def weights_in(folder: Path, content: bytes) -> Path:
    """A model's folder, as far as the registry looks at it."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(content)
    return folder


def shares(play: Played, **parts: int) -> list[object]:
    return [
        text
        for role, part in parts.items()
        for text in ("--share", f"{play.stage.id(role).hex()}={part}")
    ]


def free(play: Played, role: str) -> int:
    return play.platform.state.balance(f"free:{play.stage.id(role).hex()}")


async def publish(play: Played, call: Call, folder: Path) -> str:
    """The host's model, with two owners."""
    done = await call(
        "host", "publish", "--weights", weights_in(folder / "m", b"weights"),
        *shares(play, host=7_500, member=2_500),
    )  # fmt: skip
    assert done.code == 0, done.err
    return str(done.fields["model"])


def test_a_published_model_stands_in_the_log_and_its_bond_comes_back(
    tmp_path: Path, run: Run
) -> None:
    async def story(play: Played) -> None:
        call, before = registry(run, play, tmp_path), free(play, "host")
        model = await publish(play, call, tmp_path)
        (shown,) = [
            one for one in (await call("", "show")).fields["models"] if one["model"] == model
        ]
        inside = hashlib.sha256(b"weights").digest()
        assert shown["weights"] == hashlib.sha256(inside).hexdigest()
        host, member = play.stage.id("host").hex(), play.stage.id("member").hex()
        assert shown["shares_bps"] == {host: 7_500, member: 2_500}
        assert (shown["publisher"], shown["parent"], shown["bond_micro"]) == (host, None, BOND)
        assert shown["challenged_until"] == play.stage.now + Parameters().lineage_seconds
        assert free(play, "host") == before - BOND

        early = await call("host", "bond-back", "--model", model)
        assert (early.code, "can be challenged until" in early.err) == (1, True)
        play.stage.now = shown["challenged_until"] + 1
        other = await call("member", "bond-back", "--model", model)
        assert (other.code, "only its publisher" in other.err) == (1, True)
        back = await call("host", "bond-back", "--model", model)
        assert back.fields["returned_micro"] == BOND
        assert free(play, "host") == before
        assert (await call("", "show", "--model", model)).fields["bond_micro"] == 0

    playing_platform(tmp_path, story)


@pytest.mark.parametrize("found", [True, False])
def test_a_challenge_is_settled_as_the_verifiers_say(tmp_path: Path, run: Run, found: bool) -> None:
    async def story(play: Played) -> None:
        call = registry(run, play, tmp_path)
        model = await publish(play, call, tmp_path)
        older = next(iter(play.platform.state.models)).hex()
        stranger = await call("host", "challenge", "--model", model, "--ancestor", older)
        assert (stranger.code, "only an owner" in stranger.err) == (1, True)
        made = await call("member", "challenge", "--model", model, "--ancestor", older)
        assert made.code == 0, made.err
        name = made.fields["challenge"]
        listed = (await call("", "show", "--model", model)).fields["challenges"]
        assert [(one["challenge"], one["settled"]) for one in listed] == [(name, False)]

        early = await call("host", "settle", "--challenge", name)
        assert (early.code, "have time until" in early.err) == (1, True)
        for role in VERIFIERS:
            verdict = GiveVerdict(play.stage.id(role), bytes.fromhex(name), found)
            assert (await play.do(verdict)).status == 200
        done = await call("owner", "settle", "--challenge", name)
        assert done.fields == {
            "challenge": name, "found": found, "parent": older if found else None
        }  # fmt: skip
        shown = (await call("", "show", "--model", model)).fields
        assert shown["parent"] == (older if found else None)
        assert shown["challenges"][0]["settled"]
        assert shown["bond_micro"] == (0 if found else BOND)
        again = await call("owner", "settle", "--challenge", name)
        assert (again.code, "no such open challenge" in again.err) == (1, True)

    playing_platform(tmp_path, story)


def test_a_descendant_names_its_parent_and_its_set(tmp_path: Path, run: Run) -> None:
    async def story(play: Played) -> None:
        call = registry(run, play, tmp_path)
        parent = next(iter(play.platform.state.models)).hex()
        new = ("--digest", "cd" * 32, "--root", "ab" * 32)
        whole = shares(play, host=10_000)
        unknown = await call("host", "publish", *new, "--parent", "ef" * 32, *whole)
        assert (unknown.code, "not in the registry" in unknown.err) == (1, True)
        done = await call("host", "publish", *new, "--parent", parent, *whole)
        fields = (await call("", "show", "--model", done.fields["model"])).fields
        assert (fields["parent"], fields["root"]) == (parent, "ab" * 32)
        twice = await call("host", "publish", *new, *whole)
        assert (twice.code, "published already" in twice.err) == (1, True)
        part = await call("host", "publish", "--digest", "12" * 32, *shares(play, host=9_999))
        assert (part.code, "do not add up" in part.err) == (1, True)
        plain = await asyncio.to_thread(run, "registry", "show", "--platform", play.url)
        assert done.fields["model"][:20] in plain.out.replace("\n", "")

    playing_platform(tmp_path, story)


def test_a_challenge_passes_the_time_that_it_had(tmp_path: Path, run: Run) -> None:
    async def story(play: Played) -> None:
        call = registry(run, play, tmp_path)
        model = await publish(play, call, tmp_path)
        play.stage.now += 8 * DAY
        older = next(iter(play.platform.state.models)).hex()
        late = await call("member", "challenge", "--model", model, "--ancestor", older)
        assert (late.code, "is over" in late.err) == (1, True)

    playing_platform(tmp_path, story)


def wrong(run: Run, *options: object) -> str:
    done = run("registry", *options)
    assert (done.code, "Traceback" in done.err) == (2, False)
    return done.err


def test_wrong_calls_reach_no_platform(tmp_path: Path, run: Run) -> None:
    key = seed_file(tmp_path, "owner")
    base: tuple[Any, ...] = ("publish", "--platform", "http://127.0.0.1:9", "--key", key)
    one, whole = ("--share", f"{'ab' * 32}=10000"), ("--digest", "ab" * 32)
    assert "--weights or --digest" in wrong(run, *base, *one)
    assert "--weights or --digest" in wrong(run, *base, *one, *whole, "--weights", tmp_path)
    assert "holds no weights" in wrong(run, *base, *one, "--weights", tmp_path)
    for bad in ("ab=10000", f"{'ab' * 32}", f"{'ab' * 32}=-1", f"{'ab' * 32}=1.5"):
        assert "--share" in wrong(run, *base, *whole, "--share", bad)
    assert "--parent" in wrong(run, *base, *whole, *one, "--parent", "x")
    key.chmod(0o644)
    assert key.read_text() not in wrong(run, *base, *whole, *one)


def test_a_key_is_drawn_once_and_names_its_party(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "owner.key"
    made = run("registry", "key", "--key", path, "--json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in made.out + made.err
    again = run("registry", "key", "--key", path, "--json")
    assert again.fields == {"party": made.fields["party"], "drawn": False}
    assert made.fields["drawn"]


def test_a_digest_is_of_every_weight_file_by_name(tmp_path: Path) -> None:
    folder = weights_in(tmp_path / "one", b"a")
    alone = weights_digest(folder)
    (folder / "config.json").write_text("{}")
    assert weights_digest(folder) == alone
    (folder / "more.safetensors").write_bytes(b"b")
    assert weights_digest(folder) != alone
    with pytest.raises(UsageError):
        weights_digest(tmp_path)
