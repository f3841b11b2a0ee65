"""`loyal license` and `loyal platform credit`: from nothing to a host that gets a permission."""

from __future__ import annotations

import asyncio
import stat
import time
from dataclasses import asdict
from pathlib import Path

import aiohttp
import aiohttp.web
import pytest
from gateway_stage import outsiders, play
from parties import key_of
from shelf import KEYS
from stage import Run
from test_platform_command import running

from loyal.app.license_request import LicenseRequest
from loyal.app.platform_api import PlatformApi
from loyal.app.platform_client import PlatformClient
from loyal.app.platform_folder import PlatformFolder
from loyal.app.platform_operator import Operator
from loyal.errors import ProtocolError
from loyal.protocol import Parameters
from loyal.protocol.lineage import PublishModel, model_id
from loyal.roles import Host, SignedLicense
from loyal.signing import SigningKey


def request_of(run: Run, folder: Path, model: bytes, *more: object) -> dict[str, object]:
    """The host's request, in its file."""
    done = run(
        "license", "request", "--host-key", folder / "host.key", "--model", model.hex(),
        "--price-micro", 10, "--stake-micro", 1_000_000, "--denied-word", "spell",
        "--out", folder / "request", "--json", *more,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert (folder / "host.key").read_text().strip() not in done.out + done.err
    return done.fields


@pytest.mark.parametrize("way", ["http", "database"])
def test_a_host_gets_its_license_and_a_permission(tmp_path: Path, run: Run, way: str) -> None:
    run("platform", "init", "--folder", tmp_path / "p")
    folder = PlatformFolder(tmp_path / "p")
    platform = folder.keys().identity.public.data

    async def story() -> None:
        async with running(tmp_path / "p") as (_, url, _):
            where = ("--folder", tmp_path / "p", *(("--platform", url) if way == "http" else ()))

            async def done(*arguments: object) -> dict[str, object]:
                said = await asyncio.to_thread(run, *arguments, "--json")
                assert said.code == 0, said.err
                return said.fields

            def credit(party: bytes) -> tuple[object, ...]:
                amount = ("--amount-micro", 5_000_000)
                return ("platform", "credit", *where, "--party", party.hex(), *amount)

            await done(*credit(platform))
            shares = ((platform, 10_000),)
            published = PublishModel(platform, b"w" * 32, None, bytes(32), shares)
            await Operator(folder, url, None).submit([published])
            asked = request_of(run, tmp_path, model_id(published))
            host = SigningKey.from_seed(bytes.fromhex((tmp_path / "host.key").read_text()))
            await done(*credit(host.public.data))
            signed = await done("license", "sign", *where, "--request", tmp_path / "request")
            assert signed["license"] == asked["license"]
            name = ("--license", asked["license"])
            usage = ("--root", "ab" * 32, "--count", 100, "--candidates", 16)
            await done("license", "commit", *where, *name, *usage)
            await done("license", "deliver", *where, *name, "--weights", "cd" * 32)
            file = ("--platform", url, *name, "--out", tmp_path / "license")
            got = await done("license", "download", *file)
            assert got["platform"] == platform.hex()
            license = SignedLicense.from_bytes((tmp_path / "license").read_bytes())
            parts = ("platform", "key", "--folder", tmp_path / "p", "--host", host.public.hex())
            client = PlatformClient(url, str((await done(*parts))["key"]))
            actor = Host(host, license.verify(), license.platform)
            query = actor.ask(["hello"])
            (receipt,) = await client.permit([query.request])
            assert isinstance(receipt, bytes)
            actor.receive(receipt, query.request)
            await client.close()
            api = PlatformApi(url)
            assert (await api.account(host.public.data))["free"] == 4_000_000 - 10
            await buys_tokens(run, tmp_path, url, asked)
            assert (await api.account(host.public.data))["free"] == 4_000_000 - 70
            known = await api.tokens(bytes.fromhex(str(asked["license"])))
            assert [one[:2] for one in known.purchases] == [(0, 3), (3, 3)]
            await api.close()

    play(story())


async def buys_tokens(run: Run, folder: Path, url: str, asked: dict[str, object]) -> None:
    """Three tokens twice, and what is refused."""
    buying = (
        "license", "tokens", "--platform", url, "--host-key", folder / "host.key",
        "--license", asked["license"],
    )  # fmt: skip
    for first in (0, 3):
        done = await asyncio.to_thread(run, *buying, "--count", 3, "--json")
        assert done.code == 0, done.err
        bought = done.fields
        assert (bought["first"], bought["count"]) == (first, 3)
        assert int(time.time()) < bought["ripe"] < bought["expires"] == asked["expires"]
    for words, more in (
        ("does not pay", ("--count", 1_000_000)),
        ("license", ("--count", 1, "--license", "ab" * 32)),
        ("another host's", ("--count", 1, "--host-key", stranger(folder))),
        ("reached", ("--count", 1, "--platform", "http://127.0.0.1:9")),
    ):
        refused = await asyncio.to_thread(run, *buying, *more)
        assert (refused.code, words in refused.err) == (1, True), refused.err
        assert refused.err.count("error:") == 1
        assert "Traceback" not in refused.err


def stranger(folder: Path) -> Path:
    """Another host's key."""
    path = folder / "stranger.key"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("spare_seconds", "code", "words"),
    [(500, 2, "ends before that"), (5_000, 1, "may be bought all the same")],
)
def test_tokens_that_ripen_too_late_are_not_paid_and_lost_answers_are_said(
    tmp_path: Path, run: Run, spare_seconds: int, code: int, words: str
) -> None:
    """A platform that says how the license stands, and takes commands without an answer."""
    said = Parameters()
    expires = int(time.time()) + said.ripening_seconds + spare_seconds
    key = KEYS.log.verifier
    views = {
        "platform": {
            "platform": "cd" * 32, "log": key.name, "log_key": str(key), "length": 0,
            "parameters": asdict(said),
        },
        "ab" * 32: {"expires": expires, "tokens": {"reported_below": 0, "purchases": []}},
    }  # fmt: skip

    async def behave(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        name = request.path.rpartition("/")[2]
        return aiohttp.web.json_response(views.get(name, {}), status=200 if name in views else 503)

    async def story() -> None:
        async with outsiders() as (model, _):
            model.behave = behave
            done = await asyncio.to_thread(
                run, "license", "tokens", "--platform", model.url, "--license", "ab" * 32,
                "--host-key", stranger(tmp_path), "--count", 1,
            )  # fmt: skip
            assert (done.code, words in done.err) == (code, True), done.err
            sent = [path for path, _, _ in model.seen].count("/v1/commands")
            assert sent == (code == 1)  # once: it may have been taken

    play(story())


def test_a_host_key_is_drawn_once_and_is_its_owners(tmp_path: Path, run: Run) -> None:
    first = request_of(run, tmp_path, b"m" * 32)
    assert stat.S_IMODE((tmp_path / "host.key").stat().st_mode) == 0o600
    again = request_of(run, tmp_path, b"m" * 32)
    assert first["host"] == again["host"]
    (tmp_path / "host.key").chmod(0o644)
    refused = run(
        "license", "request", "--host-key", tmp_path / "host.key", "--model", "ab" * 32,
        "--kind", "free", "--stake-micro", 1, "--out", tmp_path / "x",
    )  # fmt: skip
    assert (refused.code, "others may read" in refused.err) == (2, True)
    assert not (tmp_path / "x").exists()


def test_a_request_that_its_host_did_not_sign_is_none(tmp_path: Path, run: Run) -> None:
    request_of(run, tmp_path, b"m" * 32)
    run("platform", "init", "--folder", tmp_path / "p")
    data = (tmp_path / "request").read_bytes()
    whole = LicenseRequest.from_bytes(data)
    assert LicenseRequest.from_bytes(whole.to_bytes()) == whole
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ProtocolError):
            LicenseRequest.from_bytes(changed)
    with pytest.raises(ProtocolError):
        LicenseRequest.of(whole.terms, key_of("member"))
    (tmp_path / "request").write_bytes(data[:-1])
    signing = ("license", "sign", "--folder", tmp_path / "p", "--request", tmp_path / "request")
    assert run(*signing).code == 1


def test_a_refused_license_leaves_no_file(tmp_path: Path, run: Run) -> None:
    request_of(run, tmp_path, b"m" * 32)
    run("platform", "init", "--folder", tmp_path / "p")
    done = run(
        "license", "sign", "--folder", tmp_path / "p", "--request", tmp_path / "request",
        "--out", tmp_path / "license",
    )  # fmt: skip
    assert (done.code, "not in the registry" in done.err) == (1, True)
    assert not (tmp_path / "license").exists()
    both = ("--platform", "http://127.0.0.1:9", "--store", "sqlite:///x.db")
    assert run("platform", "credit", "--folder", tmp_path / "p", *both, "--party", "ab" * 32,
               "--amount-micro", 1).code == 2  # fmt: skip
