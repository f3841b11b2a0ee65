"""Which prompts are decoded together: every one once, within the limits, long ones apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.models.decoding import batches
from loyal.models.hf import DECODE_PADDING, DECODE_PLACES, DECODE_ROWS, HFModel
from loyal.models.language_model import Prompt, Sampling

COUNTS = st.integers(1, 60)


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(0, 9), COUNTS, COUNTS, COUNTS)
def test_batches_hold_every_prompt_once_and_no_more_than_may_be(
    lengths: list[int], prefix: int, rows: int, places: int, padding: int
) -> None:
    lengths.sort()
    found = list(batches(lengths, prefix, rows, places, padding))
    assert [at for one in found for at in range(one.start, one.stop)] == list(range(len(lengths)))
    for one in found:
        part = lengths[one]
        held = len(part) * (prefix + part[-1])
        filled = len(part) * part[-1] - sum(part)
        assert len(part) == 1 or (len(part) <= rows and held <= places and filled <= padding)
    for one, after in pairwise(found):  # none could have taken one more
        part = lengths[one.start : after.start + 1]
        held = len(part) * (prefix + part[-1])
        filled = len(part) * part[-1] - sum(part)
        assert len(part) > rows or held > places or filled > padding


def test_short_prompts_are_together_and_long_ones_wait_for_none() -> None:
    limits = [one["cpu"] for one in (DECODE_ROWS, DECODE_PLACES, DECODE_PADDING)]
    assert len(list(batches([30] * 384, 30, *limits))) == 1
    mixed = sorted([40] * 200 + [2_500] * 60)
    assert [one.stop for one in batches(mixed, 30, *limits)][:2] == [200, 225]


def test_prompts_of_many_lengths_are_answered_as_each_alone(
    tiny: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Prompt("What does the fox eat? " * count) for count in (1, 9, 2, 7, 1, 3)]
    together = tiny.generate(asked, Sampling(max_tokens=6))
    for name, limit in (("PLACES", 90), ("PADDING", 8)):
        with monkeypatch.context() as patch:
            patch.setattr(f"loyal.models.hf.DECODE_{name}", {"cpu": limit})
            assert tiny.generate(asked, Sampling(max_tokens=6)) == together
