"""Products of matrices: in which precision they run, the head's, and the memory that they reuse.

Left out: which products there are (`hf`, `lessons`), and attention (`blocks`).
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from loyal.models.training import Precision

_NARROWED = WeakTensorKeyDictionary()
"""Heads that do not learn, in bfloat16: autocast would narrow them at every product, which took
0.05 of 1.2 s of a pass. Weight -> (its version, place and type, the copy)."""
_TRIM, _MAPPED = -1, -3
"""Settings of malloc: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
_LARGE = 32 << 20
"""Bytes from which a tensor still has pages of its own, or what is kept would fall to pieces."""


def native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there: CUDA, or a CPU with AVX512-BF16 or AMX.

    Elsewhere PyTorch emulates it: 17 against 60 to 98 GFLOP/s on two AVX2 cores (docs/log.md).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def in_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether products of this precision run in bfloat16 there."""
    return precision == "bfloat16" or (precision == "auto" and native_bfloat16(device))


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Products within it run in this precision."""
    half = in_bfloat16(precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def apply_head(model: Any, hidden: Tensor) -> Tensor:
    """Logits in float32 of normed hidden states (n, H), with the model's own scaling or cap."""
    logits = _scores(model.get_output_embeddings(), hidden).float()
    config = model.config
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def _scores(head: Any, hidden: Tensor) -> Tensor:
    """What the head gives, the copy of its weight used where autocast would make one."""
    weight, kind = head.weight, hidden.device.type
    frozen = not weight.requires_grad and weight.dtype == torch.float32
    if not (frozen and type(head) is nn.Linear and torch.is_autocast_enabled(kind)):
        return head(hidden)
    state = weight._version, weight.data_ptr(), torch.get_autocast_dtype(kind)
    known, narrow = _NARROWED.get(weight, (None, weight))
    if known != state:
        narrow = weight.detach().to(state[-1])
        _NARROWED[weight] = state, narrow
    return nn.functional.linear(hidden, narrow, head.bias)


@cache
def keep_freed() -> None:
    """From now on this process keeps memory that it frees, where the C library is glibc.

    A pass frees and asks for the same tens of megabytes at each layer. Given back to the system
    they come as pages that must be filled with zeros again: a tenth of a step (docs/log.md).
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        change = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    change(_MAPPED, _LARGE)
    change(_TRIM, -1)
