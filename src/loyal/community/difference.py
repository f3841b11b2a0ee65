"""What changed between two versions of a constitution, and which version number that needs.

The rule is semver.org's (2.0.0), read for values: a change is major where a reply that kept the old
text may break the new one, minor where the text says more or weighs anew, patch where the same
thing is explained in other words. docs/constitution.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from loyal.community.constitution import Constitution, Value, parse_version

Bump = Literal["none", "patch", "minor", "major"]
Kind = Literal["added", "removed", "changed"]

_FIELDS: dict[str, Bump] = {
    "statement": "major",
    "red_lines": "major",
    "weight_bps": "minor",
    "topics": "minor",
    "cases": "minor",
    "why": "patch",
}
"""What a change of each field of a value needs; weights and red lines see `_bump_of` too."""

_HEAD: dict[str, Bump] = {
    "name": "major",
    "language": "major",
    "red_lines": "major",
    "preamble": "patch",
}


@dataclass(frozen=True)
class FieldChange:
    """One field that differs."""

    field: str
    """Its name, such as `statement`."""
    before: str
    """For people: the text, the number, or what only the old list holds."""
    after: str
    bump: Bump
    """What version number this change alone needs."""


@dataclass(frozen=True)
class ValueChange:
    """One value that differs."""

    id: str
    kind: Kind
    weight_before: int
    """Hundredths of a percent; 0 for one that was added."""
    weight_after: int
    """0 for one that was removed."""
    fields: tuple[FieldChange, ...]
    """Empty for one that was added or removed."""
    bump: Bump


@dataclass(frozen=True)
class Difference:
    """All that changed; falsy where nothing did, versions aside."""

    old_version: str
    new_version: str
    head: tuple[FieldChange, ...]
    """Changes outside of the values."""
    values: tuple[ValueChange, ...]
    """Removed and changed ones in the old order, then added ones in the new."""
    reordered: bool
    """Whether two values changed places by weight: what wins a conflict is another one now."""

    def __bool__(self) -> bool:
        return bool(self.head or self.values)

    @property
    def needs(self) -> Bump:
        """The smallest version step that the changes allow.

        Before 1.0.0 a minor step is enough for what would be a major one.
        """
        bumps = [one.bump for one in self.head] + [one.bump for one in self.values]
        most = _largest([*bumps, "major"] if self.reordered else bumps)
        return "minor" if most == "major" and parse_version(self.old_version)[0] == 0 else most

    @property
    def has(self) -> Bump | Literal["back"]:
        """The version step that was made; `back` where the number fell."""
        old, new = parse_version(self.old_version), parse_version(self.new_version)
        if new <= old:
            return "none" if new == old else "back"
        steps: tuple[Bump, ...] = ("major", "minor", "patch")
        return next(step for step, a, b in zip(steps, old, new, strict=True) if a != b)

    @property
    def fits(self) -> bool:
        """Whether the version step is as large as the changes need, and not back."""
        order = get_args(Bump)
        return self.has != "back" and order.index(self.has) >= order.index(self.needs)


def diff(old: Constitution, new: Constitution) -> Difference:
    """What changed from `old` to `new`; the order of values in the file is no change."""
    before = {one.id: one for one in old.values}
    after = {one.id: one for one in new.values}
    head = tuple(_changes(old, new, _HEAD))
    values = []
    for id, value in before.items():
        if id not in after:
            values.append(ValueChange(id, "removed", value.weight_bps, 0, (), "major"))
        elif fields := tuple(_changes(value, after[id], _FIELDS)):
            weights = value.weight_bps, after[id].weight_bps
            largest = _largest([one.bump for one in fields])
            values.append(ValueChange(id, "changed", *weights, fields, largest))
    values += [
        ValueChange(id, "added", 0, value.weight_bps, (), _added(value))
        for id, value in after.items()
        if id not in before
    ]
    return Difference(old.version, new.version, head, tuple(values), _reordered(before, after))


def _changes(
    old: Constitution | Value, new: Constitution | Value, bumps: dict[str, Bump]
) -> Iterator[FieldChange]:
    for field, bump in bumps.items():
        before, after = getattr(old, field), getattr(new, field)
        if before == after:
            continue
        if isinstance(before, tuple):
            gone = [str(_shown(one)) for one in before if one not in after]
            come = [str(_shown(one)) for one in after if one not in before]
            if not gone and not come:
                bump = "patch"  # the same entries in another order
            yield FieldChange(field, "; ".join(gone), "; ".join(come), bump)
        else:
            yield FieldChange(field, str(before), str(after), bump)


def _shown(entry: object) -> object:
    """A red line by its rule, a case by its prompt, a topic as it is."""
    return getattr(entry, "rule", None) or getattr(entry, "prompt", None) or entry


def _added(value: Value) -> Bump:
    """A new value says more; one with red lines forbids what was allowed."""
    return "major" if value.red_lines else "minor"


def _reordered(before: dict[str, Value], after: dict[str, Value]) -> bool:
    """Whether some two values that stayed have their weights the other way round."""
    kept = sorted((id for id in before if id in after), key=lambda id: before[id].weight_bps)
    highest = -1
    group, group_highest = -1, -1
    for id in kept:
        weight = before[id].weight_bps
        if weight != group:
            group, highest = weight, max(highest, group_highest)
            group_highest = -1
        if after[id].weight_bps < highest:
            return True
        group_highest = max(group_highest, after[id].weight_bps)
    return False


def _largest(bumps: list[Bump]) -> Bump:
    order = get_args(Bump)
    return max(bumps, key=order.index, default="none")
