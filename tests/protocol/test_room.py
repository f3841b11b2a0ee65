"""The example in the room's docstring runs."""

import inspect
import textwrap

import loyal.protocol


def example(text: str) -> str:
    """The indented lines of a docstring, with the empty lines between them."""
    lines = inspect.cleandoc(text).splitlines()
    return textwrap.dedent("\n".join(one for one in lines if not one or one.startswith("    ")))


def test_the_example_runs() -> None:
    code = example(loyal.protocol.__doc__ or "")
    assert code.count("assert ") == 3
    exec(compile(code, "loyal.protocol", "exec"), {})


def test_the_example_is_found() -> None:
    assert (
        example("Words.\n\n    x = 1\n\n    y = 2\n\nMore words.").split() == "x = 1 y = 2".split()
    )
