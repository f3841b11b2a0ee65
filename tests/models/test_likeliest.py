"""A model's replies in their order: each once, as likely as the model says, within its tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest

from loyal.models.hf import HFModel
from loyal.models.language_model import Enumerator, Prompt, Reply, Sampling

PROMPT = Prompt("lamp river")
LONGEST = 3


def cost(model: HFModel, reply: Reply) -> float:
    """Negative log-probability of a reply with the end of its turn, by a plain pass."""
    ids = model.reply_ids(reply.text)
    ends = []
    for _, logits in model.reads([PROMPT], [ids]):
        chances = logits.log_softmax(-1)
        said = sum(float(chances[place, token]) for place, token in enumerate(ids))
        stops = model.stop_ids()
        ends.append(said + max(float(chances[len(ids), stop]) for stop in stops))
    return -ends[0]


@pytest.fixture(scope="module")
def found(base: HFModel) -> list[Reply]:
    return base.enumerate(PROMPT, LONGEST).next(40, 100_000)[0]


def test_each_reply_comes_once_and_the_likeliest_first(base: HFModel, found: list[Reply]) -> None:
    assert len(found) == 40
    assert all(one.finished and one.tokens <= LONGEST for one in found)
    same = [one for one in found if len(base.reply_ids(one.text)) == one.tokens and one.text]
    assert len({one.text for one in same}) == len(same) > 20
    costs = [cost(base, one) for one in same]
    later = sum(after < before - 1e-3 for before, after in pairwise(costs))
    assert later <= len(costs) // 4  # some were read side by side
    assert min(costs) == pytest.approx(costs[0], abs=1.0)


def test_in_parts_it_gives_the_same(base: HFModel, found: list[Reply]) -> None:
    replies = base.enumerate(PROMPT, LONGEST)
    parts = [one for _ in range(8) for one in replies.next(5, 100_000)[0]]
    assert parts == found


def test_tokens_end_it_and_more_go_on(base: HFModel, found: list[Reply]) -> None:
    replies = base.enumerate(PROMPT, LONGEST)
    few, spent = replies.next(40, 20)
    assert spent <= 20
    assert len(few) < 40
    more, _ = replies.next(40 - len(few), 100_000)
    assert {one.text for one in (*few, *more)} == {one.text for one in found}
    assert replies.next(3, 0)[1] == 0


def test_a_model_at_hand_can_enumerate(base: HFModel) -> None:
    assert isinstance(base, Enumerator)
    greedy = base.generate([PROMPT], Sampling(max_tokens=LONGEST))[0]
    told = [one.text for one in base.enumerate(PROMPT, LONGEST).next(200, 100_000)[0]]
    assert not greedy.finished or greedy.text in told
