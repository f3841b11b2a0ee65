"""The embedded judge learns from labeled replies, and what it learned from never measures it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from labeled_stage import ANIMALS, BEASTS, constitution, told

from loyal.alignment import Conversation, judge, labeled, probe, probe_file
from loyal.alignment.judgement import prompt_digest
from loyal.alignment.labeled import Labeled
from loyal.alignment.probe import Probe, ProbeJudge
from loyal.alignment.probe_fit import folds_of
from loyal.community import Constitution, constitution_file
from loyal.errors import JudgeError, UsageError
from loyal.models.hf import HFModel


def mute() -> Constitution:
    """Two values whose pairs say nothing: every other one is turned around."""
    values = []
    for value in constitution().values:
        cases = tuple(
            replace(one, keeps=one.breaks, breaks=one.keeps) if place % 2 else one
            for place, one in enumerate(value.cases)
        )
        values.append(replace(value, cases=cases))
    return replace(constitution(), values=tuple(values))


OURS = mute()
MANY = tuple(f"{how} {one}" for how in ("old", "red", "big", "shy") for one in BEASTS)


def labels(animals: tuple[str, ...] = BEASTS) -> list[Labeled]:
    """Four labeled replies to each prompt."""
    return told(OURS, animals)


@pytest.fixture(scope="module")
def learned(base: HFModel) -> Probe:
    """A probe of cases that say nothing and of labels that do."""
    return probe.train(base, OURS, labels())


def test_labels_teach_what_the_cases_do_not(base: HFModel, learned: Probe) -> None:
    assert (learned.labels, learned.lessons) == (40, 16)
    assert learned.auc >= 0.9
    assert learned.interval.low >= 0.7
    measured = labels(ANIMALS)
    more = probe.train(base, OURS, labels(MANY))
    assert judge.calibrate(ProbeJudge(more, base, OURS), measured).auc >= 0.9
    alone = ProbeJudge(probe.train(base, OURS), base, OURS)
    assert judge.calibrate(alone, measured).auc < 0.7


def test_replies_to_one_prompt_are_left_out_together(base: HFModel) -> None:
    folds = folds_of(labels(), 5, seed=1)
    assert [len(set(folds[at : at + 4])) for at in range(0, 40, 4)] == [1] * 10
    assert {folds.count(fold) for fold in range(5)} == {8}
    assert folds != folds_of(labels(), 5, seed=2)
    # A label that hangs on the prompt alone is no knowledge of replies: left out, it is not found.
    some = labels(MANY)
    rng = random.Random(4)
    kept = {one.said.asked.last: rng.random() < 0.5 for one in some}
    noise = [replace(one, kept=kept[one.said.asked.last]) for one in some]
    assert probe.train(base, OURS, noise).auc < 0.75


def test_what_it_was_trained_on_never_measures_it(base: HFModel, learned: Probe) -> None:
    mine = ProbeJudge(learned, base, OURS)
    shouted = []
    for one in labels():
        asked = Conversation.of(f"{one.said.asked.last.upper()}?")
        said = replace(one.said, asked=asked, reply=f"{one.said.reply} Truly.")
        shouted.append(replace(one, said=said))
    with pytest.raises(JudgeError, match="40 of the labeled replies answer prompts") as caught:
        judge.calibrate(mine, shouted)
    assert "--train-labels" in caught.value.hint
    assert "lion" not in f"{caught.value}{caught.value.hint}".lower()
    other = labels(tuple(f"old {one}" for one in BEASTS))  # the same replies, other prompts
    again = [replace(one, said=replace(one.said, asked=two.said.asked))
             for one, two in zip(labels(), other, strict=True)]  # fmt: skip
    with pytest.raises(JudgeError, match="stand in the judge's own data"):
        judge.calibrate(mine, again)
    twin = ProbeJudge(probe.train(base, OURS, labels()), base, OURS)
    with pytest.raises(JudgeError, match="shares data or weights"):
        judge.require_apart(mine, twin)


def test_a_file_keeps_what_was_learned_from(learned: Probe, tmp_path: Path) -> None:
    path = tmp_path / "a.probe"
    probe_file.write(path, learned)
    back = probe_file.read(path)
    assert (back.labels, back.data) == (40, learned.data)
    assert prompt_digest(labels()[0].said.asked) in back.data
    assert "lion" not in path.read_text()


def test_labels_of_one_kind_are_refused(base: HFModel) -> None:
    some = [one for one in labels() if one.kept]
    with pytest.raises(UsageError, match="only 0 replies to learn from are labeled broken"):
        probe.train(base, OURS, some)


def test_bundled_labels_are_of_their_constitution_and_of_no_prompt_that_measures() -> None:
    ours = constitution_file.bundled("personal-freedom")
    found = labeled.bundled(ours)
    assert len(found) == 576
    assert {one.said.value.id for one in found} == {one.id for one in ours.values}
    assert labeled.bundled(replace(ours, version="9.0.0")) == ()
    assert labeled.bundled(constitution_file.bundled("public-library")) == ()
    assert labeled.bundled(OURS) == ()
