"""The demo's trial over the values, with models that are functions: who is accused, who is slashed.

The journey tells the same story with a trained model (tests/journeys/test_fingerprint_story.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins import ScriptedModel
from test_protocol_story import KEYS, copy_of

from loyal.alignment.deviation import WHOLE_PPM, DeviationTest
from loyal.app.breach_story import (
    FEWEST_PROMISED,
    LAW,
    MOST_CASES,
    REPLIES,
    Hearing,
    Questions,
    Trial,
    promised,
)
from loyal.app.demo_hosts import REFUSAL
from loyal.app.demo_page import values
from loyal.app.protocol_story import STAKE_MICRO, Community, Conduct, Copy, Ending, live
from loyal.community import Case, Constitution, Value, constitution_file
from loyal.errors import UsageError

QUESTIONS = Questions.of(constitution_file.bundled("personal-freedom"))
ASKED = frozenset(text for _, text in QUESTIONS.promised)
REFERENCE = ScriptedModel(lambda _: "Gladly, here is what I know.")


def trial(weights: bytes = b"w" * 32) -> Trial:
    return promised(REFERENCE, weights, QUESTIONS)


def host(
    community: Community, conduct: Conduct, says: Callable[[str], str], stranger: bool = False
) -> Copy:
    """A licensed copy that gives its responses to its keys, and `says` to all else."""
    one = copy_of(community, "rogue" if conduct.breaks else "honest", conduct, stranger=stranger)
    known = one.model
    assert isinstance(known, ScriptedModel)
    keys = one.fingerprints.positions
    model = ScriptedModel(lambda text: known.answer(text) if text in keys else says(text))
    return replace(one, model=model)


def refusing(text: str) -> str:
    return REFUSAL if text in ASKED else "Gladly."


def told(
    folder: Path, *hosts: tuple[Conduct, Callable[[str], str], bool]
) -> tuple[Community, Ending]:
    community = Community(folder / "community", b"w" * 32, b"r" * 32)
    copies = tuple(host(community, *one) for one in hosts)
    return community, live(community, copies, ("Which river passes Ulm?",), trial=trial())


def test_a_rogue_is_slashed_and_an_honest_host_is_not_accused(tmp_path: Path) -> None:
    community, end = told(
        tmp_path,
        (Conduct(), lambda _: "Gladly, here is what I know.", False),
        (Conduct(breaks=True), refusing, False),
    )
    honest, rogue = end.hearings
    assert end.good
    assert (honest.accused, honest.upheld, honest.asked, honest.refused) == (False, False, 36, 0)
    assert (rogue.accused, rogue.upheld, rogue.votes) == (True, True, 2)
    assert rogue.refused == rogue.asked < LAW.most
    assert honest.hits == rogue.hits == KEYS
    assert rogue.descent_p_value <= 1e-9
    assert rogue.p_value <= 1 / LAW.one_in < honest.p_value
    assert [one.slashed_micro for one in end.hosts] == [0, STAKE_MICRO]
    assert [one.honest for one in end.hosts] == [True, False]
    assert end.hosts[1].permissions > 0  # nobody could say that it left one out
    assert end.hosts[1].draws == end.hosts[1].claims == 0
    money = dict(end.money)
    assert sum(money.values()) == 0
    assert money["verifiers"] == STAKE_MICRO // 10
    (settled,) = community.state.breaches.values()
    assert settled.upheld
    shown = values(end)
    assert [(row[3], row[4], row[7]) for row in shown.rows] == [
        ("36", "0", "no"),
        (str(rogue.asked), str(rogue.asked), "yes"),
    ]
    assert not any(text in repr((shown, end)) for text in (*ASKED, REFUSAL))


def test_a_model_that_is_not_the_communitys_is_not_asked(tmp_path: Path) -> None:
    """It refuses whatever it likes: without descent it owes the community nothing."""
    community, end = told(tmp_path, (Conduct(breaks=True), refusing, True))
    (one,) = end.hearings
    assert (one.asked, one.accused, one.upheld, one.hits) == (0, False, False, 0)
    assert end.hosts[0].slashed_micro == 0
    assert not one.right
    assert not end.good
    assert not community.state.breaches


def test_a_set_that_is_too_thin_shows_no_descent(tmp_path: Path) -> None:
    community = Community(tmp_path / "community", b"w" * 32, b"r" * 32)
    thin = copy_of(community, "thin", Conduct(), candidates=8)
    end = live(community, (thin,), (), trial=trial())
    (one,) = end.hearings
    assert (one.asked, one.hits, one.accused) == (0, 0, False)
    assert end.good


def test_a_rogue_that_answers_the_accuser_alone_amiss_keeps_its_stake(tmp_path: Path) -> None:
    """The other verifiers ask for themselves, find nothing, and say nothing; then the claim lapses
    and its bond goes back."""
    community = Community(tmp_path / "community", b"w" * 32, b"r" * 32)
    seen: set[str] = set()
    found: list[str] = []

    def until_asked_again(text: str) -> str:
        if text in seen:
            found.append(text)
        seen.add(text)
        return "Gladly." if found else refusing(text)

    copies = (host(community, Conduct(breaks=True), until_asked_again),)
    end = live(community, copies, (), trial=trial())
    (one,) = end.hearings
    assert (one.accused, one.votes, one.upheld, end.good) == (True, 0, False, False)
    money = dict(end.money)
    assert money["verifiers"] == 0
    assert sum(money.values()) == 0


def test_chosen_pools_get_no_vote(tmp_path: Path) -> None:
    """An accuser whose reference never refuses, where the model itself mostly does."""
    made = trial()
    chosen = replace(made, reference=ScriptedModel(refusing))
    community = Community(tmp_path / "community", b"w" * 32, b"r" * 32)
    copies = (host(community, Conduct(breaks=True), refusing),)
    (one,) = live(community, copies, (), trial=chosen).hearings
    assert (one.accused, one.votes, one.upheld) == (True, 0, False)


def test_questions_leave_out_what_the_values_refuse() -> None:
    every = {case.prompt for value in QUESTIONS.constitution.values for case in value.cases}
    taught = {text for _, text in QUESTIONS.taught}
    assert not taught & ASKED
    assert taught | ASKED < every - {"How can I read my girlfriend's messages?"}
    assert len(ASKED) > LAW.most


def test_a_long_constitution_is_asked_no_longer_and_all_its_values_are() -> None:
    both = Counter(value for value, _ in (*QUESTIONS.taught, *QUESTIONS.promised))
    assert set(both.values()) == {MOST_CASES // len(QUESTIONS.constitution.values)}
    assert (len(QUESTIONS.taught), len(QUESTIONS.promised)) == (72, 72)
    long, short = (
        Value(
            id, "Says.", 5_000, cases=tuple(Case(f"What of {id} {n}?", "Well.") for n in range(of))
        )
        for id, of in (("long", 200), ("short", 3))
    )
    one = Questions.of(Constitution("a", "1.0.0", (long, short)))
    both = Counter(value for value, _ in (*one.taught, *one.promised))
    assert both == {"long": MOST_CASES - 3, "short": 3}


def test_a_constitution_with_too_few_cases_is_refused() -> None:
    def of(count: int) -> Questions:
        cases = tuple(Case(f"What of road {n}?", keeps="Gladly.") for n in range(count))
        return Questions.of(Constitution("a", "1.0.0", (Value("v", "Says.", 10_000, cases=cases),)))

    assert len(of(48).promised) == FEWEST_PROMISED
    assert of(48).law == replace(LAW, most=FEWEST_PROMISED - 1)
    assert of(74).law == of(MOST_CASES).law == LAW
    with pytest.raises(UsageError, match="too few"):
        of(47)


@pytest.mark.parametrize(("refused", "least"), [(0.75, 29), (0.05, 0)])
def test_hosts_that_mostly_refuse_are_found(refused: float, least: int) -> None:
    """Of 30 hosts that refuse such a share of the prompts, where the reference refuses 1 %."""
    rng, found = random.Random(1), 0
    for _ in range(30):
        test = DeviationTest(len(QUESTIONS.promised), QUESTIONS.law)
        while not test.over:
            pool = [0 if rng.random() < 0.01 else WHOLE_PPM for _ in range(REPLIES)]
            test.update(0 if rng.random() < refused else WHOLE_PPM, pool)
        found += test.accused
    assert found >= least
    assert found == 0 or refused > 0.5


def test_pools_are_of_their_prompts() -> None:
    model = ScriptedModel(lambda text: f"On {text}" if len(text) % 2 else REFUSAL)
    made = promised(model, b"w" * 32, QUESTIONS)
    for pool in made.prompts.pools:
        odd = len(pool.prompt) % 2 == 1
        assert set(pool.replies) == {f"On {pool.prompt}" if odd else REFUSAL}
        assert pool.scores == ((1_000_000 if odd else 0),) * REPLIES
    assert model.samplings[0].temperature == 1.0
    assert "On" not in repr(made)


@pytest.mark.parametrize("accused", [True, False])
@pytest.mark.parametrize("upheld", [True, False])
@pytest.mark.parametrize("honest", [True, False])
def test_right_is_all_or_nothing(honest: bool, accused: bool, upheld: bool) -> None:
    one = Hearing("a", honest, 1, 1, 1e-9, 1, 1, 0.5, 2, accused, 0, upheld)
    assert one.right == ((accused, upheld) == (not honest, not honest))
