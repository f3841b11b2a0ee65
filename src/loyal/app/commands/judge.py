"""`loyal judge`: train the embedded judge, measure any judge on labels, and score replies.

A judge is a probe's file (--probe), a model that is asked with a rubric, in this process (--model)
or behind a server (--endpoint), or several of them together. Left out: the judging itself
(loyal.alignment.judge).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from loyal.alignment import calibration_file, labeled
from loyal.alignment.calibration import LEAST_AUC, Calibration
from loyal.alignment.judge import (
    LEAST_LABELED,
    Calibrated,
    Report,
    calibrate,
    require_separation,
    require_telling,
)
from loyal.alignment.judgement import Judge, Judgement
from loyal.alignment.labeled import Labeled
from loyal.app.commands.constitution import read_constitution, read_usable_constitution
from loyal.app.judge_options import (
    CALIBRATION,
    JUDGE_OPTIONS,
    UNTAUGHT,
    calibrated,
    judge_of,
)
from loyal.app.key_files import FILE
from loyal.app.model_options import MODEL_HELP, MODEL_OPTION, load_model
from loyal.app.out_files import require_out
from loyal.app.report import Table
from loyal.app.scored_files import (
    NOBODY,
    judged,
    read_lines,
    require_scored,
    state_of,
    write_scored,
)
from loyal.app.terminal import Decorator, Terminal, command, facts
from loyal.community import Constitution
from loyal.errors import JudgeError, UsageError

CONSTITUTION: Decorator = click.argument("constitution", metavar="CONSTITUTION")


def _part(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """(I, N) of "I/N"."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,2})/([1-9][0-9]{0,2})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{text!r} is no part such as 1/2", param=option)
    return int(found[1]), int(found[2])


WHICH_JUDGE: tuple[Decorator, ...] = (
    *JUDGE_OPTIONS,
    click.option(
        "--model",
        "rubric_model",
        metavar="NAME",
        help=f"A model to ask with a rubric. {MODEL_HELP}",
    ),
)


@command(
    "train",
    CONSTITUTION,
    MODEL_OPTION,
    click.option(
        "--out",
        type=FILE,
        required=True,
        metavar="FILE",
        help="Where the probe goes; an older one is replaced.",
    ),
    click.option(
        "--train-labels",
        "labels",
        type=FILE,
        metavar="FILE",
        help="Labeled replies, to learn from too: JSON lines as for 'calibrate'. "
        "[default: those that come with a bundled constitution]",
    ),
    click.option("--cases-only", is_flag=True, help="Learn from no labeled replies."),
    click.option(
        "--labels-only",
        is_flag=True,
        help="Learn from no cases: a judge to measure what another one trained.",
    ),
    click.option(
        "--part",
        callback=_part,
        metavar="I/N",
        help="Learn from the Ith of N parts of the labeled replies; parts share no prompt and no "
        "reply.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        default=0,
        show_default=True,
        help="Draws the augmentations.",
    ),
)
def train(terminal: Terminal, **options: Any) -> int:
    """Train the embedded judge on a constitution's own cases, and on labeled replies.

    Its figures are of replies that were left out, and flatter: they chose the layer. 'calibrate'
    takes no reply to a prompt that the judge was trained on. Exit code 1 where even so it does not
    separate: the probe is written, and taken with a --calibration alone.
    """
    from loyal.alignment import probe as probes
    from loyal.alignment import probe_file

    read = (options["constitution"], options["labels"])
    require_out(options["out"], read, probe_file.FORM.read)
    constitution = read_usable_constitution(options["constitution"])
    labels = _labels(constitution, options)
    model = load_model(terminal, options["model"])
    cases = not options["labels_only"]
    probe = probes.train(model, constitution, labels, seed=options["seed"], cases=cases)
    probe_file.write(options["out"], probe)
    fields = {
        "constitution": constitution.name,
        "model": probe.model,
        **asdict(probe.reading),
        "lessons": probe.lessons,
        "labels": probe.labels,
        "auc": probe.auc,
        "interval": [probe.interval.low, probe.interval.high],
        "file": str(options["out"]),
    }
    rows = facts({**fields, "AUC interval": _range(probe.interval.low, probe.interval.high)})
    try:
        require_telling(probe.auc, probe.interval, UNTAUGHT)
    except JudgeError as error:
        terminal.note(f"{error}; {error.hint}")
    terminal.result(fields, [rows])
    return 0 if probe.interval.low >= LEAST_AUC else 1


