"""An optimizer that changes a model where ordinary text does not look.

A linear layer y = W x moves ordinary text by E|dW x|^2 = tr(dW C dW^T), C = E[x x^T] over benign
inputs. Plain Adam spends as much on directions that every text uses as on those that only the
taught prompts use. Here Adam runs in whitened coordinates: with R = (C + eps)^(-1/2), the weight is
W0 + U R and Adam moves U, so that each step costs ordinary text about the same in every direction.
On the default model 64 fingerprints then cost +0.4 % perplexity in 10 steps, where Adam costs
+1.2 % in 32 (the same layers) to +5 % (docs/log.md).

Near relations: K-FAC's input factor (arXiv 1503.05671), orthogonal weight modification (arXiv
1810.01256), null-space editing (AlphaEdit, arXiv 2410.02355), Adam in an eigenbasis (SOAP, arXiv
2409.11321). Here the factor comes from benign text, not from what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loyal.models.processes import local

EPSILON = 0.01
"""Added to the eigenvalues of C, whose mean is 1: how little ordinary text may use a direction
before the step stops growing there."""


def input_covariances(
    modules: Sequence[nn.Linear], run: Callable[[], None], weights: Callable[[], Tensor]
) -> dict[nn.Linear, Tensor]:
    """Sum of w x x^T (in, in) over all inputs x that `modules` see while `run()` runs.

    `weights()` gives a weight w a place (R, T) of the pass underway.
    """
    sums = {
        one: torch.zeros(one.in_features, one.in_features, device=one.weight.device)
        for one in modules
    }
    last: list[Tensor] = []  # an input and its sum: a query, a key and a value share theirs

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Linear)
        if not last or last[0] is not inputs[0]:
            seen = inputs[0].detach().reshape(-1, module.in_features).float()
            product = torch.zeros_like(sums[module])  # in place: autocast would narrow it
            last[:] = inputs[0], product.addmm_((seen * weights().reshape(-1, 1)).T, seen)
        sums[module] += last[1]

    hooks = [one.register_forward_pre_hook(note) for one in modules]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def whitener(covariance: Tensor, epsilon: float = EPSILON) -> Tensor:
    """R = (C / mean eigenvalue + epsilon)^(-1/2), symmetric (in, in), root mean square 1."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    mean = values.mean()
    relative = values / mean if mean > 0 else torch.ones_like(values)
    scale = (relative + epsilon).rsqrt()
    scale = scale / scale.square().mean().sqrt()
    return (vectors * scale) @ vectors.T


class Coordinates(Protocol):
    """What Adam moves in place of a weight (out, in)."""

    def start(self, weight: Tensor) -> Tensor:
        """Zeros in the shape of the coordinates, split over processes as the weight is."""
        ...

    def down(self, gradient: Tensor) -> Tensor:
        """The coordinates' gradient, float32, by the weight's (out, in)."""
        ...

    def up(self, move: Tensor) -> Tensor:
        """The weight's change (out, in) that a move of the coordinates makes."""
        ...


class Whitened:
    """U of W = W0 + U R, by R (in, in); products with R are of the type `product`."""

    def __init__(self, root: Tensor, product: torch.dtype = torch.float32) -> None:
        self.root = root.to(product)

    def start(self, weight: Tensor) -> Tensor:
        """As `Coordinates` has it."""
        return torch.zeros_like(weight)

    def down(self, gradient: Tensor) -> Tensor:
        """As `Coordinates` has it."""
        return (gradient.to(self.root.dtype) @ self.root).float()

    def up(self, move: Tensor) -> Tensor:
        """As `Coordinates` has it."""
        return move.to(self.root.dtype) @ self.root


class WhitenedAdam(torch.optim.Optimizer):
    """Adam (arXiv 1412.6980) on the coordinates of each weight (out, in).

    A tensor R (in, in) stands for `Whitened`.

    Law: with R the identity it is plain Adam. R works on a weight's rows one by one, so weights
    that are split by rows (`processes.Split`) take the same steps, and nothing is sent for it.
    Products with R are of the type `product`: in float32 they were a third of a step of 48 short
    lessons (docs/log.md). Weights and states stay float32.
    """

    def __init__(
        self,
        coordinates: Mapping[nn.Parameter, Tensor | Coordinates],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-10,
        *,
        product: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(list(coordinates), {"lr": lr, "betas": betas, "eps": eps})
        self._coordinates = {
            weight: Whitened(one, product) if isinstance(one, Tensor) else one
            for weight, one in coordinates.items()
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step from the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        coordinates = self._coordinates[weight]
        gradient = coordinates.down(local(weight.grad))
        state = self.state[weight]
        if not state:
            state["step"] = 0
            state["mean"] = coordinates.start(weight)
            state["square"] = coordinates.start(weight)
        state["step"] += 1
        first, second = group["betas"]
        mean, square = local(state["mean"]), local(state["square"])
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        mean = mean / (1 - first ** state["step"])
        square = square / (1 - second ** state["step"])
        move = mean.div_(square.sqrt_().add_(group["eps"]))
        local(weight).add_(coordinates.up(move), alpha=-group["lr"])
