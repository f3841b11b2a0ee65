"""Which sets of a vault stand under which licenses: a `Custodian` that keeps up with the log.

A usage set belongs to the license whose `UsageCommitted` has its root. Left out: opening the vault,
and when keys are drawn (`caretaker`).
"""

from __future__ import annotations

from collections.abc import Iterable

from loyal.fingerprints import FingerprintSet
from loyal.protocol import State
from loyal.roles.custodian import Custodian


class VaultDesk:
    """The drawn usage sets of a vault; without any, a desk that has nothing for anybody."""

    def __init__(
        self, sets: Iterable[FingerprintSet] = (), only: frozenset[bytes] | None = None
    ) -> None:
        """`only`: the licenses that are served; None for all that have a set here."""
        drawn = (one for one in sets if one.kind == "usage" and one.beacon is not None)
        self._sets = {one.root: one for one in drawn}
        self._only = only
        self.custodian = Custodian({})
        """As of the last `update`."""

    def __repr__(self) -> str:
        return f"VaultDesk({len(self._sets)} sets)"

    def __len__(self) -> int:
        return len(self._sets)

    def update(self, state: State) -> Custodian:
        """Look which licenses the log has by now."""
        found: dict[bytes, FingerprintSet] = {}
        taken: set[bytes] = set()
        for name, license in state.licenses.items():
            usage = license.usage
            if usage is None or usage.root in taken or (self._only and name not in self._only):
                continue
            if usage.root in self._sets:
                found[name] = self._sets[usage.root]
                taken.add(usage.root)
        if tuple(sorted(found)) != self.custodian.licenses:
            self.custodian = Custodian(found)
        return self.custodian
