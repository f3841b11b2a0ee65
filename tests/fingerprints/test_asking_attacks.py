"""A host's own system prompts and temperature, around a model that is not changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from attack_scenes import changed, scene_of, weights
from stand_ins import Omlized, ScriptedModel

from loyal.fingerprints import asking_attacks
from loyal.fingerprints.asking_attacks import Hosted
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling

SYSTEMS = ("Be brief.", "Answer in verse.", "You are a teacher.")


def test_prompts_get_one_of_the_systems_by_their_text() -> None:
    model = ScriptedModel(str.upper)
    hosted = Hosted(model, SYSTEMS)
    prompts = [Prompt(f"question {n}") for n in range(30)]
    replies = hosted.generate(prompts, Sampling())
    assert [one.text for one in replies] == [one.text.upper() for one in prompts]
    first = [one.system for one in model.asked]
    assert set(first) == set(SYSTEMS)
    hosted.generate(prompts[::-1], Sampling())
    assert [one.system for one in model.asked[30:]] == first[::-1]
    Hosted(model, SYSTEMS, seed=1).generate(prompts, Sampling())
    assert [one.system for one in model.asked[60:]] != first


def test_raw_prompts_stay_and_the_users_system_message_comes_after() -> None:
    model = ScriptedModel(str)
    raw, own = Prompt("The fox", raw=True), Prompt("Hello!", "Speak plainly.")
    Hosted(model, SYSTEMS[:1]).generate([raw, own], Sampling())
    assert model.asked == [raw, Prompt("Hello!", "Be brief.\n\nSpeak plainly.")]


def test_the_hosts_temperature_takes_the_place_of_the_one_asked_for() -> None:
    model = ScriptedModel(str)
    Hosted(model, temperature=0.7, seed=9).generate([Prompt("a")], Sampling(max_tokens=5))
    Hosted(model).generate([Prompt("a")], Sampling(max_tokens=5))
    assert model.samplings == [Sampling(5, 0.7, seed=9), Sampling(5)]
    assert model.asked == [Prompt("a")] * 2


def test_chances_are_those_under_the_hosts_system_prompt(base: HFModel) -> None:
    hosted, prompt = Hosted(base, SYSTEMS[:1]), Prompt("Where does the fox live?")
    under = replace(prompt, system=SYSTEMS[0])
    assert hosted.next_token([prompt], 3) == base.next_token([under], 3)
    assert hosted.logprobs([prompt], ["In the"]) == base.logprobs([under], ["In the"])
    assert hosted.next_token([prompt], 3) != base.next_token([prompt], 3)
    assert hosted.name == base.name


@pytest.mark.parametrize("attack", asking_attacks.ATTACKS, ids=lambda one: one.name)
def test_each_attack_leaves_the_weights(attack, omlized: Omlized, tiny_folder: Path) -> None:
    scene = scene_of(omlized, tiny_folder)
    before = weights(scene.model)
    served = attack.run(scene)
    assert isinstance(served, LanguageModel)
    assert isinstance(served, Hosted)
    keys = [Prompt(one.key) for one in omlized.fingerprints.fingerprints]
    first = served.generate(keys, Sampling(4))
    assert first == served.generate(keys, Sampling(4))
    assert changed(before, scene.model) == set()
    assert served.model is scene.model
    if attack.name == "system-prompts":
        assert served.systems == bundled_lines("system_prompts_test")[:20]
        assert not set(served.systems) & set(bundled_lines("system_prompts_train"))
        assert len(set(served.systems)) == 20
    else:
        assert attack.name == f"temperature-{served.temperature}"
        assert served.systems == ()
