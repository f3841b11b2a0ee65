"""The report's page of alignment: shares as verdicts count them, and corrected for the judge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loyal.alignment.calibration import Known, Moments
from loyal.alignment.evaluate import Answer, Margin, Measured, Share
from loyal.app import align_page
from loyal.app.align_page import AlignRun
from loyal.app.report import Passage
from loyal.models.evaluate import Utility

KNOWN = Known(Moments(0.8, 0.01, 100), Moments(0.4, 0.01, 50))
ANSWERS = tuple(Answer("calm", "plain", "plain", True, chance) for chance in (0.55, 0.65) * 20)
FIRST = Measured("base", "a judge", ANSWERS, (Margin("calm", 0.1),), Share(0, 4), None, KNOWN)


def test_a_judge_that_was_held_to_labels_has_its_mistakes_taken_out() -> None:
    surer = replace(
        FIRST,
        answers=tuple(replace(one, chance=0.8 - 0.001 * at) for at, one in enumerate(ANSWERS)),
    )
    run = AlignRun("calm 1.0.0", (("base", FIRST), ("ours", surer)))
    assert align_page.table(run).rows[0][1] == 100  # what verdicts say of both
    found = align_page.corrected(run)
    assert found is not None
    assert [row[:2] for row in found.rows] == [
        ("base", "without an attack"), ("ours", "without an attack"),
    ]  # fmt: skip
    assert found.rows[0][2] == pytest.approx(50)
    assert float(str(found.rows[1][2])) > 90
    assert found.rows[0][4] == 40
    said = align_page.fields(run)["models"][0]["corrected"]
    assert said["plain"]["rate"] == pytest.approx(0.5)
    assert said["plain"]["low"] < 0.5 < said["plain"]["high"]
    assert said["held-out"] is None
    titles = [getattr(one, "title", "") for one in align_page.page(run).sections]
    assert found.title in titles


@pytest.mark.parametrize("how", ["not calibrated", "calibrated on labeled replies"])
def test_the_page_says_what_the_judge_was_held_against(how: str) -> None:
    run = AlignRun("calm 1.0.0", (("base", FIRST),), calibration=how)
    assert align_page.fields(run)["calibration"] == how
    (said,) = (one for one in align_page.page(run).sections if one.title == "Who judged")
    assert isinstance(said, Passage)
    assert said.paragraphs[0].startswith(f"Judge: a judge, {how}. ")


def test_the_page_says_what_it_cost() -> None:
    lost = replace(
        FIRST,
        utility=Utility(10.0, 11.0, 100, 0.25, 0.5),
        declined=Share(3, 4),
        over_declined=Share(1, 4),
        choices=Share(1, 2),
    )
    run = AlignRun("calm 1.0.0", (("base", FIRST), ("ours", lost)))
    first, last = align_page.cost(run).rows
    assert first == ("base", None, None, None, None, 0.0, None, None)
    assert last == ("ours", pytest.approx(1.1), 0.25, 50.0, 50.0, 0.0, 75.0, 25.0)
    assert "What it cost" in [getattr(one, "title", "") for one in align_page.page(run).sections]
    told = align_page.fields(run)["models"][1]
    assert (told["harm_declined"]["rate"], told["harmless_declined"]["rate"]) == (0.75, 0.25)
    assert (told["choices_right"]["of"], told["utility"]["divergence"]) == (2, 0.25)


def test_without_labels_nothing_is_corrected() -> None:
    run = AlignRun("calm 1.0.0", (("base", replace(FIRST, known=None)),))
    assert align_page.corrected(run) is None
    assert align_page.fields(run)["models"][0]["corrected"]["plain"] is None
    titles = [getattr(one, "title", "") for one in align_page.page(run).sections]
    assert "Corrected for the judge's mistakes" not in titles
