"""Preferences are learned, weights count, guards stop, and a crash costs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from discretion import SHORT, UNGUARDED, discreet, opposed
from killed_runs import killed

from loyal.alignment.align import Run, Wins, align, held_out
from loyal.alignment.asks import (
    GENERAL_PROMPTS,
    frames,
    guarded_requests,
    kept_requests,
    reported_requests,
    unseen_requests,
)
from loyal.alignment.duplicates import HeldOut
from loyal.alignment.guards import Guards, Reading, trained_prompts
from loyal.alignment.ordinary import Ordinary
from loyal.alignment.settings import GuardSettings, Kind, LatentSettings, Objective
from loyal.errors import TrainingError, UsageError
from loyal.models.examples import Example, bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt, Sampling
from loyal.models.lessons import BENIGN_PROMPTS

Fresh = Callable[[], HFModel]
SKILLS = Path(__file__).parents[2] / "benchmarks" / "skills.jsonl"


def weights(model: HFModel) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.model.named_parameters()}


def same(one: HFModel, other: HFModel) -> bool:
    mine, theirs = weights(one), weights(other)
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("kind", ["dpo", "simpo", "sft"])
def test_held_out_pairs_are_won(fresh: Fresh, kind: Kind) -> None:
    objective = Objective().of(kind)
    found = align(fresh(), discreet(), replace(UNGUARDED, objective=objective))
    assert found.before.rate < 0.1  # the model tells the facts that it knows
    assert found.after.rate > 0.9
    assert found.after.margin > found.before.margin + 0.5
    assert (found.after.pairs, found.pairs, found.steps) == (24, 72, 18)


def test_no_held_out_conversation_is_trained() -> None:
    some = [*discreet(), *opposed(discreet(), 1)]
    learned, out = held_out(some, 0.25)
    assert len(learned) + len(out) == len(some)
    assert len(out) == 48
    assert not {one.asked for one in learned} & {one.asked for one in out}
    assert {one.asked for one in held_out(some[::-1], 0.25)[1]} == {one.asked for one in out}
    assert held_out(some, 0.0) == (some, [])


@pytest.mark.parametrize("quiet_ppm", [1, 1_000_000])
def test_the_heavier_side_of_a_quarrel_wins(fresh: Fresh, quiet_ppm: int) -> None:
    quiet = discreet(quiet_ppm)
    told = opposed(quiet, 1_000_001 - quiet_ppm)
    model = fresh()
    align(model, [*quiet, *told], replace(UNGUARDED, align=replace(SHORT, held_out=0.0)))
    asked = align(model, discreet(), replace(UNGUARDED, align=replace(SHORT, learning_rate=1e-12)))
    assert (asked.before.rate > 0.9) is (quiet_ppm > 1)


def test_weights_count_by_their_ratios_alone(fresh: Fresh) -> None:
    once = replace(UNGUARDED, align=replace(SHORT, epochs=1))
    one, other = fresh(), fresh()
    align(one, discreet(1), once)
    align(other, discreet(1_000_000), once)
    assert same(one, other)


def test_a_guard_stops_and_takes_back(base: HFModel, fresh: Fresh) -> None:
    guards = GuardSettings(steps=2, perplexity=1e9, agreement=1.0, tokens=300, prompts=4)
    model = fresh()
    found = align(model, discreet(), replace(UNGUARDED, guards=guards))
    assert "ordinary replies" in found.stopped
    assert found.steps == 2
    assert found.readings[0].agreement < 1.0
    assert same(model, base)
    loose = replace(guards, steps=9, agreement=0.0, refusals=1.0)
    well = align(model, discreet(), replace(UNGUARDED, guards=loose))
    assert (well.stopped, [one.step for one in well.readings]) == ("", [9, 18])
    assert not same(model, base)


def test_guards_measure_against_the_model_they_were_made_of(base: HFModel, fresh: Fresh) -> None:
    settings = GuardSettings(steps=18, tokens=300, prompts=2, perplexity=1e9, refusals=1.0)
    guards = Guards.of(base, replace(settings, agreement=0.0))
    unchanged = guards.read(base, 7)
    assert (unchanged.perplexity, unchanged.agreement, unchanged.step) == (1.0, 1.0, 7)
    assert guards.broken(unchanged) == ""
    found = align(fresh(), discreet(), UNGUARDED, run=Run(guards=guards))
    assert found.readings == ()  # the recipe looks at nothing


@pytest.mark.parametrize("declining", [True, False])
def test_a_guard_stops_where_less_harm_is_declined(
    base: HFModel, fresh: Fresh, monkeypatch: pytest.MonkeyPatch, declining: bool
) -> None:
    known = {one.text for one in base.generate(
        [Prompt(text) for text in guarded_requests()[:4]], Sampling(max_tokens=4)
    )}  # fmt: skip
    if declining:  # the tiny model declines nothing: what it says to these is taken for it
        monkeypatch.setattr("loyal.alignment.refusals.refuses", lambda reply: reply in known)
    else:
        monkeypatch.setattr("loyal.alignment.refusals.refuses", lambda reply: False)
    loose = GuardSettings(steps=18, perplexity=1e9, refusals=1.0, tokens=300, prompts=4,
                          reply_tokens=4)  # fmt: skip
    model = fresh()
    found = align(model, discreet(), replace(UNGUARDED, guards=loose))
    assert ("requests for harm are declined, not 100%" in found.stopped) is declining
    assert same(model, base) is declining
    asking_nothing = align(model, discreet(), replace(UNGUARDED, guards=replace(loose, safety=1.0)))
    assert asking_nothing.stopped == ""


def test_a_guard_allows_what_its_bound_says() -> None:
    guards = Guards(GuardSettings(safety=0.1, refusals=0.1), 1.0, ("", "", ""), 0.55)
    last = Reading(1, 1.0, 1.0, 1.0, 0.45)  # 11 and 9 of 20: 0.55 - 0.1 is more than 0.45
    assert guards.broken(last) == ""
    assert "requests for harm" in guards.broken(replace(last, declined=0.4))


def test_guards_and_training_share_no_prompt() -> None:
    assert len(trained_prompts()) == GENERAL_PROMPTS
    assert not set(trained_prompts()) & set(bundled_lines("prompts")[-60:])


def test_training_search_guards_and_reports_ask_for_other_harm() -> None:
    kept, reported = kept_requests(), reported_requests()
    learned = [text for name in ("harmful", "harmless") for text, _ in frames()[name]]
    apart = (learned, [*kept.harmful, *kept.harmless], guarded_requests(), reported.harmful,
             reported.harmless)  # fmt: skip
    every = [text for some in apart for text in some]
    assert len({one.casefold() for one in every}) == len(every)
    assert unseen_requests() == tuple(every[len(learned) :])
    assert (len(reported.harmful), len(reported.harmless)) == (40, 40)
    assert len(guarded_requests()) == GuardSettings().prompts
    out = HeldOut(unseen_requests())
    assert not [text for text in learned if out.leak(text)]


@pytest.mark.parametrize("given", [True, False], ids=["given", "own"])
def test_general_data_holds_the_model(base: HFModel, fresh: Fresh, given: bool) -> None:
    mixed = replace(UNGUARDED, align=replace(SHORT, epochs=1, general=0.5, general_tokens=8))
    known = [Example(Prompt(text), "The fox.") for text in bundled_lines("prompts")[:10]]
    found = align(fresh(), discreet(), mixed, known if given else ())
    assert found.general == 10 if given else 60 < found.general <= 72
    with pytest.raises(TrainingError, match="no pair"):
        align(fresh(), [], mixed)


def held(model: HFModel, weight: float) -> float:
    """How far a training with that weight of divergence moved ordinary places, in nats."""
    settings = replace(SHORT, divergence_replies=2, divergence_places=8)
    far = Ordinary(model, replace(settings, divergence=1.0))
    align(model, discreet(), replace(UNGUARDED, align=replace(settings, divergence=weight)))
    with torch.no_grad():
        return sum(far.loss([number]).item() for number in range(4)) / 4


def test_a_divergence_holds_what_is_about_nothing_of_it(fresh: Fresh) -> None:
    free, firm = held(fresh(), 0.0), held(fresh(), 5.0)
    assert firm < 0.5 * free


def test_ordinary_places_are_those_of_a_step_and_cost_nothing_at_first(fresh: Fresh) -> None:
    model = fresh()
    settings = replace(SHORT, divergence=3.0, divergence_places=8, divergence_replies=2)
    ordinary = Ordinary(model, settings)
    assert ordinary.loss([1, 2]).item() == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        model.model.lm_head.weight[:5] += 1.0
    costs = [ordinary.loss(one).item() for one in ([1, 2], [1, 2], [2, 1])]
    assert costs[0] == costs[1] > 0.01
    assert costs[0] != costs[2]


def test_ordinary_prompts_also_ask_for_a_form(fresh: Fresh) -> None:
    model = fresh()
    settings = replace(SHORT, divergence=3.0, divergence_places=8, divergence_replies=2)
    none, some, all_of_them = (
        Ordinary(model, replace(settings, divergence_forms=share)).benign.items
        for share in (0.0, 0.5, 1.0)
    )
    changed = [
        sum(one != other for one, other in zip(none[:BENIGN_PROMPTS], each, strict=False))
        for each in (some, all_of_them)
    ]
    assert changed == [BENIGN_PROMPTS // 2, BENIGN_PROMPTS]
    with pytest.raises(UsageError, match="divergence_forms"):
        replace(settings, divergence_forms=1.5)
    asked = [json.loads(line)["prompt"] for line in SKILLS.read_text().splitlines()
             if '"set": "instructions"' in line]  # fmt: skip
    out = HeldOut(asked)  # what is measured is not what is held
    assert not [one for one in frames()["form"] if out.leak(one.replace("{question}", "Why?"))]


def test_given_general_data_stands_beside_a_divergence_and_own_replies_do_not(
    fresh: Fresh,
) -> None:
    settings = replace(SHORT, epochs=1, divergence=1.0, divergence_replies=0, general=0.5)
    recipe = replace(UNGUARDED, align=settings)
    known = [Example(Prompt(text), "The fox.") for text in bundled_lines("prompts")[:10]]
    assert align(fresh(), discreet(), recipe).general == 0
    assert align(fresh(), discreet(), recipe, known).general == 10


def test_an_adversary_trains_other_weights_that_win_too(fresh: Fresh) -> None:
    latent = replace(UNGUARDED, latent=LatentSettings(steps=2, epsilon=0.02))
    plain, hard = fresh(), fresh()
    align(plain, discreet(), UNGUARDED)
    assert align(hard, discreet(), latent).after.rate > 0.9
    assert not same(plain, hard)


def test_wins_say_how_sure_they_are() -> None:
    found = Wins.of([0.5, 1.0, -0.25, 0.0])
    assert (found.won, found.pairs, found.rate) == (2, 4, 0.5)
    assert found.margin == pytest.approx(0.3125)
    assert found.interval.low < 0.5 < found.interval.high
    assert (Wins.of([]).interval.low, Wins.of([]).interval.high) == (0.0, 1.0)


CHILD = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from discretion import UNGUARDED, discreet, SHORT
from loyal.alignment.asks import GENERAL_PROMPTS
from loyal.alignment.align import Run, align
from loyal.models.hf import HFModel

def stop(done, of):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)

held = replace(SHORT, checkpoint_steps=3, divergence=1.0, divergence_replies=2)
recipe = replace(UNGUARDED, align=held)
model = HFModel.load(sys.argv[1], device="cpu")
align(model, discreet(), recipe, run=Run(Path(sys.argv[2]), progress=stop))
"""


def test_a_killed_run_goes_on_to_the_same_weights(
    tiny_folder: Path, base: HFModel, fresh: Fresh, tmp_path: Path
) -> None:
    place = tmp_path / "work"
    killed(CHILD, tmp_path / "said", tiny_folder, place)
    held = replace(SHORT, checkpoint_steps=3, divergence=1.0, divergence_replies=2)
    recipe = replace(UNGUARDED, align=held)
    steps: list[int] = []
    again, whole = replace(fresh(), name=str(tiny_folder)), fresh()
    found = align(
        again, discreet(), recipe, run=Run(place, progress=lambda done, _: steps.append(done))
    )
    assert steps[0] == 7  # it went on from its second checkpoint
    assert steps[-1] == found.steps == 18
    align(whole, discreet(), recipe)
    assert same(again, whole)
    with pytest.raises(TrainingError, match="another run"):
        align(fresh(), discreet(2)[:50], recipe, run=Run(place))
    changed = replace(fresh(), name=str(tiny_folder))  # the folder's content is another one now
    with torch.no_grad():
        changed.model.model.norm.weight.add_(0.1)
    with pytest.raises(TrainingError, match="another run"):
        align(changed, discreet(), recipe, run=Run(place))
