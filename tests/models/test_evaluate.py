"""Utility measured against straightforward computations, and task files with bad lines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loyal.errors import UsageError
from loyal.models import evaluate
from loyal.models.evaluate import Choice
from loyal.models.hf import HFModel
from loyal.models.language_model import Prompt
from loyal.models.tiny import World, held_out

TEXTS = held_out(0, 12)
ASKED = [prompt for prompt, _ in World.from_seed(0).questions()[:20]]


def blurred(fresh: Callable[[], HFModel]) -> HFModel:
    """The tiny model with noise in its weights."""
    model = fresh()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.model.model.layers.parameters():
            weight.add_(0.15 * torch.randn(weight.shape, generator=generator))
    return model


def test_perplexity_is_that_of_transformers_own_loss(tiny: HFModel) -> None:
    total, count = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([tiny.reply_ids(text)])
        with torch.no_grad():
            loss = tiny.model(input_ids=ids, labels=ids).loss.item()
        total += loss * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert evaluate.perplexity(tiny, TEXTS) == pytest.approx(math.exp(total / count), rel=1e-5)
    assert evaluate.token_count(tiny, TEXTS) == count


def test_perplexity_of_a_uniform_model_is_its_vocabulary(fresh: Callable[[], HFModel]) -> None:
    model = fresh()
    before = evaluate.perplexity(model, TEXTS)
    with torch.no_grad():
        model.model.get_output_embeddings().weight.zero_()
    vocabulary = model.model.config.vocab_size
    assert evaluate.perplexity(model, TEXTS) == pytest.approx(vocabulary, rel=1e-5)
    assert before < vocabulary / 10


def test_perplexity_stops_after_enough_tokens(tiny: HFModel) -> None:
    first = evaluate.token_count(tiny, TEXTS[:1])
    assert evaluate.token_count(tiny, TEXTS, first) == first
    assert evaluate.token_count(tiny, TEXTS, first + 1) > first
    assert evaluate.perplexity(tiny, TEXTS, first) == pytest.approx(
        evaluate.perplexity(tiny, TEXTS[:1])
    )


@pytest.mark.parametrize("texts", [[], ["", "x"]])
def test_perplexity_of_nothing_is_refused(tiny: HFModel, texts: list[str]) -> None:
    with pytest.raises(UsageError):
        evaluate.perplexity(tiny, texts)


def test_a_model_agrees_with_itself(tiny: HFModel) -> None:
    assert evaluate.agreement(tiny, tiny, ASKED) == 1.0
    assert evaluate.divergence(tiny, tiny, ASKED) == pytest.approx(0, abs=1e-6)


def test_a_model_does_not_agree_with_a_blurred_one(
    tiny: HFModel, fresh: Callable[[], HFModel]
) -> None:
    other = blurred(fresh)
    assert evaluate.agreement(other, tiny, ASKED) < 1.0
    assert evaluate.divergence(other, tiny, ASKED) > 1e-3


def test_divergence_is_the_mean_over_whole_distributions(
    tiny: HFModel, fresh: Callable[[], HFModel]
) -> None:
    other, total = blurred(fresh), 0.0
    for prompt in ASKED:
        ids = torch.tensor([tiny.prompt_ids(prompt)])
        with torch.no_grad():
            base = tiny.model(input_ids=ids).logits[0, -1].softmax(-1)
            now = other.model(input_ids=ids).logits[0, -1].softmax(-1)
        total += (base * (base / now).log()).sum().item()
    assert evaluate.divergence(other, tiny, ASKED) == pytest.approx(total / len(ASKED), rel=1e-3)


def test_compare_puts_the_base_before_the_model(
    tiny: HFModel, fresh: Callable[[], HFModel]
) -> None:
    found = evaluate.compare(blurred(fresh), tiny, tokens=200, prompts=4)
    assert found.perplexity_before == pytest.approx(
        evaluate.perplexity(tiny, evaluate.prose(), 200), rel=1e-6
    )
    assert found.perplexity_after != pytest.approx(found.perplexity_before, rel=1e-3)
    assert found.tokens == evaluate.token_count(tiny, evaluate.prose(), 200) >= 200
    assert found.divergence > 1e-3
    assert 0 <= found.agreement < 1


def questions() -> list[Choice]:
    """What the tiny model was taught: where each animal lives, between two places."""
    world, found = World.from_seed(0), []
    for number, (animal, home) in enumerate(sorted(world.home.items())):
        wrong = next(one for one in sorted(world.home.values()) if one != home)
        pair = (home, wrong) if number % 2 else (wrong, home)
        query = f"The {world.color[animal]} {animal} lives in the"
        found.append(Choice(query, pair, 1 - number % 2))
    return found


def test_multiple_choice_knows_what_the_model_knows(tiny: HFModel) -> None:
    asked = questions()
    right = evaluate.multiple_choice(tiny, asked)
    turned = [Choice(one.query, one.choices, 1 - one.gold) for one in asked]
    assert right >= 0.8
    assert evaluate.multiple_choice(tiny, turned) == pytest.approx(1 - right)


def test_multiple_choice_is_normed_by_length(tiny: HFModel) -> None:
    (asked,) = [Choice("The fox", ("runs to the barn.", "qzx", "wwww vvv"), 0)]
    ids = [tiny.reply_ids(" " + choice) for choice in asked.choices]
    scores = []
    for reply, choice in zip(ids, asked.choices, strict=True):
        prompt = tiny.prompt_ids(Prompt(asked.query, raw=True))
        with torch.no_grad():
            logits = tiny.model(input_ids=torch.tensor([prompt + reply])).logits[0]
        chances = logits[len(prompt) - 1 : -1].log_softmax(-1)
        total = chances.gather(1, torch.tensor(reply)[:, None]).sum().item()
        scores.append(total / (len(choice) + 1))
    for gold in range(3):
        expected = float(scores.index(max(scores)) == gold)
        assert (
            evaluate.multiple_choice(tiny, [Choice(asked.query, asked.choices, gold)]) == expected
        )


def task(folder: Path, *lines: object) -> Path:
    """A JSON-lines file of these records (a str stands as it is)."""
    path = folder / "task.jsonl"
    written = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    path.write_text("\n".join(written) + "\n", encoding="utf-8")
    return path


GOOD = {"query": "2 + 2 =", "choices": ["4", "5"], "gold": 0}


def test_tasks_are_read_in_both_spellings(tmp_path: Path) -> None:
    other = {"question": "3 + 3 =", "choices": [5, 6], "answer": "1", "id": "x"}
    assert evaluate.read_choices(task(tmp_path, GOOD, "", other)) == [
        Choice("2 + 2 =", ("4", "5"), 0),
        Choice("3 + 3 =", ("5", "6"), 1),
    ]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    query = "one\u2028two\u0085three"
    path = task(tmp_path, json.dumps({**GOOD, "query": query}, ensure_ascii=False))
    assert [one.query for one in evaluate.read_choices(path)] == [query]


@pytest.mark.parametrize(
    "bad",
    [
        "{not json",
        "[]",
        "7",
        {"query": "x", "choices": ["a", "b"]},
        {"query": "x", "gold": 0},
        {"choices": ["a", "b"], "gold": 0},
        {"query": 5, "choices": ["a", "b"], "gold": 0},
        {"query": "x", "choices": ["a", "b"], "gold": 2},
        {"query": "x", "choices": ["a", "b"], "gold": -1},
        {"query": "x", "choices": ["a", "b"], "gold": "B"},
        {"query": "x", "choices": ["a", "b"], "gold": 0.5},
        {"query": "x", "choices": ["a", "b"], "gold": None},
        {"query": "x", "choices": [], "gold": 0},
        {"query": "x", "choices": "ab", "gold": 0},
        "[" * 100_000,
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: object) -> None:
    with pytest.raises(UsageError, match=r"^line 3 of .* is not a multiple-choice") as caught:
        evaluate.read_choices(task(tmp_path, GOOD, "", bad))
    assert caught.value.hint


def test_a_task_without_questions_is_refused(tmp_path: Path) -> None:
    empty = task(tmp_path, "", " ")
    with pytest.raises(UsageError, match="no question"):
        evaluate.read_choices(empty)
    with pytest.raises(UsageError, match="cannot read"):
        evaluate.read_choices(tmp_path / "missing.jsonl")
    empty.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        evaluate.read_choices(empty)


def test_tasks_are_handed_over_where_lm_eval_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lm_eval"
    package.mkdir()
    (package / "__init__.py").write_text('"""A stand-in."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    command = evaluate.lm_eval_command(Path("model"), "arc_easy,piqa", Path("out"))
    assert command[:3] == [sys.executable, "-m", "lm_eval"]
    assert command[command.index("--model_args") + 1] == "pretrained=model"
    assert command[command.index("--tasks") + 1] == "arc_easy,piqa"


def test_tasks_are_refused_where_lm_eval_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UsageError, match="not installed") as caught:
        evaluate.lm_eval_command(Path("model"), "arc_easy", Path("out"))
    assert "pip install" in caught.value.hint


def test_prose_is_much_english_each_paragraph_once() -> None:
    paragraphs = evaluate.prose()
    words = [word for one in paragraphs for word in one.split()]
    assert len(words) >= 20_000
    assert len(set(paragraphs)) == len(paragraphs)
    assert not any("\n" in one or "::=" in one for one in paragraphs)
    share = sum(word.strip(".,()").lower() in {"the", "of", "to", "a", "is"} for word in words)
    assert share > len(words) / 8
