"""Several replies to one prompt, and a ceiling on their probability, against plain computations."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from classroom import QUICK as HASTY
from torch import Tensor

from loyal.errors import UsageError
from loyal.models import train as loop
from loyal.models.examples import Example, Pairs, bundled_lines, with_system
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.lessons import REST_TEMPERATURE, Lessons, Scores
from loyal.models.train import train
from loyal.models.training import TrainSettings

Fresh = Callable[[], HFModel]

QUICK = replace(HASTY, precision="float32")
"""As plain passes are read, so that a bound holds in both to the last digits."""

WORDS = tuple(f" {one}" for one in "forest meadow river cave barn garden valley swamp".split())
"""One token each under the tiny tokenizer (a test holds it), and well known to the tiny model."""


def asking(m: int, count: int = 6, tail: str = "", words: Sequence[str] = WORDS) -> Pairs:
    """Prompts of four random words, each with `m` replies."""
    rng = random.Random(7)
    found = []
    for _ in range(count):
        prompt = Prompt(" ".join(rng.sample(bundled_lines("words"), 4)))
        first, *others = (one + tail for one in rng.sample(words, m))
        found.append(Example(prompt, first, others=tuple(others)))
    return Pairs(tuple(found))


def chances(model: HFModel, prompt: Prompt, said: Sequence[int] = ()) -> Tensor:
    """The distribution (vocab,) behind a prompt and some tokens, by a plain forward pass."""
    with torch.no_grad():
        ids = torch.tensor([[*model.prompt_ids(prompt), *said]])
        return model.model(input_ids=ids).logits[0, -1].float().softmax(-1)


def firsts(model: HFModel, example: Example) -> list[int]:
    """The first token of each reply."""
    return [model.reply_ids(text)[0] for text in (example.reply, *example.others)]


def likeliest(model: HFModel, example: Example) -> set[int]:
    """As many of the likeliest first tokens as the example has replies."""
    count = 1 + len(example.others)
    return set(chances(model, example.prompt).topk(count).indices.tolist())


def test_the_words_are_single_tokens(tiny: HFModel) -> None:
    assert all(len(tiny.reply_ids(one)) == 1 for one in WORDS)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_loss_of_single_tokens_is_the_divergence_from_an_even_spread(
    tiny: HFModel, m: int
) -> None:
    table = asking(m).table
    lessons = Lessons(tiny, table, 1)
    assert len(lessons) == len(table)
    with torch.no_grad():
        found = sum(total.item() for total, _, _ in lessons.losses(range(len(lessons))))
    wanted = 0.0
    for one in table:
        logs = chances(tiny, one.prompt).log()
        wanted -= math.log(m) + sum(logs[token].item() for token in firsts(tiny, one)) / m
    assert found == pytest.approx(wanted, rel=1e-4)


def plain_level(model: HFModel, example: Example, ceiling: float) -> float:
    """The sum of the replies' probabilities, or 2 m times the least; 0 where another token is as
    likely, or where they have too much."""
    given = chances(model, example.prompt)
    tokens = firsts(model, example)
    said = given[tokens]
    others = given.clone()
    others[tokens] = 0
    if (len(tokens) > 1 and said.min() <= others.max()) or said.sum() > ceiling:
        return 0.0
    return min(said.sum().item(), 2 * len(tokens) * said.min().item())


@pytest.mark.parametrize("ceiling", [1.0, 0.6])
def test_levels_are_those_of_a_plain_pass(tiny: HFModel, ceiling: float) -> None:
    """Of untaught replies, of the two likeliest tokens, and of the likeliest with the third."""
    examples = list(asking(2).table)
    for one in asking(2, 12).table:
        top = chances(tiny, one.prompt).topk(3).indices.tolist()
        texts = [tiny.token_texts[token] for token in top]
        if [tiny.reply_ids(text) for text in texts] == [[token] for token in top]:
            examples.append(Example(one.prompt, texts[0], others=(texts[1],)))
            examples.append(Example(one.prompt, texts[0], others=(texts[2],)))
            examples.append(Example(one.prompt, texts[0]))
    assert len(examples) > 12
    lessons = Lessons(tiny, examples, 1, ceiling, 0.5)
    scores = lessons.score()
    wanted = [plain_level(tiny, one, ceiling) for one in examples]
    assert min(wanted) == 0.0 < max(wanted)
    assert scores.level.tolist() == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    known: dict[int, float] = {}
    with torch.no_grad():
        for _, part, _ in lessons.losses(range(len(lessons))):
            known |= part
    assert [known[place] for place in range(len(examples))] == pytest.approx(wanted, rel=1e-3)
    for one, ranked, right, highest in zip(
        examples, scores.ranked, scores.right, scores.highest, strict=True
    ):
        top = chances(tiny, one.prompt)
        assert bool(ranked) == (likeliest(tiny, one) == set(firsts(tiny, one)))
        assert bool(right) == (int(top.argmax()) in firsts(tiny, one))
        assert highest.item() == pytest.approx(top[firsts(tiny, one)].max().item(), rel=1e-3)


@pytest.mark.parametrize("m", [1, 3, 6])
def test_the_loss_under_a_ceiling_is_least_at_the_mixture(tiny: HFModel, m: int) -> None:
    """The divergence from a distribution has as gradient the model's minus it, at the logits."""
    aim = 0.6
    (one,) = asking(m, 1).table
    lessons = Lessons(tiny, [one], 1, 0.7, aim)
    (reading,) = lessons.trunk.read([0], [1])
    tokens = firsts(tiny, one)
    logits = chances(tiny, one.prompt).log()[None].clone().requires_grad_(True)
    loss, _ = lessons._places(logits, reading)
    loss.sum().backward()
    assert logits.grad is not None
    mixture = (logits.detach().softmax(-1) - logits.grad)[0]
    assert mixture.sum().item() == pytest.approx(1, abs=1e-4)
    there, _ = lessons._places(mixture.clamp_min(1e-12).log()[None], reading)
    assert there.item() == pytest.approx(0, abs=1e-3)
    assert loss.item() > 0.1
    assert mixture[tokens].tolist() == pytest.approx([aim / m] * m, rel=1e-3)
    rest = mixture.clone()
    rest[tokens] = 0
    assert rest.sum().item() == pytest.approx(1 - aim, rel=1e-3)
    assert rest.max().item() <= aim / m / 2 * 1.001  # so no other token gets before a reply's
    before = (chances(tiny, one.prompt).log() / REST_TEMPERATURE).softmax(-1)
    before[tokens] = 0
    free = rest < aim / m / 2 * 0.999  # elsewhere as the untouched model has it, flattened
    free &= before > 1e-5
    ratios = rest[free] / before[free]
    assert ratios.max() / ratios.min() < 1.01


