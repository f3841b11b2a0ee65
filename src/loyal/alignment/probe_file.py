"""Probes as files: one JSON object, its vectors as base64 of little-endian float64.

Law: `read(path)` after `write(path, probe)` scores as `probe` does, to the last bit. No pickle, so
that a file from somebody else runs nothing. ConfigError for a file of another form.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from loyal.alignment.calibration import Calibration
from loyal.alignment.probe import POOLS, Floats, Probe, Reading
from loyal.alignment.table_file import TableForm
from loyal.encoding import atomic_write
from loyal.statistics import Interval

FORM = TableForm("loyal probe 2", "probe", "loyal judge train", 64 << 20)


def write(path: Path, probe: Probe) -> None:
    """Write it whole or not at all."""
    scale = probe.calibration
    table = {
        "format": FORM.format,
        "constitution": probe.constitution,
        "model": probe.model,
        "weights": probe.weights,
        "layer": probe.reading.layer,
        "pool": probe.reading.pool,
        "ridge": probe.reading.ridge,
        "directions": {id: _packed(one) for id, one in probe.directions.items()},
        "middles": {id: _packed(one) for id, one in probe.middles.items()},
        "calibration": [scale.slope, scale.intercept, scale.low, scale.high],
        "auc": [probe.auc, probe.interval.low, probe.interval.high],
        "lessons": probe.lessons,
        "labels": probe.labels,
        "data": sorted(probe.data),
    }
    atomic_write(path, (json.dumps(table, ensure_ascii=False) + "\n").encode())


def read(path: Path) -> Probe:
    """The probe of a file."""
    table = FORM.read(path)
    try:
        return _probe(table)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise FORM.misfit(path) from None


def _probe(table: dict[str, Any]) -> Probe:
    """ValueError, KeyError or TypeError for a table that does not fit."""
    if table["pool"] not in POOLS:
        raise ValueError
    directions = {str(id): _unpacked(one) for id, one in table["directions"].items()}
    middles = {str(id): _unpacked(one) for id, one in table["middles"].items()}
    slope, intercept, low, high = (_number(one) for one in table["calibration"])
    auc, below, above = (_number(one) for one in table["auc"])
    layer, counts = table["layer"], [table["lessons"], table["labels"]]
    texts = [table["constitution"], table["model"], table["weights"], *table["data"]]
    if not all(isinstance(one, str) for one in texts):
        raise TypeError
    shapes = {one.shape for one in (*middles.values(), *directions.values())}
    fits = len(shapes) == 1 and directions.keys() == middles.keys()
    ordered = 0 <= low <= high <= 1 and 0 <= auc <= 1 and 0 <= below <= above <= 1
    whole = all(type(one) is int and one >= 0 for one in (layer, *counts))
    if not (fits and ordered and whole):
        raise ValueError
    return Probe(
        constitution=table["constitution"],
        model=table["model"],
        weights=table["weights"],
        reading=Reading(layer, table["pool"], _number(table["ridge"])),
        directions=directions,
        middles=middles,
        calibration=Calibration(slope, intercept, low, high),
        auc=auc,
        interval=Interval(below, above),
        lessons=counts[0],
        labels=counts[1],
        data=frozenset(table["data"]),
    )


def _packed(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f8").tobytes()).decode("ascii")


def _unpacked(text: str) -> Floats:
    found: Floats = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").copy()
    if not len(found) or not np.isfinite(found).all():
        raise ValueError
    return found


def _number(one: Any) -> float:
    if isinstance(one, bool) or not isinstance(one, (int, float)) or not math.isfinite(one):
        raise TypeError
    return float(one)
