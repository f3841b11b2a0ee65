"""Losses on pairs of replies: one prompt, the reply to prefer and the one to leave.

All are a `loyal.models.tuning.Loss`, over items of two rows (chosen, rejected) and of one row
(general data, imitated) in any mix:

    before = tuning.reference(model, items)
    loss = preference_loss(Objective(), weights, before)
    tuning.tune(model, items, settings, loss)

Weights stand before each item's loss, so a member's stake and a value's weight reach it. Left out:
where pairs come from, and the loop (`align`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from loyal.alignment.preference import Preference
from loyal.alignment.settings import Objective
from loyal.community import Constitution
from loyal.errors import TrainingError
from loyal.models.examples import Example
from loyal.models.hf import HFModel
from loyal.models.training import Precision
from loyal.models.tuning import Item, Loss, reference, row


def pair(model: HFModel, preference: Preference, most_tokens: int) -> Item | None:
    """The chosen and the rejected reply, each with its conversation, as token ids.

    None where one of the two has more than `most_tokens`: what a cut would leave is another pair.
    """
    prompt = preference.asked.prompt()
    both = (preference.chosen, preference.rejected)
    # One more than allowed is enough to see that a row is too long.
    rows = tuple(row(model, Example(prompt, one), most=most_tokens + 1) for one in both)
    long = any(len(one.prompt) + len(one.reply) > most_tokens for one in rows)
    return None if long else rows


def margins(model: HFModel, items: Sequence[Item], precision: Precision = "auto") -> list[float]:
    """By how much the chosen reply of each pair is likelier than the rejected one: nats a token.

    The mean over each reply's tokens, so that a short reply has no head start. Above 0 is a win.
    """
    if not items:
        return []
    sums = reference(model, items, precision=precision)
    counts = torch.tensor([[len(one.reply) for one in item] for item in items])
    means = sums.cpu() / counts
    return [float(one) for one in means[:, 0] - means[:, 1]]


def balanced(preferences: Sequence[Preference], constitution: Constitution) -> list[Preference]:
    """The same preferences, reweighted so that each value counts as its weight says.

    All pairs of a value together weigh `weight_bps` of the sum over the values that have pairs,
    however many they are; within a value their own weights keep their ratios (a member's stake).
    Preferences without a value stay as they are, those of a weight of 0 bps are left out. Raises
    TrainingError for a value that the constitution does not have.
    """
    shares = {one.id: one.weight_bps for one in constitution.values}
    unknown = next((one for one in preferences if one.value and one.value not in shares), None)
    if unknown is not None:
        raise TrainingError(
            f"the constitution has no value {unknown.value}",
            hint="give the constitution that the preferences were made from",
        )
    sums = dict.fromkeys(shares, 0)
    for one in preferences:
        if one.value:
            sums[one.value] += one.weight_ppm
    there = sum(shares[id] for id, total in sums.items() if total)
    everything = sum(sums.values())
    found = []
    for one in preferences:
        if not one.value:
            found.append(one)
        elif shares[one.value]:
            wanted = shares[one.value] * everything * one.weight_ppm
            weight = wanted // (there * sums[one.value])
            found.append(replace(one, weight_ppm=max(1, weight)))
    return found


def normalized(weights: Sequence[float]) -> Tensor:
    """The weights, above 0, with a mean of 1 (items,): only their ratios count, and a learning rate
    means the same whatever their unit. TrainingError for none, or one that is not above 0."""
    found = torch.tensor(list(weights), dtype=torch.float64)
    if not len(found) or not bool((found > 0).all()):
        raise TrainingError("weights are above 0, one an item", hint="drop what is not to count")
    return (found / found.mean()).float()


def preference_loss(objective: Objective, weights: Tensor, before: Tensor | None = None) -> Loss:
    """The objective's loss of items, each times its weight (items,), meaned over a step's items.

    Items of two rows are pairs (chosen, rejected); those of one row are imitated: cross-entropy in
    nats a token. `before` (items, 2) holds the log-probabilities of the untouched model, computed
    once; dpo alone needs it (TrainingError without it).
    """
    if objective.kind == "dpo" and before is None:
        raise TrainingError("dpo compares with the untouched model", hint="give its chances")

    def loss(sums: Tensor, counts: Tensor, items: Sequence[int]) -> Tensor:
        index = torch.tensor(list(items), device=sums.device)
        weight = weights.to(sums.device)[index]
        lost = -sums[:, 0] / counts[:, 0]  # (items,), nats a token of what is to be said
        paired = counts[:, 1] > 0 if counts.shape[1] > 1 else torch.zeros_like(index, dtype=bool)
        if objective.kind != "sft" and bool(paired.any()):
            old = None if before is None else before.to(sums.device)[index][paired]
            compared = _compared(objective, sums[paired], counts[paired], old)
            both = compared + objective.imitation * lost[paired]
            lost = lost.masked_scatter(paired, both)
        return (weight * lost).mean()

    return loss


def _compared(objective: Objective, sums: Tensor, counts: Tensor, before: Tensor | None) -> Tensor:
    """The loss of pairs (pairs,), from log-probabilities and token counts (pairs, 2)."""
    if objective.kind == "simpo":
        scores = sums / counts
    else:
        assert before is not None
        scores = sums - before[:, : sums.shape[1]]
    margin = objective.factor * (scores[:, 0] - scores[:, 1]) - objective.goal
    wrong = objective.smoothing
    return -(1 - wrong) * logsigmoid(margin) - wrong * logsigmoid(-margin)
