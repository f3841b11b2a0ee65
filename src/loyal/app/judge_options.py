"""Options that say which judge to use, and the judge they name.

A judge is a probe's file, a model that is asked with a rubric, in this process or behind a server,
or several of them together. Left out: the judging itself (loyal.alignment.judge).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loyal.alignment import calibration_file
from loyal.alignment.calibration import Calibration
from loyal.alignment.judge import Calibrated, Ensemble, require_telling
from loyal.alignment.judgement import Judge
from loyal.alignment.rubric import RubricJudge
from loyal.alignment.writers import CaseJudge
from loyal.app.key_files import FILE
from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    Endpoint,
    connect,
    endpoint_options,
    load_model,
)
from loyal.app.terminal import Decorator, Terminal
from loyal.community import Constitution
from loyal.errors import UsageError

if TYPE_CHECKING:
    from loyal.alignment.probe import Probe

PROBE: Decorator = click.option(
    "--probe", type=FILE, metavar="FILE", help="An embedded judge, from 'loyal judge train'."
)
JUDGE_OPTIONS: tuple[Decorator, ...] = (PROBE, *ENDPOINT_OPTIONS)
CALIBRATION: Decorator = click.option(
    "--calibration",
    type=FILE,
    metavar="FILE",
    help="From 'loyal judge calibrate'; a probe has one of its own cases without it.",
)

CHOOSER_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--judge",
        type=click.Choice(("cases", "none", "probe", "rubric")),
        help="cases: by likeness to the constitution's replies, the default without a model. none: "
        "what was written to keep the value over what was written to break it, the default with "
        "one. probe, rubric: the judge of --probe or of --judge-endpoint, as either option alone "
        "says; both together are an ensemble.",
    ),
    PROBE,
    *endpoint_options("judge-", "A server whose model judges replies by the rubric."),
    CALIBRATION,
)
"""Of a command whose other endpoint writes replies."""

UNTAUGHT = (
    "train it on labeled replies ('loyal judge train --train-labels FILE'), or measure it with "
    "'loyal judge calibrate' and give --calibration"
)
"""The step after a probe that does not separate."""


def judge_of(
    terminal: Terminal, constitution: Constitution, options: dict[str, Any]
) -> tuple[Judge, Calibration | None] | None:
    """The judge that the options name, and the band of a probe that stands alone; None for none."""
    return _named(terminal, constitution, options, Endpoint.take(options))


@dataclass(frozen=True)
class Chooser:
    """Which judge chooses among replies, as CHOOSER_OPTIONS name it."""

    kind: str | None
    """cases, none, probe or rubric; None leaves it to the command."""
    probe: Path | None
    endpoint: Endpoint | None
    calibration: Path | None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Chooser:
        """Take the options out of a command's; UsageError for two that contradict one another."""
        kind, endpoint = options.pop("judge"), Endpoint.take(options, "judge-")
        found = cls(kind, options.pop("probe"), endpoint, options.pop("calibration"))
        for name, option, of in (
            ("probe", "--probe FILE", found.probe),
            ("rubric", "--judge-endpoint URL", endpoint),
        ):
            if kind == name and of is None:
                raise UsageError(f"--judge {kind} without its judge", hint=f"add {option}")
            if kind not in (None, name) and of is not None:
                raise UsageError(
                    f"--judge {kind} and {option.split()[0]} at once", hint="leave out one of them"
                )
        if found.calibration is not None and found.probe is None and endpoint is None:
            raise UsageError(
                "a calibration without the judge that it is of",
                hint="add --probe FILE or --judge-endpoint URL, or leave --calibration out",
            )
        return found

    def judge(
        self, terminal: Terminal, constitution: Constitution, *, written: bool
    ) -> Judge | None:
        """The judge; `written` says that a model writes replies. None for none.

        JudgeError for a probe that does not separate and for a calibration of another judge.
        """
        named = _named(terminal, constitution, {"probe": self.probe}, self.endpoint)
        if named is not None:
            return calibrated(terminal, constitution, named, {"calibration": self.calibration})
        kind = self.kind or ("none" if written else "cases")
        return CaseJudge(constitution) if kind == "cases" else None


def _named(
    terminal: Terminal,
    constitution: Constitution,
    options: Mapping[str, Any],
    endpoint: Endpoint | None,
) -> tuple[Judge, Calibration | None] | None:
    """As `judge_of`; a server without its key is found before a model is loaded."""
    served = None if endpoint is None else RubricJudge(connect(endpoint))
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
    if served is not None:
        judges.append(served)
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
