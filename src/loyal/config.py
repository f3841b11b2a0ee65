"""A TOML recipe, with `--set a.b=value` over it, becomes a frozen dataclass.

The dataclass is the schema: its fields are the keys, nested dataclasses are the sections, its
defaults stand for what the recipe leaves out, and its `__post_init__` checks ranges. Fields may be
bool, int, float, str, Path, Literal, tuple[X, ...], dict[str, X], a dataclass, and unions of them.
A key that is not a field is refused and the nearest field named. Messages never repeat a value.

Left out on purpose: environment variables, includes, and any value that is code.
"""

import difflib
import math
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from loyal.errors import ConfigError, LoyalError

T = TypeVar("T")
Table: TypeAlias = dict[str, Any]


def load(cls: type[T], path: str | PathLike[str] | None, overrides: Sequence[str] = ()) -> T:
    """The instance of `cls` that the recipe at `path` (None: an empty one) describes.

    An override is `key=value` or `section.key=value`. Its value is read as TOML where that fits
    the field, else as plain text; nothing behind the `=` is None. Raises ConfigError for a file
    that is not there or not TOML, an unknown key, a missing one, or a value of the wrong type, and
    whatever LoyalError the dataclass raises for a value out of range.
    """
    table: Table = {} if path is None else _read(Path(path))
    for override in overrides:
        _put(table, override, cls)
    made: T = _build(cls, table, _Place("", cls, MISSING))
    return made


def from_table(cls: type[T], table: Table, noun: str) -> T:
    """The instance of `cls` that a table already read describes; `noun` names what it came from.

    Raises as `load`; a place in a list of sections is named by its number, from 1: `values[3].id`.
    """
    made: T = _build(cls, table, _Place("", cls, MISSING, noun, f"the {noun}"))
    return made


def names(cls: type) -> list[str]:
    """The full names of all keys of `cls`, such as `keys.count`, in the order of its fields."""
    found = []
    for field, hint in _schema(cls):
        below = names(cast(type, hint)) if is_dataclass(hint) else []
        found += [f"{field.name}.{name}" for name in below] or [field.name]
    return found


@dataclass(frozen=True)
class _Text:
    """The right side of an override, not yet read for the type of its field."""

    text: str


@dataclass(frozen=True)
class _Place:
    """Where in the recipe a value stands."""

    name: str
    """The full name of its key; empty at the top."""
    top: type
    """The dataclass of the whole recipe."""
    default: Any
    """What stands there when the recipe says nothing, or MISSING."""
    noun: str = "recipe"
    """What the reader is told that they wrote."""
    where: str = "the recipe or the --set"
    """Where the reader changes it."""

    def at(self, name: str, default: Any) -> "_Place":
        """Another place in the same file."""
        return replace(self, name=name, default=default)


class _Mismatch(Exception):
    """A value does not fit a type; its text says what would fit."""

    def __init__(self, wanted: str, value: object) -> None:
        super().__init__(wanted)
        self.value = value


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the recipe {path}: {error.strerror or error}",
            hint="Give the path of a TOML file.",
        ) from error
    except (ValueError, RecursionError) as error:
        # tomllib and the UTF-8 decoder raise kinds of ValueError that say where it went wrong.
        where = error if isinstance(error, tomllib.TOMLDecodeError) else "not TOML in UTF-8"
        raise ConfigError(
            f"the recipe {path} is not TOML: {where}", hint="Correct it there; see https://toml.io."
        ) from error


def _put(table: Table, override: str, cls: type) -> None:
    """Set one `a.b=value` in the table."""
    name, equals, text = override.partition("=")
    parts = [part.strip() for part in name.split(".")]
    if not equals or not all(parts):
        raise ConfigError(
            "an override is not of the form key=value", hint="Write it as --set section.key=value."
        )
    for index, part in enumerate(parts[:-1]):
        section = table.setdefault(part, {})
        if not isinstance(section, dict):
            raise _unknown(_Place(".".join(parts[: index + 2]), cls, MISSING), ())
        table = section
    table[parts[-1]] = _Text(text.strip())


def _build(cls: type, table: Table, place: _Place) -> Any:
    """An instance of `cls` from the table, and from the place's default what that leaves out."""
    prefix = f"{place.name}." if place.name else ""
    schema = {field.name: (field, hint) for field, hint in _schema(cls)}
    for key in table:
        if key not in schema:
            raise _unknown(place.at(prefix + key, MISSING), tuple(schema))
    given = {}
    for key, (field, hint) in schema.items():
        here = place.at(prefix + key, _default(field, place.default))
        if key in table:
            try:
                given[key] = _convert(hint, table[key], here)
            except _Mismatch as error:
                raise ConfigError(
                    f"{here.name} must be {error}, not {_kind(error.value)}",
                    hint=f"Change {here.name} in {place.where}.",
                ) from error
        elif here.default is not MISSING:
            given[key] = here.default
        elif is_dataclass(hint):
            given[key] = _build(cast(type, hint), {}, here)
        else:
            add = "the recipe or --set it" if place.noun == "recipe" else place.where
            raise ConfigError(f"{here.name} is missing", hint=f"Add {here.name} to {add}.")
    try:
        return cls(**given)
    except LoyalError as error:
        if "[" not in place.name:
            raise
        raise ConfigError(f"{place.name}: {error}", hint=error.hint) from error
    except ValueError as error:
        raise ConfigError(str(error), hint=f"Change it in {place.where}.") from error


