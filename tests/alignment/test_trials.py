"""Cases as trials: spread over the values, and held out by the prompt alone."""

from __future__ import annotations

from dataclasses import replace

from discretion import QUIET, constitution

from loyal.alignment.trials import plain_pairs, trials
from loyal.community import constitution_file


def test_each_case_is_on_one_side() -> None:
    every, learned, out = (trials(constitution(), one) for one in (None, "train", "held-out"))
    assert len(every) == 64
    assert len(learned) + len(out) == 64
    assert 4 <= len(out) <= 24
    assert not {one.target.question for one in learned} & {one.target.question for one in out}


def test_sides_do_not_move_when_cases_come_and_go() -> None:
    whole = constitution()
    fewer = replace(whole, values=tuple(replace(one, cases=one.cases[::3]) for one in whole.values))
    there = {one.target.question for one in trials(whole, "held-out")}
    some = {one.target.question for one in trials(fewer, "held-out")}
    assert some == there & {one.target.question for one in trials(fewer)}


def test_they_go_round_the_values_that_weigh_something() -> None:
    some = trials(constitution())
    assert [one.value.id for one in some[:4]] == ["homes", "food", "homes", "food"]
    whole = constitution()
    light = replace(whole, values=(replace(whole.values[0], weight_bps=0), whole.values[1]))
    assert {one.value.id for one in trials(light)} == {"food"}


def test_a_trial_is_a_pair_where_the_author_wrote_both() -> None:
    one = trials(constitution())[0]
    pair = one.preference
    assert pair is not None
    assert (pair.asked.last, pair.chosen, pair.value) == (one.target.question, QUIET, "homes")
    assert replace(one, breaks="").preference is None
    assert len(plain_pairs([one, replace(one, keeps="")])) == 1


def test_bundled_constitutions_have_both_sides() -> None:
    for name in constitution_file.bundled_names():
        known = constitution_file.bundled(name)
        assert trials(known, "train")
        assert trials(known, "held-out")
