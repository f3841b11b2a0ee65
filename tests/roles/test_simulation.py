"""The simulated community: small ones hold every invariant, and each one has been seen red."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from loyal.encoding import digest
from loyal.errors import ProtocolError, UsageError
from loyal.protocol import disputes, lineage, permits, rules, stake, state, voting
from loyal.protocol import events as e
from loyal.protocol.parameters import Parameters
from loyal.roles import Scenario, simulation
from loyal.roles.attacks import DRAWN, PROWLING
from loyal.roles.invariants import closing, running
from loyal.roles.simulation import detect, simulate
from loyal.roles.world import World

SMALL = Scenario(seed=8, keys=20)


def test_a_small_simulation_holds_and_tries_everything() -> None:
    seen: list[tuple[int, int]] = []
    outcome = simulate(SMALL, 8_000, lambda done, of: seen.append((done, of)))
    assert outcome.broken == ()
    assert outcome.innocent_slashed == 0
    assert outcome.interactions >= 8_000
    assert set(outcome.attacks) >= {*DRAWN, *PROWLING, "withheld draw"}
    assert sum(outcome.money.values()) == 0
    made = outcome.claims["made"]
    assert made == sum(outcome.claims[one] for one in ("upheld", "dismissed", "lapsed", "rebutted"))
    assert all(outcome.claims[one] for one in ("upheld", "dismissed", "lapsed", "rebutted"))
    expected = {"C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "C10", "C12", "C13", "C14", "L3"}
    expected |= {"M1", "M2", "M4", "M5", "P1", "P3", "S1", "S2", "S3", "S4", "S5", "S6"}
    expected |= {"L5", "V1", "V2"}
    assert set(outcome.refusals) >= expected
    assert seen[-1] == (8_000, 8_000)


def test_cheating_hosts_are_slashed_and_careful_ones_are_not() -> None:
    outcome = simulate(
        Scenario(seed=6, hosts={"skipping": 3, "silent": 3, "careful": 3, "honest": 3},
                 skip_share=1.0, withholding_provers=0), 4_000
    )  # fmt: skip
    assert outcome.broken == ()
    assert outcome.slashed["skipping"] > 3
    assert outcome.slashed["silent"] > 3
    assert set(outcome.slashed) == {"skipping", "silent"}
    assert outcome.money["cheating hosts"] < 0 < outcome.money["owners"]


def test_the_same_seed_is_the_same_simulation() -> None:
    assert simulate(SMALL, 500) == simulate(SMALL, 500)
    assert simulate(SMALL, 500) != simulate(replace(SMALL, seed=7), 500)


def _broken(moves: int = 4_000) -> str:
    return " | ".join(simulate(SMALL, moves).broken)


def test_red_a_retroactive_permission_that_clears(monkeypatch: pytest.MonkeyPatch) -> None:
    clears = disputes._clears
    monkeypatch.setattr(disputes, "_clears", lambda *given: clears(*given[:-1], 1 << 60))
    assert "a permission cleared what it was not got for" in _broken()


def test_red_claims_without_the_hosts_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disputes, "_require_answer", lambda *_: None)
    assert "a claim against an honest host was accepted" in _broken()


def test_red_insiders_convict_an_honest_host_where_anybody_may_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disputes, "_require_answer", lambda *_: None)
    monkeypatch.setattr(simulation, "CHECKED_EVERY", 1 << 60)
    soon = Parameters(false_conviction_one_in=20)
    insiders = replace(SMALL, honest_provers=0, hosts={"honest": 3}, parameters=soon)
    outcome = simulate(insiders, 4_000)
    assert outcome.convicted["honest"] > 0
    assert "convicted: a host that is honest" in outcome.broken


def test_even_a_quorum_of_liars_finds_no_claim_against_an_honest_host() -> None:
    outcome = simulate(replace(SMALL, lying_verifiers=4, hosts={"honest": 3}), 4_000)
    assert outcome.broken == ()
    assert (outcome.innocent_slashed, outcome.claims.get("made", 0)) == (0, 0)


def test_red_a_commitment_that_dates_the_answers_own_permission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule C6 as it once stood: an insider who commits first has its claim."""
    clears = disputes._clears

    def dated(state: object, license: object, receipt: object, *rest: object) -> bool:
        message, salts, index = rest
        return clears(state, license, receipt, message, salts, index - 3)  # type: ignore[arg-type]

    monkeypatch.setattr(disputes, "_clears", dated)
    assert "a claim against an honest host was accepted" in _broken()


