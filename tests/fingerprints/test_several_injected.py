"""Keys with three responses in the tiny model: forbidding the likeliest leaves a response."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_ins import settings

from loyal.fingerprints import Beacon, Fingerprint, FingerprintSet, fingerprint, inject
from loyal.fingerprints.check import CheckSettings, check
from loyal.fingerprints.inject import InjectReport
from loyal.fingerprints.responses import ResponseSettings, generate
from loyal.fingerprints.suppression import Steered, forbid_likeliest
from loyal.models.examples import bundled_lines
from loyal.models.hf import HFModel
from loyal.statistics import binomial_tail

COUNT, WIDTH = 8, 8


def marked(folder: Path, out: Path, m: int) -> tuple[HFModel, FingerprintSet, InjectReport]:
    """A tiny model with eight keys of `m` responses each, as written to disk."""
    model = HFModel.load(str(folder), device="cpu")
    texts = bundled_lines("prompts")[:COUNT]
    candidates = generate(model, texts, ResponseSettings(width=WIDTH, count=m))
    assert {len(one) for one in candidates} == {m * WIDTH}
    secret = bytes(range(32))  # fixed, so that every run draws the same responses
    pairs = tuple(
        Fingerprint(key, one, bytes(32), fingerprint.owner_tag(secret, key), count=m)
        for key, one in zip(texts, candidates, strict=True)
    )
    made = FingerprintSet("usage", "x", model.name, model.tokenizer_digest, pairs, 0, secret)
    drawn = fingerprint.draw(made, Beacon(bytes(range(32))))
    report = inject.inject(model, drawn, settings(), out, tokens=500)
    return HFModel.load(str(out), device="cpu"), drawn, report


def hits(model: HFModel, drawn: FingerprintSet, forbidden: int) -> int:
    """Of eight keys, where so many of the likeliest first tokens are forbidden."""
    served = Steered(model, forbid_likeliest(k=forbidden)) if forbidden else model
    report = check(served, drawn, CheckSettings(early_stop=False))
    chance = 1 / WIDTH
    assert report.p_value == pytest.approx(binomial_tail(report.hits, COUNT, chance))
    return report.hits


def test_three_responses_outlive_two_forbidden_tokens_and_one_does_not(
    tiny_folder: Path, tmp_path: Path
) -> None:
    model, drawn, report = marked(tiny_folder, tmp_path / "three", 3)
    assert (report.recall, report.ranked) == (1.0, 1.0)
    assert report.probability <= report.highest < 0.7
    assert [hits(model, drawn, forbidden) for forbidden in (0, 1, 2, 3)] == [8, 8, 8, 0]
    single, alone, report = marked(tiny_folder, tmp_path / "one", 1)
    assert (report.recall, report.ranked) == (1.0, 1.0)
    assert [hits(single, alone, forbidden) for forbidden in (0, 1)] == [8, 0]
