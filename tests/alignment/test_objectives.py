"""Losses on pairs: their closed forms, and weights that reach them."""

from __future__ import annotations

import math

import pytest
import torch
from discretion import QUIET, discreet

from loyal.alignment import Conversation, Preference
from loyal.alignment.objectives import balanced, margins, normalized, pair, preference_loss
from loyal.alignment.settings import Kind, Objective
from loyal.community import Constitution, Value
from loyal.errors import TrainingError
from loyal.models.hf import HFModel
from loyal.models.tuning import log_probabilities

SUMS = torch.tensor([[-10.0, -12.0], [-30.0, -20.0], [-8.0, 0.0]])
COUNTS = torch.tensor([[5.0, 6.0], [10.0, 10.0], [4.0, 0.0]])
BEFORE = torch.tensor([[-11.0, -11.0], [-25.0, -21.0], [0.0, 0.0]])
EVEN = torch.ones(3)


def sigmoid_loss(margin: float) -> float:
    return math.log1p(math.exp(-margin))


def test_dpo_is_its_equation() -> None:
    loss = preference_loss(Objective("dpo", beta=0.5, imitation=0.0), EVEN, BEFORE)
    # (gain of the chosen) - (gain of the rejected): 1 - -1, and -5 - 1; the third is imitated
    wanted = (sigmoid_loss(0.5 * 2) + sigmoid_loss(0.5 * -6) + 8 / 4) / 3
    assert loss(SUMS, COUNTS, [0, 1, 2]).item() == pytest.approx(wanted, rel=1e-6)
    assert loss(SUMS[:1], COUNTS[:1], [0]).item() == pytest.approx(sigmoid_loss(1.0), rel=1e-6)


def test_simpo_compares_tokens_and_needs_no_reference() -> None:
    loss = preference_loss(Objective("simpo", beta=2.0, margin=0.5, imitation=0.0), EVEN)
    wanted = (sigmoid_loss(2 * (-2.0 + 2.0) - 0.5) + sigmoid_loss(2 * (-3.0 + 2.0) - 0.5)) / 2
    assert loss(SUMS[:2], COUNTS[:2], [0, 1]).item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("kind", "beta", "margin"), [("dpo", 0.1, 0.0), ("simpo", 2.5, 5.0)])
def test_each_kind_has_its_own_factor_and_goal(kind: Kind, beta: float, margin: float) -> None:
    own = preference_loss(Objective(kind), EVEN, BEFORE)
    given = preference_loss(Objective(kind, beta=beta, margin=margin), EVEN, BEFORE)
    assert own(SUMS, COUNTS, [0, 1, 2]) == given(SUMS, COUNTS, [0, 1, 2])
    other = Objective("sft", beta=7.0, margin=1.0, smoothing=0.1).of(kind)
    assert other == Objective(kind, smoothing=0.1)
    assert other.of(kind) == other


def test_smoothing_counts_a_share_of_labels_the_other_way() -> None:
    loss = preference_loss(Objective("dpo", beta=0.5, smoothing=0.2, imitation=0.0), EVEN, BEFORE)
    wanted = 0.8 * sigmoid_loss(1.0) + 0.2 * sigmoid_loss(-1.0)
    assert loss(SUMS[:1], COUNTS[:1], [0]).item() == pytest.approx(wanted, rel=1e-6)


def test_imitation_stands_beside_the_pair_and_alone_in_sft() -> None:
    both = preference_loss(Objective("dpo", beta=0.5, imitation=0.3), EVEN, BEFORE)
    wanted = sigmoid_loss(1.0) + 0.3 * 10 / 5
    assert both(SUMS[:1], COUNTS[:1], [0]).item() == pytest.approx(wanted, rel=1e-6)
    alone = preference_loss(Objective("sft"), EVEN)
    assert alone(SUMS, COUNTS, [0, 1, 2]).item() == pytest.approx((2 + 3 + 2) / 3, rel=1e-6)


def test_a_weight_multiplies_its_item() -> None:
    weights = normalized([3.0, 1.0, 2.0])
    assert weights.tolist() == pytest.approx([1.5, 0.5, 1.0])
    loss = preference_loss(Objective("sft"), weights)
    assert loss(SUMS, COUNTS, [0, 1, 2]).item() == pytest.approx((1.5 * 2 + 0.5 * 3 + 2) / 3)
    assert loss(SUMS[[2, 0]], COUNTS[[2, 0]], [2, 0]).item() == pytest.approx((2 + 1.5 * 2) / 2)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [1.0, math.nan]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(TrainingError, match="weights"):
        normalized(weights)


def test_dpo_without_a_reference_is_refused() -> None:
    with pytest.raises(TrainingError, match="untouched"):
        preference_loss(Objective("dpo"), EVEN)


def test_a_pair_that_is_too_long_is_left_out_whole(base: HFModel) -> None:
    one = discreet()[0]
    item = pair(base, one, 200)
    assert item is not None
    size = max(len(row.prompt) + len(row.reply) for row in item)
    assert pair(base, one, size) == item
    assert pair(base, one, size - 1) is None
    assert item[0].prompt == item[1].prompt
    assert base.tokenizer.decode(item[0].reply).startswith(QUIET)


def test_margins_are_those_of_plain_chances(base: HFModel) -> None:
    some = discreet()[:5]
    items = [item for one in some if (item := pair(base, one, 200)) is not None]
    sums, counts = log_probabilities(base, items, "float32")
    means = (sums / counts).tolist()
    found = margins(base, items, "float32")
    assert found == pytest.approx([chosen - rejected for chosen, rejected in means], abs=1e-4)
    assert margins(base, []) == []


def values(**weights_bps: int) -> Constitution:
    listed = tuple(Value(id, "Be so.", weight) for id, weight in weights_bps.items())
    return Constitution("town", "1.0.0", listed)


def held(value: str, weight_ppm: int, number: int) -> Preference:
    return Preference(Conversation.of(f"May I? {number}"), "yes", "no", value, weight_ppm)


def test_a_value_weighs_what_the_constitution_says_however_many_pairs_it_has() -> None:
    some = [held("calm", 1_000_000, number) for number in range(8)]
    some += [held("kind", 1_000_000, 8), held("kind", 3_000_000, 9), held("", 7, 10)]
    found = balanced(some, values(calm=2_500, kind=7_500))
    sums = {id: sum(one.weight_ppm for one in found if one.value == id) for id in ("calm", "kind")}
    assert sums["kind"] == pytest.approx(3 * sums["calm"], rel=1e-5)
    assert sum(sums.values()) == pytest.approx(12_000_000, rel=1e-5)
    kind = [one.weight_ppm for one in found if one.value == "kind"]
    assert kind[1] == pytest.approx(3 * kind[0], rel=1e-5)
    assert found[-1] == some[-1]


def test_a_value_of_no_weight_is_left_out_and_an_unknown_one_refused() -> None:
    some = [held("calm", 5, 1), held("kind", 5, 2)]
    assert [one.value for one in balanced(some, values(calm=0, kind=10_000))] == ["kind"]
    with pytest.raises(TrainingError, match="no value calm"):
        balanced(some, values(kind=10_000))
