"""The habits of docs and code that a reader counts on, held for every file of the repository.

Each rule is a pure function from a file's path and text to a list of complaints, and each is fed a
planted offense.
Left out on purpose: what ruff and mypy already hold, and the import direction (test_layers.py).
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FUNCTION_LINES = 60
FILE_LINES = 500
PARAMETERS = 6

FORBIDDEN_NAMES = frozenset(
    {"utils", "util", "common", "core", "base", "manager", "helpers", "helper", "misc"}
)

UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")

BANNER = re.compile(r"^\s*(?:#|//)\s*(?:[=\-*~_]{4,}|#{3,})", re.MULTILINE)

EMOJI = re.compile("[\U0001f000-\U0001faff\ufe0f]")

MACHINE = re.compile(
    r"(?<![\w.~-])/(?:work|root|home|Users|workspace|mnt|opt)/\w"  # a folder of one machine
    r"|(?<![\w.~-])/tmp/\w"
    r"|\bindex-" + r"url\b|\b(?:artifact" + r"ory|dev" + r"pi|nex" + r"us)\b"  # a package index
    r"|\b[\w-]+\.(?:internal|corp|lan|localdomain)\b",  # a private host
    re.IGNORECASE,
)

BRITISH = re.compile(
    r"\b\w*(?:(?:behavi|col|fav|hon|lab|neighb)" + r"our|cent" + r"re\b|lic" + r"ence|offe" + r"nce"
    r"|(?:token|normal|serial|initial|random|optim|organ|recogn|summar|minim|maxim|general)"
    r"is(?:e[drs]?|ing|ations?)\b|analy" + r"se[drs]?\b)",
    re.IGNORECASE,
)


def files() -> list[Path]:
    """Every file that git tracks or would track, relative to the root; without git, all."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = (Path(name) for name in listed.stdout.splitlines())
    else:
        names = (path.relative_to(ROOT) for path in ROOT.rglob("*") if "/." not in str(path))
    return sorted(name for name in names if (ROOT / name).is_file())


@lru_cache(maxsize=1)
def nodes(text: str) -> tuple[ast.AST, ...]:
    """Every node of a module, itself first; the rules ask of one file after the other."""
    return tuple(ast.walk(ast.parse(text)))


def functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module, nested ones too."""
    for node in nodes(text):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def long_functions(path: str, text: str) -> list[str]:
    """Functions over the limit, from `def` to the last line; decorators do not count."""
    return [
        f"{path}:{node.lineno} {node.name} has {size} lines, over {FUNCTION_LINES}: split it"
        for node in functions(text)
        if (size := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]


def long_files(path: str, text: str) -> list[str]:
    """A file over the limit."""
    size = len(text.splitlines())
    return [f"{path} has {size} lines, over {FILE_LINES}: split it"] if size > FILE_LINES else []


def wide_functions(path: str, text: str) -> list[str]:
    """Functions with too many parameters, self and cls aside.

    Command handlers are held to the same: they take **options and make one frozen dataclass of it.
    """
    found = []
    for node in functions(text):
        args = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        count = len([arg for arg in args if arg.arg not in ("self", "cls")])
        if count > PARAMETERS:
            found.append(f"{path}:{node.lineno} {node.name} takes {count}: make a frozen dataclass")
    return found


def silent_modules(path: str, text: str) -> list[str]:
    """A Python file whose first statement is no docstring."""
    (module, *_) = nodes(text)
    assert isinstance(module, ast.Module)
    return [] if ast.get_docstring(module) else [f"{path} does not say what it holds"]


def vague_names(path: str, text: str) -> list[str]:
    """A file or folder named for nothing in particular, alone or as a suffix (train_utils)."""
    words = {part.rsplit("_", 1)[-1] for part in Path(path).with_suffix("").parts}
    return [
        f"{path}: '{word}' says nothing: name what it holds" for word in words & FORBIDDEN_NAMES
    ]


def unfinished(path: str, text: str) -> list[str]:
    """A note to oneself."""
    return [f"{path}: {match.group()} left behind" for match in UNFINISHED.finditer(text)]


def banners(path: str, text: str) -> list[str]:
    """A ruler or an emoji where a sentence or nothing would do."""
    found = [f"{path}: banner '{match.group().strip()}'" for match in BANNER.finditer(text)]
    return found + [f"{path}: emoji {match.group()!r}" for match in EMOJI.finditer(text)]


def dead_code(path: str, text: str) -> list[str]:
    """A comment on a line of its own that is a Python statement."""
    if not re.search(r"^\s*#", text, re.MULTILINE):
        return []  # tokens cost more than all other rules, and most files have no such line
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line.strip().startswith("#"):
            words = token.string.lstrip("#").strip()
            if _is_statement(words):
                found.append(f"{path}:{token.start[0]} commented-out code: {words[:40]}")
    return found


def _is_statement(words: str) -> bool:
    for candidate in (words, f"{words}\n    pass"):
        try:
            body = ast.parse(candidate).body
        except SyntaxError:
            continue
        if body and not (isinstance(body[0], ast.Expr) and not isinstance(body[0].value, ast.Call)):
            return not isinstance(body[0], ast.AnnAssign)
    return False


def prints(path: str, text: str) -> list[str]:
    """A `print` below the app floor, where results are returned and progress is a callback."""
    if not path.startswith("src/loyal/") or path.startswith("src/loyal/app/"):
        return []
    return [
        f"{path}:{node.lineno} prints: return it, or report progress through a callback"
        for node in nodes(text)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]


def machine_names(path: str, text: str) -> list[str]:
    """A path or a host of the machine that somebody worked on."""
    return [f"{path}: names a machine: '{match.group()}'" for match in MACHINE.finditer(text)]


def spelling(path: str, text: str) -> list[str]:
    """A British spelling."""
    return [f"{path}: '{match.group()}' is not American" for match in BRITISH.finditer(text)]


Rule = Callable[[str, str], list[str]]

PYTHON_RULES: tuple[Rule, ...] = (
    long_functions, long_files, wide_functions, silent_modules, dead_code, prints,
)  # fmt: skip
TEXT_RULES: tuple[Rule, ...] = (vague_names, machine_names)
PROSE_RULES: tuple[Rule, ...] = (unfinished, banners, spelling)

CODE = (".py", ".sol", ".css", ".html", ".toml", ".sh")
PROSE = (*CODE, ".md")


def complaints(path: Path, text: str) -> list[str]:
    """What every rule that applies to this kind of file has to say."""
    rules: tuple[Rule, ...] = TEXT_RULES
    if path.suffix in PROSE or path.name == "Makefile":
        rules += PROSE_RULES
    if path.suffix == ".py":
        rules += PYTHON_RULES
    return [line for rule in rules for line in rule(str(path), text)]


@pytest.mark.parametrize("path", files(), ids=str)
def test_file_keeps_the_house_rules(path: Path) -> None:
    try:
        text = (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = ""
    assert complaints(path, text) == []


def lines(count: int) -> str:
    """A function of `count` lines."""
    return "def f():\n" + "    x = 1\n" * (count - 1)


DOC = '"""A module."""\n'

RED: tuple[tuple[Rule, str, str], ...] = (
    (long_functions, "src/a.py", lines(FUNCTION_LINES + 1)),
    (long_files, "src/a.py", "x = 1\n" * (FILE_LINES + 1)),
    (wide_functions, "src/a.py", "def f(a, b, c, d, *, e, f, g): ..."),
    (wide_functions, "src/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g): ..."),
    (silent_modules, "src/a.py", "x = 1\n"),
    (vague_names, "src/loyal/utils.py", ""),
    (vague_names, "src/loyal/common/text.py", ""),
    (vague_names, "src/loyal/train_helpers.py", ""),
    (unfinished, "src/a.py", "x = 1  # TO" + "DO: later\n"),
    (banners, "src/a.py", "# " + "=" * 20 + "\n"),
    (banners, "README.md", "done \U0001f680\n"),
    (dead_code, "src/a.py", "# " + "x = compute(3)\n"),
    (dead_code, "src/a.py", "# " + "return value\n"),
    (dead_code, "src/a.py", "# " + "for x in y:\n"),
    (dead_code, "src/a.py", "# " + "import torch\n"),
    (prints, "src/loyal/models/train.py", "print('hello')"),
    (machine_names, "README.md", "see /" + "work/main/README.md"),
    (machine_names, "README.md", "see /" + "tmp/plan"),
    (machine_names, "README.md", "pip install --index" + "-url x"),
    (machine_names, "README.md", "https://pip." + "internal/simple"),
    (spelling, "README.md", "the model's behavi" + "our"),
    (spelling, "README.md", "we normal" + "ise it"),
)


@pytest.mark.parametrize(("rule", "path", "text"), RED)
def test_rule_turns_red(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text)


GREEN: tuple[tuple[Rule, str, str], ...] = (
    (long_functions, "src/a.py", lines(FUNCTION_LINES)),
    (long_files, "src/a.py", "x = 1\n" * FILE_LINES),
    (wide_functions, "src/a.py", "class A:\n    def f(self, a, b, c, d, e, f): ..."),
    (wide_functions, "src/a.py", "def handler(terminal, **options): ..."),
    (silent_modules, "src/a.py", DOC),
    (vague_names, "src/loyal/errors.py", ""),
    (unfinished, "src/a.py", "x = 1  # once done, it stays done\n"),
    (banners, "src/a.py", "# One reason.\n"),
    (dead_code, "src/a.py", "# (B, T, vocab)\nx = 1  # a = b\n"),
    (dead_code, "src/a.py", "# The clock is an argument: nothing here calls time.time().\n"),
    (prints, "src/loyal/app/cli.py", "print('hello')"),
    (machine_names, "README.md", "see src/loyal/" + "work/x and https://example.com/home/x"),
    (spelling, "README.md", "the model's behavior; raise; otherwise; a promise; precise"),
)


@pytest.mark.parametrize(("rule", "path", "text"), GREEN)
def test_honest_text_stays_green(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text) == []


def test_every_rule_was_seen_red() -> None:
    seen = {rule for rule, _, _ in RED}
    assert seen == {*PYTHON_RULES, *TEXT_RULES, *PROSE_RULES}


def test_the_list_of_files_is_not_empty() -> None:
    assert Path("pyproject.toml") in files()
    assert Path("tests/test_house.py") in files()
