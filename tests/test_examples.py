"""Every example runs to its end, is short, and shows no secret; each ends in assertions."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
MOST_LINES = 80
SAYS = {
    "01_fingerprint.py": ("proven", "not proven"),
    "02_control.py": ("training: 12 of 12 exact", "new wording", "spill-over"),
}
"""What each example prints, among other things."""
WHOLE_STORIES = ("01_fingerprint.py",)
"""Those that take ten seconds and more."""


def test_there_are_examples() -> None:
    assert [path.name for path in EXAMPLES][:1] == ["01_fingerprint.py"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short_and_ends_in_an_assertion(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    main = next(
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    assert isinstance(main.body[-1], ast.Assert)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.name in WHOLE_STORIES else [])
        for path in EXAMPLES
    ],
    ids=lambda path: path.name,
)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [one for one in SAYS[path.name] if one not in done.stdout] == []
