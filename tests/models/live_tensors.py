"""Counts the bytes of tensors that live at one time, by watching every operation.

Left out: what the allocator keeps beyond them.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """While entered, `peak` is the most bytes of storages that operations made and nobody freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, given=(), named=None) -> Any:
        known = {self._note(one, False) for one in tree_leaves((given, named or {}))}
        found = function(*given, **(named or {}))
        for one in tree_leaves(found):
            self._note(one, True)
        del known
        return found

    def _note(self, one: Any, new: bool) -> None:
        if not isinstance(one, torch.Tensor):
            return
        storage = one.untyped_storage()
        name = id(storage)
        if name in self._known:
            return
        self._known.add(name)
        size = storage.nbytes() if new else 0
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, name, size)

    def _freed(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size
