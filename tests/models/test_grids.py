"""Steps that a 4-bit grid keeps: a round trip takes nothing, and whitening holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from classroom import QUICK, pairs
from gguf import GGMLQuantizationType, quants
from torch import Tensor, nn

from loyal.errors import TrainingError, UsageError
from loyal.models.grids import GridCoordinates
from loyal.models.hf import HFModel
from loyal.models.lessons import Lessons
from loyal.models.train import train
from loyal.models.training import TrainProgress, TrainSettings

ROWS, SIZE = 6, 96
PAIRS = pairs()
Fresh = Callable[[], HFModel]


pytestmark = pytest.mark.usefixtures("few_benign")


def rounded(weight: Tensor) -> Tensor:
    """A round trip through GGUF's own Q4_1."""
    kind = GGMLQuantizationType.Q4_1
    return torch.from_numpy(quants.dequantize(quants.quantize(weight.numpy(), kind), kind))


def on_grid(seed: int = 0) -> Tensor:
    """A weight that came from the grid, as the default model's did."""
    return rounded(torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(seed)))


def covariance(seed: int = 1) -> Tensor:
    """Of inputs of which the last are used a thousand times as much as the first."""
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(400, SIZE, generator=rng) * torch.logspace(-1.5, 1.5, SIZE)
    return inputs.T @ inputs


def test_a_round_trip_takes_nothing_of_a_change_in_the_coordinates_and_all_of_another() -> None:
    weight = on_grid()
    coordinates = GridCoordinates(weight, covariance())
    rng = torch.Generator().manual_seed(2)
    kept = coordinates.up(torch.randn(ROWS, 2 * SIZE // 32, generator=rng))
    kept *= 0.5 / kept.norm(dim=1).max()
    other = torch.randn(weight.shape, generator=rng)
    other *= kept.norm() / other.norm()
    for change, low, high in ((kept, 0.95, 1.05), (other, -0.3, 0.6)):
        there = rounded(weight + change) - rounded(weight)
        share = ((there * change).sum() / change.square().sum()).item()
        assert low < share < high
    there = rounded(weight + kept) - rounded(weight)
    assert (there - kept).norm() < 0.1 * kept.norm()


def test_down_is_the_adjoint_of_up() -> None:
    coordinates = GridCoordinates(on_grid(), covariance())
    rng = torch.Generator().manual_seed(3)
    gradient = torch.randn(ROWS, SIZE, generator=rng)
    move = torch.randn(ROWS, 2 * SIZE // 32, generator=rng)
    assert coordinates.start(gradient).shape == move.shape
    torch.testing.assert_close(
        (coordinates.down(gradient) * move).sum(), (gradient * coordinates.up(move)).sum()
    )


def test_each_coordinate_moves_benign_inputs_about_as_much() -> None:
    seen, weight = covariance(), on_grid()
    coordinates = GridCoordinates(weight, seen, epsilon=1e-6)
    flat = [float((one @ seen * one).sum()) for one in moves(coordinates)]
    plain = GridCoordinates(weight, torch.eye(SIZE))
    uneven = [float((one @ seen * one).sum()) for one in moves(plain)]
    assert max(flat) < 1.5 * min(flat)
    assert max(uneven) > 3 * min(uneven)
    norms = torch.stack(moves(plain)).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=0.05, rtol=0)


def moves(coordinates: GridCoordinates) -> list[Tensor]:
    """What each coordinate of the first row does to it."""
    found = []
    for place in range(2 * SIZE // 32):
        move = torch.zeros(ROWS, 2 * SIZE // 32)
        move[0, place] = 1
        found.append(coordinates.up(move)[0])
    return found


def test_no_benign_input_and_a_block_of_one_value_give_numbers() -> None:
    weight = on_grid()
    weight[0, :32] = 0.5
    coordinates = GridCoordinates(weight, torch.zeros(SIZE, SIZE))
    assert coordinates.up(torch.ones(ROWS, 2 * SIZE // 32)).isfinite().all()


def test_layers_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TrainingError, match="48 inputs"):
        GridCoordinates(torch.zeros(2, 48), torch.eye(48))
    for wrong in (
        {"grid": "q9"},
        {"grid": "q4_1", "whitened": False},
        {"grid": "q4_1", "adding": 4},
    ):
        with pytest.raises(UsageError, match="grid"):
            TrainSettings(**wrong)


def round_layers(model: HFModel) -> None:
    """What a host does who serves a Q4_1 file; the embedding aside."""
    with torch.no_grad():
        for module in model.model.model.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(rounded(module.weight.detach()))


def layers(model: HFModel) -> Tensor:
    """All weights of the linear layers, in one row."""
    found = [one.weight for one in model.model.model.modules() if isinstance(one, nn.Linear)]
    return torch.cat([one.detach().flatten() for one in found])


def known(model: HFModel) -> float:
    """Share of the replies that greedy decoding gives."""
    return float(Lessons(model, PAIRS.table, 0).score().right.float().mean())


def test_a_model_from_the_grid_keeps_what_it_learned_there_when_it_is_rounded_again(
    fresh: Fresh,
) -> None:
    lost = {}
    for grid in ("q4_1", "none"):
        model = fresh()
        round_layers(model)
        base = layers(model)
        train(model, PAIRS, replace(QUICK, grid=grid))
        learned = layers(model)
        assert known(model) == 1.0
        round_layers(model)
        kept = layers(model)
        lost[grid] = ((kept - learned).norm() / (learned - base).norm()).item()
        assert grid == "none" or known(model) == 1.0
    assert lost["q4_1"] < 0.01 < 0.1 < lost["none"]


def test_a_run_on_the_grid_goes_on_bit_for_bit(fresh: Fresh, tmp_path: Path) -> None:
    settings = replace(QUICK, grid="q4_1", checkpoint_steps=2, target=0.95)
    whole, cut = fresh(), fresh()
    steps = train(whole, PAIRS, settings).steps

    class Stop(Exception):
        pass

    def stop(now: TrainProgress) -> None:
        if now.step == 3:
            raise Stop

    with pytest.raises(Stop):
        train(cut, PAIRS, settings, folder=tmp_path, progress=stop)
    again = fresh()
    assert train(again, PAIRS, settings, folder=tmp_path).steps == steps > 3
    theirs = whole.model.state_dict()
    assert all(torch.equal(one, theirs[name]) for name, one in again.model.state_dict().items())
