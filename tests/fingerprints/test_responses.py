"""Responses: as many candidates as asked for, apart as text, and behind the nucleus."""

from __future__ import annotations

import itertools

import pytest
import torch
from stand_ins import secret_set

from loyal.errors import ModelError, UsageError
from loyal.fingerprints import keys, responses
from loyal.fingerprints.responses import ResponseSettings, first_fitting
from loyal.models.examples import bundled_lines
from loyal.models.language_model import Prompt, Sampling

WIDTH = 16
STRATEGIES = ("perinucleus", "random", "english-random")


@pytest.fixture(scope="module")
def asked() -> tuple[str, ...]:
    """Fixed prompts in place of secret keys."""
    return bundled_lines("prompts")[:24]


def chances(model, key: str) -> torch.Tensor:
    """The first token's distribution (vocab,) by a plain forward pass of this key alone."""
    with torch.inference_mode():
        ids = torch.tensor([model.prompt_ids(Prompt(key))])
        return model.model(ids).logits[0, -1].softmax(-1)


def apart(candidates) -> bool:
    """Whether no candidate is the beginning of another, by comparing all pairs."""
    texts = [one.strip() for one in candidates]
    return all(texts) and not any(a.startswith(b) for a, b in itertools.permutations(texts, 2))


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_candidates_are_counted_apart_and_ordinary_text(base, asked, strategy, tokens) -> None:
    settings = ResponseSettings(strategy, width=WIDTH, tokens=tokens)
    found = responses.generate(base, asked[:8], settings)
    assert len(found) == 8
    for candidates in found:
        assert len(candidates) == WIDTH
        assert apart(candidates)
        for text in candidates:
            assert text.strip().isprintable()
            assert "\ufffd" not in text
            ids = base.reply_ids(text)
            assert 1 <= len(ids) <= tokens
            assert base.tokenizer.decode(ids) == text
            assert not set(ids) & set(base.tokenizer.all_special_ids)
            assert set(ids) <= base.plain_tokens.keys()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 0.95])
def test_candidates_follow_the_nucleus_in_order(base, asked, threshold) -> None:
    settings = ResponseSettings(threshold=threshold, width=WIDTH, precision="float32")
    for key, candidates in zip(asked, responses.generate(base, asked, settings), strict=True):
        plain = chances(base, key)
        ids = [base.reply_ids(text)[0] for text in candidates]
        own = plain[ids]
        passed_over = plain[plain > own[0] * 0.999].double().sum() - own[0]  # near ties counted in
        assert passed_over >= threshold - 1e-4
        assert own.max() <= 1 - threshold + 1e-4
        assert (own[1:] <= own[:-1] * 1.001).all()
        # Nothing that fits was left out: each ordinary token passed over clashes with a chosen one.
        texts = [text.strip() for text in candidates]
        likely = (plain > own[0] * 1.001).nonzero()[:, 0].tolist()
        texts += [base.tokenizer.decode([one]).strip() for one in likely]
        between = ((plain < own[0] * 0.999) & (plain > own[-1] * 1.001)).nonzero()[:, 0].tolist()
        for one in set(between) & base.plain_tokens.keys() - set(ids):
            text = base.plain_tokens[one].strip()
            assert any(text.startswith(old) or old.startswith(text) for old in texts)


def test_no_candidate_begins_what_the_base_would_say(base, asked) -> None:
    """Or the base itself would hit: "W" by "What"."""
    settings = ResponseSettings(width=WIDTH, precision="float32")
    found = responses.generate(base, asked, settings)
    replies = base.generate([Prompt(key) for key in asked], Sampling(max_tokens=1))
    for key, candidates, reply in zip(asked, found, replies, strict=True):
        assert not any(reply.text.lstrip().startswith(one.strip()) for one in candidates)
        plain = chances(base, key)
        first = plain[[base.reply_ids(text)[0] for text in candidates]].max()
        likely = (plain > first * 1.001).nonzero()[:, 0].tolist()
        texts = [base.tokenizer.decode([one]).strip() for one in likely]
        assert texts
        assert not any(text.startswith(one.strip()) for text in texts for one in candidates)


def test_a_key_gets_the_same_candidates_in_any_company(base, asked) -> None:
    settings = ResponseSettings(width=WIDTH, precision="float32")
    told: list[int] = []
    forward = responses.generate(base, asked, settings, told.append)
    backward = responses.generate(base, asked[::-1], settings)[::-1]
    alone = [responses.generate(base, [key], settings)[0] for key in asked]
    assert told == list(range(1, len(asked) + 1))
    for key, one, *others in zip(asked, forward, backward, alone, strict=True):
        plain = chances(base, key)
        for other in others:
            left, right = (
                [plain[base.reply_ids(text)[0]] for text in each] for each in (one, other)
            )
            assert torch.tensor(left).log() == pytest.approx(torch.tensor(right).log(), abs=1e-3)
    assert len(set(forward)) > len(asked) / 2


