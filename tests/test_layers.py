"""The floors of the house: who may import whom, held by reading every source file's imports.

The tables below are the picture of docs/decisions/0001-the-house.md in code. One pure function,
`violations`, applies every rule to one module's text, so that each rule is also fed a planted bad
module and seen to turn red.
Left out on purpose: style (test_house.py) and what a room shows at its door (test_exports.py).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"

GROUND = ("errors", "encoding", "signing", "merkle", "config", "statistics")

FLOORS: tuple[tuple[str, ...], ...] = (
    ("ground",),
    ("protocol",),
    ("community",),
    ("models",),
    ("fingerprints", "control", "alignment"),
    ("roles",),
    ("app",),
)
"""Lowest first. A room imports rooms of lower floors only; the rooms of one floor are strangers."""

NEVER = {"models": ("protocol", "community")}
"""Lower rooms that a room leaves alone all the same."""

SINGLE_READER = {"loyal.contracts": "loyal.app.chain"}
"""Packages that exactly one module may read."""

TORCH = ("torch", "transformers", "datasets", "peft", "accelerate")
TORCH_ROOMS = ("models", "fingerprints", "control", "alignment")

NOUNS = (
    "loyal.models",
    "loyal.models.language_model",
    "loyal.models.examples",
    "loyal.models.endpoint",
    "loyal.models.answers",
    "loyal.models.questions",
    "loyal.models.training",
    "loyal.fingerprints",
    "loyal.fingerprints.fingerprint",
    "loyal.fingerprints.vault",
    "loyal.fingerprints.commitment",
    "loyal.fingerprints.custody",
    "loyal.fingerprints.attack",
    "loyal.fingerprints.records",
    "loyal.fingerprints.sealed",
    "loyal.fingerprints.codes",
    "loyal.fingerprints.trace",
    "loyal.fingerprints.functional",
    "loyal.fingerprints.functional_check",
    "loyal.fingerprints.functional_evidence",
    "loyal.fingerprints.functional_recipe",
    "loyal.control",
    "loyal.control.functions",
    "loyal.control.table",
    "loyal.control.program",
    "loyal.control.sandbox",
    "loyal.control.worker",
    "loyal.control.validate",
    "loyal.control.check",
    "loyal.control.recipe",
    "loyal.control.guard",
    "loyal.control.tasks",
    "loyal.control.algebra",
    "loyal.control.smt",
    "loyal.control.checkers",
    "loyal.control.propose",
    "loyal.alignment",
    "loyal.alignment.attacks",
    "loyal.alignment.calibration",
    "loyal.alignment.calibration_file",
    "loyal.alignment.table_file",
    "loyal.alignment.conversation",
    "loyal.alignment.deviation",
    "loyal.alignment.promise",
    "loyal.alignment.promise_prompts",
    "loyal.alignment.encodings",
    "loyal.alignment.judge",
    "loyal.alignment.judgement",
    "loyal.alignment.labeled",
    "loyal.alignment.lessons",
    "loyal.alignment.preference",
    "loyal.alignment.rubric",
    "loyal.alignment.refusals",
    "loyal.alignment.settings",
    "loyal.alignment.preferences",
    "loyal.alignment.duplicates",
    "loyal.alignment.review",
    "loyal.alignment.asks",
    "loyal.alignment.mixture",
    "loyal.alignment.search_table",
    "loyal.alignment.hardening_file",
    "loyal.alignment.synthesize",
    "loyal.alignment.synthesis_state",
    "loyal.alignment.giver",
    "loyal.alignment.writers",
)
"""Files of the torch rooms that never import torch: a server without torch reads them."""

LATE = ("loyal.models.library", "loyal.fingerprints.check")
"""Verbs of the torch rooms that import torch inside functions only, so that the command line can
list and describe, and ask a server, without it."""

TERMINAL = ("click", "rich", "jinja2")
"""Libraries that talk to people: the app floor only."""

CHAT_TEMPLATES = ("loyal.models.hf", "jinja2")
"""The one exception: a tokenizer's chat template is Jinja, and a broken one fails in its words."""

TESTS_ONLY = ("scipy", "pytest", "hypothesis", "tests", "benchmarks", "docs", "examples")
"""What no source file imports: test tools, and the folders beside src."""

STORY = "loyal"
"""The one module that stands in no room: `import loyal` costs nothing."""


@dataclass(frozen=True)
class Import:
    """One import that a module makes."""

    target: str
    line: int
    deferred: bool
    """Inside a function or an `if TYPE_CHECKING` block: it does not run at import."""


def room_of(module: str) -> str | None:
    """The room that a module stands in; None for the story and for other packages."""
    parts = module.split(".")
    if parts[0] != "loyal" or module == STORY:
        return None
    if parts[1] in GROUND:
        return "ground"
    return "app" if parts[1] == "__main__" else parts[1]


