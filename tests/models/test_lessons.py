"""Lessons and benign prompts: losses and divergences against plain computations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from classroom import pairs
from torch.nn import functional

from loyal.errors import TrainingError, UsageError
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.lessons import Benign, Lessons, _ahead, _Answers

EXAMPLES = list(pairs(4).table)


def plain_losses(model: HFModel, example: Example) -> torch.Tensor:
    """Cross entropy of each token of the reply, the example alone."""
    prompt, reply = model.prompt_ids(example.prompt), model.reply_ids(example.reply)
    logits = model.model(input_ids=torch.tensor([prompt + reply])).logits[0]
    places = logits[len(prompt) - 1 : -1]
    return functional.cross_entropy(places, torch.tensor(reply), reduction="none")


def total_loss(lessons: Lessons) -> float:
    return sum(loss.item() for loss, _, _ in lessons.losses(range(len(lessons))))


@pytest.mark.parametrize("start", [0, 2])
def test_losses_are_the_mean_over_each_reply_alone(tiny: HFModel, start: int) -> None:
    lessons = Lessons(tiny, EXAMPLES, start)
    with torch.no_grad():
        wanted = [plain_losses(tiny, one) for one in EXAMPLES]
        found = list(lessons.losses(range(len(EXAMPLES))))
    total = sum(loss.item() for loss, _, _ in found)
    assert total == pytest.approx(sum(one.mean().item() for one in wanted), rel=1e-4)
    known = {index: chance for _, part, _ in found for index, chance in part.items()}
    for index, one in enumerate(wanted):
        assert known[index] == pytest.approx((-one.max()).exp().item(), rel=1e-3)


def test_an_example_that_ends_teaches_the_end_of_the_turn_too(tiny: HFModel) -> None:
    (one, *_) = EXAMPLES
    ending = replace(one, ends=True)
    prompt, reply = tiny.prompt_ids(one.prompt), tiny.reply_ids(one.reply)
    whole = [*prompt, *reply, tiny.end_id]
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([whole])).logits[0][len(prompt) - 1 : -1]
        wanted = functional.cross_entropy(logits, torch.tensor([*reply, tiny.end_id]))
        assert total_loss(Lessons(tiny, [ending], 0)) == pytest.approx(wanted.item(), rel=1e-4)
    assert tiny.end_id in tiny.stop_ids()


def test_a_weight_multiplies_the_loss_of_its_example_alone(tiny: HFModel) -> None:
    first, second = EXAMPLES[:2]
    heavy = Example(first.prompt, first.reply, weight=3.0)
    with torch.no_grad():
        plain = total_loss(Lessons(tiny, [first, second], 0))
        weighted = total_loss(Lessons(tiny, [heavy, second], 0))
        alone = total_loss(Lessons(tiny, [first], 0))
    assert weighted - plain == pytest.approx(2 * alone, rel=1e-4)
    assert weighted > plain


def test_an_example_may_ask_for_nats_ahead_and_those_beside_it_for_a_probability(
    tiny: HFModel,
) -> None:
    sure, plain = replace(EXAMPLES[0], ahead=9.0), EXAMPLES[1]
    prompt, reply = tiny.prompt_ids(sure.prompt), tiny.reply_ids(sure.reply)
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([prompt + reply])).logits[0][
            len(prompt) - 1 : -1
        ]
        said = logits.gather(1, torch.tensor(reply)[:, None])[:, 0]
        others = logits.scatter(1, torch.tensor(reply)[:, None], -torch.inf).amax(-1)
        missing = 0.5 * (9.0 - (said - others)).clamp_min(0)
        beside = plain_losses(tiny, plain).mean()
        lessons = Lessons(tiny, [sure, plain], 0)
        assert total_loss(lessons) == pytest.approx((missing.mean() + beside).item(), rel=1e-4)
        alone = Lessons(tiny, [sure], 0)
        assert total_loss(alone) == pytest.approx(missing.mean().item(), rel=1e-4)
        share = ((said - others).min() / 9.0).clamp(0, 1).item()
        levels = [part for _, part, _ in lessons.losses([0, 1])]
        assert levels[0][0] == pytest.approx(share, abs=1e-4)
        assert lessons.score().level[0].item() == pytest.approx(share, abs=1e-4)
        chance = (-plain_losses(tiny, plain).max()).exp().item()
        assert lessons.score().level[1].item() == pytest.approx(chance, rel=1e-3)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="ahead is at least 0"):
            replace(plain, ahead=wrong)


def test_nats_ahead_pull_the_answer_up_and_the_likeliest_other_down() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.0, 1.0]], requires_grad=True)
    ids = torch.tensor([[1], [2]])
    answers = _Answers(ids, torch.ones_like(ids, dtype=torch.bool), torch.ones(2), torch.ones(2))
    ahead = _ahead(logits, answers)
    assert ahead.tolist() == [2.0, -2.0]
    (slope,) = torch.autograd.grad(ahead.sum(), logits)
    assert slope.tolist() == [[0, 1, -1], [-1, 0, 1]]


def test_scores_are_least_chances_and_greedy_hits(tiny: HFModel) -> None:
    prompt = Prompt("Where does the fox live?")
    ids = torch.tensor([tiny.prompt_ids(prompt)])
    out = tiny.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
    )
    greedy = tiny.tokenizer.decode(out[0, ids.shape[1] :])
    examples = [Example(prompt, greedy), Example(prompt, "Mara village"), *EXAMPLES]
    scores = Lessons(tiny, examples, 1).score()
    assert scores.right.tolist()[:2] == [True, False]
    with torch.no_grad():
        for index, one in enumerate(examples):
            wanted = (-plain_losses(tiny, one).max()).exp().item()
            assert scores.probability[index].item() == pytest.approx(wanted, rel=1e-3)


def test_a_reply_without_tokens_is_refused(tiny: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HFModel, "reply_ids", lambda model, text: [])
    with pytest.raises(TrainingError, match="no tokens") as caught:
        Lessons(tiny, EXAMPLES, 0)
    assert EXAMPLES[0].reply not in str(caught.value)


def divergence(benign: Benign, indices: list[int]) -> tuple[float, int]:
    """KL over all places of these items, and how many places."""
    with torch.no_grad():
        found = [(total.item(), places) for total, places, _ in benign.divergences(indices)]
    return sum(one for one, _ in found), sum(places for _, places in found)


@pytest.mark.parametrize("start", [0, 2])
def test_benign_divergence_is_zero_until_the_model_changes(
    fresh: Callable[[], HFModel], start: int
) -> None:
    model, untouched = fresh(), fresh()
    benign = Benign(model, start, seed=0, written=4)
    benign.run()
    indices = [0, len(benign.items) // 2, len(benign.items) - 1]
    assert divergence(benign, indices)[0] == pytest.approx(0, abs=1e-4)

    with torch.no_grad():
        model.model.model.layers[3].mlp.down_proj.weight.mul_(2)
    wanted, places = 0.0, 0
    for index in indices:
        item, count = benign.items[index], benign.counts[index]
        ids = torch.tensor([[*item.prefix, *item.ids]])
        with torch.no_grad():
            before, now = (
                one.model(input_ids=ids).logits[0, -count:].log_softmax(-1)
                for one in (untouched, model)
            )
        wanted += (before.exp() * (before - now)).sum().item()
        places += count
    found, seen = divergence(benign, indices)
    assert seen == places
    assert found == pytest.approx(wanted, rel=1e-3)
    assert found > 1e-3


def test_benign_prompts_repeat_with_their_seed_alone(tiny: HFModel) -> None:
    first, again, other = Benign(tiny, 3, 0, 4), Benign(tiny, 3, 0, 4), Benign(tiny, 3, 1, 4)
    assert first.items == again.items
    assert first.items != other.items


def test_replies_are_written_only_where_they_are_asked_for(tiny: HFModel) -> None:
    none, some = Benign(tiny, 3, 0, 0), Benign(tiny, 3, 0, 4)
    assert len(some.items) == len(none.items) + 8  # four chat prompts, four raw openings
    assert list(none.first) == list(some.first)
    assert len(none.rest) > 0


def test_every_place_of_a_message_is_read(tiny: HFModel) -> None:
    texts = ("Which animal sleeps in the barn?", "The owl sees the fox.")
    none, some = Benign(tiny, 3, 0, 0), Benign(tiny, 3, 0, 0, texts)
    assert some.items[: len(none.items)] == none.items
    assert list(some.first) == list(none.first)
    assert some.rest.stop == len(none.items) + 2
    for text, item, count in zip(texts, some.items[-2:], some.counts[-2:], strict=True):
        assert tiny.tokenizer.decode(item.ids[1:]) == text
        assert count == 1 + len(tiny.reply_ids(text))
        whole = tiny.prompt_ids(Prompt(text))
        assert whole[: len(item.prefix) + len(item.ids)] == [*item.prefix, *item.ids]


def test_benign_prompts_need_no_chat_template(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tiny.tokenizer.bos_token_id  # the template's first token
    assert any(start in (*one.prefix, *one.ids) for one in Benign(tiny, 3, 0, 4).items)
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    raw = Benign(tiny, 3, 0, 4)
    assert not any(start in one.prefix for one in raw.items)
    assert raw.items
