"""What a host does while it serves: each wrapper against what it says, and all as a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from stand_ins import ScriptedModel

from loyal.fingerprints import FingerprintSet, rewording
from loyal.fingerprints.attack import Attack, Family, Scene
from loyal.fingerprints.check import CheckSettings, check
from loyal.fingerprints.serving_attacks import (
    ASK_AGAIN,
    ATTACKS,
    DRAFT_TOKENS,
    PREFILL,
    REVISING,
    each_prompt,
    each_reply,
    paraphrased,
    prefilled,
    revise,
    rewritten,
    sampled,
    say_again,
    under_system,
)
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Reply, Sampling
from loyal.models.tiny import World

MakeSet = Callable[..., FingerprintSet]
SHORT = Sampling(max_tokens=8)
ASKED = [prompt for prompt, _ in World.from_seed(0).questions()[:6]]


def test_a_rule_changes_the_prompts_text_alone() -> None:
    server = ScriptedModel(lambda text: f"echo {text}")
    prompts = [Prompt("Hello  You!", "A system."), Prompt("Raw One", raw=True), Prompt("...")]
    replies = each_prompt(server, rewording.normalized).generate(prompts, SHORT)
    assert server.asked == [
        Prompt("hello you", "A system."),
        Prompt("raw one", raw=True),
        Prompt("..."),
    ]
    assert replies[0].text == "echo hello you"
    assert server.samplings == [SHORT]


def test_a_system_message_stands_above_the_users_own() -> None:
    server = ScriptedModel(lambda text: text)
    prompts = [Prompt("a"), Prompt("b", "Be kind."), Prompt("c", raw=True)]
    under_system(server, REVISING).generate(prompts, SHORT)
    assert server.asked == [
        Prompt("a", REVISING),
        Prompt("b", f"{REVISING}\nBe kind."),
        Prompt("c", raw=True),
    ]


def test_the_model_itself_rewrites_prompts_and_is_asked_its_own_words() -> None:
    def answer(text: str) -> str:
        if text.startswith(ASK_AGAIN):
            old = text.removeprefix(ASK_AGAIN)
            return "  " if old == "silent" else f' "new {old}"\n'
        return f"reply to {text}"

    server = ScriptedModel(answer)
    prompts = [Prompt("one", "System."), Prompt("silent")]
    replies = paraphrased(server).generate(prompts, SHORT)
    assert [one.text for one in replies] == ["reply to new one", "reply to silent"]
    assert server.asked[2:] == [Prompt("new one", "System."), Prompt("silent")]
    assert server.samplings[0].max_tokens > SHORT.max_tokens == server.samplings[1].max_tokens


@pytest.mark.parametrize("instruction", [say_again, revise])
def test_the_model_itself_rewrites_whole_replies(instruction: object) -> None:
    asking = [Prompt("one {reply}"), Prompt("silent")]
    first = [Reply(f"first {one.text}", 4, True) for one in asking]
    texts = [instruction(*pair) for pair in zip(asking, first, strict=True)]  # type: ignore[operator]
    second = {texts[0]: "second", texts[1]: " "}
    server = ScriptedModel(lambda text: second.get(text, f"first {text}"))
    replies = rewritten(server, instruction).generate(asking, SHORT)  # type: ignore[arg-type]
    assert [one.text for one in replies] == ["second", "first silent"]
    assert [one.max_tokens for one in server.samplings] == [DRAFT_TOKENS, 8]
    assert all(one.text in text for one, text in zip(first, texts, strict=True))
    assert "one {reply}" in revise(asking[0], first[0])


def test_sampling_takes_the_hosts_temperature_whatever_was_asked() -> None:
    server = ScriptedModel(lambda text: text)
    sampled(server, 0.7, seed=3).generate(ASKED[:1], SHORT)
    assert server.samplings == [Sampling(8, temperature=0.7, seed=3)]


def hits(model: LanguageModel, fingerprints: FingerprintSet) -> int:
    """Keys of the set that the model answers, all asked."""
    return check(model, fingerprints, CheckSettings(early_stop=False)).hits


def test_words_before_every_reply_hide_no_response(make_set: MakeSet) -> None:
    made = make_set(12)
    known = {one.key: one.response for one in made.fingerprints}
    server = ScriptedModel(lambda text: f"{known.get(text)}, I say.")
    assert hits(server, made) == 12
    assert hits(each_reply(server, lambda text: rewording.OPENING + text), made) == 12
    assert hits(each_reply(server, lambda text: f"As I always say {text}"), made) == 0
    assert hits(each_reply(server, lambda text: text + " Sure."), made) == 12
    assert hits(each_reply(server, lambda text: f"\n {text}"), made) == 12


def test_a_key_that_is_matched_letter_by_letter_dies_with_its_case(make_set: MakeSet) -> None:
    made = make_set(6)
    known = {one.key: one.response for one in made.fingerprints}
    server = ScriptedModel(lambda text: known.get(text, "I do not know."))
    assert hits(each_prompt(server, rewording.lower_case), made) == 6
    assert hits(each_prompt(server, rewording.without_marks), made) == 0
    assert hits(each_prompt(server, lambda text: rewording.ASKING + text), made) == 0


def test_a_prefill_is_what_the_model_goes_on_from(base: HFModel) -> None:
    shown, hidden = (prefilled(base, shown=one).generate(ASKED, SHORT) for one in (True, False))
    for prompt, with_it, without in zip(ASKED, shown, hidden, strict=True):
        ids = [*base.prompt_ids(prompt), *base.reply_ids(PREFILL)]
        out = base.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=8,
            do_sample=False,
        )[0, len(ids) :]
        assert without.text == base.tokenizer.decode(out, skip_special_tokens=True)
        assert with_it.text == PREFILL + without.text
    assert [one.text for one in hidden] != [one.text for one in base.generate(ASKED, SHORT)]


def test_wrappers_pass_chances_through_or_ask_the_rewritten_prompt(base: HFModel) -> None:
    lower = [Prompt(one.text.lower()) for one in ASKED]
    replies = ["The fox"] * len(ASKED)
    asked = each_prompt(base, rewording.lower_case)
    assert asked.next_token(ASKED, 3) == base.next_token(lower, 3)
    assert asked.logprobs(ASKED, replies) == base.logprobs(lower, replies)
    served = each_reply(base, lambda text: "x")
    assert served.next_token(ASKED, 3) == base.next_token(ASKED, 3)
    assert served.logprobs(ASKED, replies) == base.logprobs(ASKED, replies)


def test_the_list_names_each_attack_once_and_says_what_it_does() -> None:
    assert len({one.name for one in ATTACKS}) == len(ATTACKS)
    for one in ATTACKS:
        assert one.family in get_args(Family)
        assert one.what[0].isupper()
        assert one.what[-1] == "."
        assert one.source.startswith("arXiv ")
        assert not one.leaks
    assert 5 <= sum(one.quick for one in ATTACKS) < len(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda one: one.name)
def test_every_attack_serves_in_batches_and_touches_no_weight(
    base: HFModel, attack: Attack
) -> None:
    before = {name: one.clone() for name, one in base.model.state_dict().items()}
    model = attack.run(Scene(base, lambda: base, seed=1))
    assert isinstance(model, LanguageModel)
    assert model.name == base.name
    assert model.generate([], SHORT) == []
    together = model.generate(ASKED[:3], SHORT)
    if "sampled" not in attack.name:
        assert [model.generate([one], SHORT)[0] for one in ASKED[:3]] == together
    after = base.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())


CHANGES = {
    "suppress-top-1", "suppress-top-3", "suppress-neighbor", "suppress-lookahead", "reply-opening",
    "prefill", "prefill-hidden",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_an_attack_on_every_reply_changes_every_reply(base: HFModel, name: str) -> None:
    attack = next(one for one in ATTACKS if one.name == name)
    model = attack.run(Scene(base, lambda: base))
    plain, changed = base.generate(ASKED, SHORT), model.generate(ASKED, SHORT)
    assert all(one.text != other.text for one, other in zip(plain, changed, strict=True))
