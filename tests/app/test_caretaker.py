"""The vault's side at work beside a platform: draws, leaves, settling, and who is told."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import get_args

import pytest
from parties import PROVERS, VERIFIERS
from platform_stage import Played, playing_platform
from shelf import KEYS

from loyal.app.caretaker import Pace
from loyal.app.platform_api import PlatformApi, PlatformDesk
from loyal.app.platform_client import from_base64url
from loyal.app.signed_request import authorization
from loyal.errors import ProtocolError
from loyal.fingerprints.commitment import Proof
from loyal.protocol.breaches import ClaimBreach, PromisePrompts, Question, ballot
from loyal.protocol.disputes import Commit, MakeClaim, commitment
from loyal.protocol.events import Claimed
from loyal.protocol.voting import GiveVerdict

SOON = Pace(draw_seconds=0)
SALT = b"a salt of 16 byt"


async def claimed(play: Played, key: str, reply: str) -> bytes:
    """Whoever the key is out to claims that the host gave `reply` unpermitted; gives the claim."""
    drawn = play.platform.state.licenses[play.license].drawn
    assert drawn is not None
    role = next(one for one in PROVERS if play.stage.id(one) == drawn.prover)
    answer = play.stage.answer(play.license, key, reply)
    fixed = commitment(key, reply, SALT, drawn.prover)
    assert (await play.do(Commit(play.stage.id(role), play.license, fixed))).status == 200
    command = MakeClaim(play.stage.id(role), play.license, key, reply, SALT, answer)
    said = await play.do(command)
    assert said.status == 200, said.json
    (made,) = [one for one in said.json["events"] if one["kind"] == Claimed.__name__]
    return bytes.fromhex(made["claim"])


async def drawn_key(play: Played) -> str:
    """The key that is out, as its prover gets it."""
    drawn = play.platform.state.licenses[play.license].drawn
    assert drawn is not None
    role = next(one for one in PROVERS if play.stage.id(one) == drawn.prover)
    said = await play.get(f"/v1/draws/{play.license.hex()}", role)
    assert (said.status, said.json["number"]) == (200, drawn.number)
    assert said.headers["Cache-Control"] == "no-store"
    return str(said.json["key"])


def test_a_claim_goes_from_its_draw_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "loyal")

    async def story(play: Played) -> None:
        caretaker, stage = play.caretaker(SOON), play.stage
        assert await caretaker.once() == 1
        key = await drawn_key(play)
        one = next(one for one in play.secret.fingerprints if one.key == key)
        claim = await claimed(play, key, one.response)
        path = f"/v1/claims/{claim.hex()}/evidence"
        assert (await play.get(path, VERIFIERS[0])).status == 403
        assert await caretaker.once() == 2
        evidence = (await play.get(path, VERIFIERS[0])).json
        proof = from_base64url(evidence["proof"])
        opened = play.platform.state.claims[claim].opened
        assert opened is not None
        assert hashlib.sha256(proof).digest() == opened.evidence
        assert Proof.from_bytes(proof).fingerprint.response == one.response
        assert (evidence["key"], evidence["reply"]) == (key, one.response)
        assert bytes.fromhex(evidence["salt"]) == SALT
        assert play.secret.beacon is not None
        assert evidence["beacon"] == play.secret.beacon.value.hex()
        for stranger in (None, PROVERS[0], "host", "member"):
            assert (await play.get(path, stranger)).status in (401, 403)
        stage.wait(stage.parameters.rebuttal_seconds + 1)
        for role in VERIFIERS:
            assert (await play.do(GiveVerdict(stage.id(role), claim, True))).status == 200
        assert (await play.get(f"/v1/disputes/{claim.hex()}")).json["for_bps"] == 10_000
        await caretaker.once()
        assert play.platform.state.claims[claim].upheld
        listed = (await play.get(f"/v1/disputes?license={play.license.hex()}")).json["claims"]
        assert [one["state"] for one in listed] == ["upheld"]
        assert (await play.get(f"/v1/licenses/{play.license.hex()}")).json["upheld"] == 1
        words = [one.getMessage() for one in caplog.records]
        assert not [text for text in words if key in text or one.response in text]

    playing_platform(tmp_path, story)


def test_it_draws_the_order_of_promised_prompts_and_settles_a_breach(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        stage, state = play.stage, play.platform.state
        accuser, *others = VERIFIERS
        made = PromisePrompts(stage.id(accuser), play.license, b"r" * 32)
        assert (await play.do(made)).status == 200
        await play.caretaker(SOON).once()
        (promise,) = state.promises
        assert state.orders[promise].promise == promise
        claim = ClaimBreach(stage.id(accuser), promise, b"e" * 32)
        assert (await play.do(claim)).status == 200
        (breach,) = state.breaches
        await play.caretaker(SOON).once()
        assert not state.breaches[breach].settled
        stage.wait(stage.parameters.rebuttal_seconds + 1)
        for role in others:
            for question in get_args(Question):
                verdict = GiveVerdict(stage.id(role), ballot(breach, question), True)
                assert (await play.do(verdict)).status == 200
        await play.caretaker(SOON).once()
        assert state.breaches[breach].upheld
        assert state.licenses[play.license].ended

    playing_platform(tmp_path, story)


def test_a_key_is_told_to_its_prover_alone_and_in_time(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        path, stage = f"/v1/draws/{play.license.hex()}", play.stage
        assert (await play.get(path, PROVERS[0])).status == 403
        await play.caretaker(SOON).once()
        drawn = play.platform.state.licenses[play.license].drawn
        assert drawn is not None
        said = {role: (await play.get(path, role)).status for role in (*PROVERS, "host")}
        assert sorted(said.values()) == [200, 403, 403, 403, 403, 403]
        assert (await play.get(path)).status == 401
        (mine,) = [role for role, status in said.items() if status == 200]
        elsewhere = play.stage.key(mine)
        for signed_path, when in ((path + "?x=1", stage.now), (path, stage.now - 601)):
            value = authorization(elsewhere, "GET", signed_path, when)
            said_now = await play.ask("GET", path, headers={"Authorization": value})
            assert said_now.status == 401
        stage.wait(drawn.until - stage.now + 1)
        assert (await play.get(path, mine)).status == 403

    playing_platform(tmp_path, story)


def test_draws_keep_their_pace_and_end_with_the_keys(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        stage, license = play.stage, play.platform.state.licenses[play.license]
        caretaker = play.caretaker(Pace(draw_seconds=2 * 86_400))
        assert [await caretaker.once() for _ in range(2)] == [1, 0]
        stage.wait(86_401)
        assert await caretaker.once() == 0, "the draw is over, the pace is not"
        stage.wait(86_400)
        assert await caretaker.once() == 1
        eager = play.caretaker(SOON)
        for _ in range(40):
            stage.wait(86_401)
            await eager.once()
        assert license.draws == len(play.secret.fingerprints)
        assert "loyal_keys_left 0.0" in play.parts.metrics.text().decode()

    playing_platform(tmp_path, story)


def test_a_claim_on_no_key_of_the_vault_lapses(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        caretaker, stage = play.caretaker(SOON), play.stage
        await caretaker.once()
        claim = await claimed(play, "an invented key", "a reply")
        await caretaker.once()
        one = play.platform.state.claims[claim]
        assert one.opened is None
        stage.wait(stage.parameters.opening_seconds + 1)
        await caretaker.once()
        assert (one.settled, one.upheld) == (True, False)

    playing_platform(tmp_path, story)


def test_the_actors_client_reads_this_platform(tmp_path: Path) -> None:
    async def story(play: Played) -> None:
        stage = play.stage
        await play.caretaker(SOON).once()
        license = play.platform.state.licenses[play.license]
        assert license.drawn is not None
        prover = next(one for one in PROVERS if stage.id(one) == license.drawn.prover)
        sides = [
            PlatformApi(play.url, stage.key(role), clock=lambda: float(stage.now))
            for role in (prover, VERIFIERS[0])
        ]
        mine, judge = sides
        key = await mine.drawn_key(play.license)
        with pytest.raises(ProtocolError):
            await judge.drawn_key(play.license)
        claim = await claimed(play, key, "a reply")
        await play.caretaker(SOON).once()
        evidence = await judge.evidence(claim)
        assert (evidence.key, evidence.reply, evidence.salt) == (key, "a reply", SALT)
        length = play.platform.state.length
        assert len(await mine.consistency(length // 2, length)) > 0
        assert await PlatformDesk(mine, KEYS.log.verifier).read_on() == play.platform.state
        for one in sides:
            await one.close()

    playing_platform(tmp_path, story)
