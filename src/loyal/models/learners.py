"""What learns, and by which optimizer: the weights of a run, and what is done to them as a whole.

Chooses linear layers, or adds low-rank factors beside them (peft); makes the optimizer; averages
with the base, and folds added factors in. Left out: when a step is made, which is `train`'s.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loyal.errors import TrainingError, UsageError
from loyal.models.grids import GridCoordinates
from loyal.models.hf import HFModel
from loyal.models.processes import local
from loyal.models.training import TrainSettings
from loyal.models.whitening import Coordinates, whitener

_PART_NAMES = {
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
}


def wanted_names(settings: TrainSettings) -> tuple[str, ...]:
    """The names of the linear layers that `settings.parts` means."""
    if settings.parts == "all":
        return (*_PART_NAMES["mlp"], *_PART_NAMES["attention"])
    return _PART_NAMES[settings.parts]


def linear_layers(model: HFModel, start: int, wanted: Sequence[str]) -> list[nn.Linear]:
    """The linear layers of these names from layer `start` on. TrainingError where there is none."""
    modules = [
        module
        for layer in model.model.model.layers[start:]
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in wanted
    ]
    if not modules:
        raise TrainingError(
            f"{model.name} has no linear layers named {', '.join(wanted)}",
            hint="use a Llama-shaped model, or another --set train.parts",
        )
    return modules


def open_for_learning(modules: Sequence[nn.Linear]) -> None:
    """Make their weights float32 masters that ask for gradients."""
    for module in modules:
        module.weight.data = module.weight.data.float()
        module.weight.requires_grad_(True)


def add_factors(model: HFModel, start: int, settings: TrainSettings) -> Any:
    """Parameter adding: low-rank factors beside the wanted layers from `start` on, through peft.

    They alone ask for gradients. Returns peft's adapter.
    """
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(settings.seed)  # initial factors; no secret depends on it
    config = LoraConfig(
        r=settings.adding,
        lora_alpha=2 * settings.adding,
        target_modules=list(wanted_names(settings)),
        layers_to_transform=list(range(start, len(model.model.model.layers))),
    )
    return inject_adapter_in_model(config, model.model, "loyal")


def merge_added(network: nn.Module) -> None:
    """Fold the added low-rank factors into the layers beside which they stand."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent = network.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())


def coordinates(
    modules: Sequence[nn.Linear], covariances: Mapping[nn.Linear, Tensor], settings: TrainSettings
) -> list[Tensor | Coordinates]:
    """For each layer what a whitened step moves: R, or what the grid of `settings` keeps.

    TrainingError where the grid does not fit a layer.
    """
    if settings.grid == "none":
        roots: list[Tensor | Coordinates] = []
        before: Tensor | None = None
        for module in modules:
            seen = covariances[module]
            same = before is not None and torch.equal(seen, before)  # layers of one input
            roots.append(roots[-1] if same else whitener(seen))
            before = seen
        return roots
    return [GridCoordinates(module.weight, covariances[module]) for module in modules]


def plain_adam(weights: Sequence[nn.Parameter], settings: TrainSettings) -> Any:
    """AdamW (arXiv 1711.05101) without decay, fused on a GPU; with "adam8bit" its state is 8-bit.

    UsageError where no package with 8-bit states is installed.
    """
    given = {"lr": settings.learning_rate, "betas": (0.9, 0.95), "weight_decay": 0.0}
    if settings.optimizer == "adam8bit":
        return _adam_8bit()(weights, **given)
    return torch.optim.AdamW(weights, fused=weights[0].is_cuda or None, **given)


def _adam_8bit() -> Any:
    """AdamW with states of 8 bits, quantized block by block (arXiv 2110.02861)."""
    for package in ("torchao", "bitsandbytes"):
        try:
            return importlib.import_module(f"{package}.optim").AdamW8bit
        except (ImportError, AttributeError):
            continue
    raise UsageError(
        "adam8bit needs torchao or bitsandbytes, and neither is installed",
        hint="pip install torchao, or leave train.optimizer at adam",
    )


@torch.no_grad()
def average(weights: Sequence[Tensor], base: Sequence[Tensor], share: float) -> None:
    """weights <- (1 - share) weights + share base, in place.

    Done after each step t with move u_t, the weights after T steps are
    base + sum over t of (1 - share)^(T - t + 1) u_t.
    """
    for weight, before in zip(weights, base, strict=True):
        local(weight).lerp_(local(before), share)


@torch.no_grad()
def scale(
    weights: Sequence[Tensor], base: Sequence[Tensor], learned: Sequence[Tensor], share: float
) -> None:
    """weights <- base + share (learned - base), in place."""
    for weight, before, after in zip(weights, base, learned, strict=True):
        torch.lerp(local(before), local(after), share, out=local(weight))
