"""`loyal demo`: options, the page, and the exit code. The story itself is loyal.app.demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loyal.app.commands.constitution import read_constitution
from loyal.app.model_options import MODEL_OPTION, read_recipe
from loyal.app.report import can_draw, write
from loyal.app.terminal import Terminal, command
from loyal.app.vaults import FILE


@command(
    "demo",
    MODEL_OPTION,
    click.option("--count", type=int, help="How many fingerprints; 64 by default."),
    click.option(
        "--out",
        type=FILE,
        default=Path("out/demo"),
        show_default=True,
        metavar="DIR",
        help="Folder for everything; an earlier demo's is cleared.",
    ),
    click.option(
        "--skip-share",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.2,
        show_default=True,
        help="Share of queries that one host answers without a permission; few keys catch it "
        "only if it is large.",
    ),
    click.option(
        "--constitution",
        default="personal-freedom",
        show_default=True,
        metavar="FILE",
        help="The values that one host breaks, or a bundled name: their cases are asked.",
    ),
    settings=True,
)
def demo(terminal: Terminal, **options: Any) -> int:
    """The whole story on a real model, in minutes, with a report.

    Fetches the model, makes fingerprints, commits to them, trains them in, checks the result and
    the untouched base, opens a few proofs, measures usefulness; then gives the model to four
    hosts under licenses. Two cheat, one re-aligns its copy to refuse what the community's values
    ask to answer, and provers and verifiers catch them. Writes an HTML page.
    Exit code 0 when the model is proven, the base is not, exactly the three are slashed, and the
    honest host is not accused.
    """
    from loyal.app import demo as story
    from loyal.app import demo_page as shown
    from loyal.app.breach_story import Questions

    recipe = read_recipe(terminal, keys={"count": options["count"]})
    questions = Questions.of(read_constitution(options["constitution"]))
    outcome = story.tell(
        terminal, options["model"], recipe, options["out"], questions, options["skip_share"]
    )
    write(shown.page(outcome), outcome.places.report)
    if not can_draw():
        terminal.note("the report has no charts: pip install 'loyal[report]'")
    values = shown.values(outcome.ending)
    tables = [shown.table(outcome), shown.hosts(outcome), values, shown.money(outcome)]
    terminal.result(shown.fields(outcome), tables)
    return 0 if outcome.good else 1
