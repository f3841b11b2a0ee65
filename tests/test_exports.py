"""The small public door of each room: `__all__` is what this table says, sorted, and importable.

A name that is added, renamed or dropped changes the table in the same commit, on purpose.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import loyal

DOORS: dict[str, tuple[str, ...]] = {
    "loyal": (),
    "loyal.alignment": (
        "Composition",
        "Conversation",
        "Demonstration",
        "DeviationTest",
        "Encoding",
        "Family",
        "Judge",
        "Judgement",
        "Law",
        "Mixture",
        "Plan",
        "Preference",
        "Provenance",
        "Record",
        "Said",
        "Target",
        "Turn",
    ),
    "loyal.app": (),
    "loyal.community": (
        "Approvals",
        "Case",
        "Constitution",
        "Difference",
        "Exchange",
        "FieldChange",
        "Finding",
        "RedLine",
        "Value",
        "ValueChange",
    ),
    "loyal.control": (
        "Case",
        "ControlFunction",
        "ControlReport",
        "Followed",
        "Header",
        "Spill",
        "Suite",
    ),
    "loyal.fingerprints": (
        "Beacon",
        "Fingerprint",
        "FingerprintSet",
        "Identity",
        "Proof",
        "Recipients",
        "ReplayGuard",
        "SetKind",
        "Spent",
        "Vault",
        "VerifiedLeaf",
    ),
    "loyal.models": (
        "Behavior",
        "Example",
        "Form",
        "LanguageModel",
        "Pairs",
        "Prompt",
        "Reply",
        "Sampling",
        "TokenChance",
    ),
    "loyal.protocol": (
        "AddCheckpoint",
        "Answer",
        "Checkpoint",
        "Command",
        "Cosignature",
        "Cosigned",
        "Event",
        "Fork",
        "ForkEvidence",
        "KeyKind",
        "Ledger",
        "LogProof",
        "MessageDigest",
        "Moment",
        "NoteSignature",
        "NoteSigner",
        "Parameters",
        "Permission",
        "PermissionBatch",
        "Receipt",
        "Refusal",
        "SignedAnswer",
        "SignedCheckpoint",
        "SignedNote",
        "State",
        "Terms",
        "VerifierKey",
        "WatchedLog",
        "WitnessState",
        "Witnessed",
        "apply",
    ),
    "loyal.roles": (
        "Asked",
        "BatchLimits",
        "Batcher",
        "Change",
        "Cheating",
        "Detection",
        "GivenReceipt",
        "Heads",
        "Host",
        "KeptReceipt",
        "Name",
        "Outcome",
        "PermissionQueue",
        "PermissionSource",
        "Plan",
        "PlanRequest",
        "Platform",
        "PlatformKeys",
        "QueueSettings",
        "ReceiptStore",
        "Scenario",
        "SignedLicense",
        "Store",
        "Taken",
    ),
}


def rooms() -> list[str]:
    """The package and its rooms, as they are on disk."""
    here = Path(loyal.__file__).parent
    return [
        "loyal",
        *(f"loyal.{one.name}" for one in pkgutil.iter_modules([str(here)]) if one.ispkg),
    ]


def complaints(room: ModuleType, expected: tuple[str, ...]) -> list[str]:
    """How a room's door differs from what is expected."""
    shown = tuple(getattr(room, "__all__", ()))
    found = [f"{name} is missing from __all__" for name in expected if name not in shown]
    found += [f"{name} is new in __all__" for name in shown if name not in expected]
    found += [f"{name} cannot be imported" for name in shown if not hasattr(room, name)]
    found += [] if list(shown) == sorted(shown) else ["__all__ is not sorted"]
    return found + [f"{name} is public but not in __all__" for name in _strays(room, shown)]


def _strays(room: ModuleType, shown: tuple[str, ...]) -> list[str]:
    """Public names that came in beside __all__; submodules are no strays."""
    return [
        name
        for name, value in vars(room).items()
        if not name.startswith("_") and name not in shown and not isinstance(value, ModuleType)
    ]


def test_the_table_names_every_room() -> None:
    assert set(DOORS) == set(rooms())


@pytest.mark.parametrize("room", sorted(DOORS))
def test_the_door_shows_what_the_table_says(room: str) -> None:
    assert complaints(importlib.import_module(room), DOORS[room]) == []


@pytest.mark.parametrize("room", sorted(DOORS))
def test_every_exported_class_says_what_it_is(room: str) -> None:
    module = importlib.import_module(room)
    shown = [getattr(module, name) for name in DOORS[room]]
    assert [one for one in shown if isinstance(one, type) and not one.__doc__] == []


def planted(**names: object) -> ModuleType:
    """A room with this namespace."""
    room = ModuleType("planted")
    vars(room).update(names)
    return room


def test_each_rule_turns_red() -> None:
    good = planted(__all__=["A", "B"], A=1, B=2)
    assert complaints(good, ("A", "B")) == []
    assert complaints(good, ("A",)) == ["B is new in __all__"]
    assert complaints(good, ("A", "B", "C")) == ["C is missing from __all__"]
    assert complaints(planted(__all__=["B", "A"], A=1, B=2), ("A", "B")) == [
        "__all__ is not sorted"
    ]
    assert complaints(planted(__all__=["A"]), ("A",)) == ["A cannot be imported"]
    assert complaints(planted(__all__=["A"], A=1, leak=2), ("A",)) == [
        "leak is public but not in __all__"
    ]
