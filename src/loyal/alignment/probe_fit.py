"""The line of a probe: logistic regression with a ridge on states of replies, and its folds.

Two kinds of examples count. A *pair* gives the difference of two replies' states to one
conversation, so that what the prompt alone says cancels. A *labeled* reply gives its state about
the mean of its value's labeled ones, and each value has an intercept for how often it is kept.
Left out: what is read (`models.hidden`), and which layer is best (`probe`).
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
    sides: Floats
    """(n, V): for each value 1 where a labeled reply keeps it and -1 where it breaks it, else 0.
    Pairs have no side."""
    weights: Floats
    """(n,), summing to 1."""


def joined(gaps: Floats, states: Floats, sides: Floats, share: float) -> Examples:
    """Pairs as differences (p, H), and labeled states (n, H) about their middles with sides (n, V).

    `share`, 0 to 1, is what the pairs weigh together; all, where there are no labeled states.
    """
    share = share if len(states) else 1.0
    no_side = np.zeros((len(gaps), sides.shape[1]))
    parts = [(gaps, no_side, share), (states * sides.sum(1, keepdims=True), sides, 1 - share)]
    used = [(points, side, part) for points, side, part in parts if part and len(points)]
    return Examples(
        np.concatenate([points for points, _, _ in used]),
        np.concatenate([side for _, side, _ in used]),
        np.concatenate([np.full(len(points), part / len(points)) for points, _, part in used]),
    )


@dataclass(frozen=True, eq=False)
class Line:
    """The log-odds of a state of value v are `state @ direction + intercepts[v]`."""

    direction: Floats  # (H,)
    intercepts: Floats  # (V,)


def ridge_logistic(examples: Examples, ridges: Sequence[float]) -> list[Line]:
    """For each ridge the line of least loss, by Newton's method.

    The loss is the weighted sum of log(1 + exp(-(point @ w + side @ b))) + ridge / 2 H |w|^2 +
    LOOSE / 2 |b|^2. The solution lies in the span of the points, so it is sought there, in as many
    unknowns as there are points and values at most.
    """
    points, width = examples.points, np.sqrt(examples.points.shape[1])
    _, sizes, basis = np.linalg.svd(points, full_matrices=False)
    basis = basis[sizes > 1e-10 * max(float(sizes.max(initial=0.0)), 1e-300)]
    inner = points @ basis.T / width  # (n, r); a unit a dimension has length 1
    rank = inner.shape[1]
    inner = np.concatenate([inner, examples.sides], axis=1)  # (n, r + V)
    found: list[Line] = []
    at = np.zeros(inner.shape[1])
    for ridge in ridges:
        holds = np.full(inner.shape[1], LOOSE)
        holds[:rank] = ridge
        at = _newton(inner, examples.weights, holds, at)
        found.append(Line(at[:rank] @ basis / width, at[rank:]))
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
