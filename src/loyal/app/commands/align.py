"""`loyal align attacks`: the families of prompt attacks, and what one of them says.

Loads no model and no torch. Left out: asking a model, and judging what it replied.
"""

from __future__ import annotations

import random
from typing import Any, get_args

import click

from loyal.alignment import Composition, Conversation, Family, Target, attacks
from loyal.app.report import Table
from loyal.app.terminal import Terminal, command
from loyal.errors import UsageError

TEXTS = ("question", "topic", "value", "opposite")
OWN_REPLY = "(the model's own reply)"


def _text_option(name: str, what: str) -> Any:
    return click.option(f"--{name}", metavar="TEXT", help=f"{what}, in place of the example's.")


@command(
    "attacks",
    click.option(
        "--split",
        type=click.Choice(get_args(attacks.Split)),
        help="Only families that training may see, or only those that it never sees.",
    ),
    click.option(
        "--show",
        metavar="ATTACK",
        help="Wordings of one family, and a conversation; inner+outer for a composition.",
    ),
    click.option("--seed", type=int, help="Draws the conversation of --show. Default: 0."),
    _text_option("question", "The question that is put"),
    _text_option("topic", "What it is about, as a noun phrase"),
    _text_option("value", "The value, as one sentence"),
    _text_option("opposite", "What breaks the value, as one sentence"),
)
def attacks_command(
    terminal: Terminal,
    split: attacks.Split | None,
    show: str | None,
    seed: int | None,
    **texts: str,
) -> int:
    """List the families of prompt attacks on values, or show one.

    A composition names families from the inside out: novel+json-policy+leetspeak is a novel inside
    a JSON policy inside leetspeak. Layers say what may stand outside of what: wording, form,
    encoding, turns.
    """
    given = {name: text for name, text in texts.items() if text is not None}
    if show is not None:
        if split is not None:
            raise UsageError(
                "--split and --show exclude each other", hint="list a split, or show one attack"
            )
        return _show(terminal, attacks.named(show), _target(given), seed or 0)
    if given or seed is not None:
        raise UsageError(
            "a seed or a text of the target is for --show alone", hint="add --show ATTACK"
        )
    listed = attacks.families(split)
    columns = ("id", "kind", "layer", "split", "what")
    rows = tuple((one.id, one.kind, one.layer, one.split, one.about) for one in listed)
    note = f"{len(listed)} families, {sum(len(one.wordings) for one in listed)} wordings."
    terminal.result(
        {"families": [_described(one) for one in listed]}, [Table("", columns, rows, note)]
    )
    return 0


def _target(texts: dict[str, str]) -> Target:
    example = attacks.EXAMPLE
    return Target(*(texts.get(name, getattr(example, name)) for name in TEXTS))


def _show(terminal: Terminal, which: attacks.Attack, target: Target, seed: int) -> int:
    made = attacks.attack(which, target, random.Random(seed))
    parts = which.parts if isinstance(which, Composition) else (which,)
    fields = {
        "id": which.id,
        "split": which.split,
        "parts": [_described(one) for one in parts],
        "seed": seed,
        "target": {name: getattr(target, name) for name in TEXTS},
        "turns": [{"role": one.role, "text": one.text} for one in made.turns],
    }
    terminal.result(fields, [*(_wordings(one) for one in parts), _conversation(made, which, seed)])
    return 0


def _described(family: Family) -> dict[str, Any]:
    return {
        "id": family.id,
        "title": family.title,
        "about": family.about,
        "kind": family.kind,
        "layer": family.layer,
        "split": family.split,
        "wordings": [list(one) for one in family.wordings],
    }


def _wordings(family: Family) -> Table:
    title = f"{family.title} ({family.kind}, {family.layer}, {family.split}): {family.about}"
    rows = tuple((number, "\n".join(one)) for number, one in enumerate(family.wordings, 1))
    return Table(title, ("", "wording"), rows)


def _conversation(made: Conversation, which: attacks.Attack, seed: int) -> Table:
    rows = tuple((one.role, OWN_REPLY if one.text is None else one.text) for one in made.turns)
    return Table(f"{which.id}, drawn with seed {seed}", ("who", "says"), rows)
