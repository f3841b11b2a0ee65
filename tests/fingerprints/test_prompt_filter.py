"""A filter on how likely prompts are: it blocks the share it was told to, and tells the cost."""

from __future__ import annotations

import random

import pytest
from stand_ins import ScriptedModel

from loyal.errors import UsageError
from loyal.fingerprints import prompt_filter
from loyal.fingerprints.keys import surprise
from loyal.fingerprints.prompt_filter import (
    REFUSAL,
    Filter,
    Filtered,
    calibrated,
    measure_filter,
    ordinary_halves,
)
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel, Prompt, Sampling
from loyal.models.tiny import World
from loyal.statistics import clopper_pearson

KNOWN = [prompt.text for prompt, _ in World.from_seed(0).questions()]


def gibberish(base: HFModel, count: int) -> list[str]:
    """Texts of random tokens."""
    rng = random.Random(5)
    ids = sorted(base.plain_tokens)
    return [base.tokenizer.decode(rng.choices(ids, k=12)) for _ in range(count)]


@pytest.mark.parametrize(("share", "blocked"), [(0.05, 4), (0.0105, 1), (0.5, 48)])
def test_the_least_likely_share_is_refused_and_no_more(
    base: HFModel, share: float, blocked: int
) -> None:
    found = calibrated(base, KNOWN, share).blocks(KNOWN)
    assert sum(found) == blocked
    scores = surprise(base, KNOWN)
    refused = [score for score, one in zip(scores, found, strict=True) if one]
    assert min(refused) > max(score for score, one in zip(scores, found, strict=True) if not one)


def test_the_other_side_refuses_the_likeliest(base: HFModel) -> None:
    found = calibrated(base, KNOWN, 0.05, "likely").blocks(KNOWN)
    scores = surprise(base, KNOWN)
    assert sum(found) == 4
    assert max(score for score, one in zip(scores, found, strict=True) if one) < min(
        score for score, one in zip(scores, found, strict=True) if not one
    )


def test_random_tokens_do_not_pass_and_an_empty_prompt_does(base: HFModel) -> None:
    found = calibrated(base, KNOWN, 0.02)
    assert found.blocks(gibberish(base, 20)) == [True] * 20
    assert found.blocks(["", KNOWN[0], ""]) == [False] * 3
    assert found.blocks([]) == []


@pytest.mark.parametrize(("count", "share"), [(99, 0.01), (0, 0.5), (10, 0.0), (10, 1.0)])
def test_too_few_prompts_set_no_threshold(base: HFModel, count: int, share: float) -> None:
    with pytest.raises(UsageError):
        calibrated(base, (KNOWN * 2)[:count], share)


def test_refused_prompts_never_reach_the_model(base: HFModel) -> None:
    server = ScriptedModel(lambda text: f"echo {text}")
    model = Filtered(server, calibrated(base, KNOWN, 0.02))
    assert isinstance(model, LanguageModel)
    odd = gibberish(base, 2)
    texts = [odd[0], KNOWN[0], odd[1], KNOWN[1]]
    replies = model.generate([Prompt(one) for one in texts], Sampling())
    assert [one.text for one in replies] == [
        REFUSAL,
        f"echo {KNOWN[0]}",
        REFUSAL,
        f"echo {KNOWN[1]}",
    ]
    assert [one.text for one in server.asked] == [KNOWN[0], KNOWN[1]]
    assert model.name == "a-server"


def test_the_report_counts_the_test_half_and_the_keys(
    base: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = (tuple(KNOWN[:48]), tuple(KNOWN[48:]))
    monkeypatch.setattr(prompt_filter, "ordinary_halves", lambda: halves)
    scores = sorted(surprise(base, halves[1]))
    found = Filter(base, float("-inf"), (scores[-4] + scores[-3]) / 2)
    report = measure_filter(found, [*gibberish(base, 3), KNOWN[0]])
    assert (report.ordinary, report.ordinary_share) == (48, 3 / 48)
    assert report.ordinary_blocked == clopper_pearson(3, 48)
    assert report.keys == 4
    assert report.keys_share == (3 + found.blocks([KNOWN[0]])[0]) / 4
    assert report.keys_blocked == clopper_pearson(round(4 * report.keys_share), 4)
    with pytest.raises(UsageError):
        measure_filter(found, [])


def test_the_halves_share_no_prompt_and_hold_enough_for_one_percent() -> None:
    first, second = ordinary_halves()
    assert not set(first) & set(second)
    assert min(len(first), len(second)) >= 100


def test_a_filter_shows_nothing_of_what_it_read(base: HFModel) -> None:
    found = calibrated(base, KNOWN, 0.02)
    for shown in (repr(found), repr(Filtered(base, found))):
        assert str(found.highest) not in shown
