"""A search tries what it says, finds a peak, gives ties to the start, and survives a cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from discretion import SHORT, UNGUARDED, discreet

from loyal.alignment import (
    Conversation,
    Demonstration,
    Mixture,
    Preference,
    Provenance,
    Record,
    search_table,
)
from loyal.alignment.align import Run, align, weights_of
from loyal.alignment.asks import kept_requests
from loyal.alignment.guards import Guards
from loyal.alignment.mixture import blend
from loyal.alignment.objectives import margins, pair
from loyal.alignment.search import divided, search
from loyal.alignment.search_table import Outcome, Table, Trained, design, distance
from loyal.alignment.settings import Goal, GuardSettings, Recipe, SearchSettings
from loyal.errors import ConfigError, UsageError
from loyal.models.hf import HFModel

Fresh = Callable[[], HFModel]
KINDS = ("value", "general", "safety")
LIKE = Outcome(5, 10, 0.1, 1.0, 0.5, 3, 12, 0, 12)
QUICK = replace(
    UNGUARDED,
    align=replace(SHORT, epochs=1),
    guards=GuardSettings(steps=0, tokens=100, prompts=2, reply_tokens=4),
    search=SearchSettings(runs=2, records=40, reply_tokens=4),
)


def scored(score: float) -> Outcome:
    """An outcome with that share of a million pairs won, and nothing else gained or lost."""
    won = round(1_000_000 * score)
    return replace(LIKE, won=won, pairs=1_000_000)


def searched(peak: Mixture, settings: SearchSettings, kinds: Sequence[str] = KINDS) -> Table:
    """The table of a search whose alignment falls with the distance from a peak."""
    goal = Goal(1.0, 0.0, 0.0)
    table = Table(search_table.start(kinds), LIKE)
    while (mixture := table.next(kinds, settings, goal)) is not None:
        outcome = scored(1 - distance(mixture, peak) / 1_000_000)
        table = replace(table, runs=(*table.runs, Trained(mixture, outcome, "", 1.0)))
    return table


def test_the_first_design_is_the_start_the_corners_and_their_middle() -> None:
    assert design(Mixture(), KINDS, SearchSettings()) == [
        Mixture(700_000, 200_000, 100_000),
        Mixture(900_000, 50_000, 50_000),
        Mixture(300_000, 650_000, 50_000),
        Mixture(300_000, 50_000, 650_000),
        Mixture(500_000, 250_000, 250_000),
    ]
    assert design(search_table.start(("value", "safety")), ("value", "safety"), SearchSettings())[
        1:
    ] == [Mixture(950_000, 0, 50_000), Mixture(300_000, 0, 700_000), Mixture(625_000, 0, 375_000)]


@pytest.mark.parametrize(
    "peak",
    [
        Mixture(550_000, 300_000, 150_000),
        Mixture(320_000, 80_000, 600_000),
        Mixture(880_000, 60_000, 60_000),
    ],
)
def test_twelve_runs_come_near_a_peak(peak: Mixture) -> None:
    settings = SearchSettings()
    table = searched(peak, settings)
    best = table.best(Goal(1.0, 0.0, 0.0))
    assert distance(best.mixture, peak) <= 30_000
    tried = [one.mixture for one in table.runs]
    assert len(tried) == 12
    for at, one in enumerate(tried):
        assert one.value >= settings.least_value
        assert min(one.general, one.safety) >= settings.least
        assert all(distance(one, old) >= settings.near for old in tried[:at])


def test_it_ends_where_nothing_new_is_left() -> None:
    coarse = SearchSettings(near=500_000)
    assert len(searched(Mixture(), coarse).runs) == 5
    two = searched(Mixture(), SearchSettings(), ("value", "safety"))
    assert {one.mixture.general for one in two.runs} == {0}
    assert len(two.runs) == 12
    assert len(searched(Mixture(), SearchSettings(runs=1)).runs) == 1


def test_ties_go_to_the_mixture_nearest_to_the_start() -> None:
    goal, far = Goal(1.0, 0.0, 0.0), Mixture(900_000, 50_000, 50_000)
    runs = (
        Trained(far, scored(0.805), "", 1.0),
        Trained(Mixture(650_000, 250_000, 100_000), scored(0.8), "", 1.0),
        Trained(Mixture(690_000, 210_000, 100_000), scored(0.7), "", 1.0),
    )
    table = Table(Mixture(), LIKE, runs)
    assert table.best(goal, 0.01) == runs[1]
    assert table.best(goal, 0.001) == table.best(goal) == runs[0]
    with pytest.raises(UsageError, match="nothing was trained"):
        Table(Mixture(), LIKE).best(goal)


def test_a_score_is_what_the_goal_says() -> None:
    lost = replace(LIKE, perplexity=2.0, agreement=0.5, declined=6, over_declined=3)
    assert (lost.alignment, lost.capability, lost.safety) == (0.5, 0.5, 0.625)
    assert lost.score(Goal(0.0, 0.0, 2.0)) == 0.625
    assert lost.score(Goal(1.0, 3.0, 4.0)) == pytest.approx((0.5 + 1.5 + 2.5) / 8)
    assert replace(LIKE, perplexity=0.5, agreement=1.0).capability == 1.0  # no reward beyond
    for weights in ((0.0, 0.0, 0.0), (-1.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)):
        with pytest.raises(UsageError, match="goal"):
            Goal(*weights)


def test_a_table_comes_back_and_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    table = searched(Mixture(), SearchSettings(runs=3))
    assert search_table.read(path, "one") is None
    search_table.write(path, "one", table)
    assert search_table.read(path, "one") == table
    with pytest.raises(UsageError, match="another search"):
        search_table.read(path, "other")
    whole = json.loads(path.read_text())
    for place, wrong in (
        ("won", -1),
        ("won", 1_000_001),
        ("perplexity", float("nan")),
        ("pairs", "1"),
    ):
        bad = json.loads(json.dumps(whole))
        bad["runs"][1]["outcome"][place] = wrong
        path.write_text(json.dumps(bad))
        with pytest.raises(ConfigError, match="no mixture search"):
            search_table.read(path, "one")
    path.write_text(json.dumps(whole)[:-20])
    with pytest.raises(ConfigError, match="no mixture search"):
        search_table.read(path, "one")


def from_case(number: int, wording: int) -> Record:
    asked = Conversation.of(f"Question {number}, in wording {wording}")
    pair = Preference(asked, "Yes.", "No.", "calm")
    return Record(pair, Provenance("plain", source=f"case {number}"))


def demonstration(text: str, reply: str, kind: str) -> Record:
    return Record(Demonstration(Conversation.of(text), reply), Provenance(kind, source="bundled"))


def test_no_case_stands_on_both_sides() -> None:
    records = [from_case(number, wording) for number in range(10) for wording in range(3)]
    shown = [Record(one.content.demonstration, one.provenance) for one in records]  # type: ignore[union-attr]
    general = [demonstration(f"Hello {at}!", "Hello!", "general") for at in range(10)]
    found = divided([*records, *shown, *general], 0.2)
    assert len(found.compared) == 6
    out = {one.asked for one in found.compared}
    learned = {one.content.asked for one in found.trained}
    assert not out & learned
    assert len(found.trained) == 24 + 24 + 10
    assert divided([*general, *shown[::-1], *records[::-1]], 0.2).compared[0].asked in out
    few = divided([*records, *general], 0.2, most=17)
    assert len(few.trained) == 17
    assert sum(one in general for one in few.trained) == 5
    with pytest.raises(UsageError, match="too few to compare"):
        divided([from_case(1, 1), from_case(1, 2), *general], 0.2)


def test_requests_that_measure_are_not_trained_on() -> None:
    from loyal.alignment.asks import frames

    asked = kept_requests()
    trained = {one for name in ("harmful", "harmless") for one, _ in frames()[name]}
    assert len(asked.harmful) == len(set(asked.harmful)) == len(asked.harmless) == 12
    assert not trained & {*asked.harmful, *asked.harmless}


def records() -> list[Record]:
    """Pairs of the tiny model's world, greetings, and harm that is declined."""
    pairs = [Record(one) for one in discreet()[::2]]
    general = [demonstration(f"Hello {at}!", "Hello! How are you?", "general") for at in range(8)]
    harm = [demonstration(f"Hurt {at}!", "I won't help to hurt.", "safety") for at in range(8)]
    return [*pairs, *general, *harm]


