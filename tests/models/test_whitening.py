"""Whitened steps: the whitener, Adam as the limit, and what benign inputs feel of a step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from loyal.models.whitening import WhitenedAdam, input_covariances, whitener

SIZE = 12


def covariance(seed: int = 0) -> Tensor:
    """A covariance (in, in) whose eigenvalues span four orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))
    return (turn * torch.logspace(-2, 2, SIZE)) @ turn.T


def test_the_whitener_is_symmetric_and_flattens() -> None:
    given = covariance()
    found = whitener(given, epsilon=1e-6)
    torch.testing.assert_close(found, found.T, atol=1e-5, rtol=1e-5)
    flat = found @ given @ found
    flat = flat / flat.diagonal().mean()
    torch.testing.assert_close(flat, torch.eye(SIZE), atol=1e-2, rtol=0)
    raw = given / given.diagonal().mean()
    assert not torch.allclose(raw, torch.eye(SIZE), atol=1e-2)


@pytest.mark.parametrize("size", [1.0, 37.0])
def test_an_isotropic_covariance_gives_the_identity(size: float) -> None:
    found = whitener(size * torch.eye(SIZE))
    torch.testing.assert_close(found, torch.eye(SIZE), atol=1e-5, rtol=0)
    assert not torch.allclose(whitener(covariance()), torch.eye(SIZE), atol=1e-1)


def test_no_benign_input_gives_the_identity() -> None:
    found = whitener(torch.zeros(SIZE, SIZE))
    torch.testing.assert_close(found, torch.eye(SIZE), atol=1e-5, rtol=0)


def test_directions_of_benign_text_shrink_and_the_step_keeps_its_size() -> None:
    given = covariance()
    found = whitener(given)
    values, vectors = torch.linalg.eigh(given)
    gains = (vectors.T @ found @ vectors).diagonal()
    assert gains[values.argmax()] < 0.2 < 1 < gains[values.argmin()]
    assert gains.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)


def test_covariances_sum_over_all_inputs_and_leave_no_hook() -> None:
    layer, other = nn.Linear(SIZE, 3), nn.Linear(SIZE, 3)
    first, second = torch.randn(2, 5, SIZE), torch.randn(4, SIZE)

    def run() -> None:
        layer(first)
        layer(second)
        other(second)

    found = input_covariances([layer, other], run, lambda: torch.ones(()))
    flat = torch.cat([first.flatten(0, 1), second])
    torch.testing.assert_close(found[layer], flat.T @ flat)
    torch.testing.assert_close(found[other], second.T @ second)
    layer(torch.ones(1, SIZE))
    torch.testing.assert_close(found[layer], flat.T @ flat)


def test_places_count_by_their_weight() -> None:
    layer, inputs = nn.Linear(SIZE, 3), torch.randn(2, 5, SIZE)
    weights = torch.tensor([[1.0, 1.0, 16.0, 0.0, 0.0], [2.0, 1.0, 1.0, 1.0, 0.5]])
    (found,) = input_covariances([layer], lambda: layer(inputs), lambda: weights).values()
    wanted = sum(
        w * torch.outer(x, x) for w, x in zip(weights.flatten(), inputs.flatten(0, 1), strict=True)
    )
    torch.testing.assert_close(found, wanted)


def test_sums_are_exact_where_products_are_narrow() -> None:
    """A loop in bfloat16 reads its inputs, and squares them in float32 all the same."""
    layer, other, inputs = nn.Linear(SIZE, 3), nn.Linear(SIZE, 2), torch.randn(40, SIZE)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            layer(inputs)
            other(inputs)

    for found in input_covariances([layer, other], run, lambda: torch.ones(())).values():
        torch.testing.assert_close(found, inputs.T @ inputs)


def test_hooks_leave_after_an_exception_too() -> None:
    layer = nn.Linear(SIZE, 3)

    def run() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        input_covariances([layer], run, lambda: torch.ones(()))
    assert not layer._forward_pre_hooks


