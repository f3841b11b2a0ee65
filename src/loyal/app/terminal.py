"""What one run of a command says, and where: results on stdout, everything else on stderr.

Holds `Terminal` (one object a run), the options that every command shares, and the decorator that
makes a command of a handler. Leaves out errors and exit codes (failures.py) and HTML (report.py).
"""

from __future__ import annotations

import functools
import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from loyal.app.report import Cell, Table, show
from loyal.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

Update = Callable[[int, int, str], None]
"""Progress of one stage: steps done, steps in all (0 when unknown), a short note."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tabs and line ends."""


AGAIN = "run the same command again"
"""The next step after Ctrl-C, of a command that keeps nothing of what was stopped."""


@dataclass
class Terminal:
    """One run of the command line: what was asked for by the shared options, and the two streams.

    With `json`, stdout carries exactly one JSON object; without it, a table for people.
    """

    json: bool = False
    debug: bool = False
    recipe: Path | None = None
    overrides: tuple[str, ...] = ()
    """`--set key=value`, in the order given."""
    out: TextIO = field(default_factory=lambda: sys.stdout)
    again: str = AGAIN
    """The next step after Ctrl-C."""

    def note(self, text: str) -> None:
        """Say something on stderr: a step that begins, a warning, a path."""
        sys.stderr.write(f"{visible(text)}\n")
        sys.stderr.flush()

    def result(self, fields: Mapping[str, Any], tables: Sequence[Table] = ()) -> None:
        """Print the outcome on stdout: `fields` as JSON, or `tables` (by default the fields)."""
        if self.json:
            self.out.write(json_line(_finite(fields), self.out))
        else:
            for table in tables or (facts(fields),):
                self._print_table(table)
        self.out.flush()

    @contextmanager
    def progress(self, title: str) -> Iterator[Update]:
        """A progress bar on stderr for one stage; the function given reports how far it is."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        words = TextColumn("{task.description}", markup=False)
        note = TextColumn("{task.fields[note]}", markup=False)
        columns = (words, BarColumn(bar_width=28), MofNCompleteColumn(), Elapsed(), note)
        with Progress(*columns, console=self._console(sys.stderr)) as bars:
            task = bars.add_task(title, total=None, note="")

            def update(done: int, total: int, text: str = "") -> None:
                bars.update(task, completed=done, total=total or None, note=text)

            yield update

    def refuse_recipe(self) -> None:
        """UsageError when a recipe or an override was given to a command that has no settings."""
        if self.recipe is not None or self.overrides:
            raise UsageError(
                "this command has no settings for --recipe or --set to change",
                hint="leave them out, or see the command's --help for its options",
            )

    @contextmanager
    def reserved_stdout(self) -> Iterator[None]:
        """Send what libraries print to stderr, so that stdout carries the result alone."""
        self.out = sys.stdout
        with redirect_stdout(sys.stderr):
            yield

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console

        width = None if stream.isatty() else 160
        return Console(file=stream, width=width, highlight=False, soft_wrap=False)

    def _print_table(self, table: Table) -> None:
        from rich import box
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid(
            title=table.title or None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_header=any(table.columns),
            pad_edge=False,
        )
        for name in table.columns:
            grid.add_column(name, overflow="fold")
        for row in table.rows:
            grid.add_row(*(Text(visible(show(cell))) for cell in row))
        # Not printed by rich itself: its console ends the program when a reader goes away.
        with (console := self._console(self.out)).capture() as drawn:
            console.print(grid)
        lines = [line.rstrip() for line in drawn.get().splitlines()]
        self.out.write("\n".join([*lines, *([table.note] if table.note else []), ""]))


def forgive(stream: TextIO) -> None:
    """Let a stream take every text: what its encoding does not have is written as an escape."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def json_line(fields: Mapping[str, Any], stream: TextIO) -> str:
    """The fields as one line of JSON, in ASCII where the stream does not take all characters."""
    whole = (stream.encoding or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(fields, ensure_ascii=not whole, allow_nan=False) + "\n"


def visible(text: str) -> str:
    """A text without what steers a terminal: a model's reply is not to clear the screen."""
    return _STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def facts(fields: Mapping[str, Any], title: str = "") -> Table:
    """Fields as a table of two columns, nested values left out."""
    rows = tuple(
        (name.replace("_", " "), value) for name, value in fields.items() if isinstance(value, Cell)
    )
    return Table(title, ("", ""), rows)


def command(
    name: str, *options: Decorator, settings: bool = False, kept_by: str = ""
) -> Callable[[Callable[..., int]], click.Command]:
    """Make a click command of `handler(terminal, ...) -> exit code`, with the shared options.

    `settings` says that the command reads `--recipe` and `--set`; others refuse them. `kept_by` is
    the option with which a run that was stopped goes on when it is called again.
    """

    def build(handler: Callable[..., int]) -> click.Command:
        @click.pass_obj
        @functools.wraps(handler)
        def run(terminal: Terminal, /, **values: Any) -> int:
            if not settings:
                terminal.refuse_recipe()
            _require_numbers(values)
            terminal.again = _again(kept_by, values)
            with terminal.reserved_stdout():
                return handler(terminal, **values)

        decorated: Callable[..., Any] = run
        for option in reversed((*options, *SHARED_OPTIONS)):
            decorated = option(decorated)
        return click.command(name)(decorated)

    return build


def _again(kept_by: str, values: Mapping[str, Any]) -> str:
    """The next step after Ctrl-C."""
    if not kept_by:
        return AGAIN
    if values[kept_by] is None:
        return f"{AGAIN}; with --{kept_by} FILE a run that is stopped goes on"
    return f"{AGAIN}; it goes on where it was stopped"


def _require_numbers(values: Mapping[str, Any]) -> None:
    """UsageError for an option that is NaN or infinite, which no range of click's refuses."""
    for parameter in click.get_current_context().command.params:
        value = values.get(parameter.name or "")
        if isinstance(value, float) and not math.isfinite(value):
            option = parameter.opts[0]
            raise UsageError(f"{option} is not a number", hint=f"give {option} one")


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    terminal = context.find_object(Terminal)
    if terminal is None or not value:
        return
    name = parameter.name or ""
    setattr(terminal, name, terminal.overrides + value if name == "overrides" else value)


def _shared(*names: str, **settings: Any) -> Decorator:
    return click.option(*names, callback=_remember, expose_value=False, is_eager=True, **settings)


SHARED_OPTIONS: tuple[Decorator, ...] = (
    _shared(
        "--recipe",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        help="Settings from a TOML file.",
    ),
    _shared(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="One setting, over the recipe's; may be repeated.",
    ),
    _shared("--json", is_flag=True, help="One JSON object on stdout; logs stay on stderr."),
    _shared("--debug", is_flag=True, help="Show the traceback of an error."),
)
"""Accepted before and after the sub-command."""


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null in their place."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value
