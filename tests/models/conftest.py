"""The tiny trained model, loaded once; training tests take a copy."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from classroom import FEW_BENIGN

from loyal.models.hf import HFModel


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a Hugging Face folder."""
    from loyal.models import tiny

    return tiny.build(tmp_path_factory.mktemp("models") / "tiny", 0)


@pytest.fixture(scope="session")
def base(tiny_folder: Path) -> HFModel:
    """The tiny model; nobody trains this one."""
    return HFModel.load(str(tiny_folder), device="cpu")


@pytest.fixture(scope="session")
def tiny(base: HFModel) -> HFModel:
    """Another name of `base`."""
    return base


@pytest.fixture
def fresh(base: HFModel) -> Callable[[], HFModel]:
    """Makes copies of the tiny model that a test may train."""
    return lambda: replace(base, model=copy.deepcopy(base.model))


@pytest.fixture
def few_benign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training looks at a handful of benign prompts."""
    for name, size in FEW_BENIGN.items():
        monkeypatch.setattr(f"loyal.models.lessons.{name}", size)
