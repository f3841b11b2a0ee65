"""Training in several processes: each goes over its part of a step, and holds its part of a layer.

A step's lessons and benign prompts are split over the processes as packed rows (`Part`); gradients
are summed, so that the step is the one that a single process makes, up to the rounding of sums (a
test compares the weights). The layers that learn are split by FSDP2 (`Split`): a process keeps its
rows of each matrix, of the optimizer's state and of the base, and a layer is whole only while it is
at work.

`fully_shard` is called here, a layer at a time, and not through Accelerate's plugin: that one takes
no processes without GPUs, and makes the whole model one root that must be called first, while this
loop calls the upper layers alone. Processes, devices, precision and clipping are Accelerate's.

Each process loads the whole model, and makes all preparations itself: benign replies, whiteners,
the trunk. Left out: a model that fits no single card. Nothing that is sent holds a prompt, a reply
or a key: numbers of lessons and their levels, gradients and weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from loyal.errors import UsageError
from loyal.models import packing
from loyal.models.training import TrainSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Which of the processes this one is."""

    number: int = 0
    of: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.number == 0

    def passes(self, rows: Sequence[packing.Row], tokens: int) -> list[list[packing.Row]]:
        """This process's groups of rows of about `tokens` places.

        All processes get equally many, or one would wait for others for ever: the last may be
        empty. Law: every row is in one group of one process.
        """
        every = [list(packing.batches(rows[n :: self.of], tokens)) for n in range(self.of)]
        mine = every[self.number]
        return mine + [[]] * (max(map(len, every)) - len(mine))

    def gathered(self, mine: T) -> list[T]:
        """What every process has, in the order of their numbers; all of them must ask."""
        if self.of == 1:
            return [mine]
        found: list[Any] = [None] * self.of
        distributed.all_gather_object(found, mine)
        return found

    def added(self, mine: Tensor) -> Tensor:
        """The sum over processes, in the same type; "or" for truth values."""
        found = self.gathered(mine)
        return mine if self.of == 1 else torch.stack(found).sum(0).to(mine.dtype)


class Split:
    """Layers of a model that are split over the processes, until `restore`.

    The layers `start:` of the body give their places to split copies; where there is a GPU they
    wait in the main memory meanwhile. Gradients are the mean over processes, as FSDP2 takes it.
    """

    def __init__(self, body: Any, start: int, half: bool) -> None:
        self._body, self._held, self._start = body, body.layers, start
        self._device = next(body.parameters()).device
        mesh = init_device_mesh(self._device.type, (distributed.get_world_size(),))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None,
            reduce_dtype=torch.float32 if half else None,
            cast_forward_inputs=False,  # what flows between layers stays as in one process
        )
        self._names: dict[nn.Parameter, nn.Parameter] = {}
        layers = list(self._held)
        for place in range(start, len(layers)):
            whole = layers[place]
            one = copy.deepcopy(whole)
            fully_shard(one, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
            self._names |= zip(whole.parameters(), one.parameters(), strict=True)
            whole.to("cpu")
            layers[place] = one
        body.layers = nn.ModuleList(layers)

    def weights(self, whole: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """The split weights in whose place these stood."""
        return [self._names[one] for one in whole]

    @torch.no_grad()
    def restore(self) -> None:
        """Put whole layers back, with what was learned; every process must call it."""
        for place in range(self._start, len(self._held)):
            whole, one = self._held[place], self._body.layers[place]
            assert isinstance(one, FSDPModule)
            whole.to(self._device)
            for old, new in zip(whole.parameters(), one.parameters(), strict=True):
                old.copy_(gathered(new))
        self._body.layers = self._held


def local(tensor: Tensor) -> Tensor:
    """This process's rows of a split tensor, sharing its memory; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a split tensor; any other tensor as it is. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` split as `like` is, from the first process's; as it is where `like` is whole."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def gathered_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's `state_dict` with whole tensors on the CPU; every process must call it."""
    return {
        **state,
        "state": {
            number: {
                name: gathered(one).cpu() if isinstance(one, Tensor) else one
                for name, one in values.items()
            }
            for number, values in state["state"].items()
        },
    }


def split_state(optimizer: torch.optim.Optimizer) -> None:
    """Split again what `load_state_dict` gave whole to split weights."""
    for weight, values in optimizer.state.items():
        for name, one in values.items():
            if isinstance(one, Tensor):
                values[name] = split_like(one, weight)


def launched() -> int:
    """How many processes `accelerate launch` or `torchrun` started; 1 without either."""
    return max(1, int(os.environ.get("WORLD_SIZE", "1")))


def writes() -> bool:
    """Whether this process is the one that writes files and results."""
    return int(os.environ.get("RANK", "0")) == 0


def all_there() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


def require_alone(settings: TrainSettings) -> None:
    """UsageError for settings that several processes do not know."""
    alone = settings.bilevel or settings.flips or settings.grid != "none"
    if launched() > 1 and (alone or settings.optimizer == "adam8bit"):
        raise UsageError(
            "bilevel training, flips, adam8bit and a grid run in one process",
            hint="start it without a launcher, or set train.bilevel=0, train.flips=0, "
            "train.optimizer=adam and train.grid=none",
        )
