"""Writes docs/cli.md from the command line itself, and docs/attacks.md from the attacks' data.

Run it with `make docs`; tests/test_docs.py and tests/alignment compare the files with what this
makes. Left out: any page that a person writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from loyal.alignment import attacks
from loyal.app.cli import LazyGroup, root

PAGE = Path(__file__).parent / "cli.md"
ATTACKS_PAGE = Path(__file__).parent / "attacks.md"

SHARED = ("--recipe", "--set", "--json", "--debug", "--help")
"""Options of every command: explained once, at the top."""

ENVIRONMENT = {
    "LOYAL_PASSPHRASE": "The vault's passphrase, where no `--passphrase-file` is given.",
    "LOYAL_CACHE": "Folder for fetched and built models; by default the user's cache folder.",
    "_LOYAL_COMPLETE": "Set by a shell for completion: "
    '`eval "$(_LOYAL_COMPLETE=bash_source loyal)"` (or `zsh_source`, `fish_source`).',
}
"""Every environment variable that the source reads."""

EXIT_CODES = {
    "0": "done; for `check`, `verify-proof` and `verify-opening`: proven",
    "1": "refused, or not proven; the message says which, and what to do next",
    "2": "a wrong call: an option, a path, a recipe or a model that cannot serve",
    "130": "stopped by Ctrl-C; what was saved is intact",
    "141": "whoever read the output went away (`loyal ... | head`)",
}

INTRODUCTION = """\
# The command line

Written by `docs/generate.py` from the commands themselves; do not edit.

Results go to stdout, everything else to stderr. The options below are accepted before and after a
command's name. An error is one line and a line that says the next step; with `--json` it is one
object with `error`, `hint`, `code` and `kind`.
"""


ATTACKS = """\
# Prompt attacks on values

Written by `docs/generate.py` from `src/loyal/alignment/data/attacks.toml`; do not edit.

A community's values are worth what is left of them when somebody argues, begs, orders or plays
tricks. A family is one such idea, in wordings of our own that fit any question on any value: an
attack is told the question, the topic, the value and its opposite. The values are those of benign
communities (a library's silence about its readers); nothing here is about dangerous knowledge.

```python
import random

from loyal.alignment import attacks, conversation
from loyal.models import Sampling

asked = [attacks.attack("crescendo", attacks.EXAMPLE, random.Random(seed)) for seed in range(20)]
replies = conversation.play(model, asked, Sampling(max_tokens=64))  # the last of each is the answer
```

```bash
loyal align attacks --split held-out
loyal align attacks --show novel+json-policy+leetspeak --seed 7
```

- **Train and held-out** are for good. Training draws from `families("train")` or
  `draw("train", rng, depth)` alone, so that the held-out families measure what was learned and not
  what was memorized. No two families share a run of four words; some encodings also come bare.
- **Layers** say what may be put around what, from the inside out and one of each at most: wording,
  form, encoding, turns. `compose(novel, json_policy, leetspeak)` is a novel in JSON in leetspeak. A
  composition is held out as soon as one part is.
- **Turns.** `fake-history` and its like put replies into the model's mouth; `crescendo` and its
  like leave turns open, and the model's own replies stand there (`Conversation`, `play`).
- **Encodings** can all be read back: `decode(encode(text)) == fold(text)`, where `fold` is what the
  form carries (`src/loyal/alignment/encodings.py`).
- **Best of N**: `best_of(attack, target, rng, n)` gives n perturbations of one attack; the attacker
  keeps the one that worked.

What this is not: a search. Attacks that optimize against one model (GCG, PAIR) find more; these
find what needs no access to the model and no second model.

Ideas that we took up (no text was): competing objectives, prefixes, encodings (Wei et al., arXiv
2307.02483); payload splitting (Kang et al., arXiv 2302.05733); persuasion (Zeng et al., arXiv
2401.06373); past tense (Andriushchenko and Flammarion, arXiv 2407.11969); Crescendo (Russinovich et
al., arXiv 2404.01833); many shots (Anil et al., 2024); Best-of-N (Hughes et al., arXiv 2412.03556).
"""


def attacks_page() -> str:
    """The whole of docs/attacks.md."""
    parts = [ATTACKS]
    for split, title in (("train", "Families for training"), ("held-out", "Families held out")):
        listed = attacks.families(split)
        lines = ["| family | kind | layer | wordings | what |", "|---|---|---|---|---|"]
        lines += [
            f"| `{one.id}` | {one.kind} | {one.layer} | {len(one.wordings)} | {one.about} |"
            for one in listed
        ]
        parts.append("\n".join([f"## {title}: {len(listed)}\n", *lines, ""]))
    return "\n".join(parts)


def commands(group: LazyGroup, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group by its full name, groups left out, in the order of --help."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, LazyGroup):
            yield from commands(found, f"{path} {name}")
        elif found is not None:
            yield f"{path} {name}", found


def page() -> str:
    """The whole of docs/cli.md."""
    every = list(commands(root, "loyal"))
    shared = [parameter for parameter in root.params if parameter.opts[0] in SHARED]
    parts = [INTRODUCTION, _options(shared)]
    parts += ["## Exit codes\n", _table(("code", "meaning"), EXIT_CODES.items())]
    parts += ["## Environment\n", _table(("variable", "meaning"), _quoted(ENVIRONMENT.items()))]
    parts += [_command(name, command) for name, command in every]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _command(name: str, command: click.Command) -> str:
    own = [one for one in command.params if one.opts[0] not in SHARED]
    arguments = [one.make_metavar(click.Context(command)) for one in own if not _is_option(one)]
    usage = " ".join([name, *arguments, "[OPTIONS]"])
    parts = [f"## {name}\n", f"    {usage}\n", _prose(command.help or "")]
    options = [one for one in own if _is_option(one)]
    return "\n".join([*parts, _options(options)] if options else parts)


def _options(parameters: list[click.Parameter]) -> str:
    rows = [_option_row(one) for one in parameters if isinstance(one, click.Option)]
    return _table(("option", "meaning"), rows)


def _option_row(option: click.Option) -> tuple[str, str]:
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else " " + option.make_metavar(click.Context(root))
    notes = [(option.help or "").rstrip()]
    notes += ["Required."] if option.required else []
    notes += ["Repeatable."] if option.multiple and "repeat" not in notes[0] else []
    if isinstance(option.default, (int, float, str)) and not option.is_flag:
        notes.append(f"Default: {option.default}.")
    return f"`{names}{value}`".replace("|", "\\|"), " ".join(notes)


def _prose(help_text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in help_text.split("\n\n")) + "\n"


def _quoted(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((f"`{name}`", meaning) for name, meaning in rows)


def _table(header: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "|---|---|"]
    lines += [f"| {first} | {second} |" for first, second in rows]
    return "\n".join(lines) + "\n"


def _is_option(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    ATTACKS_PAGE.write_text(attacks_page(), encoding="utf-8")
