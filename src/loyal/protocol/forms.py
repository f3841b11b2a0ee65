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
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NoReturn

from loyal.errors import ProtocolError

ID_BYTES = 32
MOST_TEXT_BYTES = 65_536
MOST_PARTS = 1_024
"""Entries of one list: owners, salts, messages."""

_OTHER_BYTES = frozenset({"salt", "host_signature", "platform_signature", "idempotency_key"})
"""Top-level bytes that are no ids."""


def require_form(value: object) -> None:
    """ProtocolError without a rule's number, unless every field is of its kind."""
    record: Any = type(value)
    for name, kind in _fields_of(record):
        field = getattr(value, name, None)
        _require(kind, field, name)
        if type(field) is bytes and name not in _OTHER_BYTES and len(field) != ID_BYTES:
            _refuse(name, f"is {len(field)} bytes long, not {ID_BYTES}")


@cache
def _fields_of(kind: Any) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((one.name, hints[one.name]) for one in fields(kind))


def _require(kind: Any, value: object, name: str) -> None:
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        if value is not None:
            _require(typing.get_args(kind)[0], value, name)
    elif origin is tuple:
        _require_parts(typing.get_args(kind), value, name)
    elif origin is typing.Literal:
        _require(str, value, name)
    elif is_dataclass(origin or kind):
        record = origin or kind
        parts = _fields_of(record)
        if type(value) is not record:
            _refuse(name, f"is no {record.__name__}")
        for inner, hint in parts:
            _require(hint, getattr(value, inner, None), f"{name}.{inner}")
    elif type(value) is not kind:
        _refuse(name, f"is no {kind.__name__}")
    elif type(value) is int and not -(2**63) <= value < 2**63:
        _refuse(name, "is beyond 64 bits")
    elif type(value) is str:
        _require_text(value, name)


def _require_parts(kinds: tuple[Any, ...], value: object, name: str) -> None:
    if type(value) is not tuple or len(value) > MOST_PARTS:
        _refuse(name, f"is no list of at most {MOST_PARTS}")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        _refuse(name, f"has {len(value)} parts, not {len(kinds)}")
    for kind, part in zip(kinds, value, strict=True):
        _require(kind, part, name)


def _require_text(value: str, name: str) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        _refuse(name, "holds half of a surrogate pair")
    if size > MOST_TEXT_BYTES:
        _refuse(name, f"is over {MOST_TEXT_BYTES} bytes long")


def _refuse(name: str, what: str) -> NoReturn:
    raise ProtocolError(f"{name} {what}", hint="send the command in its documented form")
