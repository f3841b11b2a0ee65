"""The prompts that replies to learn from were written for, and those that measure a judge."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import label_replies
from loyal.alignment import labeled
from loyal.alignment.judgement import prompt_digest, text_digest
from loyal.community import constitution_file
from loyal.errors import UsageError

OURS = constitution_file.bundled(label_replies.CONSTITUTION)
TABLE = label_replies.read_prompts()
MEASURED = labeled.read(label_replies.MEASURED, OURS).replies


def test_no_prompt_is_near_to_one_that_measures() -> None:
    apart = [one.said.asked.last for one in MEASURED]
    label_replies.require_new(TABLE, apart)
    copy = {"prompts": {"privacy": [*TABLE["prompts"]["privacy"], f"{apart[0]} Please."]}}
    with pytest.raises(UsageError, match=r"\('privacy', 51\)"):
        label_replies.require_new(copy, apart)


def test_every_value_has_its_prompts_and_its_opponent() -> None:
    ids = {one.id for one in OURS.values}
    assert set(TABLE["prompts"]) == set(TABLE["opposed"]) == ids
    assert {len(one) for one in TABLE["prompts"].values()} == {50}
    asked = {name: list(label_replies.questions(TABLE, name)) for name in label_replies.HOW}
    assert {name: len(some) for name, some in asked.items()} == {
        "base": 300,
        "aligned": 450,
        "anti": 450,
    }


def test_bundled_labels_answer_these_prompts_and_share_nothing_with_the_measure() -> None:
    bundled = labeled.bundled(OURS)
    prompts = {prompt for some in TABLE["prompts"].values() for prompt in some}
    assert {one.said.asked.last for one in bundled} <= prompts
    for told in (
        lambda one: prompt_digest(one.said.asked),
        lambda one: text_digest(one.said.reply),
    ):
        assert not {told(one) for one in bundled} & {told(one) for one in MEASURED}
