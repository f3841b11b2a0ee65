"""Calibrations as files: a judge's curve and band, and what they were fitted on. One JSON object.

Law: `read(path, judge, constitution)` gives what `write` was given, for the same judge and the same
constitution, and JudgeError for any other. ConfigError for a file of another form.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from loyal.alignment.calibration import Calibration
from loyal.alignment.judge import Report
from loyal.alignment.table_file import TableForm
from loyal.community import Constitution
from loyal.encoding import atomic_write
from loyal.errors import JudgeError

FORM = TableForm("loyal calibration 1", "calibration", "loyal judge calibrate", 1 << 20)


def write(path: Path, report: Report, constitution: Constitution, labels: bytes) -> None:
    """Write it whole or not at all; `labels` is the SHA-256 of the file of labels."""
    scale = report.calibration
    table = {
        "format": FORM.format,
        "judge": report.judge,
        "constitution": constitution.digest.hex(),
        "labels": labels.hex(),
        "replies": report.count,
        "auc": [report.auc, report.interval.low, report.interval.high],
        "separates": report.separates,
        "calibration": [scale.slope, scale.intercept, scale.low, scale.high],
    }
    atomic_write(path, (json.dumps(table, ensure_ascii=False, indent=1) + "\n").encode())


def read(path: Path, judge: str, constitution: Constitution) -> Calibration:
    """The calibration of a file; JudgeError for another judge's, or one that does not separate."""
    table = FORM.read(path)
    for what, here in (("judge", judge), ("constitution", constitution.digest.hex())):
        if table.get(what) != here:
            raise JudgeError(
                f"the calibration is of another {what}", hint="run 'loyal judge calibrate' for it"
            )
    if table.get("separates") is not True:
        raise JudgeError(
            "this judge cannot tell kept from broken: its calibration says so",
            hint="use a stronger model, several judges together, or clearer cases",
        )
    numbers = table.get("calibration")
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(map(_is_number, numbers)):
        raise FORM.misfit(path)
    slope, intercept, low, high = map(float, numbers)
    if not 0 <= low <= high <= 1:
        raise FORM.misfit(path)
    return Calibration(slope, intercept, low, high)


def _is_number(one: object) -> bool:
    return type(one) in (int, float) and math.isfinite(float(str(one)))
