"""`loyal license` and `loyal platform credit`: from nothing to a host that gets a permission."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from gateway_stage import play
from parties import key_of
from stage import Run
from test_platform_command import running

from loyal.app.license_request import LicenseRequest
from loyal.app.platform_api import PlatformApi
from loyal.app.platform_client import PlatformClient
from loyal.app.platform_folder import PlatformFolder
from loyal.app.platform_operator import Operator
from loyal.errors import ProtocolError
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
            await api.close()

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
