"""The examples in the docstrings of the room run."""

from __future__ import annotations

import importlib
import inspect
import textwrap

import pytest

MODULES = ("", ".constitution_file", ".approval", ".lint")


def example(text: str) -> str:
    """The first indented lines of a docstring, with the empty lines between them."""
    lines = inspect.cleandoc(text).splitlines()
    return textwrap.dedent("\n".join(one for one in lines if not one or one.startswith("    ")))


@pytest.mark.parametrize("name", MODULES)
def test_the_example_runs(name: str) -> None:
    module = importlib.import_module(f"loyal.community{name}")
    code = example(module.__doc__ or "")
    assert "assert " in code
    exec(compile(code, module.__name__, "exec"), {})
