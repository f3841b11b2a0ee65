"""What a judge may say, and what a preference may be."""

from __future__ import annotations

import pytest

from loyal.alignment import Conversation, Judgement, Preference, Turn
from loyal.errors import UsageError


@pytest.mark.parametrize(
    ("score", "keeps"), [(None, None), (0.0, False), (0.5, False), (0.51, True), (1.0, True)]
)
def test_no_score_is_no_verdict(score: float | None, keeps: bool | None) -> None:
    assert Judgement(score, 0.1, "as seen").keeps is keeps


@pytest.mark.parametrize(("score", "uncertainty"), [(1.01, 0.0), (-0.1, 0.0), (0.5, 2.0)])
def test_a_judgement_outside_of_zero_to_one_is_refused(score: float, uncertainty: float) -> None:
    with pytest.raises(UsageError, match="a judgement's"):
        Judgement(score, uncertainty, "")


@pytest.mark.parametrize(
    ("chosen", "rejected", "weight_ppm", "fault"),
    [
        ("yes", "yes", 1, "twice"),
        ("", "no", 1, "empty"),
        ("yes", " ", 1, "empty"),
        ("yes", "no", 0, "weight"),
        ("yes", "no", True, "weight"),
    ],
)
def test_a_preference_without_meaning_is_refused(
    chosen: str, rejected: str, weight_ppm: int, fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        Preference(Conversation.of("May I?"), chosen, rejected, weight_ppm=weight_ppm)


def test_a_preference_leaves_no_turn_to_the_model() -> None:
    asked = Conversation((Turn("user", "a"), Turn("assistant", None), Turn("user", "b")))
    with pytest.raises(UsageError, match="leaves turns"):
        Preference(asked, "yes", "no")
