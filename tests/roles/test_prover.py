"""The prover: who is clear is left alone, who is not is claimed, and a crash loses nothing."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from actors_stage import Court, StageDesk, StageHost, court, wait_for

from loyal.errors import EndpointError, ProtocolError, StorageError
from loyal.protocol import Parameters, SignedAnswer
from loyal.protocol.disputes import Commit, DemandAnswer, GiveAnswer, MakeClaim
from loyal.protocol.permission import SKEW_SECONDS
from loyal.protocol.tokens import BuyTokens, ReportTokens, use_digest
from loyal.roles.prover import Heard, Intent, IntentFile, Odds, Prover, worth_claiming
from loyal.signing import Signed

OFF = (-SKEW_SECONDS, 0, SKEW_SECONDS)


@pytest.fixture
def here() -> Court:
    return court()


def kinds(prover: Prover) -> list[type]:
    assert isinstance(prover.desk, StageDesk)
    return [type(one) for one in prover.desk.sent]


def test_a_host_without_a_permission_is_claimed(here: Court, tmp_path: Path) -> None:
    role = here.draw()
    prover = here.prover(role, StageHost(here, "signed"), tmp_path)
    assert wait_for(prover.step(here.stage.now)) == "claimed"
    assert kinds(prover) == [Commit, MakeClaim]
    assert [one.made.prover for one in here.state.claims.values()] == [here.stage.id(role)]
    assert wait_for(prover.step(here.stage.now)) == "idle"
    assert len(kinds(prover)) == 2


def test_a_host_with_its_permission_is_clear(here: Court, tmp_path: Path) -> None:
    host = StageHost(here, "permitted")
    prover = here.prover(here.draw(), host, tmp_path)
    assert wait_for(prover.step(here.stage.now)) == "clear"
    assert kinds(prover) == []
    assert wait_for(prover.step(here.stage.now)) == "idle"
    assert host.asked == 1


def test_whose_draw_it_is_not_asks_nobody(here: Court, tmp_path: Path) -> None:
    host = StageHost(here, "signed")
    assert wait_for(here.prover("prover 1", host, tmp_path).step(here.stage.now)) == "idle"
    role = here.draw()
    other = next(one for one in ("prover 1", "prover 2") if one != role)
    assert wait_for(here.prover(other, host, tmp_path).step(here.stage.now)) == "idle"
    assert host.asked == 0


def test_silence_after_a_demand_is_claimed(here: Court, tmp_path: Path) -> None:
    host = StageHost(here, "unsigned")
    prover = here.prover(here.draw(), host, tmp_path)
    assert wait_for(prover.step(here.stage.now)) == "demanded"
    assert wait_for(prover.step(here.stage.now)) == "waiting"
    here.stage.wait(here.stage.parameters.answer_seconds + 1)
    assert wait_for(prover.step(here.stage.now)) == "claimed"
    assert kinds(prover) == [Commit, DemandAnswer, MakeClaim]
    assert host.asked == 1


def test_a_demand_that_was_met_gives_no_claim(here: Court, tmp_path: Path) -> None:
    prover = here.prover(here.draw(), StageHost(here, "unsigned"), tmp_path)
    wait_for(prover.step(here.stage.now))
    made = here.state.licenses[here.license].demanded
    assert made is not None
    permitted = StageHost(here, "permitted")
    heard = wait_for(permitted.ask(made.message))
    assert heard is not None
    answer = SignedAnswer(Signed.from_bytes(heard.answers[0]))
    here.stage.do(GiveAnswer(here.stage.id("host"), made.demand, answer))
    assert wait_for(prover.step(here.stage.now)) == "clear"
    assert kinds(prover) == [Commit, DemandAnswer]


@pytest.mark.parametrize("reports", [True, False])
def test_an_answer_on_a_token_waits_for_its_report(
    here: Court, tmp_path: Path, reports: bool
) -> None:
    stage = here.stage
    stage.do(BuyTokens(stage.id("host"), here.license, 1))
    stage.wait(stage.parameters.ripening_seconds)
    host = StageHost(here, "token")
    prover = here.prover(here.draw(), host, tmp_path)
    assert wait_for(prover.step(stage.now)) == "waiting"
    assert wait_for(prover.step(stage.now)) == "waiting"
    if reports:
        uses = ((0, use_digest(host.answers[0])),)
        stage.do(ReportTokens(stage.id("host"), here.license, uses))
    stage.wait(stage.parameters.report_seconds + 1)
    assert wait_for(prover.step(stage.now)) == ("clear" if reports else "claimed")
    assert kinds(prover) == [Commit, *([] if reports else [MakeClaim])]
    assert (len(here.state.claims), host.asked) == (int(not reports), 1)


@pytest.mark.parametrize("forged", ["reply", "message", "license", "bytes"])
def test_an_answer_over_something_else_is_none(here: Court, tmp_path: Path, forged: str) -> None:
    role = here.draw()
    key = here.custodian.key(here.license, 0)
    answer = here.stage.answer(
        bytes(32) if forged == "license" else here.license,
        "another" if forged == "message" else key,
        "another" if forged == "reply" else "said",
    )

    class Forging(StageHost):
        async def ask(self, message: str) -> Heard | None:
            return Heard("said", (b"junk" if forged == "bytes" else answer.signed.to_bytes(),))

    prover = here.prover(role, Forging(here, "signed"), tmp_path)
    assert wait_for(prover.step(here.stage.now)) == "demanded"


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("ahead", OFF)
def test_clocks_that_are_off_claim_no_honest_host_and_every_other(
    here: Court, tmp_path: Path, ahead: int, off: int
) -> None:
    """The host's clock and the prover's, each against the platform's. Up to ten minutes between
    them nobody is even asked to answer in the log; beyond, the honest host does, and is clear."""
    honest = StageHost(here, "permitted", ahead=ahead)
    prover = here.prover(here.draw(), honest, tmp_path / "honest", timer=lambda: 0.0)
    found = wait_for(prover.step(here.stage.now + off))
    assert found == ("clear" if abs(ahead - off) <= SKEW_SECONDS else "demanded")
    if found == "demanded":
        made = here.state.licenses[here.license].demanded
        heard = wait_for(honest.ask(made.message)) if made is not None else None
        assert made is not None
        assert heard is not None
        answer = SignedAnswer(Signed.from_bytes(heard.answers[0]))
        here.stage.do(GiveAnswer(here.stage.id("host"), made.demand, answer))
        assert wait_for(prover.step(here.stage.now + off)) == "clear"
    assert not here.state.claims

    here.stage.wait(3 * here.stage.parameters.draw_seconds)
    guilty = StageHost(here, "signed", ahead=ahead)
    prover = here.prover(here.draw(), guilty, tmp_path / "guilty", timer=lambda: 0.0)
    found = wait_for(prover.step(here.stage.now + off))
    assert found == ("claimed" if abs(ahead - off) <= SKEW_SECONDS else "demanded")
    if found == "demanded":
        here.stage.wait(here.stage.parameters.answer_seconds + 1 + SKEW_SECONDS)
        assert wait_for(prover.step(here.stage.now + off)) == "claimed"
    assert len(here.state.claims) == 1


@pytest.mark.parametrize("slow", [0, 100])
def test_a_host_that_dates_its_answer_falsely_has_signed_none(
    here: Court, tmp_path: Path, slow: int
) -> None:
    """From ten minutes before it was asked to ten minutes after it was heard, and not a second
    more; a host that thinks for long may have begun at any time between."""
    outcomes = []
    for ahead in (-SKEW_SECONDS - 1, -SKEW_SECONDS, slow + SKEW_SECONDS, slow + SKEW_SECONDS + 1):
        clock = iter((0.0, 0.0, slow))
        host = StageHost(here, "permitted", ahead=ahead)
        prover = here.prover(here.draw(), host, tmp_path / str(ahead), timer=lambda: next(clock))  # noqa: B023
        outcomes.append(wait_for(prover.step(here.stage.now)))
        here.stage.wait(3 * here.stage.parameters.draw_seconds)
    assert outcomes == ["demanded", "clear", "clear", "demanded"]


def test_a_permission_that_had_expired_is_claimed(here: Court, tmp_path: Path) -> None:
    """A host that got one for this message before, and signs over it again."""
    host = StageHost(here, "permitted")
    role = here.draw()
    heard = wait_for(host.ask(here.custodian.key(here.license, 0)))
    assert heard is not None
    old = SignedAnswer(Signed.from_bytes(heard.answers[0]))
    here.stage.wait(3_601)

    class Again(StageHost):
        async def ask(self, message: str) -> Heard | None:
            answer = here.stage.dated(old, here.stage.now)
            return Heard(heard.reply, (answer.signed.to_bytes(),))

    prover = here.prover(role, Again(here, "signed"), tmp_path)
    assert wait_for(prover.step(here.stage.now)) == "claimed"


def test_a_prover_whose_clock_is_hours_ahead_demands_in_the_logs_time(
    here: Court, tmp_path: Path
) -> None:
    """By the log the answer came after the commitment: it is none, and the host is asked there."""
    host = StageHost(here, "signed", ahead=7_200)
    prover = here.prover(here.draw(), host, tmp_path, timer=lambda: 0.0)
    assert wait_for(prover.step(here.stage.now + 7_200)) == "demanded"
    assert kinds(prover) == [Commit, DemandAnswer]
    here.stage.wait(here.stage.parameters.answer_seconds + 1)
    assert wait_for(prover.step(here.stage.now + 7_200)) == "claimed"


@pytest.mark.parametrize("command", [Commit, MakeClaim, DemandAnswer])
@pytest.mark.parametrize("when", ["crash_before", "crash_after"])
def test_a_crash_at_any_command_loses_no_claim(
    here: Court, tmp_path: Path, command: type, when: str
) -> None:
    host = StageHost(here, "unsigned" if command is DemandAnswer else "signed")
    role = here.draw()
    first = here.prover(role, host, tmp_path)
    setattr(first.desk, when, command)
    with pytest.raises(KeyboardInterrupt):
        wait_for(first.step(here.stage.now))
    again = here.prover(role, host, tmp_path)
    found = wait_for(again.step(here.stage.now))
    if command is DemandAnswer:
        assert found == ("demanded" if when == "crash_before" else "waiting")
        here.stage.wait(here.stage.parameters.answer_seconds + 1)
        found = wait_for(again.step(here.stage.now))
    assert found == "claimed"
    assert len(here.state.claims) == 1
    assert host.asked == 1, "the host is not asked the same key twice"


def test_a_host_that_is_down_is_asked_again_until_the_draw_ends(
    here: Court, tmp_path: Path
) -> None:
    host = StageHost(here, "silent")
    prover = here.prover(here.draw(), host, tmp_path)
    assert wait_for(prover.step(here.stage.now)) == "no reply"
    assert wait_for(prover.step(here.stage.now)) == "no reply"
    here.stage.wait(here.stage.parameters.draw_seconds + 1)
    assert wait_for(prover.step(here.stage.now)) == "late"
    assert wait_for(prover.step(here.stage.now)) == "idle"


def test_a_claim_that_loses_money_is_not_made(here: Court, tmp_path: Path) -> None:
    parameters = Parameters()
    fair = Odds(0.9, 100 * parameters.claim_bond_micro, 16)
    assert worth_claiming(fair, parameters)
    assert not worth_claiming(Odds(0.5, fair.stake_micro, 16), parameters)
    assert not worth_claiming(Odds(0.9, parameters.claim_bond_micro, 16), parameters)
    assert not worth_claiming(Odds(0.0, fair.stake_micro, 16), parameters)
    prover = here.prover(here.draw(), StageHost(here, "signed"), tmp_path, survival=0.3)
    assert wait_for(prover.step(here.stage.now)) == "not worth it"
    assert kinds(prover) == []


def test_the_intent_is_private_and_forgotten_at_the_end(here: Court, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    role = here.draw()
    prover = here.prover(role, StageHost(here, "signed"), folder)
    assert isinstance(prover.desk, StageDesk)
    prover.desk.crash_before = Commit
    with pytest.raises(KeyboardInterrupt):
        wait_for(prover.step(here.stage.now))
    file = folder / f"{here.license.hex()}.intent"
    key = here.custodian.key(here.license, 0)
    kept = IntentFile(folder, here.license).load()
    assert kept is not None
    assert kept.key == key
    assert kept.reply
    assert key not in f"{kept} {kept!r} {prover!r}"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert wait_for(here.prover(role, StageHost(here, "signed"), folder).step(here.stage.now))
    data = file.read_bytes()
    assert key.encode() not in data
    assert kept.salt not in data
    assert kept.reply.encode() not in data


def test_a_damaged_intent_is_said_so(here: Court, tmp_path: Path) -> None:
    whole = Intent(3, "a key", b"s" * 32, "a reply", b"signed")
    assert Intent.from_bytes(whole.to_bytes()) == whole
    for bad in (b"", whole.to_bytes()[:-1], b"\x80"):
        with pytest.raises(StorageError):
            Intent.from_bytes(bad)


def test_a_license_that_is_not_there_is_refused(here: Court, tmp_path: Path) -> None:
    desk = StageDesk(here, here.stage.id("prover 1"))
    prover = Prover(
        desk.party, bytes(32), desk, StageHost(here, "signed"), IntentFile(tmp_path, bytes(32))
    )
    with pytest.raises(ProtocolError):
        wait_for(prover.step(here.stage.now))


def test_a_log_that_cannot_be_read_after_the_answer_costs_no_second_question(
    here: Court, tmp_path: Path
) -> None:
    host = StageHost(here, "signed")
    prover = here.prover(here.draw(), host, tmp_path)
    assert isinstance(prover.desk, StageDesk)
    prover.desk.readings = 1
    with pytest.raises(EndpointError):
        wait_for(prover.step(here.stage.now))
    prover.desk.readings = None
    assert wait_for(prover.step(here.stage.now)) == "claimed"
    assert host.asked == 1