def _default(field: Field[Any], section: Any) -> Any:
    """What a field is when nothing says so; MISSING if it must be given."""
    if section is not MISSING and section is not None:
        return getattr(section, field.name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _schema(cls: type) -> Iterator[tuple[Field[Any], Any]]:
    """The fields that a caller may give, each with its type."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        if field.init:
            yield field, hints[field.name]


def _convert(hint: Any, value: Any, place: _Place) -> Any:
    """The value as one of type `hint`, or _Mismatch."""
    if isinstance(value, _Text):
        return _convert_text(hint, value.text, place)
    if get_origin(hint) in (Union, UnionType):
        return _convert_union(hint, value, place)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise _Mismatch("a section", value)
        return _build(hint, value, place)
    if get_origin(hint) is Literal:
        options = get_args(hint)
        for option in options:
            if type(option) is type(value) and option == value:
                return value
        raise _Mismatch("one of " + ", ".join(map(str, options)), value)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise _Mismatch("a list", value)
        inner = get_args(hint)[0]
        return tuple(
            _convert_item(inner, item, place.at(f"{place.name}[{number}]", MISSING), "a list")
            for number, item in enumerate(value, 1)
        )
    if get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise _Mismatch("a table", value)
        inner = get_args(hint)[1]
        return {k: _convert_item(inner, item, place, "a table") for k, item in value.items()}
    return _convert_atom(hint, value)


def _convert_atom(hint: Any, value: Any) -> Any:
    if hint is float and type(value) in (int, float):
        if not -_LARGEST <= value <= _LARGEST:  # infinite, not a number, or a huge int
            raise _Mismatch("a finite number", math.inf)
        return float(value)
    if hint is Path and isinstance(value, str) and value:
        return Path(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if hint not in _WORDS:
        raise TypeError(f"a recipe cannot hold a field of type {hint}")
    raise _Mismatch(_WORDS[hint], value)


def _convert_item(hint: Any, value: Any, place: _Place, holder: str) -> Any:
    try:
        return _convert(hint, value, place)
    except _Mismatch as error:
        raise _Mismatch(f"{holder}, each item {error}", error.value) from error


def _convert_text(hint: Any, text: str, place: _Place) -> Any:
    """Read an override: nothing as None; as TOML where that fits; as plain text where that does."""
    if not text and NoneType in get_args(hint):
        return None
    mismatch = None
    try:
        table = tomllib.loads(f"value = {text}")
        if len(table) == 1:  # a line break in the text could smuggle in more
            return _convert(hint, table["value"], place)
    except _Mismatch as error:
        mismatch = error
    except (ValueError, RecursionError):
        pass
    try:
        return _convert(hint, text, place)
    except _Mismatch as error:
        raise mismatch or error from None


def _convert_union(hint: Any, value: Any, place: _Place) -> Any:
    wanted = []
    for option in get_args(hint):
        if option is NoneType:
            continue
        try:
            return _convert(option, value, place)
        except _Mismatch as error:
            wanted.append(str(error))
    raise _Mismatch(" or ".join(wanted), value)


_LARGEST = sys.float_info.max
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


def _kind(value: Any) -> str:
    """What a value is, without its content."""
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing (null)"
    if value == math.inf:
        return "nan, infinite or beyond a float"
    return _WORDS.get(type(value), "a date or time")


def _unknown(place: _Place, beside: Sequence[str]) -> ConfigError:
    """The error for a key that is no field; `beside` are the keys that its own section has."""
    section, _, last = place.name.rpartition(".")
    listed = "[" in section  # in a list of sections, whose keys have no full names
    known = [f"{section}.{key}" for key in beside] if listed else names(place.top)
    lasts = {key.rpartition(".")[2]: key for key in known}
    near = [] if listed else difflib.get_close_matches(place.name, known, n=1)
    near = near or [lasts[key] for key in difflib.get_close_matches(last, lasts, n=1)]
    hint = f"Did you mean {near[0]}?" if near else f"The keys are {', '.join(known)}."
    return ConfigError(f"the {place.noun} has no key {place.name}", hint=hint)
