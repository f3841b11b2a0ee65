"""A control function as a table in TOML: fixed replies.

    name = "lending"
    version = 1
    kind = "lookup"                    # or routing, refusal
    purpose = "Who may borrow what."
    templates = ["Who may borrow {input}?", "Can I borrow {input}?"]
    outside = ["Who may write a novel?"]

    [replies]                          # a lookup: the reply to each input
    "a novel" = "Everybody with a card may borrow a novel."

A routing or a refusal has, in place of [replies], `reply` (the one text) and `inputs` (a list).
Inputs are compared without case, white space and the marks that end a sentence.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loyal.control.functions import Header, Input, Kind
from loyal.control.worker import MOST_TEXT, pattern, plain
from loyal.errors import ControlError

_SLOT = "input"
_KEYS = frozenset(
    {"name", "version", "kind", "purpose", "templates", "outside", "replies", "reply", "inputs"}
)
_LISTS = ("templates", "outside", "inputs")
_TYPES: Mapping[str, type] = {
    "name": str,
    "version": int,
    "kind": str,
    "purpose": str,
    "reply": str,
}
_HINT = "docs/control.md shows a whole file"


@dataclass(frozen=True, repr=False)
class TableRule:
    """Fixed replies. Satisfies `functions.Rule`."""

    templates: tuple[str, ...]
    table: Mapping[str, str]
    """Input -> reply."""

    def sample(self, count: int, seed: int) -> list[Input]:
        """Inputs in an order that the seed decides."""
        inputs: list[Input] = [((_SLOT, one),) for one in self.table]
        random.Random(seed).shuffle(inputs)
        return inputs[:count]

    def replies(self, inputs: Sequence[Input]) -> list[str]:
        """The reply to each input."""
        return [self.table[dict(one)[_SLOT]] for one in inputs]

    def read(self, texts: Sequence[str]) -> list[str | None]:
        """The reply to each prompt; None where no template and no input fits."""
        known = {_key(one): reply for one, reply in self.table.items()}
        patterns = [pattern(one, {}) for one in self.templates]
        found: list[str | None] = []
        for text in texts:
            matches = (one.fullmatch(plain(text)) for one in patterns)
            keys = (_key(match[_SLOT]) for match in matches if match is not None)
            found.append(next((known[key] for key in keys if key in known), None))
        return found


def parse(text: str) -> tuple[Header, TableRule]:
    """The header and the rule of a file. ControlError, in one line, for any other file."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"the file is not TOML: {error}", hint="see https://toml.io") from error
    _require_types(table)
    name, kind = table["name"], table["kind"]
    if kind not in ("lookup", "routing", "refusal"):
        raise ControlError(f"{name}: its kind is not lookup, routing or refusal", hint=_HINT)
    wanted, other = ("replies", "inputs") if kind == "lookup" else ("inputs", "replies")
    if other in table or wanted not in table or ("reply" in table) == (kind == "lookup"):
        needs = "a table [replies]" if kind == "lookup" else "reply and inputs"
        raise ControlError(f"{name}: a {kind} has {needs}, and no other replies", hint=_HINT)
    replies = (
        table["replies"] if kind == "lookup" else dict.fromkeys(table["inputs"], table["reply"])
    )
    templates = tuple(table["templates"])
    made: Kind = kind
    header = Header(
        name, table["version"], made, table.get("purpose", ""), templates,
        tuple(table.get("outside", ())),
    )  # fmt: skip
    _require_inputs(name, templates, replies, len(table.get("inputs", replies)))
    return header, TableRule(templates, replies)


def _require_types(table: Mapping[str, Any]) -> None:
    for key in table:
        if key not in _KEYS:
            raise ControlError(f"the file has an unknown key {key}", hint=_HINT)
    for key in ("name", "version", "kind", "templates"):
        if key not in table:
            raise ControlError(f"the file has no {key}", hint=_HINT)
    good = all(type(table[key]) is kind for key, kind in _TYPES.items() if key in table)
    lists = [table[key] for key in _LISTS if key in table]
    good = good and all(isinstance(one, list) and _all_text(one) for one in lists)
    if "replies" in table:
        replies = table["replies"]
        good = good and isinstance(replies, dict) and _all_text(replies.values())
    if not good:
        raise ControlError("a key of the file has a value of the wrong type", hint=_HINT)


def _require_inputs(
    name: str, templates: Sequence[str], replies: Mapping[str, str], listed: int
) -> None:
    if any(one.count("{input}") != 1 or one.count("{") != 1 for one in templates):
        raise ControlError(f"{name}: a template has not one slot {{input}}", hint=_HINT)
    if len(replies) < 2 or len({_key(one) for one in replies}) < listed:
        raise ControlError(f"{name}: it needs at least two inputs, all different", hint=_HINT)
    if any(len(one) > MOST_TEXT for one in (*replies, *replies.values())):
        raise ControlError(f"{name}: a text is over {MOST_TEXT} characters", hint=_HINT)


def _all_text(values: Any) -> bool:
    return all(type(one) is str for one in values)


def _key(value: str) -> str:
    return plain(" ".join(value.casefold().split()))
