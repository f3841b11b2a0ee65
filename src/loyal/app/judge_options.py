"""Options that say which judge to use, and the judge they name.

A judge is a probe's file, a model that is asked with a rubric, in this process or behind a server,
or several of them together. Left out: the judging itself (loyal.alignment.judge).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.alignment import calibration_file
from loyal.alignment.calibration import Calibration
from loyal.alignment.judge import Calibrated, Ensemble, require_telling
from loyal.alignment.judgement import Judge
from loyal.alignment.rubric import RubricJudge
from loyal.app.key_files import FILE
from loyal.app.model_options import ENDPOINT_OPTIONS, Endpoint, connect, load_model
from loyal.app.terminal import Decorator, Terminal
from loyal.community import Constitution

if TYPE_CHECKING:
    from loyal.alignment.probe import Probe

JUDGE_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--probe", type=FILE, metavar="FILE", help="An embedded judge, from 'loyal judge train'."
    ),
    *ENDPOINT_OPTIONS,
)
CALIBRATION: Decorator = click.option(
    "--calibration",
    type=FILE,
    metavar="FILE",
    help="From 'loyal judge calibrate'; a probe has one of its own cases without it.",
)

UNTAUGHT = (
    "train it on labeled replies ('loyal judge train --train-labels FILE'), or measure it with "
    "'loyal judge calibrate' and give --calibration"
)
"""The step after a probe that does not separate."""


def judge_of(
    terminal: Terminal, constitution: Constitution, options: dict[str, Any]
) -> tuple[Judge, Calibration | None] | None:
    """The judge that the options name, and the band of a probe that stands alone; None for none."""
    endpoint = Endpoint.take(options)
    judges: list[Judge] = []
    band: Calibration | None = None
    if options["probe"] is not None:
        from loyal.alignment import probe_file
        from loyal.alignment.probe import ProbeJudge

        probe = probe_file.read(options["probe"])
        judges.append(ProbeJudge(probe, load_model(terminal, probe.model), constitution))
        band = _band(probe)
    if options.get("rubric_model") is not None:
        judges.append(RubricJudge(load_model(terminal, options["rubric_model"])))
    if endpoint is not None:
        judges.append(RubricJudge(connect(endpoint)))
    if not judges:
        return None
    return (judges[0], band) if len(judges) == 1 else (Ensemble(tuple(judges)), None)


def calibrated(
    terminal: Terminal,
    constitution: Constitution,
    judged: tuple[Judge, Calibration | None],
    options: Mapping[str, Any],
) -> Judge:
    """The judge with its band, where it has one; a note says where it has none.

    JudgeError for a probe that goes by its own band, though it does not separate.
    """
    judge, band = judged
    file: Path | None = options["calibration"]
    if file is not None:
        band = calibration_file.read(file, judge, constitution)
    elif band is not None:
        _require_learned(judge)
    if band is None:
        terminal.note("not calibrated: run 'loyal judge calibrate', and give --calibration")
        return judge
    return Calibrated(judge, band)


def _require_learned(judge: Judge) -> None:
    """JudgeError for a probe that did not tell apart the replies that it was left to guess."""
    from loyal.alignment.probe import ProbeJudge

    if isinstance(judge, ProbeJudge):
        require_telling(judge.probe.auc, judge.probe.interval, UNTAUGHT)


def _band(probe: Probe) -> Calibration:
    """The band of a probe's own calibration over scores that are probabilities already."""
    return Calibration(1.0, 0.0, probe.calibration.low, probe.calibration.high)