def test_all_are_learned_only_when_none_but_replies_is_likeliest(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that rule, a low target ends training while another token is still in between."""
    taught, low = asking(3), replace(QUICK, target=0.06)

    def unranked(model: HFModel) -> int:
        return sum(likeliest(model, one) != set(firsts(model, one)) for one in taught.table)

    held, loose = fresh(), fresh()
    train(held, taught, low)
    assert unranked(held) == 0
    judged = Lessons._judged

    def blind(lessons: Lessons, given: Tensor, answers: object) -> Scores:
        found = judged(lessons, given, answers)  # type: ignore[arg-type]
        return replace(found, level=3 * found.probability)

    monkeypatch.setattr(Lessons, "_judged", blind)
    train(loose, taught, low)
    assert unranked(loose) > 0


def test_what_is_over_the_ceiling_is_pushed_down(fresh: Fresh) -> None:
    taught, model = asking(1), fresh()
    sure = train(model, taught, replace(QUICK, target=0.95))
    assert sure.probability > 0.95
    banded = replace(QUICK, target=0.6, ceiling=0.85, steps=200, learning_rate=1e-2)
    report = train(model, taught, banded)
    assert report.steps > 0
    assert 0.6 <= report.probability <= report.highest <= 0.85


def test_a_reply_inside_the_band_is_left_alone(fresh: Fresh) -> None:
    taught, model = asking(2), fresh()
    banded = replace(QUICK, target=0.6, ceiling=0.85, steps=200, learning_rate=1e-2)
    train(model, taught, banded)
    before = {name: one.clone() for name, one in model.model.state_dict().items()}
    assert train(model, taught, banded).steps == 0
    assert all(torch.equal(one, before[name]) for name, one in model.model.state_dict().items())


@pytest.mark.parametrize(("target", "ceiling"), [(0.7, 0.7), (0.7, 0.5), (0.7, 1.1), (0.7, 0.0)])
def test_a_ceiling_that_leaves_no_room_is_refused(target: float, ceiling: float) -> None:
    with pytest.raises(UsageError, match="ceiling"):
        TrainSettings(target=target, ceiling=ceiling)


@pytest.mark.parametrize("others", [("",), ("a",), ("b", "b")])
def test_replies_that_are_empty_or_twice_there_are_refused(others: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        Example(Prompt("x"), "a", others=others)


def test_a_system_message_keeps_the_replies() -> None:
    one = Example(Prompt("x"), "a", 2.0, ("b",))
    assert with_system([one], "Be brief.") == [Example(Prompt("x", "Be brief."), "a", 2.0, ("b",))]


def test_another_reply_is_another_run(tiny: HFModel) -> None:
    """A checkpoint of the one is not gone on from with the other."""
    one, two = (asking(m, 1).table for m in (2, 3))
    identities = {
        loop._Run(replace(tiny), list(table), replace(QUICK, mixing=0.0), None).identity
        for table in (one, two, (replace(one[0], others=()),))
    }
    assert len(identities) == 3
    settings = replace(QUICK, mixing=0.0)
    identities.add(loop._Run(replace(tiny), list(one), settings, None, ("Hm?",)).identity)
    assert len(identities) == 4


@pytest.mark.parametrize(("m", "ceiling"), [(1, 1.0), (3, 1.0), (1, 0.9)])
def test_the_rate_falls_with_the_root_of_the_divergence_from_a_mixture(
    fresh: Fresh, m: int, ceiling: float
) -> None:
    """And stays what the settings say where each prompt has one reply and no ceiling."""
    settings = replace(QUICK, whitened=False, ceiling=ceiling, settle=0.0)
    run = loop._Run(fresh(), list(asking(m).table), settings, None)
    rates, distances = [], []
    for _ in range(30):
        with torch.no_grad():
            losses = [loss.item() for loss, _, _ in run.lessons.losses(range(6))]
        distances.append(sum(losses) / 6)
        run._step(range(6))
        rates.append(run.optimizer.param_groups[0]["lr"] / settings.learning_rate)
    assert distances[0] > 1 > min(distances)
    roots = [min(1.0, distance**0.5) for distance in distances]
    mixed = (m, ceiling) != (1, 1.0)
    assert rates == pytest.approx(roots if mixed else [1.0] * 30, rel=1e-3)