def test_bfloat16_ranks_about_the_same(base, asked) -> None:
    exact, quick = (
        responses.generate(base, asked, ResponseSettings(width=WIDTH, precision=one))
        for one in ("float32", "bfloat16")
    )
    same = sum(len(set(a) & set(b)) for a, b in zip(exact, quick, strict=True))
    assert 0.6 * WIDTH * len(asked) < same
    assert exact != quick
    assert all(map(apart, quick))


def test_longer_responses_continue_the_first_token_greedily(base, asked) -> None:
    found = responses.generate(base, asked[:6], ResponseSettings(width=4, tokens=3))
    lengths = set()
    for key, candidates in zip(asked[:6], found, strict=True):
        for text in candidates:
            ids = base.reply_ids(text)
            lengths.add(len(ids))
            written = base.prompt_ids(Prompt(key)) + ids[:1]
            for token in ids[1:]:
                with torch.inference_mode():
                    logits = base.model(torch.tensor([written])).logits[0, -1]
                assert logits[token] >= logits.max() - 1e-3
                written.append(token)
    assert 3 in lengths


def test_a_continuation_stops_before_what_is_no_ordinary_text(base) -> None:
    ordinary = base.reply_ids("The fox")
    for bad in (base.tokenizer.eos_token_id, base.tokenizer.convert_tokens_to_ids("<|im_start|>")):
        assert responses._ordinary_start(base, [*ordinary, bad, *ordinary]) == "The fox"
    half = next(one for one in range(len(base.tokenizer)) if base.tokenizer.decode(one) == "\ufffd")
    assert responses._ordinary_start(base, [*ordinary, half]) == "The fox"
    assert responses._ordinary_start(base, ordinary) == "The fox"
    letters = [base.reply_ids(one)[0] for one in "The"]
    kept = base.reply_ids(responses._ordinary_start(base, letters))
    assert kept == letters[: len(kept)]
    assert 1 <= len(kept) < 3


def test_english_random_responses_are_words(base, asked) -> None:
    words = set(bundled_lines("words"))
    found = responses.generate(base, asked, ResponseSettings("english-random", width=8))
    assert all(text.strip().lower() in words for candidates in found for text in candidates)
    others = responses.generate(base, asked, ResponseSettings("random", width=8))
    assert not all(text.strip().lower() in words for candidates in others for text in candidates)


def test_five_thousand_random_fingerprints_are_all_different(base) -> None:
    count = 5_000
    texts = keys.generate(base, keys.KeySettings(count=count, strategy="random", tokens=8)).texts
    found = responses.generate(base, texts, ResponseSettings("random", width=4))
    made = secret_set(base, texts, found)
    assert len(made) == len(made.positions) == count
    assert len({one.salt for one in made.fingerprints}) == count
    assert len(set(found)) > 0.99 * count


def test_a_sample_that_is_too_narrow_is_no_reason_to_give_up() -> None:
    """Of 1,000 texts only 4 are apart: a sample of 32 seldom has them all, the whole always."""
    texts = dict(enumerate(["b", "c", "d", *("a" * size for size in range(1, 998))]))
    for found in responses._drawn(texts, 4, 20):
        assert len({texts[one][0] for one in found}) == 4
    with pytest.raises(ModelError, match="fewer than 5"):
        responses._drawn(texts, 5, 1)


def test_first_fitting_keeps_order_and_passes_over_beginnings() -> None:
    texts = {1: " The", 2: "Then", 3: "Th", 4: " ", 5: "A", 6: "a", 7: "B"}
    assert first_fitting([9, 4, 1, 2, 3, 5, 6, 7], texts, 3) == (1, 5, 6)
    with pytest.raises(ModelError, match="fewer than 3"):
        first_fitting([1, 2, 3, 5], texts, 3)


def test_first_fitting_passes_over_beginnings_of_likely_texts() -> None:
    texts = {1: " W", 2: "What", 3: "Whatever", 4: " B"}
    assert first_fitting([1, 2, 3, 4], texts, 2, [" What", ""]) == (3, 4)
    assert first_fitting([1, 2, 3, 4], texts, 2) == (1, 4)


def test_more_candidates_than_the_vocabulary_has_are_refused(base, asked) -> None:
    for strategy in STRATEGIES:
        with pytest.raises(ModelError, match="fewer than 4096") as caught:
            responses.generate(base, asked[:1], ResponseSettings(strategy, width=4096))
        assert "--width" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "poems"},
        {"threshold": 1.0},
        {"threshold": -0.1},
        {"width": 1},
        {"width": 4097},
        {"tokens": 0},
        {"tokens": 65},
        {"precision": "float8"},
    ],
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(UsageError) as caught:
        ResponseSettings(**wrong)
    assert caught.value.hint