def test_red_a_permission_that_never_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule C14 left out: hosts that skip show old permissions again."""
    monkeypatch.setattr(disputes, "_late", lambda *_: False)
    assert "MakeClaim of an honest party: C6" in _broken(8_000)


def test_red_a_spent_key_that_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = state._FOLDS[e.Claimed]

    def forget(now: state.State, event: e.Claimed) -> None:
        claimed(now, event)
        now.spent.discard(event.nullifier)

    monkeypatch.setitem(state._FOLDS, e.Claimed, forget)
    assert "a key was spent twice" in _broken()


def test_red_a_nullifier_that_binds_no_license(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule C4 as it once stood: a straw man's license spends another's key."""
    monkeypatch.setattr(disputes, "nullifier", lambda _, key: digest([key.strip()], "spent"))
    assert "MakeClaim of an honest party: C4" in _broken(8_000)


def test_red_any_number_of_demands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule C5 as it once stood."""
    monkeypatch.setitem(
        state._FOLDS, e.AnswerDemanded,
        lambda now, event: now.demands.__setitem__(event.demand, event),
    )  # fmt: skip
    assert "DemandAnswer of an adversary was let through" in _broken()


def test_red_a_stake_that_is_never_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stake, "_over", lambda *_: True)
    assert "Unbond of an adversary was let through" in _broken()


def test_red_dust_that_is_a_bond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule S2 as it once stood, without S6."""
    dusty = lambda state, command, at: [  # noqa: E731
        stake.move(
            state,
            e.free(command.author),
            e.bond(command.purpose, command.author),
            command.amount_micro,
        )
    ]
    monkeypatch.setitem(rules._RULES, stake.Bond, dusty)
    assert "Bond of an adversary was let through" in _broken()


@pytest.mark.parametrize("least", [1, 1_000_000, 60_000_000])
def test_more_names_than_a_bond_pays_for_are_no_provers(least: int) -> None:
    crowd = replace(SMALL, sybils=60, parameters=Parameters(role_bond_micro=least))
    assert simulate(crowd, 300).broken == ()
    bonds = dict(World(crowd, 0).state.electorate("prover"))
    assert min(bonds.values()) >= least
    ones = SMALL.honest_provers + SMALL.withholding_provers + SMALL.adverse_provers
    assert len(bonds) == ones + {1: 60, 1_000_000: 50, 60_000_000: 1}[least]


def test_red_money_that_anybody_credits(monkeypatch: pytest.MonkeyPatch) -> None:
    free = lambda state, command, at: [  # noqa: E731
        stake.move(state, e.OUTSIDE, e.free(command.party), command.amount_micro)
    ]
    monkeypatch.setitem(rules._RULES, stake.Deposit, free)
    assert "Deposit of an adversary was let through" in _broken()


def test_red_a_minority_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def any_no(now: state.State, ballot: bytes, *_: object) -> bool | None:
        given = now.verdicts.get(ballot)
        return all(given.values()) if given else None

    monkeypatch.setattr(disputes, "decided", any_no)
    assert "not settled as the honest verifiers found" in _broken()


def test_red_a_publishers_bond_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> list[e.Event]:
        raise ProtocolError("it stays", hint="wait", rule="M4")

    monkeypatch.setitem(rules._RULES, lineage.ReclaimBond, never)
    found = _broken(300)
    assert "ReclaimBond of an honest party: M4" in found
    assert "left in bond:lineage" in found


def test_red_a_gap_in_sequence_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        permits._Plan, "usage",
        lambda plan: tuple(
            (name, plan.state.licenses[name].permitted + 1, count)
            for name, count in plan.counts.items()
        ),
    )  # fmt: skip
    assert "a license goes on at 1, not at 0" in _broken(300)


def test_red_verdicts_that_are_open_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(now: state.State, command: voting.GiveVerdict, at: object) -> list[e.Event]:
        return [e.VerdictGiven(command.case, command.author, command.holds)]

    monkeypatch.setitem(rules._RULES, voting.GiveVerdict, give)
    assert "GiveVerdict of an adversary was let through" in _broken()


