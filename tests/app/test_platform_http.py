"""The platform's routes over real HTTP: receipts, commands, the log, refusals, limits. What depends
on the store runs on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from community import on
from parties import STAKE
from platform_stage import Played, playing_platform, up
from shelf import KEYS, full_disk

from loyal import merkle
from loyal.app.access import Rate
from loyal.app.http import HttpLimits, JsonLines
from loyal.app.listening import Address
from loyal.app.permission_route import BodyLimits
from loyal.app.platform_api import PlatformApi, PlatformDesk
from loyal.app.platform_client import PlatformClient, PlatformPatience, from_base64url
from loyal.app.signed_request import authorization
from loyal.app.store import open_store
from loyal.errors import EndpointError
from loyal.protocol import Receipt, SignedNote
from loyal.protocol.checkpoint import open_checkpoint
from loyal.protocol.commands import sign_command
from loyal.protocol.note import from_base64
from loyal.protocol.stake import Bond, Deposit, Withdraw
from loyal.roles import Platform, SignedLicense


def test_the_hosts_client_gets_receipts_that_verify(tmp_path: Path, url: str) -> None:
    async def story(play: Played) -> None:
        client, host = play.client(), play.host()
        asked = [host.ask([f"question {number}"]) for number in range(300)]
        try:
            found = await client.permit([one.request for one in asked])
        finally:
            await client.close()
        for one, data in zip(asked, found, strict=True):
            assert isinstance(data, bytes)
            host.receive(data, one.request)
        assert play.platform.state.licenses[play.license].permitted == 300

    playing_platform(tmp_path, story, url=url)


def test_the_same_idempotency_key_costs_once(tmp_path: Path, url: str) -> None:
    async def story(play: Played) -> None:
        body = {"license": play.license.hex(), "requests": [play.query(1, 1), play.query(2, 2)]}
        before = play.stage.free("host")
        both = await asyncio.gather(*[play.permit(body) for _ in range(5)])
        assert len({json.dumps(one.json) for one in both}) == 1
        receipts = [from_base64url(one["receipt"]) for one in both[0].json["receipts"]]
        for data in receipts:
            Receipt.from_bytes(data).verify(KEYS.identity.public)
        assert before - play.stage.free("host") == 2 * 1_000
        other = {**body, "requests": [play.query(1, 9), play.query(3, 3)]}
        refused, given = (await play.permit(other)).json["receipts"]
        assert refused["error"]["rule"] == "P3"
        assert "receipt" in given

    playing_platform(tmp_path, story, url=url)


def test_who_has_no_key_or_another_license_gets_nothing(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        body = {"license": play.license.hex(), "requests": [play.query()]}
        length = play.platform.state.length
        for key in ("nonsense", "", "\xff"):
            said = await play.permit(body, key)
            assert (said.status, said.rule) == (401, None)
            assert said.headers["WWW-Authenticate"] == "Bearer, Loyal"
        stranger = play.parts.keys.draw(play.stage.id("member"))
        assert (await play.permit(body, stranger)).status == 403
        client = play.client("wrong-key")
        with pytest.raises(EndpointError, match="401"):
            await client.permit([play.host().ask(["x"]).request])
        await client.close()
        unknown = {**body, "license": "ab" * 32}
        said = await play.permit(unknown)
        assert said.json["receipts"][0]["error"]["rule"] == "L1"
        assert play.parts.keys.revoke(play.stage.id("host")) == 1
        assert (await play.permit(body)).status == 401
        assert play.platform.state.length == length

    playing_platform(tmp_path, story)


def test_a_host_without_an_api_key_signs_its_requests(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        assert play.parts.keys.revoke(play.stage.id("host")) == 1
        patience = PlatformPatience(attempts=1, clock=lambda: play.stage.now)
        host = play.host()
        for role, good in (("host", True), ("member", False)):
            client = PlatformClient(play.url, play.stage.key(role), patience)
            asked = host.ask(["a query"])
            if good:
                (data,) = await client.permit([asked.request])
                assert isinstance(data, bytes)
                assert Receipt.from_bytes(data).verify(KEYS.identity.public).sequence == 0
            else:
                with pytest.raises(EndpointError, match="403"):
                    await client.permit([asked.request])
            await client.close()
        body = json.dumps({"license": play.license.hex(), "requests": [play.query(7)]}).encode()
        for signed, now in ((body, -601), (body + b" ", 0)):
            moment = play.stage.now + now
            value = authorization(play.stage.key("host"), "POST", "/v1/permissions", moment, signed)
            headers = {"Authorization": value, "Content-Type": "application/json"}
            said = await play.ask("POST", "/v1/permissions", data=body, headers=headers)
            assert said.status == 401

    playing_platform(tmp_path, story)


@pytest.mark.parametrize(
    "change",
    [
        {"requests": []},
        {"requests": [{"idempotency_key": "00", "messages": []}]},
        {"requests": [{"idempotency_key": "zz", "messages": ["00" * 32]}]},
        {"requests": [{"idempotency_key": "0", "messages": ["00" * 32]}]},
        {"requests": [{"idempotency_key": "00", "messages": ["00" * 31]}]},
        {"requests": [{"idempotency_key": "00", "messages": ["00" * 32], "host": "00"}]},
        {"license": "00"},
        {"license": None},
    ],
)
def test_a_malformed_request_for_permissions_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    async def story(play: Played) -> None:
        body = {"license": play.license.hex(), "requests": [play.query()], **change}
        assert (await play.permit(body)).status == 400
        assert (await play.permit(b"[" * 100_000)).status == 400
        assert (await play.ask("GET", "/v1/permissions")).status == 405
        assert play.platform.state.licenses[play.license].permitted == 0

    playing_platform(tmp_path, story)


def test_a_full_disk_is_503_and_asking_again_costs_once(tmp_path: Path, url: str) -> None:
    async def story(play: Played) -> None:
        body = {"license": play.license.hex(), "requests": [play.query()]}
        commit = play.store.commit

        def full(_: object) -> bool:
            play.store.commit = commit
            raise full_disk()

        play.store.commit = full
        said = await play.permit(body)
        assert (said.status, said.headers["Retry-After"]) == (503, "1")
        assert "disk" not in said.body.decode()
        assert "receipt" in (await play.permit(body)).json["receipts"][0]
        assert play.platform.state.licenses[play.license].permitted == 1

    playing_platform(tmp_path, story, url=url)


def test_commands_are_taken_once_and_refused_by_their_rule(tmp_path: Path, url: str) -> None:
    async def story(play: Played) -> None:
        stage, key = play.stage, play.stage.key("member")
        place = play.platform.state.length
        command = Bond(key.public.data, "prover", 5_000_000)
        data = sign_command(key, stage.id("platform"), command, 7).to_bytes()
        said = await play.ask("POST", "/v1/commands", data=data)
        assert (said.status, said.json["index"]) == (200, place)
        (moved,) = said.json["events"]
        assert (moved["kind"], moved["amount_micro"]) == ("Moved", 5_000_000)
        account = (await play.get(f"/v1/accounts/{key.public.hex()}")).json
        assert account["bonds"] == {"prover": 5_000_000}
        assert account["last_number"] == 7
        again = await play.ask("POST", "/v1/commands", data=data)
        assert (again.status, again.rule) == (422, "K2")
        poor = await play.do(Withdraw(key.public.data, 10**15))
        assert (poor.status, poor.rule) == (422, "S2")
        forged = await play.ask("POST", "/v1/commands", data=data[:-1] + bytes([data[-1] ^ 1]))
        assert (forged.status, forged.rule) == (422, "K1")
        minted = await play.do(Deposit(key.public.data, key.public.data, 1))
        assert (minted.status, minted.rule) == (422, "S1")
        for nonsense in (b"", b"{}", data[:-1], data + b"\0"):
            assert (await play.ask("POST", "/v1/commands", data=nonsense)).status == 400
        assert (
            await play.ask("POST", "/v1/commands", data=io.BytesIO(b"x" * (2 << 20)))
        ).status == 413
        squeezed = {"Content-Encoding": "gzip"}
        assert (await play.ask("POST", "/v1/commands", data=data, headers=squeezed)).status == 415

    playing_platform(tmp_path, story, url=url)


def test_the_log_is_read_and_proven(tmp_path: Path, url: str) -> None:
    async def story(play: Played) -> None:
        about = (await play.get("/v1/platform")).json
        assert about["platform"] == KEYS.identity.public.hex()
        assert about["log_key"] == str(KEYS.log.verifier)
        note = (await play.get("/v1/log/checkpoint")).body
        head = open_checkpoint(SignedNote.from_bytes(note), KEYS.log.verifier).checkpoint
        assert head.size == about["length"]
        page = (await play.get(f"/v1/log/entries?start=0&stop={head.size}")).json
        entries = [from_base64url(one) for one in page["entries"]]
        assert merkle.root(entries) == head.root
        index = head.size - 2
        proof = (await play.get(f"/v1/log/inclusion?index={index}&size={head.size}")).json
        path = [from_base64(one) for one in proof["hashes"]]
        assert path == merkle.inclusion_proof(entries, index)
        await play.do(Bond(play.stage.id("member"), "prover", 1_000_000))
        grown = play.platform.state.length
        proof = (await play.get(f"/v1/log/consistency?old={head.size}&new={grown}")).json
        newer = [from_base64url(one) for one in (
            await play.get(f"/v1/log/entries?start={head.size}&stop={grown}")
        ).json["entries"]]  # fmt: skip
        every = [*entries, *newer]
        hashes = [from_base64(one) for one in proof["hashes"]]
        assert hashes == merkle.consistency_proof(every, head.size)
        for beyond in (
            "entries?start=0&stop=999",
            "inclusion?index=999&size=999",
            "inclusion?index=-1&size=2",
            "consistency?old=9&new=2",
            "entries?start=0",
        ):
            assert (await play.get(f"/v1/log/{beyond}")).status == 400  # fmt: skip

    playing_platform(tmp_path, story, url=url)


def test_a_reader_audits_the_log_and_a_restart_goes_on_with_it(tmp_path: Path, url: str) -> None:
    async def story(play: Played) -> None:
        body = {"license": play.license.hex(), "requests": [play.query(n, n) for n in range(3)]}
        given = (await play.permit(body)).json
        await play.do(Bond(play.stage.id("member"), "prover", 1_000_000))
        api = PlatformApi(play.url)
        desk = PlatformDesk(api, KEYS.log.verifier)
        assert await desk.read_on() == play.platform.state

        with contextlib.closing(open_store(url)) as store:
            platform = Platform(store, KEYS)
            assert platform.state == play.platform.state
            stage = on(platform)
            stage.now = play.stage.now
            for role in ("host", "member", "owner", "platform"):
                stage.key(role)
            setting = (stage, play.license, play.secret)
            async with up(tmp_path, platform, store, setting) as again:
                assert (await again.permit(body)).json == given
                assert platform.state == play.platform.state
                more = {**body, "requests": [play.query(9, 9)]}
                assert "receipt" in (await again.permit(more)).json["receipts"][0]
                assert (await again.do(Withdraw(stage.id("member"), 1))).status == 200
                # The first one still serves: it reads on, and takes no place that is taken.
                assert (await play.permit(more)).json == (await again.permit(more)).json
                assert (await play.do(Withdraw(stage.id("owner"), 2))).status == 200
                assert await desk.read_on() == play.platform.state
                assert play.platform.state.licenses[play.license].permitted == 4
        await api.close()

    playing_platform(tmp_path, story, url=url)


def test_a_license_and_its_file(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        name = play.license.hex()
        found = (await play.get(f"/v1/licenses/{name}")).json
        assert found["host"] == play.stage.id("host").hex()
        assert (found["delivered"], found["stake_micro"]) == (True, STAKE)
        assert found["drawn"] is None
        assert found["conviction"] is None
        said = await play.get(f"/v1/licenses/{name}/file")
        assert SignedLicense.from_bytes(said.body).verify().license_id == play.license
        for path in ("licenses", "disputes"):
            assert (await play.get(f"/v1/{path}/{'ab' * 32}")).status == 404
            assert (await play.get(f"/v1/{path}/xyz")).status == 400
        assert (await play.get(f"/v1/licenses/{'ab' * 32}/file")).status == 404
        assert (await play.get("/v2/anything")).status == 404
        assert (await play.ask("DELETE", "/v1/platform")).status == 405

    playing_platform(tmp_path, story)


def test_limits_hold_each_asker_apart(tmp_path: Path) -> None:
    limits = HttpLimits(
        permissions=BodyLimits(2_000, 30.0),
        commands=BodyLimits(1 << 20, 0.2),
        address=Rate(0.001, 6),
        host=Rate(0.001, 10),
    )

    async def story(play: Played) -> None:
        body = {"license": play.license.hex(), "requests": [play.query(n, n) for n in range(10)]}
        assert (await play.permit(body)).status == 200
        said = await play.permit(body)
        assert (said.status, int(said.headers["Retry-After"])) == (429, 10_000)
        assert (await play.permit(b" " * 3_000)).status == 413
        assert (await slow(play)) == 408
        for _ in range(5):
            assert (await play.get("/v1/platform")).status == 200
        assert (await play.get("/v1/platform")).status == 429
        assert (await play.permit(body, "guess")).status == 429
        assert (await play.get("/health")).status == 200

    async def slow(play: Played) -> int:
        async def drip() -> Any:
            yield b"a"
            await asyncio.sleep(0.6)
            yield b"b"

        async with play.http.post(f"{play.url}/v1/commands", data=drip()) as got:
            return got.status

    playing_platform(tmp_path, story, limits=limits)


def test_what_is_watched_tells_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "loyal")

    async def story(play: Played) -> None:
        body = {"license": play.license.hex(), "requests": [play.query(5, 6)]}
        await play.permit(body)
        await play.do(Bond(play.stage.id("member"), "prover", 1_000_000))
        await play.get(f"/v1/draws/{play.license.hex()}?planted=secret", "prover 1")
        await play.get("/planted-path")
        assert (await play.get("/health")).json["status"] == "ok"
        assert (await play.get("/metrics")).status == 404
        with play.parts.metrics.told_at(Address("127.0.0.1", 0)) as where:
            async with play.http.get(where) as got:
                seen = await got.text()
        assert 'loyal_permissions_total{outcome="given"} 1.0' in seen
        assert 'loyal_commands_total{kind="Bond",outcome="taken"} 1.0' in seen
        assert 'route="/v1/draws/{license}"' in seen
        assert f"loyal_log_length {play.platform.state.length}.0" in seen
        lines = [JsonLines().format(one) for one in caplog.records if one.name.startswith("loyal")]
        assert {json.loads(one)["status"] for one in lines if "route" in one} == {200, 403, 404}
        hidden = (play.api_key, play.license.hex(), "planted", f"{6:064x}", f"{5:032x}")
        for text in (*lines, seen):
            assert not [one for one in hidden if one in text]

    playing_platform(tmp_path, story)


def test_what_fails_inside_is_said_in_one_form_and_quotes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(play: Played) -> None:
        def broken(*_: int) -> Any:
            raise RuntimeError("planted words")

        def damaged(*_: int) -> Any:
            raise full_disk()

        length = play.app.log.read_on()
        for fault, status in ((broken, 500), (damaged, 503)):
            play.store.entries = fault
            said = await play.get(f"/v1/log/entries?start=0&stop={length}")
            assert (said.status, said.rule) == (status, None)
            assert "planted" not in said.body.decode()
        assert "planted" not in caplog.text
        assert "unexpected RuntimeError at app/test_platform_http.py" in caplog.text
        assert "the disk is full" in caplog.text

    playing_platform(tmp_path, story)
