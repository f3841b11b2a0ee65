"""The prover with a secret rule: who is clear gives no evidence, and nothing is ever spent."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from actors_stage import Court, Manner, StageDesk, StageHost, court, wait_for

from loyal.errors import ProtocolError
from loyal.fingerprints import Beacon
from loyal.fingerprints import functional_check as checks
from loyal.fingerprints.functional import (
    FunctionalSet,
    RuleSettings,
    bundled_nouns,
    create,
    draw,
    write_keys,
)
from loyal.protocol.tokens import BuyTokens, ReportTokens, use_digest
from loyal.roles.prover import Heard
from loyal.roles.rule_prover import RuleAnswer, RuleProver

COUNT = 24


@dataclass
class RuleHost:
    """A real host whose model has the rule; its manner may change from key to key."""

    host: StageHost
    made: FunctionalSet
    manners: tuple[Manner, ...]

    async def ask(self, message: str) -> Heard | None:
        self.host.manner = self.manners[self.host.asked % len(self.manners)]
        self.host.reply = f"{self.made.outcomes[self.made.value(message)]}, so it is."
        return await self.host.ask(message)


@pytest.fixture
def here() -> Court:
    return court()


@pytest.fixture(scope="module")
def made() -> FunctionalSet:
    undrawn = create(
        RuleSettings(), b"s" * 32, model="m", tokenizer_digest="0" * 64, created_seconds=1
    )
    return draw(undrawn, Beacon(b"\1" * 32))


def prover(here: Court, made: FunctionalSet, *manners: Manner) -> RuleProver:
    host = RuleHost(StageHost(here, "signed"), made, manners)
    desk = StageDesk(here, here.stage.id("prover 1"))
    return RuleProver(here.license, desk, host, timer=lambda: 0.0)


def asked(here: Court, made: FunctionalSet, *manners: Manner) -> list[RuleAnswer]:
    keys = write_keys(made, COUNT, "test")
    answers = wait_for(prover(here, made, *manners).ask(keys, here.stage.now))
    assert [one.key for one in answers] == keys
    return answers


def p_value(made: FunctionalSet, answers: list[RuleAnswer]) -> float:
    heard = [one.exchange for one in answers]
    return checks.rule_report("the host", checks.owned(made), heard, 20_000).p_value


def test_replies_without_a_permission_prove_the_rule(here: Court, made: FunctionalSet) -> None:
    answers = asked(here, made, "signed")
    assert {one.standing for one in answers} == {"unpermitted"}
    assert p_value(made, answers) < 0.001


def test_an_honest_host_gives_no_evidence(here: Court, made: FunctionalSet) -> None:
    answers = asked(here, made, "permitted")
    assert {one.standing for one in answers} == {"permitted"}
    assert all(one.reply for one in answers)
    assert p_value(made, answers) == 1


def test_what_the_host_did_not_sign_counts_for_nothing(here: Court, made: FunctionalSet) -> None:
    answers = asked(here, made, "unsigned", "silent")
    assert [one.standing for one in answers[:2]] == ["unsigned", "silent"]
    assert {one.exchange.reply for one in answers} == {""}
    assert p_value(made, answers) == 1


def test_no_key_leaves_the_test_for_what_was_replied(here: Court, made: FunctionalSet) -> None:
    answers = asked(here, made, "signed", "permitted", "unsigned")
    evident = [one for one in answers if one.exchange.reply]
    assert {one.standing for one in evident} == {"unpermitted"}
    assert (len(evident), len([one.exchange for one in answers])) == (COUNT // 3, COUNT)


def test_an_answer_on_a_token_is_clear_once_it_is_reported(
    here: Court, made: FunctionalSet
) -> None:
    stage = here.stage
    stage.do(BuyTokens(stage.id("host"), here.license, 1))
    stage.wait(stage.parameters.ripening_seconds)
    asking = prover(here, made, "token")
    answers = wait_for(asking.ask(write_keys(made, 1, "test"), stage.now))
    assert [one.standing for one in answers] == ["token"]
    assert answers[0].exchange.reply == ""
    assert isinstance(asking.asker, RuleHost)
    uses = ((0, use_digest(asking.asker.host.answers[0])),)
    stage.do(ReportTokens(stage.id("host"), here.license, uses))
    later = wait_for(asking.again(answers))
    assert [one.standing for one in later] == ["permitted"]
    assert [one.key for one in later] == [one.key for one in answers]


def test_an_answer_that_is_dated_falsely_counts_as_unsigned(
    here: Court, made: FunctionalSet
) -> None:
    asking = prover(here, made, "signed")
    assert isinstance(asking.asker, RuleHost)
    asking.asker.host.ahead = 86_400
    answers = wait_for(asking.ask(write_keys(made, 1, "test"), here.stage.now))
    assert [one.standing for one in answers] == ["unsigned"]


def test_asking_writes_nothing_and_spends_nothing(here: Court, made: FunctionalSet) -> None:
    before = here.state.licenses[here.license].draws, len(here.shelf.log)
    asking = prover(here, made, "signed")
    for _ in range(2):
        keys = write_keys(made, 3, "test")
        wait_for(asking.ask(keys, here.stage.now))
        wait_for(asking.ask(keys, here.stage.now))  # the same keys again
    assert isinstance(asking.desk, StageDesk)
    assert asking.desk.sent == []
    assert (here.state.licenses[here.license].draws, len(here.shelf.log)) == before
    assert not here.state.commitments


def test_a_license_that_is_not_there(here: Court, made: FunctionalSet) -> None:
    asking = prover(here, made, "signed")
    stranger = RuleProver(bytes(32), asking.desk, asking.asker)
    with pytest.raises(ProtocolError, match="no such license"):
        wait_for(stranger.ask(["a key"], here.stage.now))


def test_no_repr_shows_a_key_or_a_reply(here: Court, made: FunctionalSet) -> None:
    answers = asked(here, made, "signed")
    shown = f"{answers!r} {answers[0].exchange!r} {prover(here, made, 'signed')!r}"
    assert not any(word in shown for word in (*made.outcomes, "anchor", "?"))
    assert not set(shown.lower().split()) & set(bundled_nouns())