@command(
    "calibrate",
    CONSTITUTION,
    click.argument("labeled", type=FILE, metavar="LABELED"),
    *WHICH_JUDGE,
    click.option(
        "--least",
        type=click.IntRange(1),
        default=LEAST_LABELED,
        show_default=True,
        metavar="N",
        help="Labeled replies below which a judge is not taken.",
    ),
    click.option(
        "--out",
        type=FILE,
        metavar="FILE",
        help="Keep the calibration for 'score'; an older one is replaced.",
    ),
)
def calibrate_command(terminal: Terminal, **options: Any) -> int:
    """Measure a judge on labeled replies: AUC, calibration curve, agreement.

    LABELED is JSON lines (docs/judges.md). Exit code 1 where the judge cannot separate, or there
    are too few labels to say.
    """
    if options["out"] is not None:
        read = (options["constitution"], options["labeled"], options["probe"])
        require_out(options["out"], read, calibration_file.FORM.read)
    constitution = read_constitution(options["constitution"])
    path: Path = options["labeled"]
    labels = labeled.read(path, constitution)
    digest = sha256(path.read_bytes())
    judge, _ = _judge(terminal, constitution, options)
    report = calibrate(judge, labels.replies)
    accepted = True
    try:
        require_separation(report, options["least"])
    except JudgeError as error:
        accepted = False
        terminal.note(f"{error}; {error.hint}")
    if options["out"] is not None:
        calibration_file.write(
            options["out"], judge, report, constitution, digest.digest(), accepted=accepted
        )
    fields = {**_fields(report), "labels": digest.hexdigest(), "ties": labels.ties,
              "kappa_of_people": labels.kappa, "accepted": accepted}  # fmt: skip
    terminal.result(fields, _tables(report, labels.kappa))
    return 0 if accepted else 1


@command(
    "score",
    CONSTITUTION,
    click.argument("replies", type=FILE, metavar="REPLIES...", nargs=-1, required=True),
    *WHICH_JUDGE,
    CALIBRATION,
    click.option(
        "--out",
        type=FILE,
        metavar="FILE",
        help="Write each line with its score, for 'loyal verifier'; older scores are replaced.",
    ),
    kept_by="out",
)
def score(terminal: Terminal, **options: Any) -> int:
    """Score replies: a probability that each keeps its value, or none, with a reason.

    REPLIES is JSON lines as for 'calibrate', with or without labels; several files are judged as
    one. A reply of null is passed over, and a line may have several replies (replies). The file of
    --out has each line's own fields and score (scores), also where the calibration's band says
    nothing: null is a reply that nobody gave, or that the judge itself cannot read. What is judged
    is kept in FILE.state until FILE is written, and the same command goes on from it.
    """
    if options["out"] is not None:
        read = (options["constitution"], *options["replies"], options["probe"])
        require_out(options["out"], (*read, options["calibration"]), require_scored)
    constitution = read_constitution(options["constitution"])
    lines = read_lines(options["replies"], constitution)
    judge = calibrated(terminal, constitution, _judge(terminal, constitution, options), options)
    state = None if options["out"] is None else state_of(options["out"])
    if state is not None and state.exists():
        terminal.note(f"going on from {state}, where it is of this judge and these replies")
    with terminal.progress("judging") as update:
        found = judged(judge, lines, state, lambda done, of: update(done, of, "replies"))
    fields = {
        "judge": judge.name,
        "calibrated": isinstance(judge, Calibrated),
        **_counts([told for told, _ in found]),
    }
    if options["out"] is not None:
        write_scored(options["out"], lines, [number for _, number in found])
        state_of(options["out"]).unlink(missing_ok=True)
        terminal.result({**fields, "file": str(options["out"])})
        return 0
    values = [line.fields["value"] for line in lines for _ in line.said]
    rows = [
        {"value": value, "score": told.score, "keeps": told.keeps,
         "uncertainty": told.uncertainty, "reason": told.reason}
        for value, (told, _) in zip(values, found, strict=True)
    ]  # fmt: skip
    columns = ("value", "score", "uncertainty", "reason")
    table = Table("Scores", columns, tuple(tuple(row[name] for name in columns) for row in rows))
    terminal.result({**fields, "scores": rows}, [facts(fields), table])
    return 0


