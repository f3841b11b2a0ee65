"""The lines of a probe: logistic regression with a ridge on states of replies, and its folds.

Two kinds of examples count. A *pair* gives the difference of two replies' states to one
conversation, so that what the prompt alone says cancels. A *labeled* reply gives its state about
the mean of its value's labeled ones, and each value has an intercept for how often it is kept.

Each value's direction is a shared one and one of its own, both held down (Evgeniou and Pontil,
"Regularized multi-task learning", KDD 2004, 2.1): to refuse keeps privacy where somebody wants to
pry, and breaks free speech. Left out: what is read (`models.hidden`), and the choice of a layer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loyal.alignment.judgement import prompt_digest
from loyal.alignment.labeled import Labeled

Floats = npt.NDArray[np.float64]

STEPS = 100
LOOSE = 0.03
"""Ridge of the intercepts: values with few labels are held near to even odds (docs/log.md)."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Points that the line should have on its kept side, and how they count."""

    points: Floats  # (n, H)
    values: Floats
    """(n, V): 1 at the example's value."""
    sides: Floats
    """(n, V): for each value 1 where a labeled reply keeps it and -1 where it breaks it, else 0.
    Pairs have no side."""
    weights: Floats
    """(n,), summing to 1."""


def joined(pairs: Examples, labeled: Examples, share: float) -> Examples:
    """Both as one. `share`, 0 to 1, is what the pairs weigh; all, where nothing is labeled, and
    nothing where there are none."""
    if not len(pairs.points) or not len(labeled.points):
        share = float(len(pairs.points) > 0)
    return Examples(
        np.concatenate([pairs.points, labeled.points]),
        np.concatenate([pairs.values, labeled.values]),
        np.concatenate([pairs.sides, labeled.sides]),
        np.concatenate([pairs.weights * share, labeled.weights * (1 - share)]),
    )


def of_pairs(gaps: Floats, values: Floats) -> Examples:
    """Differences (n, H) of kept and broken, with the values (n, V) that they are of."""
    return Examples(gaps, values, np.zeros_like(values), np.full(len(gaps), 1 / max(1, len(gaps))))


def of_labeled(states: Floats, values: Floats, kept: Sequence[bool]) -> Examples:
    """States (n, H) about their values' middles, with these values (n, V)."""
    signs = np.where(np.array(kept, dtype=bool), 1.0, -1.0)[:, None]  # (n, 1)
    weights = np.full(len(states), 1 / max(1, len(states)))
    return Examples(states * signs, values, values * signs, weights)


@dataclass(frozen=True, eq=False)
class Lines:
    """The log-odds of a state of value v are `state @ directions[v] + intercepts[v]`."""

    shared: Floats  # (H,)
    directions: Floats  # (V, H)
    intercepts: Floats  # (V,)


def ridge_logistic(examples: Examples, ridges: Sequence[float], own: float) -> list[Lines]:
    """For each ridge the lines of least loss, by Newton's method.

    A value's direction is w + u_v. The loss is the weighted sum of log(1 + exp(-(point @ (w + u_v)
    + side @ b))) + ridge / 2 H (|w|^2 + sum |u_v|^2 / own) + LOOSE / 2 |b|^2; with `own` of 0 there
    is no u. The solution lies in the span of the points, so it is sought there, through their
    products alone: as many unknowns as there are points and values at most.
    """
    points, values, width = examples.points, examples.values, examples.points.shape[1]
    products = points @ points.T / width * (1 + own * (values @ values.T))  # (n, n)
    sizes, turned = np.linalg.eigh(products)
    large = sizes > 1e-10 * max(float(sizes[-1]), 1e-300)
    sizes, turned = sizes[large], turned[:, large]  # (r,), (n, r)
    inner = np.concatenate([turned * np.sqrt(sizes), examples.sides], axis=1)  # (n, r + V)
    found: list[Lines] = []
    at = np.zeros(inner.shape[1])
    for ridge in ridges:
        holds = np.full(inner.shape[1], LOOSE)
        holds[: len(sizes)] = ridge
        at = _newton(inner, examples.weights, holds, at)
        parts = turned @ (at[: len(sizes)] / np.sqrt(sizes)) / width  # (n,)
        shared = parts @ points
        mine = (values * parts[:, None]).T @ points  # (V, H)
        found.append(Lines(shared, shared + own * mine, at[len(sizes) :]))
    return found


def _newton(points: Floats, weights: Floats, holds: Floats, start: Floats) -> Floats:
    """(r,) of least weighted loss and holds / 2 w^2; steps are halved while it does not fall."""

    def loss(at: Floats) -> float:
        return float(weights @ np.logaddexp(0, -points @ at) + holds @ at**2 / 2)

    at = start
    for _ in range(STEPS):
        wrong = 1 / (1 + np.exp(np.clip(points @ at, -500, 500)))  # (n,)
        slope = holds * at - points.T @ (weights * wrong)
        bend = (points * (weights * wrong * (1 - wrong))[:, None]).T @ points
        move = np.linalg.solve(bend + np.diag(holds), slope)
        share, before = 1.0, loss(at)
        while share > 1e-6 and loss(at - share * move) > before:
            share /= 2
        at = at - share * move
        if float(np.abs(move).max(initial=0.0)) * share < 1e-9:
            break
    return at


def folds_of(labels: Sequence[Labeled], folds: int, seed: int) -> list[int]:
    """The fold of each labeled reply: one for all replies to a prompt, drawn from the seed."""
    asked = [prompt_digest(one.said.asked) for one in labels]
    order = sorted(set(asked))
    random.Random(seed).shuffle(order)
    place = {prompt: at % folds for at, prompt in enumerate(order)}
    return [place[one] for one in asked]
