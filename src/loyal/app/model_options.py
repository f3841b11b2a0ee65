"""Which model a command runs and with which settings: options, servers, recipes.

Holds what `generate`, `inject`, `check` and `demo` share. torch is loaded inside the functions, and
a check of a server loads none at all. Left out: what the commands then do with the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from loyal.app.terminal import Decorator, Terminal
from loyal.errors import UsageError

if TYPE_CHECKING:
    from loyal.fingerprints.functional_recipe import RuleRecipe
    from loyal.fingerprints.recipe import Recipe
    from loyal.models.endpoint import EndpointModel
    from loyal.models.hf import HFModel

AnyRecipe = TypeVar("AnyRecipe", "Recipe", "RuleRecipe")

DEFAULT_MODEL = "smollm2-135m-instruct"

MODEL_HELP = "A name from 'loyal models list', a Hugging Face id or a local folder."

MODEL_OPTION: Decorator = click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME", help=MODEL_HELP
)


def endpoint_options(
    whose: str = "", what: str = "An OpenAI-compatible server."
) -> tuple[Decorator, ...]:
    """The four options of a server; `whose` stands before each name, such as "judge-"."""
    return (
        click.option(f"--{whose}endpoint", metavar="URL", help=what),
        click.option(
            f"--{whose}endpoint-model", metavar="NAME", help="What the server calls its model."
        ),
        click.option(
            f"--{whose}api-key-env",
            metavar="VARIABLE",
            help="The environment variable that holds the server's API key.",
        ),
        click.option(
            f"--{whose}concurrency",
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Requests to the server at a time, 8 unless said; vLLM takes 256 well.",
        ),
    )


ENDPOINT_OPTIONS = endpoint_options()


@dataclass(frozen=True)
class Endpoint:
    """A model server, as the options name it."""

    url: str
    model: str
    api_key_env: str | None
    concurrency: int = 8
    whose: str = ""
    """What stands before the names of its options, such as "judge-"."""

    @classmethod
    def take(cls, options: dict[str, Any], whose: str = "") -> Endpoint | None:
        """Take the four options out of a command's; None when no server is meant."""
        names = ("endpoint", "endpoint_model", "api_key_env", "concurrency")
        before = whose.replace("-", "_")
        url, model, api_key_env, concurrency = (options.pop(f"{before}{one}") for one in names)
        if url is None and (model or api_key_env or concurrency):
            raise UsageError(
                "a server's settings were given, but no server", hint=f"give --{whose}endpoint"
            )
        if url is None:
            return None
        if not model:
            raise UsageError(
                "a server serves several models", hint=f"name one with --{whose}endpoint-model"
            )
        return cls(url, model, api_key_env, concurrency or 8, whose)


def connect(endpoint: Endpoint) -> EndpointModel:
    """The server as a language model; UsageError when the API key's variable is not set."""
    from loyal.models.endpoint import EndpointModel

    api_key = None
    if endpoint.api_key_env is not None:
        api_key = os.environ.get(endpoint.api_key_env)
        if not api_key:
            raise UsageError(
                f"the variable {endpoint.api_key_env} is not set",
                hint="put the server's API key into it, or leave "
                f"--{endpoint.whose}api-key-env out",
            )
    return EndpointModel(
        endpoint.url, endpoint.model, api_key=api_key, concurrency=endpoint.concurrency
    )


def load_model(terminal: Terminal, name: str, *, served: bool = False) -> HFModel:
    """The model in this process, said on stderr; a library model is fetched when it is not there.

    Its tokenizer alone where the model itself is `served`. ModelError where it cannot serve.
    """
    from loyal.models.library import LIBRARY, fetch

    if name in LIBRARY:
        fetch(name, terminal.note)
    terminal.note(f"loading {name}")
    from loyal.models.hf import HFModel

    return HFModel.vocabulary(name) if served else HFModel.load(name)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given: None changes nothing."""
    return {name: value for name, value in options.items() if value is not None}


def read_recipe(terminal: Terminal, **sections: Mapping[str, Any]) -> Recipe:
    """The recipe with `--set` and the command's own options over it, section by section."""
    from loyal.config import load
    from loyal.fingerprints.recipe import Recipe

    return overlaid(load(Recipe, terminal.recipe, terminal.overrides), sections)


def read_rule_recipe(terminal: Terminal, **sections: Mapping[str, Any]) -> RuleRecipe:
    """The same for a secret rule; loads no torch."""
    from loyal.config import load
    from loyal.fingerprints.functional_recipe import RuleRecipe

    return overlaid(load(RuleRecipe, terminal.recipe, terminal.overrides), sections)


def overlaid(recipe: AnyRecipe, sections: Mapping[str, Mapping[str, Any]]) -> AnyRecipe:
    """A recipe with the options that were given over it, section by section."""
    for section, options in sections.items():
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **given(options))})
    return recipe