def floor_of(room: str) -> int | None:
    """The room's floor, 0 the lowest; None for a room that the picture does not show."""
    for height, rooms in enumerate(FLOORS):
        if room in rooms:
            return height
    return None


def torch_free(module: str) -> bool:
    """Whether importing the module must not load torch."""
    return room_of(module) not in TORCH_ROOMS or module in (*NOUNS, *LATE)


@lru_cache(maxsize=1)
def imports_of(
    module: str, source: str, known: frozenset[str], package: bool
) -> tuple[Import, ...]:
    """Every import in `source`: plain, from, relative, and by a literal name through importlib."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    return tuple(
        Import(target, getattr(node, "lineno", 0), _is_deferred(node, parents))
        for node in ast.walk(tree)
        for target in _targets(node, module, known, package)
    )


def _targets(node: ast.AST, module: str, known: frozenset[str], package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        origin = node.module or ""
        if node.level:
            home = module.split(".")[: len(module.split(".")) - node.level + (1 if package else 0)]
            origin = ".".join([*home, *([node.module] if node.module else [])])
        names = [f"{origin}.{alias.name}" for alias in node.names]
        return [name if name in known else origin for name in names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _is_deferred(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while node in parents:
        node = parents[node]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return True
    return False


def violations(
    module: str, source: str, known: frozenset[str] = frozenset(), *, package: bool = False
) -> list[str]:
    """Every rule that one module breaks, as 'rule: module:line imports target'.

    `known` names the modules that exist, so that `from room import verb` is read as the verb's
    module; `package` says that the module is a folder's __init__.
    """
    found = []
    room = room_of(module)
    if room is not None and floor_of(room) is None and module not in SINGLE_READER:
        found.append(f"unknown room: {module} stands on no floor of the picture")
    for item in imports_of(module, source, known, package):
        for rule in (*_foreign_rules(module, item), *_room_rules(module, item)):
            found.append(f"{rule}: {module}:{item.line} imports {item.target}")
    return found


def _foreign_rules(module: str, item: Import) -> Iterator[str]:
    top = item.target.split(".")[0]
    if top in TORCH and room_of(module) not in TORCH_ROOMS:
        yield "torch room"
    if top in TORCH and module in NOUNS:
        yield "torch in a noun file"
    if top in TERMINAL and room_of(module) != "app" and (module, top) != CHAT_TEMPLATES:
        yield "terminal library below app"
    if top in TESTS_ONLY:
        yield "tests only"


def _room_rules(module: str, item: Import) -> Iterator[str]:
    here, there = room_of(module), room_of(item.target)
    for package, reader in SINGLE_READER.items():
        if item.target.startswith(package) and module != reader and not module.startswith(package):
            yield "single reader"
    if module == STORY and item.target.startswith("loyal"):
        yield "the story imports nothing"
    if here is None or there is None or here == there:
        return
    low, high = floor_of(there), floor_of(here)
    if low is None or high is None:
        return
    if low > high:
        yield "upward"
    if low == high:
        yield "sibling"
    if there in NEVER.get(here, ()):
        yield "never"


def torch_at_import(
    module: str, source: str, known: frozenset[str], *, package: bool = False
) -> list[str]:
    """A torch-free module that loads, while it is imported, a file that may load torch."""
    if not torch_free(module):
        return []
    return [
        f"torch at import: {module}:{item.line} imports {item.target}"
        for item in imports_of(module, source, known, package)
        if not item.deferred and (item.target.split(".")[0] in TORCH or not torch_free(item.target))
    ]


def modules() -> dict[str, Path]:
    """Every module under src, by dotted name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


ALL = modules()
KNOWN = frozenset(ALL)


@pytest.mark.parametrize("module", sorted(ALL))
def test_module_keeps_the_floors(module: str) -> None:
    path = ALL[module]
    source, package = path.read_text(encoding="utf-8"), path.name == "__init__.py"
    assert violations(module, source, KNOWN, package=package) == []
    assert torch_at_import(module, source, KNOWN, package=package) == []


PLANTED = frozenset(
    {"loyal.models.hf", "loyal.fingerprints.inject", "loyal.fingerprints.fingerprint"}
)