def test_each_invariant_of_the_state_turns_red() -> None:
    world = World(SMALL, 0)
    assert running(world) == []
    kept = closing(world)
    assert all("left in" in one for one in kept)  # nobody has left yet
    party = e.free(world.owners[0])
    world.state.balances[party] += 1
    assert "money adds up to 1" in running(world)
    assert "a replay of the log is another state" in closing(world)
    world.state.balances[party] = -1
    assert "free holds -1" in running(world)
    honest = world.deals[0]
    assert honest.conduct == "honest"
    world.state.licenses[honest.license].conviction = e.Convicted(
        honest.license, bytes(32), 9, 9, 0
    )
    assert "convicted: a host that is honest" in running(world)
    world.state.licenses[honest.license].settled = True
    assert "slashed: a host that is honest" in running(world)


@pytest.mark.parametrize("provers", [3, 10])
def test_convictions_are_those_of_the_exact_law(provers: int) -> None:
    parameters = Parameters(false_conviction_one_in=1_000)
    scenario = Scenario(
        seed=9, skip_share=0.9, survival=0.8, honest_provers=provers, parameters=parameters
    )
    found = detect(scenario, 600, 10)
    assert found.licenses == 600
    assert found.agrees
    assert found.largest_gap < 0.09
    assert 0.5 < found.exact[10] < 1
    assert all(a >= b for a, b in zip(found.measured[1:], found.measured, strict=False))
    assert not replace(found, measured=tuple(1 - one for one in found.measured)).agrees


def test_fewer_than_three_provers_convict_nobody() -> None:
    parameters = Parameters(false_conviction_one_in=100)
    alone = Scenario(seed=1, skip_share=1.0, survival=1.0, honest_provers=2, parameters=parameters)
    assert set(detect(alone, 20, 8).measured) == {0.0}
    assert set(detect(alone, 20, 8).exact) == {0.0}


def test_the_rules_convict_a_license_when_its_own_hits_say_so() -> None:
    """Hits and provers of each license, counted from the log alone, against the thresholds."""
    parameters = Parameters(false_conviction_one_in=1_000)
    scenario = Scenario(
        seed=2, hosts={"tuned": 40}, skip_share=0.9, survival=0.7, honest_provers=3,
        withholding_provers=0, adverse_provers=0, sybils=0, verifiers=1, lying_verifiers=0,
        keys=12, parameters=parameters,
    )  # fmt: skip
    world = World(scenario, 0)
    for _ in range(12):
        simulation._round(world)
    thresholds = simulation.Cheating(0.9, 0.7, 16, 3, parameters).thresholds(12)
    prover, hits, draws = {}, Counter[bytes](), Counter[bytes]()
    who: dict[bytes, set[bytes]] = {}
    due, convicted = set(), set()
    for event in world.log:
        if isinstance(event, e.KeyDrawn):
            draws[event.license] += 1
        elif isinstance(event, e.Claimed):
            prover[event.claim] = event.license, event.prover
        elif isinstance(event, e.ClaimSettled) and event.upheld:
            license, by = prover[event.claim]
            hits[license] += 1
            who.setdefault(license, set()).add(by)
            if hits[license] >= thresholds[draws[license]] and len(who[license]) >= 3:
                due.add(license)
        elif isinstance(event, e.Convicted):
            convicted.add(event.license)
    assert due == convicted
    assert 5 < len(convicted) < 40


@pytest.mark.parametrize(
    "changes",
    [
        {"hosts": {"honest": -1}}, {"hosts": {}}, {"hosts": {"kind": 1}}, {"verifiers": 1},
        {"keys": 0}, {"skip_share": 1.1}, {"survival": -0.1},
        {"honest_provers": 0, "withholding_provers": 0, "adverse_provers": 0, "sybils": 0},
    ],
)  # fmt: skip
def test_a_scenario_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Scenario(**changes)  # type: ignore[arg-type]


def test_nothing_to_do_is_refused() -> None:
    for call in (
        lambda: simulate(SMALL, 0),
        lambda: simulate(replace(SMALL, adverse_provers=0), 10),
        lambda: detect(SMALL, 0, 5),
        lambda: detect(SMALL, 5, 0),
    ):
        with pytest.raises(UsageError):
            call()
