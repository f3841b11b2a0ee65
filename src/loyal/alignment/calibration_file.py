"""Calibrations as files: a judge's curve and band, and what they were fitted on. One JSON object.

Law: `read(path, judge, constitution)` gives what `write` was given, for the same judge and the same
constitution, and JudgeError for any other. ConfigError for a file of another form.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import msgspec

from loyal.alignment.calibration import Calibration, Known
from loyal.alignment.judge import Report, identity
from loyal.alignment.judgement import Judge
from loyal.alignment.table_file import TableForm
from loyal.community import Constitution
from loyal.encoding import atomic_write, digest
from loyal.errors import JudgeError

FORM = TableForm("loyal calibration 1", "calibration", "loyal judge calibrate", 1 << 20)
_PURPOSE = "loyal/calibration judge/2"


def write(
    path: Path, judge: Judge, report: Report, constitution: Constitution, labels: bytes, *,
    accepted: bool = True,
) -> None:  # fmt: skip
    """Write it whole or not at all; `labels` is the SHA-256 of the file of labels. What is not
    `accepted`, or does not separate, is kept to look at: `read` refuses it."""
    scale = report.calibration
    table = {
        "format": FORM.format,
        "judge": report.judge,
        "made_of": _made_of(judge),
        "constitution": constitution.digest.hex(),
        "labels": labels.hex(),
        "replies": report.count,
        "auc": [report.auc, report.interval.low, report.interval.high],
        "separates": report.separates,
        "accepted": accepted,
        "calibration": [scale.slope, scale.intercept, scale.low, scale.high],
        "known": None if scale.known is None else asdict(scale.known),
    }
    atomic_write(path, (json.dumps(table, ensure_ascii=False, indent=1) + "\n").encode())


def read(path: Path, judge: Judge, constitution: Constitution) -> Calibration:
    """The calibration of a file; JudgeError for another judge's, one that does not separate, or one
    that was measured on too few labels."""
    table = FORM.read(path)
    for what, name, here in (
        ("judge", "judge", judge.name),
        ("judge", "made_of", _made_of(judge)),
        ("constitution", "constitution", constitution.digest.hex()),
    ):
        if table.get(name) != here:
            raise JudgeError(
                f"the calibration is of another {what}", hint="run 'loyal judge calibrate' for it"
            )
    if table.get("separates") is not True:
        raise JudgeError(
            "this judge cannot tell kept from broken: its calibration says so",
            hint="use a stronger model, several judges together, or clearer cases",
        )
    if table.get("accepted") is not True:
        raise JudgeError(
            "this judge was measured on too few labeled replies: its calibration says so",
            hint="label more, and run 'loyal judge calibrate' again",
        )
    numbers = table.get("calibration")
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_is_number, numbers)):
        raise FORM.misfit(path)
    slope, intercept, low, high = map(float, numbers)
    if not 0 <= low <= high <= 1:
        raise FORM.misfit(path)
    return Calibration(slope, intercept, low, high, _known(path, table.get("known")))


def _known(path: Path, given: object) -> Known | None:
    """What labeled replies get; ConfigError for what `write` does not write."""
    if given is None:
        return None
    try:
        found = msgspec.convert(given, Known)
    except msgspec.ValidationError:
        raise FORM.misfit(path) from None
    for one in (found.kept, found.broken):
        if not (0 <= one.mean <= 1 and 0 <= one.variance <= 1 and one.count > 1):
            raise FORM.misfit(path)
    return found


def _made_of(judge: Judge) -> str:
    """Hex digest of what tells a judge from others: its name does not tell what it learned, nor do
    its data tell what it drew from them."""
    return digest(identity(judge), _PURPOSE).hex()


def _is_number(one: object) -> bool:
    return type(one) in (int, float) and math.isfinite(float(str(one)))