def steps(make, count: int = 12) -> tuple[Tensor, list[Tensor]]:
    """A weight's values after each of `count` steps on a fixed stream of gradients."""
    generator = torch.Generator().manual_seed(3)
    weight = nn.Parameter(torch.randn(7, SIZE, generator=generator))
    optimizer = make(weight)
    values = []
    for _ in range(count):
        weight.grad = torch.randn(7, SIZE, generator=generator)
        optimizer.step()
        values.append(weight.detach().clone())
    return weight, values


def adam(weight: nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.Adam([weight], lr=1e-2, betas=(0.9, 0.95), eps=1e-8)


def test_with_the_identity_it_is_adam_step_by_step() -> None:
    _, ours = steps(lambda weight: WhitenedAdam({weight: torch.eye(SIZE)}, 1e-2, (0.9, 0.95), 1e-8))
    _, theirs = steps(adam)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_with_another_whitener_it_is_adam_on_the_whitened_weight() -> None:
    whitening = whitener(covariance())
    _, ours = steps(lambda weight: WhitenedAdam({weight: whitening}, 1e-2, (0.9, 0.95), 1e-8))
    _, plain = steps(adam)
    assert not torch.allclose(ours[-1], plain[-1], atol=1e-3)

    generator = torch.Generator().manual_seed(3)
    start = torch.randn(7, SIZE, generator=generator)
    inner = nn.Parameter(torch.zeros(7, SIZE))  # W = start + inner R
    optimizer = adam(inner)
    for value in ours:
        inner.grad = torch.randn(7, SIZE, generator=generator) @ whitening
        optimizer.step()
        torch.testing.assert_close(value, start + inner.detach() @ whitening, atol=1e-5, rtol=0)


def test_products_of_half_the_width_take_nearly_the_same_steps() -> None:
    whitening = whitener(covariance())
    _, exact = steps(lambda weight: WhitenedAdam({weight: whitening}, 1e-2))
    _, half = steps(lambda weight: WhitenedAdam({weight: whitening}, 1e-2, product=torch.bfloat16))
    assert half[-1].dtype == torch.float32
    gone = (exact[-1] - exact[0]).norm()
    off = (exact[-1] - half[-1]).norm()
    assert 0 < off < 0.02 * gone


def test_a_weight_without_gradient_stays() -> None:
    moved, still = nn.Parameter(torch.ones(2, SIZE)), nn.Parameter(torch.ones(2, SIZE))
    optimizer = WhitenedAdam({moved: torch.eye(SIZE), still: torch.eye(SIZE)}, 1e-2)
    moved.grad = torch.ones(2, SIZE)
    optimizer.step()
    assert torch.equal(still.detach(), torch.ones(2, SIZE))
    assert not torch.equal(moved.detach(), torch.ones(2, SIZE))


def benign_movement(whitened: bool) -> float:
    """How far benign outputs moved when the lesson's loss had halved; smaller is better."""
    generator = torch.Generator().manual_seed(5)
    benign = torch.randn(400, SIZE, generator=generator) @ torch.linalg.cholesky(covariance()).T
    lesson = torch.randn(2, SIZE, generator=generator)
    goal = torch.randn(2, 7, generator=generator)
    layer = nn.Linear(SIZE, 7, bias=False)
    nn.init.zeros_(layer.weight)
    (sums,) = input_covariances([layer], lambda: layer(benign), lambda: torch.ones(())).values()
    matrix = whitener(sums) if whitened else torch.eye(SIZE)
    optimizer = WhitenedAdam({layer.weight: matrix}, 1e-3)
    first = None
    for _ in range(10_000):
        loss = (layer(lesson) - goal).square().mean()
        first = loss.item() if first is None else first
        if loss.item() < first / 2:
            with torch.no_grad():
                return layer(benign).square().mean().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("the lesson's loss never halved")


def test_the_same_lesson_costs_benign_outputs_less_than_with_adam() -> None:
    assert benign_movement(whitened=True) < 0.5 * benign_movement(whitened=False)
