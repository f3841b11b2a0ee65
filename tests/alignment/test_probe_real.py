"""The embedded judge on the real default model and a bundled constitution."""

from __future__ import annotations

import pytest

from loyal.alignment import probe
from loyal.community import constitution_file
from loyal.models.hf import HFModel


@pytest.mark.slow
def test_it_separates_cases_left_out_of_a_bundled_constitution() -> None:
    model = HFModel.load("smollm2-135m-instruct", device="cpu")
    library = constitution_file.bundled("public-library")
    assert probe.train(model, library).interval.low >= 0.8
