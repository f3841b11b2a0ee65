"""The form of what comes from outside: whether a command holds what its fields say, and no more.

Rules read commands that strangers wrote, and their events go to the log, where `True` for a number
or a text for bytes would stand as an entry that no reader can decode. So each field is held to its
annotation first: exact types at every depth, ids of 32 bytes, 64-bit numbers, text that has a
UTF-8 form, and nothing of endless size.

Left out: whether a value makes sense, which the rules say with their numbers.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NoReturn, TypeAlias

from loyal.errors import ProtocolError

ID_BYTES = 32
MOST_TEXT_BYTES = 65_536
MOST_PARTS = 1_024
"""Entries of one list: owners, salts, messages."""

Check: TypeAlias = Callable[[Any, str], None]
"""Refuses a value that is not of one kind; told the field's name."""

_OTHER_BYTES = frozenset({"salt", "host_signature", "platform_signature", "idempotency_key"})
"""Top-level bytes that are no ids."""


def require_form(value: object) -> None:
    """ProtocolError without a rule's number, unless every field is of its kind."""
    record: Any = type(value)
    for name, check in _checks_of(record):
        check(getattr(value, name, None), name)


@cache
def _checks_of(record: Any) -> tuple[tuple[str, Check], ...]:
    """A check for each field of a command, made once for its class; ids are held to their size."""
    return tuple(
        (name, _sized(check) if kind is bytes and name not in _OTHER_BYTES else check)
        for name, kind, check in _fields_of(record)
    )


@cache
def _fields_of(record: Any) -> tuple[tuple[str, Any, Check], ...]:
    hints = typing.get_type_hints(record)
    return tuple((one.name, hints[one.name], _check_of(hints[one.name])) for one in fields(record))


def _sized(check: Check) -> Check:
    def sized(value: Any, name: str) -> None:
        check(value, name)
        if len(value) != ID_BYTES:
            _refuse(name, f"is {len(value)} bytes long, not {ID_BYTES}")

    return sized


@cache
def _check_of(kind: Any) -> Check:
    """The check of an annotation."""
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        return _optional(_check_of(typing.get_args(kind)[0]))
    if origin is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            return _list_of(kinds[0])
        return _parts_of(tuple(map(_check_of, kinds)))
    if origin is typing.Literal:
        return _require_text
    if is_dataclass(origin or kind):
        return _record_of(origin or kind)
    return {int: _require_number, str: _require_text}.get(kind) or _exactly(kind)


def _optional(check: Check) -> Check:
    def optional(value: Any, name: str) -> None:
        if value is not None:
            check(value, name)

    return optional


def _exactly(kind: Any) -> Check:
    def exactly(value: Any, name: str) -> None:
        if type(value) is not kind:
            _refuse(name, f"is no {kind.__name__}")

    return exactly


def _record_of(record: Any) -> Check:
    parts = _fields_of(record)

    def whole(value: Any, name: str) -> None:
        if type(value) is not record:
            _refuse(name, f"is no {record.__name__}")
        for inner, _, check in parts:
            check(getattr(value, inner, None), f"{name}.{inner}")

    return whole


def _list_of(kind: Any) -> Check:
    check, plain = _check_of(kind), {kind} if kind in (bytes, bool) else None

    def every(value: Any, name: str) -> None:
        _require_list(value, name)
        if plain is not None and plain.issuperset(map(type, value)):
            return
        for part in value:
            check(part, name)

    return every


def _parts_of(checks: tuple[Check, ...]) -> Check:
    def parts(value: Any, name: str) -> None:
        _require_list(value, name)
        if len(checks) != len(value):
            _refuse(name, f"has {len(value)} parts, not {len(checks)}")
        for check, part in zip(checks, value, strict=True):
            check(part, name)

    return parts


def _require_list(value: object, name: str) -> None:
    if type(value) is not tuple or len(value) > MOST_PARTS:
        _refuse(name, f"is no list of at most {MOST_PARTS}")


def _require_number(value: object, name: str) -> None:
    if type(value) is not int:
        _refuse(name, "is no int")
    elif not -(2**63) <= value < 2**63:
        _refuse(name, "is beyond 64 bits")


def _require_text(value: object, name: str) -> None:
    if type(value) is not str:
        _refuse(name, "is no str")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        _refuse(name, "holds half of a surrogate pair")
    if size > MOST_TEXT_BYTES:
        _refuse(name, f"is over {MOST_TEXT_BYTES} bytes long")


def _refuse(name: str, what: str) -> NoReturn:
    raise ProtocolError(f"{name} {what}", hint="send the command in its documented form")
