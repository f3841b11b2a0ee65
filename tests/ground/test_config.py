"""Recipes: what they fill, what overrides them, and that whatever is wrong is named."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyal.config import from_table, load, names
from loyal.errors import ConfigError, UsageError


@dataclass(frozen=True)
class Keys:
    count: int = 64
    strategy: Literal["english", "random"] = "english"
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError("the count is below 1", hint="Give at least 1.")
        if self.count > 10**6:
            raise ValueError("the count is above a million")


@dataclass(frozen=True)
class Training:
    rate: float = 1e-4
    layers: tuple[int, ...] = ()
    merge: bool = True
    note: str | None = None
    stop: int | str = "auto"
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    name: str = "plain"
    keys: Keys = field(default_factory=Keys)
    training: Training = Training(rate=2e-4)


@dataclass(frozen=True)
class Strict:
    size: int
    keys: Keys
    derived: int = field(init=False, default=7)


@dataclass(frozen=True)
class Shelf:
    books: tuple[Keys, ...]


FULL = """
name = "full"
[keys]
count = 256  # as in the paper
strategy = "random"
file = "keys.txt"
[training]
rate = 1
layers = [1, 2, 3]
merge = false
note = "x"
stop = 3
weights = {a = 0.5, b = 2}
"""


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_defaults() -> None:
    assert load(Recipe, None) == Recipe()


def test_a_full_recipe(tmp_path: Path) -> None:
    assert load(Recipe, recipe(tmp_path, FULL)) == Recipe(
        "full",
        Keys(256, "random", Path("keys.txt")),
        Training(1.0, (1, 2, 3), False, "x", 3, {"a": 0.5, "b": 2.0}),
    )


def test_a_section_in_part_keeps_the_defaults_of_the_rest(tmp_path: Path) -> None:
    loaded = load(Recipe, str(recipe(tmp_path, "[keys]\ncount = 3")))
    assert loaded == Recipe(keys=Keys(count=3))


def test_a_section_in_part_keeps_the_default_of_its_field() -> None:
    assert Training().rate != Recipe().training.rate
    assert load(Recipe, None, ["training.merge=false"]).training.rate == Recipe().training.rate


def test_a_required_key_and_a_required_section(tmp_path: Path) -> None:
    assert load(Strict, None, ["size=3"]) == Strict(3, Keys())
    with pytest.raises(ConfigError, match="size is missing"):
        load(Strict, None)
    with pytest.raises(ConfigError, match="no key derived"):
        load(Strict, None, ["size=3", "derived=8"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("name=quick", Recipe(name="quick")),
        ("name = 7", Recipe(name="7")),
        ('name="a b"', Recipe(name="a b")),
        ("name=a=b", Recipe(name="a=b")),
        ("keys.count=3", Recipe(keys=Keys(count=3))),
        ("keys.count = 1_000", Recipe(keys=Keys(count=1000))),
        ("keys.strategy=random", Recipe(keys=Keys(strategy="random"))),
        ("keys.file=a/b.txt", Recipe(keys=Keys(file=Path("a/b.txt")))),
        ("keys.file=", Recipe()),
        ("keys={count = 3}", Recipe(keys=Keys(count=3))),
        ("training={rate = 1e-3}", Recipe(training=Training(rate=1e-3))),
        ("training.layers=[4, 5]", Recipe(training=Training(rate=2e-4, layers=(4, 5)))),
        ("training.merge=false", Recipe(training=Training(rate=2e-4, merge=False))),
        ("training.note=true", Recipe(training=Training(rate=2e-4, note="true"))),
        ("training.note=a\nb=1", Recipe(training=Training(rate=2e-4, note="a\nb=1"))),
        ("training.note=1\nb=1", Recipe(training=Training(rate=2e-4, note="1\nb=1"))),
        ("training.stop=5", Recipe(training=Training(rate=2e-4, stop=5))),
        ("training.stop=never", Recipe(training=Training(rate=2e-4, stop="never"))),
        ("training.weights.a=2", Recipe(training=Training(rate=2e-4, weights={"a": 2.0}))),
    ],
)
def test_overrides(override: str, expected: Recipe) -> None:
    assert load(Recipe, None, [override]) == expected


def test_overrides_win_and_the_last_one_does(tmp_path: Path) -> None:
    path = recipe(tmp_path, FULL)
    loaded = load(Recipe, path, ["keys.count=3", "keys.count=4", "training.weights.b=9"])
    assert loaded.keys == Keys(4, "random", Path("keys.txt"))
    assert loaded.training.weights == {"a": 0.5, "b": 9.0}


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("keys.cuont", "keys.count"),
        ("nam", "name"),
        ("kees.count", "keys.count"),
        ("rate", "training.rate"),
        ("layer", "training.layers"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, key: str, near: str) -> None:
    for arguments in ((None, [f"{key}=1"]), (recipe(tmp_path, f"{key} = 1"), [])):
        with pytest.raises(ConfigError) as caught:
            load(Recipe, *arguments)
        assert near in caught.value.hint
        assert str(caught.value).endswith(key) or key.startswith("kees")
        assert caught.value.exit_code == 2


def test_an_unknown_key_with_nothing_near_it_lists_the_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        load(Recipe, None, ["zzzzzz=1"])
    assert all(name in caught.value.hint for name in names(Recipe))


@pytest.mark.parametrize(
    "override",
    [
        "keys.count=many",
        "keys.count=1.5",
        "keys.count=true",
        "keys.count=",
        "keys.count.more=1",
        "keys.strategy=german",
        "keys.file=3",
        "training.rate=fast",
        "training.rate=nan",
        "training.rate=inf",
        "training.rate=1" + "0" * 400,
        "training.layers=1",
        "training.layers=['a']",
        "training.merge=1",
        "training.merge=yes",
        "training.weights=3",
        "training.weights.a=b",
        "training.rate=" + "[" * 5000,
        "keys=3",
    ],
    ids=lambda text: text[:25],
)
def test_a_value_of_the_wrong_type(override: str) -> None:
    if override == "keys.file=3":  # a number is a fine name of a file
        assert load(Recipe, None, [override]).keys.file == Path("3")
        return
    name = override.partition("=")[0].removesuffix(".more").removesuffix(".a")
    with pytest.raises(ConfigError, match=f"^{name} must be ") as caught:
        load(Recipe, None, [override])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("keys.count=many", "keys.count must be a whole number, not text"),
        ("keys=3", "keys must be a section, not a whole number"),
        ("keys.strategy=german", "keys.strategy must be one of english, random, not text"),
        (
            "training.layers=['a']",
            "training.layers must be a list, each item a whole number, not text",
        ),
        (
            "training.rate=nan",
            "training.rate must be a finite number, not nan, infinite or beyond a float",
        ),
    ],
)
def test_messages_of_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Recipe, None, [override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers = ['a']", "training.layers must be a list, each item a whole number, not text"),
        ("weights = {a = true}", "a table, each item a number, not true or false"),
        ("rate = nan", "training.rate must be a finite number, not nan"),
        ("stop = 0.5", "training.stop must be a whole number or text, not a number"),
        ("note = 2020-01-01", "training.note must be text, not a date or time"),
    ],
)
def test_messages_of_recipes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Recipe, recipe(tmp_path, f"[training]\n{text}"))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["[keys]\nfile = 3", "name = 1979-05-27", "name = [1]"])
def test_a_recipe_means_its_types(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        load(Recipe, recipe(tmp_path, text))


@pytest.mark.parametrize("override", ["", "keys", "=3", "keys.=3", ".count=3", "keys..count=3"])
def test_what_is_no_override(override: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        load(Recipe, None, [override])


def test_ranges_are_the_dataclass_s_own() -> None:
    with pytest.raises(UsageError, match="below 1"):
        load(Recipe, None, ["keys.count=0"])
    with pytest.raises(ConfigError, match="above a million"):
        load(Recipe, None, ["keys.count=1000001"])


@pytest.mark.parametrize(
    "content",
    [b"keys = ", b"\xff\xfe", b"a = 1\na = 2", b"a = " + b"[" * 5000, b"a = " + b"1" * 5000],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not TOML"):
        load(Recipe, path)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_path_that_is_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(Recipe, tmp_path / name)


def test_messages_do_not_repeat_values() -> None:
    with pytest.raises(ConfigError) as caught:
        load(Recipe, None, ["keys.count=hunter2"])
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@given(st.text(), st.text())
def test_any_override_is_an_instance_or_our_error(key: str, value: str) -> None:
    for name in (key, "name", "keys.count", "training.weights", f"training.weights.{key}"):
        try:
            loaded = load(Recipe, None, [f"{name}={value}"])
        except UsageError:
            continue
        assert isinstance(loaded, Recipe)


def test_a_field_that_no_recipe_can_hold() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: set[int] = field(default_factory=set)

    arguments: Any = (Odd, None, ["value=1"])
    with pytest.raises(TypeError):
        load(*arguments)


def test_names() -> None:
    assert names(Strict) == ["size", "keys.count", "keys.strategy", "keys.file"]


def test_a_table_becomes_records_in_a_list() -> None:
    made = from_table(Shelf, {"books": [{"count": 2}, {}]}, "shelf")
    assert made == Shelf((Keys(2), Keys()))


@pytest.mark.parametrize(
    ("book", "says", "hint"),
    [
        ({"cont": 2}, "the shelf has no key books[2].cont", "Did you mean books[2].count?"),
        ({"zzz": 2}, "books[2].zzz", "books[2].count, books[2].strategy, books[2].file."),
        ({"count": "2"}, "books[2].count must be a whole number, not text", "in the shelf"),
        ({"count": 0}, "books[2]: the count is below 1", "Give at least 1."),
        ({"count": 10**7}, "the count is above a million", "in the shelf"),
    ],
)
def test_a_place_in_a_list_is_named(book: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_table(Shelf, {"books": [{}, book]}, "shelf")
    assert says in str(caught.value)
    assert hint in caught.value.hint


def test_nothing_is_no_date() -> None:
    with pytest.raises(ConfigError, match=r"must be text, not nothing \(null\)"):
        from_table(Recipe, {"name": None}, "line")


def test_what_a_table_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match="books is missing") as caught:
        from_table(Shelf, {}, "shelf")
    assert caught.value.hint == "Add books to the shelf."