RED = (
    ("upward", "loyal.encoding", "from loyal.models import Prompt"),
    ("upward", "loyal.models.train", "def f():\n    from loyal.fingerprints import vault"),
    ("upward", "loyal.models.train", "from ..app import report"),
    (
        "upward",
        "loyal.protocol.state",
        "from importlib import import_module\nimport_module('loyal.community')",
    ),
    ("upward", "loyal.fingerprints.check", "from loyal.roles.prover import ask"),
    ("sibling", "loyal.fingerprints.check", "import loyal.control.functions"),
    ("sibling", "loyal.alignment.judge", "from loyal.fingerprints import FingerprintSet"),
    ("never", "loyal.models.train", "from loyal.protocol import License"),
    ("never", "loyal.models.train", "from loyal.community import Constitution"),
    ("torch room", "loyal.app.commands.doctor", "def f():\n    import torch"),
    ("torch room", "loyal.statistics", "import torch.nn as nn"),
    ("torch room", "loyal.roles.platform", "__import__('transformers')"),
    ("torch in a noun file", "loyal.models.examples", "def f():\n    import datasets"),
    ("torch in a noun file", "loyal.fingerprints.vault", "from accelerate import Accelerator"),
    ("torch in a noun file", "loyal.fingerprints", "import peft"),
    ("terminal library below app", "loyal.models.train", "from rich.progress import track"),
    ("terminal library below app", "loyal.errors", "import click"),
    ("terminal library below app", "loyal.models.train", "import jinja2"),
    ("terminal library below app", "loyal.models.hf", "import rich"),
    ("tests only", "loyal.statistics", "from scipy.stats import binom"),
    ("tests only", "loyal.app.cli", "from benchmarks import fingerprints"),
    ("tests only", "loyal.models.hf", "import tests.test_layers"),
    ("single reader", "loyal.app.store", "from loyal.contracts import artifacts"),
    ("the story imports nothing", "loyal", "from loyal.errors import LoyalError"),
    ("unknown room", "loyal.utils.text", ""),
)


@pytest.mark.parametrize(("rule", "module", "source"), RED)
def test_rule_turns_red(rule: str, module: str, source: str) -> None:
    package = module in ("loyal", "loyal.fingerprints")
    found = violations(module, source, PLANTED, package=package)
    assert any(line.startswith(f"{rule}:") for line in found)


GREEN = (
    ("loyal.app.cli", "import click\nfrom loyal.errors import LoyalError"),
    ("loyal.fingerprints.inject", "import torch\nfrom loyal.models import train"),
    ("loyal.models.train", "from accelerate import Accelerator\nfrom loyal.config import load"),
    ("loyal.community.campaign", "from loyal.protocol import stake"),
    ("loyal.alignment.judge", "from loyal.community import Constitution"),
    ("loyal.statistics", "import numpy as np\nfrom loyal import errors"),
    ("loyal.models.hf", "import jinja2"),
    ("loyal.app.chain", "from loyal.contracts import artifacts"),
)


@pytest.mark.parametrize(("module", "source"), GREEN)
def test_permitted_import_stays_green(module: str, source: str) -> None:
    assert violations(module, source, PLANTED) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("loyal.app.commands.models", "from loyal.models.hf import HFModel"),
        ("loyal.app.demo", "from loyal.fingerprints import inject"),
        ("loyal.fingerprints", "from loyal.fingerprints.inject import inject"),
        ("loyal.roles.host", "import importlib\nimportlib.import_module('loyal.models.hf')"),
        ("loyal.models.library", "import torch"),
    ],
)
def test_torch_at_import_turns_red(module: str, source: str) -> None:
    assert torch_at_import(module, source, PLANTED)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("loyal.app.commands.models", "def f():\n    from loyal.models.hf import HFModel"),
        ("loyal.app.demo", "if TYPE_CHECKING:\n    from loyal.models.hf import HFModel"),
        ("loyal.app.demo", "from loyal.fingerprints import fingerprint, FingerprintSet"),
        ("loyal.fingerprints.inject", "from loyal.models.hf import HFModel"),
    ],
)
def test_deferred_or_noun_import_stays_green(module: str, source: str) -> None:
    assert torch_at_import(module, source, PLANTED) == []


@pytest.mark.parametrize("noun", [*NOUNS, *LATE])
def test_the_noun_table_names_real_files(noun: str) -> None:
    room = ".".join(noun.split(".")[:2])
    if room not in ALL:
        pytest.skip(f"{room} is not built yet")
    assert noun in ALL, f"{noun} moved: the table of torch-free files must follow"


HEAVY = (*TORCH, "scipy", "numpy", "matplotlib")


def loaded_by(statement: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after `statement`."""
    script = f"import sys\n{statement}\nsys.stderr.write('\\n' + ' '.join(sorted(sys.modules)))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = done.stderr.splitlines()[-1].split()
    return {name for name in names if name in HEAVY}


def test_import_loyal_loads_nothing_heavy() -> None:
    assert loaded_by("import loyal") == set()


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by("from loyal.app.cli import main\nmain(['--help'])") == set()


def test_the_gateway_loads_nothing_heavy() -> None:
    assert loaded_by("import loyal.app.gateway, loyal.app.upstream, loyal.app.receipts") == set()


def test_the_probe_sees_a_heavy_import() -> None:
    assert "numpy" in loaded_by("import numpy")


def test_torch_free_files_load_no_torch() -> None:
    lean = [name for name in ALL if torch_free(name) and name != "loyal.__main__"]
    assert loaded_by("\n".join(f"import {name}" for name in lean)) & set(TORCH) == set()