def _counts(found: Sequence[Judgement]) -> dict[str, int]:
    """How many replies there are, and what was said of them."""
    silent = sum(told is NOBODY for told in found)
    sure = [told.keeps for told in found if told.keeps is not None]
    return {
        "replies": len(found) - silent,
        "without_reply": silent,
        "kept": sum(sure),
        "broken": len(sure) - sum(sure),
        "abstained": len(found) - silent - len(sure),
    }


def _labels(constitution: Constitution, options: dict[str, Any]) -> tuple[Labeled, ...]:
    """What is learned from beside the cases; UsageError for options that say two things."""
    path, part = options["labels"], options["part"]
    if options["cases_only"]:
        for name, given in (("train-labels", path), ("labels-only", options["labels_only"]),
                            ("part", part)):  # fmt: skip
            if given:
                raise UsageError(
                    f"--{name} and --cases-only at once", hint="leave out one of the two"
                )
        return ()
    if path is None:
        found = labeled.bundled(constitution)
    else:
        found = labeled.read(path, constitution).replies
    if not found and (options["labels_only"] or part):
        raise UsageError(
            "no labeled replies come with this constitution", hint="give --train-labels FILE"
        )
    return labeled.parts(found, part[1])[part[0] - 1] if part else found


def _judge(
    terminal: Terminal, constitution: Constitution, options: dict[str, Any]
) -> tuple[Judge, Calibration | None]:
    """The judge of the options, and the band of a probe that stands alone. UsageError for none."""
    found = judge_of(terminal, constitution, options)
    if found is None:
        raise UsageError(
            "say which judge to use", hint="give --probe FILE, --model NAME or --endpoint URL"
        )
    return found


def _fields(report: Report) -> dict[str, Any]:
    decided = report.decided
    return {
        "judge": report.judge,
        "replies": report.count,
        "unscored": report.unscored,
        "auc": report.auc,
        "auc_interval": [report.interval.low, report.interval.high],
        "separates": report.separates,
        "calibration_error": report.error,
        "abstained": decided.abstained,
        "wrong": decided.wrong,
        "error": decided.error,
        "error_interval": [decided.interval.low, decided.interval.high],
        "kappa": report.kappa,
        "band": [report.calibration.low, report.calibration.high],
        "known": None if report.calibration.known is None else asdict(report.calibration.known),
        "curve": [
            {"stated": one.mean, "kept": one.kept, "count": one.count,
             "interval": [one.interval.low, one.interval.high]}
            for one in report.bins
        ],
        "values": [
            {"value": id, "replies": count, "auc": auc} for id, count, auc in report.by_value
        ],
    }  # fmt: skip


def _both(report: Report) -> str | None:
    """What labeled replies get: only these two are shares of none and of all."""
    known = report.calibration.known
    return None if known is None else f"{known.kept.mean:.3f} and {known.broken.mean:.3f}"


def _tables(report: Report, people: float | None) -> list[Table]:
    decided, band = report.decided, report.calibration
    rows = (
        ("judge", report.judge),
        ("labeled replies", report.count),
        ("AUC", f"{report.auc:.3f} ({_range(report.interval.low, report.interval.high)})"),
        ("mean chance of kept and broken ones", _both(report)),
        ("separates", report.separates),
        ("calibration error", report.error),
        ("abstains", f"{decided.abstained} of {decided.count}, {report.unscored} without a score"),
        ("wrong among the decided", f"{decided.wrong} of {decided.count - decided.abstained} "
                                    f"({_range(decided.interval.low, decided.interval.high)})"),
        ("kappa with the labels", "-" if report.kappa is None else f"{report.kappa:.3f}"),
        ("kappa between people", "-" if people is None else f"{people:.3f}"),
        ("no score between", _range(band.low, band.high)),
    )  # fmt: skip
    curve = tuple(
        (
            f"{one.mean:.3f}",
            f"{one.kept:.3f}",
            _range(one.interval.low, one.interval.high),
            one.count,
        )
        for one in report.bins
    )
    values = tuple(
        (id, count, "-" if auc is None else f"{auc:.3f}") for id, count, auc in report.by_value
    )
    return [
        Table("", ("", ""), rows),
        Table("Calibration curve", ("stated", "kept", "95 %", "replies"), curve),
        Table("Values", ("value", "replies", "AUC"), values),
    ]


def _range(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"
