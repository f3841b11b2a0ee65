"""Documents cannot lie: every command, option, variable, file and link that they name is checked.

Each check is a function from text to complaints, and each is fed a planted lie. A page that is not
written yet is skipped by name; nothing else is.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from loyal.app.cli import LazyGroup, root

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

GENERATOR: dict[str, Any] = runpy.run_path(str(DOCS / "generate.py"))

VARIABLE = re.compile(r"_?LOYAL_[A-Z][A-Z_]+")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def commands(group: LazyGroup, path: str = "loyal") -> Iterator[tuple[str, click.Command]]:
    """Every command and group below a group, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield f"{path} {name}", found
        if isinstance(found, LazyGroup):
            yield from commands(found, f"{path} {name}")


def unnamed(page: str, wanted: list[str]) -> list[str]:
    """What the page does not name."""
    return [name for name in wanted if name not in page]


def wanted_names() -> list[str]:
    """Every command and every option."""
    names = []
    for name, command in commands(root):
        names += [f"## {name}\n"] if not isinstance(command, LazyGroup) else []
        names += [
            option for parameter in command.params for option in parameter.opts if "-" in option
        ]
    return names


def test_the_page_is_what_the_generator_makes() -> None:
    made = GENERATOR["page"]()
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == made, "run: make docs"


def test_every_command_and_option_is_documented() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert unnamed(page, wanted_names()) == []
    assert unnamed(page.replace("--passphrase-file", ""), wanted_names())
    assert unnamed(page.replace("## loyal doctor\n", ""), wanted_names()) == ["## loyal doctor\n"]


def wrong_calls(page: str) -> list[str]:
    """Lines of a page's code that call a command or an option that there is not."""
    known = dict(commands(root))
    wrong = []
    for block in FENCE.findall(page):
        for line in re.findall(r"^loyal .*$", block, re.MULTILINE):
            words = re.split(r"\s#\s", line)[0].split()
            depth = max((n for n in range(1, 5) if " ".join(words[:n]) in known), default=0)
            command = known.get(" ".join(words[:depth]))
            options = {one for param in command.params for one in param.opts} if command else set()
            given = {word for word in words if word.startswith("--")}
            needed = {
                param.opts[-1]
                for param in (command.params if command else [])
                if param.required and isinstance(param, click.Option)
            }
            unknown = given - options - {"--help"}
            missing = set() if "--help" in given else needed - given
            if command is None or isinstance(command, LazyGroup) or unknown or missing:
                wrong.append(line)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_call_that_a_page_shows_can_be_made(page: Path) -> None:
    assert wrong_calls(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "call", ["loyal no", "loyal registry", "loyal doctor --no", "loyal registry settle --key x"]
)
def test_a_call_that_cannot_be_made_is_found(call: str) -> None:
    assert wrong_calls(f"```bash\nloyal doctor --json  # fine\n{call}\n```\n") == [call]


def variables(source: str) -> set[str]:
    """Environment variables of ours that a module names in a string."""
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {name for text in strings if isinstance(text, str) for name in VARIABLE.findall(text)}


def test_every_variable_is_documented() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    read = set()
    for path in (ROOT / "src").rglob("*.py"):
        read |= variables(path.read_text(encoding="utf-8"))
    assert unnamed(page, sorted(read)) == []
    assert set(GENERATOR["ENVIRONMENT"]) == read, "docs/generate.py explains what nobody reads"


def test_the_search_for_variables_finds_them() -> None:
    assert variables("import os\nos.environ['LOYAL_NEW']") == {"LOYAL_NEW"}
    assert variables("LOYALTY = 1") == set()


def dead_links(page: Path, text: str) -> list[str]:
    """Links of a page to files or headings that are not there; the web is not asked."""
    dead = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        heard = there.read_text(encoding="utf-8") if file and there.is_file() else text
        if not there.exists() or (anchor and anchor not in anchors(heard)):
            dead.append(f"{page.name}: {target}")
    return dead


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_resolve(page: Path) -> None:
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


def test_a_dead_link_is_found() -> None:
    page = DOCS / "cli.md"
    planted = "# A title\n[x](no.md) [y](#nowhere) [z](#a-title) [w](https://a.b) [v](cli.md)"
    assert dead_links(page, planted) == ["cli.md: no.md", "cli.md: #nowhere"]


def tree_paths(readme: str) -> list[str]:
    """The files and folders that the README's tree names.

    The tree is the fenced block with a line that begins with src/. A line is one or more names, two
    spaces or more, and the comment; deeper lines stand in the folder above them.
    """
    block = next((one for one in FENCE.findall(readme) if re.search(r"^src/", one, re.M)), "")
    folders: list[tuple[int, str]] = []
    found = []
    for line in block.splitlines()[1:-1]:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        folders = [one for one in folders if one[0] < depth]
        parent = folders[-1][1] if folders else ""
        names = re.split(r"\s{2,}", line.strip())[0].split()
        found += [f"{parent}{name}" for name in names]
        if names[0].endswith("/"):
            folders.append((depth, f"{parent}{names[0]}"))
    return found


def test_every_file_in_the_readme_exists() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    named = tree_paths(readme.read_text(encoding="utf-8"))
    assert "src/loyal/" in named
    assert [name for name in named if not list(ROOT.glob(name))] == []
    assert [name for name, count in Counter(named).items() if count > 1] == []


def test_the_tree_is_read_as_written() -> None:
    planted = (
        "```\nREADME.md  LICENSE\nsrc/loyal/\n  errors.py    one tree\n  models/      a room\n"
        "    hf.py tiny.py    two files\n  app/\ntests/        the same\n```\n"
    )
    assert tree_paths(planted) == [
        "README.md",
        "src/loyal/",
        "src/loyal/errors.py",
        "src/loyal/models/",
        "src/loyal/models/hf.py",
        "src/loyal/models/tiny.py",
        "src/loyal/app/",
        "tests/",
    ]
    assert tree_paths("no tree here") == []