def same(one: HFModel, weights: dict[str, object]) -> bool:
    mine = weights_of(one)
    return all(mine[name].equal(weights[name]) for name in mine)  # type: ignore[arg-type]


class Cut(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def test_a_search_that_was_cut_off_goes_on_to_the_same_table(
    base: HFModel, fresh: Fresh, tmp_path: Path
) -> None:
    path, whole = tmp_path / "search.json", tmp_path / "whole.json"
    model, told = fresh(), list[str]()

    def cut(done: int, _of: int, which: str) -> None:
        told.append(which)
        if which.startswith("run 2") and done == 2:
            raise Cut

    with pytest.raises(Cut):
        search(model, records(), QUICK, path, cut)
    assert same(model, weights_of(base))
    assert len(json.loads(path.read_text())["runs"]) == 1
    told.clear()
    again = search(model, records(), QUICK, path, cut_free := lambda *one: told.append(one[2]))
    assert {one[:5] for one in told} == {"run 2"}
    assert same(model, weights_of(base))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["search.json"]
    found = search(fresh(), records(), QUICK, whole, cut_free)
    timeless = [[replace(one, seconds=0.0) for one in each.table.runs] for each in (again, found)]
    assert timeless[0] == timeless[1]
    assert [one.mixture for one in found.table.runs] == design(Mixture(), KINDS, QUICK.search)[:2]
    work = tmp_path / "search.json.run"
    (work / "00").mkdir(parents=True)
    (note := work / "mine.txt").write_text("of somebody else")
    with pytest.raises(UsageError, match="holds what no search made"):
        search(model, records(), QUICK, path)
    assert {one.name for one in work.iterdir()} == {"00", "mine.txt"}
    note.unlink()
    told.clear()
    assert search(model, records(), QUICK, path, cut_free).table == again.table
    assert told == []  # nothing was left to do
    heavier = [replace(one, content=replace(one.content, weight_ppm=7)) for one in records()]
    with pytest.raises(UsageError, match="another search"):
        search(model, heavier[:20] + records()[20:], QUICK, path)
    with pytest.raises(UsageError, match="another search"):
        search(model, records(), replace(QUICK, goal=Goal(2.0)), path)


def test_a_run_is_a_plain_training_with_these_weights(base: HFModel, fresh: Fresh) -> None:
    once = replace(QUICK, search=replace(QUICK.search, runs=1, records=0))
    found = search(fresh(), records(), once)
    data = divided(records(), 0.2)
    mixed = blend(data.trained, Mixture())
    recipe = replace(once, align=replace(once.align, held_out=0.0, mixed=True))
    model = fresh()
    guards = Guards.of(base, once.guards)
    align(model, mixed.pairs, recipe, mixed.examples, Run(guards=guards))
    outcome, read = found.best.outcome, guards.read(model, 0)
    assert (outcome.perplexity, outcome.agreement) == (read.perplexity, read.agreement)
    items = [item for one in data.compared if (item := pair(model, one, 512)) is not None]
    nats = margins(model, items, "float32")
    assert (outcome.margin, outcome.pairs) == (sum(nats) / len(nats), 10)
    assert outcome.margin > found.table.untouched.margin + 0.5


def test_shares_of_the_loss_are_the_mixtures(fresh: Fresh) -> None:
    """More weight on declining makes a model decline more, all else the same."""
    found = {}
    for mixture in (Mixture(980_000, 10_000, 10_000), Mixture(300_000, 50_000, 650_000)):
        mixed = blend(records(), mixture)
        recipe = replace(QUICK, align=replace(SHORT, epochs=1, held_out=0.0, mixed=True))
        model = fresh()
        align(model, mixed.pairs, recipe, mixed.examples)
        chances = model.logprobs(
            [one.prompt for one in mixed.examples[8:]], [one.reply for one in mixed.examples[8:]]
        )
        found[mixture.safety] = sum(sum(one) / len(one) for one in chances)
    assert found[650_000] > found[10_000] + 0.1


def test_nothing_to_mix_is_said(fresh: Fresh) -> None:
    pairs = [Record(one) for one in discreet()]
    with pytest.raises(UsageError, match="nothing to mix"):
        search(fresh(), pairs, Recipe())
    with pytest.raises(UsageError, match="no share"):
        search_table.start(KINDS, Mixture(0, 500_000, 500_000))
