"""What a model holds in mind of replies: hidden states at some layers, in one pass a batch.

Layers above the highest that is asked for are not computed. The law (held by a test): the states
are those of a plain forward pass of each conversation alone. Left out: what is read from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from loyal.encoding import digest
from loyal.errors import UsageError
from loyal.models import packing
from loyal.models.hf import BATCH_TOKENS, HFModel
from loyal.models.language_model import Prompt

_SAMPLED = 64
"""Weights of each tensor that the digest reads."""


def reply_states(
    model: HFModel, prompts: Sequence[Prompt], replies: Sequence[str], layers: Sequence[int]
) -> Tensor:
    """Float32 (n, len(layers), 2, H) on the CPU: the mean over a reply's tokens, and its last one.

    `layers` counts decoder layers from 0; the state is what the layer gives. An empty reply reads
    the prompt's last token. UsageError for a layer that the model does not have.
    """
    body = model.model.model
    if not layers or min(layers) < 0 or max(layers) >= len(body.layers):
        raise UsageError(
            f"the model has layers 0 to {len(body.layers) - 1}", hint="name some of them"
        )
    ids = [model.reply_ids(reply) for reply in replies]
    items = [
        packing.Item(one.prefix, (*one.ids, *reply))
        for one, reply in zip(model.items(prompts), ids, strict=True)
    ]
    found = torch.zeros(len(items), len(layers), 2, model.model.config.hidden_size)
    for batch in packing.passes(body, items, BATCH_TOKENS[model.device.type]):
        with torch.inference_mode(), _heard([body.layers[one] for one in layers]) as heard:
            with packing.layers(body, 0, max(layers) + 1, norm=False):
                packing.hidden_states(body, batch)
            for index, (row, at) in batch.starts.items():
                end = at + len(items[index].ids)
                start = end - max(1, len(ids[index]))
                for place, layer in enumerate(layers):
                    states = heard[body.layers[layer]][row, start:end].float()  # (T, H)
                    found[index, place, 0] = states.mean(0).cpu()
                    found[index, place, 1] = states[-1].cpu()
    return found


@contextmanager
def _heard(layers: Sequence[Any]) -> Iterator[dict[Any, Tensor]]:
    """What each layer gave in the last pass, (R, T, H), by the layer."""
    found: dict[Any, Tensor] = {}

    def note(layer: Any, _given: Any, out: Any) -> None:
        found[layer] = out[0] if isinstance(out, tuple) else out

    hooks = [layer.register_forward_hook(note) for layer in set(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def weights_digest(model: HFModel) -> str:
    """Hex SHA-256 over names, shapes and a sample of the weights, the same in either precision."""
    record = []
    for name, weight in sorted(model.model.named_parameters()):
        flat = weight.detach().flatten()
        step = max(1, len(flat) // _SAMPLED)
        bits = flat[::step][:_SAMPLED].to(torch.bfloat16).cpu().view(torch.int16)
        record.append([name, list(weight.shape), bits.tolist()])
    return digest(record, "loyal/weights sample/1").hex()
