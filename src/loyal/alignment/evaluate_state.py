"""What a report has measured so far, in a file: a report that was killed goes on from it.

    kept = Kept(path, exam)
    base = kept.measured(base_model)             # what the file knows is not asked again
    other = kept.measured(model, base_model)

Law: what comes out is what `evaluate.measure` gives, however often it was cut off, for a judge that
says the same of the same. Holds no text: names, judged answers, margins. One process at a time.
Left out: measuring (`evaluate`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loyal.alignment.calibration import Known, Moments
from loyal.alignment.evaluate import Answer, Exam, Margin, Measured, Progress, Share, measure
from loyal.alignment.judge import identity
from loyal.alignment.preference import Record
from loyal.alignment.table_file import TableForm
from loyal.encoding import Encodable, atomic_write, digest
from loyal.models.evaluate import Utility
from loyal.models.hf import HFModel
from loyal.models.hidden import weights_digest

FORM = TableForm("loyal report state 3", "state of a report", "loyal align report", 256 << 20)
_PURPOSE = "loyal/report state/1"


class Kept:
    """The measurements of one exam, on disk after each part of each model.

    Without a path nothing is kept. ConfigError for a file that is no state, or is damaged;
    StorageError where it cannot be written.
    """

    def __init__(self, path: Path | None, exam: Exam) -> None:
        self.path, self.exam = path, exam
        self.identity = _identity(exam)
        self.models: dict[str, Measured] = {}
        self.answers: dict[str, tuple[Answer, ...]] = {}
        """Of models that are not whole yet."""
        self.replaced = False
        """Whether the file held another exam, which is measured anew over it."""
        if path is not None and path.exists():
            self._read(path)

    def measured(self, model: HFModel, base: HFModel | None = None) -> Measured:
        """As `evaluate.measure`; only what is not kept is asked."""
        key = " ".join(
            [model.name, *(weights_digest(one) for one in (model, base) if one is not None)]
        )
        if key not in self.models:

            def keep(answers: Sequence[Answer]) -> None:
                self.answers[key] = tuple(answers)
                self._write()

            progress = Progress(self.answers.get(key, ()), keep)
            self.models[key] = measure(model, self.exam, base, progress)
            self.answers.pop(key, None)
            self._write()
        return self.models[key]

    def drop(self) -> None:
        """Take the file away, once the report is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self.path is None:
            return
        table = {
            "format": FORM.format,
            "identity": self.identity,
            "models": {key: asdict(one) for key, one in self.models.items()},
            "answers": {key: [asdict(one) for one in some] for key, some in self.answers.items()},
        }
        atomic_write(self.path, (json.dumps(table) + "\n").encode())

    def _read(self, path: Path) -> None:
        table = FORM.read(path)
        if table.get("identity") != self.identity:
            self.replaced = True
            return
        try:
            self.models = {key: _measured(one) for key, one in table["models"].items()}
            self.answers = {
                key: tuple(Answer(**one) for one in some) for key, some in table["answers"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FORM.misfit(path) from None


def _measured(fields: dict[str, Any]) -> Measured:
    used, known = fields["utility"], fields["known"]
    return Measured(
        model=fields["model"],
        judge=fields["judge"],
        answers=tuple(Answer(**one) for one in fields["answers"]),
        margins=tuple(Margin(**one) for one in fields["margins"]),
        refused=Share(**fields["refused"]),
        **{name: Share(**fields[name]) for name in ("declined", "over_declined", "choices")},
        utility=None if used is None else Utility(**used),
        known=None
        if known is None
        else Known(Moments(**known["kept"]), Moments(**known["broken"])),
    )


def _identity(exam: Exam) -> str:
    """Hex digest of who judges, and all that is asked and looked at; parts may be of any size."""
    judge, settings = exam.judge, asdict(exam.settings)
    del settings["part"]
    record: Encodable = [
        exam.constitution.digest,
        identity(judge),
        [str(one) for one in sorted(settings.items())],
        [[[turn.role, turn.text or ""] for turn in made.turns] for *_, made in exam.asked()],
        [Record(one).digest for one in exam.pairs],
        [[one.query, list(one.choices), one.gold] for one in exam.choices],
    ]
    return digest(record, _PURPOSE).hex()
