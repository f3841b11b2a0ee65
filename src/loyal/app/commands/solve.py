"""`loyal control solve | recheck`: a model drafts, a checker decides, a certificate remains.

A task file is TOML: `task`, the text that the model reads, `[checker]`, the spec of a checker, and
maybe `examples`, other tasks with answers (docs/control.md). In a checker of the kind control,
`function` may name a file in place of its source. Left out: the search and the checkers
(loyal.control).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import click

from loyal.app.key_files import FILE
from loyal.app.model_options import (
    ENDPOINT_OPTIONS,
    MODEL_HELP,
    Endpoint,
    connect,
    given,
    load_model,
)
from loyal.app.out_files import require_out
from loyal.app.report import Table
from loyal.app.terminal import Terminal, command
from loyal.control import functions
from loyal.control.checkers import Spec, checker
from loyal.control.propose import Budget, Certificate, Proposal, propose
from loyal.control.propose import recheck as check_again
from loyal.encoding import atomic_write
from loyal.errors import ControlError, UsageError
from loyal.models import LanguageModel

_SHOWN = 160
_HINT = "docs/control.md shows a whole task file"


@command(
    "solve",
    click.argument("task", type=FILE, metavar="TASK"),
    click.option("--model", metavar="NAME", help=MODEL_HELP),
    *ENDPOINT_OPTIONS,
    click.option("--tokens", type=int, help="The model writes, in all; 4096 by default."),
    click.option("--seconds", type=float, help="Wall time; 120 by default."),
    click.option("--drafts", type=int, help="Drafts that are checked, at most; 64 by default."),
    click.option("--seed", type=int, help="Of the drafts' sampling; 0 by default."),
    click.option(
        "--enumerate",
        is_flag=True,
        default=None,
        help="Draft the model's likeliest replies in their order, none twice: for short answers.",
    ),
    click.option(
        "--out",
        type=FILE,
        metavar="FILE",
        help="Write the certificate here; an older one is replaced.",
    ),
)
def solve(terminal: Terminal, task: Path, out: Path | None, **options: Any) -> int:
    """Let a model draft answers to a task until its checker accepts one.

    TASK is a TOML file with the task and its checker. Exit code 0 when a draft was accepted, 1 when
    the budget ended first.
    """
    endpoint, name = Endpoint.take(options), options.pop("model")
    if (name is None) == (endpoint is None):
        raise UsageError("say which model drafts", hint="give --model NAME or --endpoint URL")
    budget = Budget(**given(options))
    if out is not None:
        require_out(out, (task,), lambda path: Certificate.from_json(_text(path)))
    text, spec, examples = read_task(task)
    checker(spec)  # before a model is loaded for it
    model: LanguageModel = connect(endpoint) if endpoint is not None else load_model(terminal, name)
    found = propose(model, text, spec, budget, examples=examples)
    if found.certificate is not None and out is not None:
        atomic_write(out, found.certificate.to_json().encode())
    terminal.result(_fields(found, model.name), [_table(found)])
    return 0 if found.certificate is not None else 1


@command("recheck", click.argument("certificate", type=FILE, metavar="CERTIFICATE"))
def recheck(terminal: Terminal, certificate: Path) -> int:
    """Check an accepted answer again, without any model.

    CERTIFICATE is the file that 'loyal control solve --out' wrote. Exit code 0 when it holds.
    """
    found = Certificate.from_json(_text(certificate))
    verdict = check_again(found)
    terminal.result(
        {
            "accepted": verdict.accepted,
            "reason": verdict.reason,
            "task": found.task,
            "candidate": found.candidate,
            "digest": found.digest.hex(),
        }
    )
    return 0 if verdict.accepted else 1


class TaskFile(NamedTuple):
    """What a task file says."""

    task: str
    spec: Spec
    examples: tuple[tuple[str, str], ...]
    """Other tasks, each with its answer."""


def read_task(path: Path) -> TaskFile:
    """What a task file says. ControlError for any other file."""
    try:
        match tomllib.loads(_text(path)):
            case {"task": str(task), "checker": dict(spec), **rest} if set(rest) <= {"examples"}:
                if not task.strip():
                    raise ControlError("the task is empty", hint=_HINT)
                examples = rest.get("examples", [])
                if not isinstance(examples, list):
                    raise ControlError("examples is a list", hint=_HINT)
                function = spec.pop("function", None)
                if function is not None:
                    one = functions.load(_function(path, function))
                    spec |= {"form": one.form, "source": one.source.decode()}
                return TaskFile(task, spec, tuple(map(_example, examples)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ControlError(f"the task is not TOML: {error}", hint=_HINT) from error
    raise ControlError("a task file has task, [checker], maybe examples, nothing else", hint=_HINT)


def _function(task: Path, named: Any) -> Path:
    """A file beside the task, or the name of a function that comes along."""
    if not isinstance(named, str):
        raise ControlError("function is a file or a name", hint=_HINT)
    return Path(named) if named in functions.bundled() else task.parent / named


def _example(value: Any) -> tuple[str, str]:
    match value:
        case {"task": str(task), "answer": str(answer), **rest} if not rest:
            return task, answer
    raise ControlError("an example has task and answer", hint=_HINT)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"cannot read {path}: {reason}", hint="check the path") from error


def _fields(found: Proposal, model: str) -> dict[str, Any]:
    certificate, best = found.certificate, found.best
    return {
        "accepted": certificate is not None,
        "candidate": certificate.candidate if certificate else None,
        "reason": certificate.reason if certificate else best.verdict.reason if best else None,
        "digest": certificate.digest.hex() if certificate else None,
        "drafts": [
            {"candidate": one.candidate, "score": one.verdict.score, "reason": one.verdict.reason}
            for one in found.drafts
        ],
        "tokens": found.tokens,
        "seconds": found.seconds,
        "model": model,
    }


def _table(found: Proposal) -> Table:
    rows = tuple(
        ("yes" if one.verdict.accepted else "no", one.candidate[:_SHOWN], one.verdict.reason)
        for one in found.drafts
    )
    note = f"{len(rows)} drafts, {found.tokens} tokens, {found.seconds:.1f} s"
    return Table("", ("accepted", "draft", "reason"), rows, note)
