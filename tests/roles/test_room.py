"""The example in the room's docstring runs."""

import inspect
import textwrap

import loyal.roles


def test_the_example_runs() -> None:
    lines = inspect.cleandoc(loyal.roles.__doc__ or "").splitlines()
    code = textwrap.dedent("\n".join(one for one in lines if not one or one.startswith("    ")))
    assert code.count("assert ") == 3
    exec(compile(code, "loyal.roles", "exec"), {})
