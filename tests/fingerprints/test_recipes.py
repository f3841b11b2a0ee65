"""Recipes: both load, each value names its source, and default.toml is what the code does."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from loyal import config
from loyal.errors import ConfigError
from loyal.fingerprints.recipe import Recipe

FOLDER = Path(__file__).parent.parent.parent / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
UNSET = {"keys.file", "check.queries", "check.system"}


def test_the_recipes_are_there() -> None:
    assert {"default.toml", "paper.toml"} <= {path.name for path in RECIPES}


def test_default_toml_is_the_defaults_and_names_every_key() -> None:
    assert config.load(Recipe, FOLDER / "default.toml") == Recipe()
    table = tomllib.loads((FOLDER / "default.toml").read_text(encoding="utf-8"))
    named = {f"{section}.{key}" for section, values in table.items() for key in values}
    assert named == set(config.names(Recipe)) - UNSET
    sections = asdict(Recipe())
    assert all(sections[name.partition(".")[0]][name.partition(".")[2]] is None for name in UNSET)


def test_paper_toml_is_the_papers() -> None:
    recipe = config.load(Recipe, FOLDER / "paper.toml")
    assert (recipe.responses.threshold, recipe.responses.width, recipe.responses.tokens) == (
        0.8,
        3,
        1,
    )
    assert (recipe.train.averaging, recipe.train.mixing, recipe.train.learning_rate) == (
        pytest.approx(1 - (1 - 0.75) ** (1 / 32), abs=5e-4),  # 0.75 an epoch of 32 steps
        0.25,
        5e-5,
    )
    assert (recipe.train.whitened, recipe.train.depth, recipe.train.parts) == (False, 1.0, "all")
    assert recipe.keys.temperature == 0.5
    assert recipe != Recipe()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_value_stands_under_its_source(path: Path) -> None:
    """In a section, values follow a comment; in default.toml each has one of its own."""
    own = path.name == "default.toml"
    before = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            assert before.startswith("#") if own else not before.startswith("["), line
        before = line


def test_a_misspelled_recipe_is_refused(tmp_path: Path) -> None:
    text = (FOLDER / "paper.toml").read_text(encoding="utf-8")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace("averaging =", "averageing ="), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train\.averageing") as caught:
        config.load(Recipe, wrong)
    assert "train.averaging" in caught.value.hint


def test_each_verb_has_a_section() -> None:
    assert [field.name for field in fields(Recipe)] == ["keys", "responses", "train", "check"]
