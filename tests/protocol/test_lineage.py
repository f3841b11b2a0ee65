"""The registry: who descends from whom, who is paid, and what a lie about it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import PLENTY, VERIFIERS, Stage, refused

from loyal.protocol import events as e
from loyal.protocol import lineage, voting
from loyal.protocol.stake import split

BOND = 1_000_000


def family() -> tuple[Stage, bytes, bytes]:
    """An ancestor, and a younger model that states no parent."""
    stage = Stage()
    stage.enroll("verifier", *VERIFIERS)
    stage.fund("owner", "member", "thief")
    old = stage.publish("owner", "old")
    new = stage.publish("thief", "new", shares=(("thief", 10_000),))
    return stage, old, new


def challenged(stage: Stage, new: bytes, old: bytes, by: str = "member") -> bytes:
    made = stage.do(lineage.ChallengeLineage(stage.id(by), new, old))[-1]
    assert isinstance(made, e.LineageChallenged)
    return made.challenge


def test_one_owner_alone_shows_a_false_lineage_and_fees_flow_up_from_then_on() -> None:
    stage, old, new = family()
    case = challenged(stage, new, old)
    before = stage.free("member")
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), case, True))
    stage.do(lineage.SettleLineage(stage.id("stranger"), case))
    assert lineage.ancestors(stage.state, new) == [old]
    assert stage.free("member") == before + BOND + BOND // 2
    assert stage.state.balance(e.BURNED) == BOND // 2
    moves = lineage.pay(stage.state, "free:x", new, 1_000)
    assert [(one.target, one.amount_micro) for one in moves if isinstance(one, e.Moved)] == [
        (e.free(stage.id("thief")), 800),
        (e.free(stage.id("owner")), 120),
        (e.free(stage.id("member")), 80),
    ]


def test_a_false_challenge_costs_its_bond() -> None:
    stage, old, new = family()
    case = challenged(stage, new, old)
    thief, member = stage.free("thief"), stage.free("member")
    settle = lineage.SettleLineage(stage.id("thief"), case)
    assert refused(lambda: stage.do(settle)) == "M6"
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), case, False))
    stage.do(settle)
    assert lineage.ancestors(stage.state, new) == []
    assert (stage.free("thief"), stage.free("member")) == (thief + BOND // 2, member)
    assert refused(lambda: stage.do(settle)) == "M6"


def test_a_challenge_that_nobody_decides_fails_in_time() -> None:
    stage, old, new = family()
    case = challenged(stage, new, old)
    stage.wait(stage.parameters.verdict_seconds + 1)
    late = voting.GiveVerdict(stage.id(VERIFIERS[0]), case, True)
    assert refused(lambda: stage.do(late)) == "V2"
    stage.do(lineage.SettleLineage(stage.id("thief"), case))
    assert lineage.ancestors(stage.state, new) == []


def test_who_may_challenge_what_and_when() -> None:
    stage, old, new = family()

    def challenge(by: str, model: bytes, ancestor: bytes) -> str:
        command = lineage.ChallengeLineage(stage.id(by), model, ancestor)
        return refused(lambda: stage.do(command))

    assert challenge("stranger", new, old) == "M5"
    assert challenge("thief", old, new) == "M5"  # the younger is no ancestor
    assert challenge("member", new, bytes(32)) == "M5"
    challenged(stage, new, old)
    assert challenge("member", new, old) == "M5"  # once
    stage.wait(stage.parameters.lineage_seconds + 1)
    assert challenge("owner", new, old) == "M5"


def test_a_publisher_gets_its_bond_back_when_nothing_can_be_challenged() -> None:
    stage, old, new = family()
    reclaim = lineage.ReclaimBond(stage.id("thief"), new)
    assert refused(lambda: stage.do(reclaim)) == "M4"
    stage.wait(stage.parameters.lineage_seconds)
    case = challenged(stage, new, old)
    stage.wait(1)
    assert refused(lambda: stage.do(reclaim)) == "M4"
    for role in VERIFIERS:
        stage.do(voting.GiveVerdict(stage.id(role), case, False))
    stage.do(lineage.SettleLineage(stage.id("thief"), case))
    for author, model in (("member", new), ("thief", bytes(32))):
        other = lineage.ReclaimBond(stage.id(author), model)
        assert refused(lambda one=other: stage.do(one)) == "M4"
    stage.do(reclaim)
    assert stage.free("thief") == PLENTY + BOND // 2
    assert refused(lambda: stage.do(reclaim)) == "S2"


@pytest.mark.parametrize("first", [0, 1])
def test_the_nearest_ancestor_is_the_parent_in_whatever_order(first: int) -> None:
    """Two true challenges are open at once; whoever settles must not choose who is paid."""
    stage, old, _ = family()
    nearer = stage.publish("owner", "nearer", old, (("owner", 10_000),))
    copy = stage.publish("thief", "copy", shares=(("thief", 10_000),))
    cases = [challenged(stage, copy, nearer, "owner"), challenged(stage, copy, old)]
    for case in (cases[first], cases[1 - first]):
        for role in VERIFIERS:
            stage.do(voting.GiveVerdict(stage.id(role), case, True))
        stage.do(lineage.SettleLineage(stage.id("thief"), case))
    assert lineage.ancestors(stage.state, copy) == [nearer, old]


@pytest.mark.parametrize(
    "shares",
    [(), (("owner", 9_999),), (("owner", 5_000), ("owner", 5_000)), (("owner", 10_000), ("m", 0))],
)
def test_shares_add_up(shares: tuple[tuple[str, int], ...]) -> None:
    stage = Stage()
    stage.fund("owner")
    assert refused(lambda: stage.publish("owner", "a", shares=shares)) == "M1"


def test_the_same_weights_are_published_once_and_parents_come_first() -> None:
    stage, old, _ = family()
    assert refused(lambda: stage.publish("thief", "old")) == "M2"
    assert refused(lambda: stage.publish("thief", "x", parent=bytes(32))) == "M3"
    assert refused(lambda: stage.publish("poor", "x", parent=old)) == "S2"
    child = stage.publish("thief", "x", parent=old)
    assert lineage.ancestors(stage.state, child) == [old]
    assert stage.free("thief") == PLENTY - 2 * BOND


@given(st.integers(1, 10**12), st.integers(1, 40))
def test_fees_reach_every_generation_and_add_up(amount: int, generations: int) -> None:
    stage = Stage()
    stage.fund("owner")
    parent = None
    for number in range(generations):
        parent = stage.publish("owner", f"g{number}", parent, ((f"o{number}", 10_000),))
    assert parent is not None
    moves = [m for m in lineage.pay(stage.state, "x", parent, amount) if isinstance(m, e.Moved)]
    assert sum(one.amount_micro for one in moves) == amount
    if amount == 10**12:
        assert len(moves) >= min(generations, 15)


@given(
    st.integers(0, 10**15),
    st.lists(st.integers(1, 10_000), min_size=1, max_size=20),
)
def test_a_split_adds_up_and_is_fair_to_a_millionth(amount: int, shares: list[int]) -> None:
    named = tuple((bytes([n]), share) for n, share in enumerate(shares))
    parts = split(amount, named)
    assert sum(part for _, part in parts) == amount
    for (_, part), share in zip(parts[1:], shares[1:], strict=True):
        assert part == amount * share // sum(shares)
    assert 0 <= parts[0][1] - amount * shares[0] // sum(shares) < len(shares)
