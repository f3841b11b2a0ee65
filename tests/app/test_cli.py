"""The shape of the command line: lazy groups, shared options anywhere, help that is true."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from stage import Run

import loyal
from loyal.app.cli import (
    ALIGN,
    DISPUTE,
    FINGERPRINT,
    MODELS,
    PROVER,
    ROOT,
    VERIFIER,
    WITNESS,
    LazyGroup,
    main,
    root,
)
from loyal.app.terminal import Terminal, _finite, facts
from loyal.errors import UsageError


def commands(group: LazyGroup, path: str = "loyal") -> Iterator[tuple[str, click.Command]]:
    """Every command below a group, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield f"{path} {name}", found
        if isinstance(found, LazyGroup):
            yield from commands(found, f"{path} {name}")


ALL = dict(commands(root))


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_takes_the_shared_options(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert {"--json", "--debug", "--recipe", "--set"} <= options


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_and_option_explains_itself(name: str) -> None:
    assert ALL[name].help
    for parameter in ALL[name].params:
        assert isinstance(parameter, click.Argument) or parameter.help


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((f"loyal {name}", entry.help) for name, entry in ROOT.items()),
        *((f"loyal models {name}", entry.help) for name, entry in MODELS.items()),
        *((f"loyal fingerprint {name}", entry.help) for name, entry in FINGERPRINT.items()),
        *((f"loyal align {name}", entry.help) for name, entry in ALIGN.items()),
        *((f"loyal prover {name}", entry.help) for name, entry in PROVER.items()),
        *((f"loyal verifier {name}", entry.help) for name, entry in VERIFIER.items()),
        *((f"loyal dispute {name}", entry.help) for name, entry in DISPUTE.items()),
        *((f"loyal witness {name}", entry.help) for name, entry in WITNESS.items()),
    ],
)
def test_the_lazy_list_says_what_the_command_says(name: str, said: str) -> None:
    assert (ALL[name].help or "").split("\n\n")[0].replace("\n", " ") == said


@pytest.mark.parametrize("place", [0, 1, 2])
def test_shared_options_stand_anywhere(run: Run, place: int) -> None:
    arguments = ["models", "list"]
    arguments.insert(place, "--json")
    done = run(*arguments)
    assert (done.code, list(done.fields)) == (0, ["models"])


def test_without_json_stdout_is_for_people(run: Run) -> None:
    done = run("models", "list")
    assert done.code == 0
    assert "smollm2-135m-instruct" in done.out
    assert "{" not in done.out


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.strip() == f"loyal, version {loyal.__version__}"
    done = run("fingerprint", "--help")
    assert done.code == 0
    assert all(f"  {name}" in done.out for name in FINGERPRINT)


def test_the_overrides_of_both_places_add_up() -> None:
    terminal = Terminal()
    with root.make_context("loyal", ["--set", "a=1", "models", "list"], obj=terminal) as context:
        models = root.get_command(context, "models")
        assert models is not None
        models.make_context("models", ["--set", "b=2", "list"], parent=context).close()
    assert terminal.overrides == ("a=1", "b=2")


def test_a_recipe_is_refused_where_nothing_reads_it() -> None:
    Terminal().refuse_recipe()
    with pytest.raises(UsageError):
        Terminal(overrides=("a=1",)).refuse_recipe()


def test_json_has_no_infinity() -> None:
    assert _finite({"a": [float("inf"), float("nan"), 1.5], "b": 2}) == {
        "a": [None, None, 1.5],
        "b": 2,
    }


def test_facts_leave_nested_values_out() -> None:
    assert facts({"p_value": 0.5, "rows": [1]}).rows == (("p value", 0.5),)


def test_library_prints_do_not_reach_the_result(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from loyal.models import library

    known = library.info

    def chatty(name: str) -> library.ModelInfo:
        print("a library that prints")
        return known(name)

    monkeypatch.setattr(library, "info", chatty)
    done = run("models", "list", "--json")
    assert done.fields["models"]
    assert "a library that prints" in done.err


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal().progress("injecting") as update:
        update(3, 4, "recall 0.9")
    said = capsys.readouterr()
    assert said.out == ""
    assert "injecting" in said.err
    assert "3/4" in said.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_can_be_said_in_any_encoding(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = 'name = "rule"\nversion = 1\nkind = "routing"\npurpose = "Où? \\u001b[2J 猫"\n'
    hostile += 'templates = ["Where is {input}?", "Find {input}."]\nreply = "There."\n'
    (tmp_path / "rule.toml").write_text(hostile + 'inputs = ["a", "b"]\n', encoding="utf-8")
    said: dict[bool, str] = {}
    for as_json in (False, True):
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
        json_option = ("--json",) if as_json else ()
        assert main(["control", "list", str(tmp_path / "rule.toml"), *json_option]) == 0
        said[as_json] = out.getvalue().decode(encoding)
        assert "\x1b" not in said[as_json]  # nothing steers the terminal
    assert "\\x1b[2J" in said[False]
    assert json.loads(said[True])["functions"][0]["purpose"] == "Où? \x1b[2J 猫"


def test_half_a_character_is_said_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8"))
    assert main(["control", "list", "no\udcff.toml", "--json"]) == 2  # a name that is not UTF-8
    assert "no\udcff.toml" in json.loads(out.getvalue())["error"]
