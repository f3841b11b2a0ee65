"""Views touch what they show, and nothing else of the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from parties import VERIFIERS, Stage, licensed

from loyal.app import state_views as views
from loyal.protocol import State
from loyal.protocol.lineage import ChallengeLineage, ReclaimBond, SettleLineage
from loyal.protocol.stake import Bond, Unbond

MANY = 40


class Counted(dict[Any, Any]):
    """A dict that says how many of its items were looked at, and cannot be walked."""

    def __init__(self, items: dict[Any, Any]) -> None:
        super().__init__(items)
        self.touched = 0

    def __getitem__(self, name: Any) -> Any:
        self.touched += 1
        return super().__getitem__(name)

    def get(self, name: Any, default: Any = None) -> Any:
        self.touched += 1
        return super().get(name, default)

    def _walked(self) -> Any:
        raise AssertionError("a view walks through everything")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("a view walks through everything")

    items = keys = values = _walked


@pytest.fixture(scope="module")
def crowded() -> tuple[Stage, bytes, bytes]:
    """A license with many claims, one with two, and many parties with bonds."""
    stage, crowd = licensed()
    for number in range(MANY):
        stage.probe(crowd, number)
        stage.enroll("prover", f"bystander {number}")
    model = stage.state.licenses[crowd].model
    few = stage.sign(stage.terms(model, price_micro=2_000))
    stage.deliver(few)
    for number in range(2):
        stage.probe(few, 1_000 + number)
    return stage, crowd, few


def counted(state: State) -> State:
    """The same state over dicts that count."""
    twin = dataclasses.replace(state)
    for name in ("claims", "balances", "challenges", "verdicts", "licenses"):
        setattr(twin, name, Counted(getattr(state, name)))
    return twin


def test_the_claims_of_a_license_are_all_that_is_touched(
    crowded: tuple[Stage, bytes, bytes],
) -> None:
    stage, crowd, few = crowded
    state = counted(stage.state)
    found = views.claims_of(state, few)
    assert [one["license"] for one in found] == [few.hex()] * 2
    assert state.claims.touched == 2  # type: ignore[attr-defined]
    assert views.claims_of(state, b"x" * 32) == []
    assert state.claims.touched == 2  # type: ignore[attr-defined]
    assert len(views.claims_of(state, crowd)) == MANY


def test_an_account_is_all_that_is_touched(crowded: tuple[Stage, bytes, bytes]) -> None:
    stage, _, _ = crowded
    state = counted(stage.state)
    role = "prover 1"
    found = views.account_fields(state, stage.id(role))
    assert found["bonds"]["prover"] == stage.state.balance(f"bond:prover:{stage.id(role).hex()}")
    assert state.balances.touched == 1  # type: ignore[attr-defined]


def test_an_account_shows_what_the_balances_say(crowded: tuple[Stage, bytes, bytes]) -> None:
    stage, _, _ = crowded
    member = stage.id("member")
    for amount in (3_000_000, 2_000_000):
        stage.do(Bond(member, "verifier", amount))
    assert views.account_fields(stage.state, member)["bonds"] == {"verifier": 5_000_000}
    stage.do(Unbond(member, "verifier", 5_000_000))
    assert views.account_fields(stage.state, member)["bonds"] == {}
    for party in {account.rpartition(":")[2] for account in stage.state.balances}:
        slow = {
            account.removeprefix("bond:").removesuffix(f":{party}"): amount
            for account, amount in stage.state.balances.items()
            if amount and account.startswith("bond:") and account.endswith(f":{party}")
        }
        if len(party) == 64:
            assert views.account_fields(stage.state, bytes.fromhex(party))["bonds"] == slow


def test_a_state_that_is_made_whole_has_its_indexes(crowded: tuple[Stage, bytes, bytes]) -> None:
    stage, crowd, few = crowded
    twin = dataclasses.replace(stage.state)
    assert twin == stage.state
    for license in (crowd, few):
        assert twin.claims_on(license) == stage.state.claims_on(license)
    for role in ("prover 1", "host", *VERIFIERS):
        assert twin.bonds_of(stage.id(role)) == stage.state.bonds_of(stage.id(role))


def test_the_challenges_of_a_model_are_all_that_is_touched() -> None:
    stage = Stage()
    stage.enroll("verifier", *VERIFIERS)
    stage.fund("owner", "member", "thief")
    old = stage.publish("owner", "old")
    young = [stage.publish("thief", f"new {n}", shares=(("thief", 10_000),)) for n in range(5)]
    for model in young:
        stage.do(ChallengeLineage(stage.id("member"), model, old))
    state = counted(stage.state)
    (shown,) = views.model_fields(state, young[3])["challenges"]
    assert (shown["ancestor"], shown["settled"]) == (old.hex(), False)
    assert state.challenges.touched == 1  # type: ignore[attr-defined]
    stage.now = stage.state.models[young[3]].challenged_until + 1
    (name,) = stage.state.challenges_of(young[3])
    stage.do(SettleLineage(stage.id("owner"), name))
    stage.do(ReclaimBond(stage.id("thief"), young[3]))
    assert views.model_fields(stage.state, young[3])["bond_micro"] == 0
