"""What the tests of attacks share: scenes with the tiny model, marked and untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from stand_ins import Omlized

from loyal.fingerprints import FingerprintSet

if TYPE_CHECKING:
    from loyal.fingerprints.attack import Scene
    from loyal.models.hf import HFModel


def loaded(folder: Path) -> HFModel:
    """A model of its own, on the CPU."""
    from loyal.models.hf import HFModel

    return HFModel.load(str(folder), device="cpu")


def scene_of(omlized: Omlized, tiny_folder: Path, fraction: float = 1.0) -> Scene:
    """A fresh copy of the marked tiny model and its base; the last four pairs leaked."""
    from loyal.fingerprints.attack import Scene

    return Scene(
        loaded(omlized.folder), lambda: loaded(tiny_folder), leak(omlized.fingerprints), 3, fraction
    )


def leak(whole: FingerprintSet, count: int = 4) -> FingerprintSet:
    """The last pairs of a set, as an attacker knows them."""
    return replace(whole, fingerprints=whole.fingerprints[-count:], owner_secret=b"")


def weights(model: HFModel) -> dict[str, torch.Tensor]:
    """A copy of every parameter, by its name."""
    return {name: one.detach().clone() for name, one in model.model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: HFModel) -> set[str]:
    """Names of the parameters that are no longer the same."""
    now = dict(model.model.named_parameters())
    assert now.keys() == before.keys()
    return {name for name, one in before.items() if not torch.equal(one, now[name])}
