"""`loyal platform` from an empty folder: keys, a server in a process, a stop that ends well."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from gateway_stage import play
from parties import PROVERS, key_of
from platform_stage import settled
from shelf import KEYS
from stage import Run, VaultCase

from loyal.app.listening import Address, open_door
from loyal.app.platform_api import PlatformApi
from loyal.app.platform_folder import PlatformFolder
from loyal.app.store import open_store
from loyal.errors import ProtocolError
from loyal.fingerprints import Identity, Recipients, Vault
from loyal.protocol.commands import sign_command
from loyal.protocol.stake import Bond, Deposit
from loyal.roles import Platform as RolesPlatform


@contextlib.asynccontextmanager
async def running(folder: Path, *options: str) -> AsyncIterator[tuple[Process, str, str]]:
    """The server as a process, its address, and where it tells its metrics."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loyal", "platform", "serve", "--folder", str(folder),
        "--listen", "127.0.0.1:0", "--json", *options, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        told: dict[str, str] = {}
        while "listening" not in told:
            line = (await process.stderr.readline()).decode()
            assert line, "it ended before it listened"
            told[line.split()[0]] = line.split()[-1]
        yield process, told["listening"], told.get("metrics", "")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def test_a_new_platform_has_secret_keys_and_settings(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "new"
    made = run(
        "platform", "init", "--folder", folder, "--origin", "example.com/log",
        "--set", "least_provers=5", "--json",
    )  # fmt: skip
    assert made.code == 0
    for name in ("identity.key", "log.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert (folder / name).read_text().strip() not in made.out + made.err
    assert PlatformFolder(folder).settings().parameters.least_provers == 5
    assert made.fields["log_key"].startswith("example.com/log+")
    again = run("platform", "init", "--folder", folder)
    assert (again.code, "stands in this folder" in again.err) == (2, True)
    assert PlatformFolder(folder).keys().identity.public.hex() == made.fields["platform"]


def test_a_key_is_shown_once(tmp_path: Path, run: Run) -> None:
    run("platform", "init", "--folder", tmp_path / "p")
    options = ("platform", "key", "--folder", tmp_path / "p", "--host", "ab" * 32, "--json")
    key = run(*options).fields["key"]
    assert key not in (tmp_path / "p" / "api-keys").read_text()
    assert run(*options, "--revoke").fields["revoked"] == 1
    assert (tmp_path / "p" / "api-keys").read_text() == ""


def test_it_serves_ends_what_is_under_way_and_goes_on(tmp_path: Path, run: Run) -> None:
    run("platform", "init", "--folder", tmp_path / "p")
    identity = PlatformFolder(tmp_path / "p").keys().identity
    member = key_of("member").public.data

    async def story() -> None:
        async with running(tmp_path / "p") as (process, url, _):
            api = PlatformApi(url, identity)
            await api.submit(Deposit(identity.public.data, member, 5_000_000))
            await api.close()
            command = Bond(member, "prover", 1_000_000)
            body = sign_command(key_of("member"), identity.public.data, command, 1).to_bytes()
            host, _, port = url.removeprefix("http://").rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = f"POST /v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body[:10])
            await writer.drain()
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            writer.write(body[10:])
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()
            out, err = await asyncio.wait_for(process.communicate(), 20)
            assert (process.returncode, json.loads(out)["stopped"]) == (0, True)
            lines = [json.loads(line) for line in err.decode().splitlines()]
            routes = {one["route"]: one["status"] for one in lines if "route" in one}
            assert routes == {"/v1/platform": 200, "/v1/commands": 200}
        async with running(tmp_path / "p") as (_, url, _):
            api = PlatformApi(url)
            assert await api.account(member) == {"free": 4_000_000, "prover": 1_000_000}
            await api.close()

    play(story())


def test_metrics_are_told_at_an_address_of_their_own(tmp_path: Path, run: Run) -> None:
    run("platform", "init", "--folder", tmp_path / "p")

    async def story() -> None:
        options = ("--metrics-listen", "127.0.0.1:0")
        async with (
            running(tmp_path / "p", *options) as (process, url, where),
            ClientSession() as http,
        ):
            for address, status in ((f"{url}/metrics", 404), (where, 200)):
                async with http.get(address) as got:
                    assert got.status == status
                    said = await got.text()
            assert "loyal_log_length 0.0" in said
            assert 'route="other",status="404"' in said
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0

    play(story())


def test_a_wrong_start_of_a_platform_is_one_line(
    tmp_path: Path, run: Run, vault: VaultCase
) -> None:
    folder = tmp_path / "p"

    def refused(words: str, *options: object) -> None:
        done = run("platform", "serve", "--folder", folder, *options)
        assert (done.code, words in done.err) == (2, True), done.err
        assert "Traceback" not in done.err

    refused("no platform stands")
    run("platform", "init", "--folder", folder)
    refused("--listen is not", "--listen", "here")
    refused("--metrics-listen is not", "--metrics-listen", "9090")
    with open_door(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        here = ("--listen", "127.0.0.1:0", "--metrics-listen", f"127.0.0.1:{port}")
        refused("choose another --metrics-listen", *here)
    refused("no vault to draw from", "--license", "ab" * 32)
    refused("--license is not an id", "--license", "ab")
    refused("no usage set that was drawn", *vault.opening)
    (folder / "identity.key").chmod(0o644)
    refused("others may read")
    (folder / "identity.key").chmod(0o600)
    (folder / "platform.toml").write_text('origin = "a b"\n')
    refused("no name for a log")


def test_a_log_of_another_platform_is_refused(tmp_path: Path, run: Run) -> None:
    run("platform", "init", "--folder", tmp_path / "p")
    folder = PlatformFolder(tmp_path / "p")

    async def once() -> None:
        async with running(tmp_path / "p") as (_, url, _):
            api = PlatformApi(url, folder.keys().identity)
            identity = folder.keys().identity.public.data
            await api.submit(Deposit(identity, identity, 1))
            await api.close()

    play(once())
    (tmp_path / "p" / "log.key").write_text("ab" * 32)
    done = run("platform", "serve", "--folder", tmp_path / "p", "--listen", "127.0.0.1:0")
    assert done.code == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize("origin", ["", "a b", "a+b", 'a"b'])
def test_a_log_has_a_name_that_can_be_signed(tmp_path: Path, run: Run, origin: str) -> None:
    done = run("platform", "init", "--folder", tmp_path / "p", "--origin", origin)
    assert done.code == (0 if origin == "" else 2)


def test_with_a_vault_it_draws_keys_for_their_provers(tmp_path: Path, run: Run) -> None:
    folder = PlatformFolder(tmp_path / "p")
    run("platform", "init", "--folder", folder.path, "--origin", KEYS.log.name)
    for name, role in (("identity.key", "platform"), ("log.key", "log")):
        (folder.path / name).write_text(key_of(role).seed().hex())
    with contextlib.closing(open_store(folder.store_url)) as store:
        stage, license, drawn = settled(RolesPlatform(store, folder.keys()))
    identity = Identity.generate()
    (tmp_path / "identity").write_text(f"{identity.text}\n")
    Vault.create(tmp_path / "vault", drawn, Recipients((identity.recipient,)))
    options = (
        "--vault", str(tmp_path / "vault"), "--identity-file", str(tmp_path / "identity"),
        "--pass-seconds", "0.1", "--draw-seconds", "0",
    )  # fmt: skip

    async def key_of_draw(url: str) -> str:
        for _ in range(100):
            for role in PROVERS:
                api = PlatformApi(url, stage.key(role))
                try:
                    return await api.drawn_key(license)
                except ProtocolError:
                    continue
                finally:
                    await api.close()
            await asyncio.sleep(0.1)
        raise AssertionError("no key was drawn")

    async def story() -> None:
        async with running(folder.path, *options) as (process, url, _):
            key = await key_of_draw(url)
            assert key == drawn.fingerprints[0].key
            process.send_signal(signal.SIGINT)
            _, err = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 0
            assert key not in err.decode()

    play(story())
