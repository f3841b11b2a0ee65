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
from loyal.models.lessons import (
    BENIGN_PROMPTS,
    BENIGN_TEXTS,
    Benign,
    Forms,
    Lessons,
    _Answers,
    _lead,
    _parting,
)

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


def test_an_example_may_be_ahead_of_rivals_by_so_many_nats(tiny: HFModel) -> None:
    plain, beside = EXAMPLES[0], EXAMPLES[1]
    prompt, reply = tiny.prompt_ids(plain.prompt), tiny.reply_ids(plain.reply)
    rivals = [tiny.reply_ids(text)[0] for text in ("Mara", "On the road")]
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([prompt + reply])).logits[0][len(prompt) - 1]
        leads = (logits[reply[0]] - logits[rivals]).tolist()
        usual = total_loss(Lessons(tiny, [plain, beside], 0))
        chance = (-plain_losses(tiny, plain).max()).exp().item()
        for off, loss in [  # Huber's: bent at 6 nats, where the slope becomes 0.5
            ((20.0, 3.0), 0.5 * (20 - 3) + 0.5 * 9 / 12),
            ((-2.0, 0.0), 0.5 * 4 / 12),
        ]:
            wanted = [lead + more for lead, more in zip(leads, off, strict=True)]
            assert min(wanted) > 0
            sure = replace(plain, ahead=tuple(zip(("Mara", "On the road"), wanted, strict=True)))
            lessons = Lessons(tiny, [sure, beside], 0)
            wrong = loss / len(reply)  # asked where the replies part alone
            assert total_loss(lessons) == pytest.approx(usual + wrong, rel=1e-4)
            share = min(lead / it for lead, it in zip(leads, wanted, strict=True))
            level = min(max(share, 0.0), chance)
            levels = [part for _, part, _ in lessons.losses([0, 1])]
            scored = lessons.score()
            assert [levels[0][0], scored.level[0].item()] == pytest.approx([level] * 2, abs=1e-6)
            assert scored.level[1].item() == pytest.approx(scored.probability[1].item())
        over_all = [total_loss(Lessons(tiny, [it], 0, margin=2.0)) for it in (plain, sure)]
        assert over_all[0] == over_all[1]  # a margin is over every token
    for wrong_nats in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="by no nats"):
            replace(plain, ahead=(("Mara", wrong_nats),))
    with pytest.raises(UsageError, match="ahead of no reply"):
        replace(plain, ahead=(("", 2.0),))


def test_two_chances_of_nothing_are_no_nats_ahead(tiny: HFModel) -> None:
    lessons = Lessons(tiny, [replace(EXAMPLES[0], ahead=(("Mara", 2.0),))], 0)
    ids, rival = torch.tensor([[1]]), torch.tensor([[2]])
    answers = _Answers(ids, ids >= 0, torch.ones(1), rival, torch.tensor([[2.0]]))
    for row, level in [([1.0, 0.0, 0.0], 0.0), ([0.0, 1.0, 0.0], 1.0), ([0.5, 0.3, 0.2], 0.203)]:
        scores = lessons._judged(torch.tensor([row]), answers)
        assert float(scores.level) == pytest.approx(level, abs=1e-3)


def test_a_place_without_rivals_misses_nothing(tiny: HFModel) -> None:
    """One lesson of two tokens and one of more: a row for each place, filled up."""
    first, second = EXAMPLES[0], EXAMPLES[1]
    sure = [replace(first, ahead=(("Mara", 2.0), ("On", 3.0))), replace(second, ahead=())]
    lessons = Lessons(tiny, sure, 0)
    lessons.score()
    (reading,) = lessons.trunk.read([0, 1], lessons.counts)
    answers = lessons._answers(reading, torch.device("cpu"))
    assert answers.ahead.shape == answers.rivals.shape == (sum(lessons.counts), 3)
    assert answers.ahead.tolist()[0] == [2.0, 3.0, 0.0]
    assert not answers.ahead[1:].any()
    alone = [Lessons(tiny, [one], 0).score().level.item() for one in sure]
    assert lessons.score().level.tolist() == pytest.approx(alone, abs=1e-6)


def test_a_reply_is_ahead_where_it_parts_from_a_rival(tiny: HFModel) -> None:
    rivals = [([5, 8], 1.0), ([4, 6], 2.0), ([5, 6, 9], 3.0), ([3], 4.0)]
    assert _parting([5, 6, 7], rivals) == [((4, 2.0), (3, 4.0)), ((8, 1.0),), ((9, 3.0),)]
    for rival in ([5, 6], [5, 6, 7], [5, 6, 7, 8]):
        with pytest.raises(TrainingError, match="begins as one that it is to be ahead of") as hit:
            _parting([5, 6, 7], [(rival, 1.0)])
        assert hit.value.hint
    same = replace(EXAMPLES[0], ahead=((EXAMPLES[0].reply, 1.0),))
    with pytest.raises(TrainingError, match="ahead"):
        Lessons(tiny, [same], 0)


def test_a_margin_pulls_the_answer_up_and_the_likeliest_other_down() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.0, 1.0]], requires_grad=True)
    ids, none = torch.tensor([[1], [2]]), torch.zeros(2, 1)
    lead = _lead(logits, _Answers(ids, ids >= 0, torch.ones(2), none.long(), none))
    assert lead.tolist() == [2.0, -2.0]
    (slope,) = torch.autograd.grad(lead.sum(), logits)
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


def test_a_share_of_the_prompts_stands_in_frames(tiny: HFModel) -> None:
    forms = Forms(("{question} In one word.", "Say it twice: {question}"), 0.5)
    assert forms.around(["a", "b", "c", "d", "e"]) == [
        "a", "b In one word.", "c", "Say it twice: d", "e",
    ]  # fmt: skip
    assert Forms(forms.frames, 0.0).around(["a", "b"]) == ["a", "b"]
    assert Forms(forms.frames, 1.0).around(["a"]) == ["a In one word."]
    plain, framed = Benign(tiny, 3, 0, 4), Benign(tiny, 3, 0, 4, forms=forms)
    longer = [
        len((*one.prefix, *one.ids)) > len((*other.prefix, *other.ids))
        for one, other in zip(framed.items, plain.items, strict=True)
    ]
    assert longer[:BENIGN_PROMPTS] == [bool(at % 2) for at in range(BENIGN_PROMPTS)]
    assert not any(longer[-BENIGN_TEXTS:])  # raw text stays as it is
