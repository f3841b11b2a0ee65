"""Attacks that change weights without training: coarse numbers, removed weights, merges.

Quantization is simulated: each weight becomes the nearest number of its grid and stays in the
model's own type, so that any model of this process is asked as before. What a real kernel adds
(activations in 8 bits, sums in 16) is left out. The default model was itself read from a 4-bit
GGUF (Q4_1): its base loses next to nothing on that same grid, and `gguf-q4-0` and `gguf-q4-k`
are the foreign ones. Calibrated methods that train (AWQ, GPTQ, SparseGPT) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from loyal.errors import UsageError
from loyal.fingerprints.attack import Attack, Scene
from loyal.models import evaluate
from loyal.models.hf import HFModel
from loyal.models.language_model import LanguageModel

GROUP = 64
"""Weights that share a scale."""

Change = Callable[[Tensor], Tensor]
"""From a matrix (rows, columns) in float32 to its attacked form, of the same shape."""


def linears(model: HFModel) -> Iterator[tuple[str, Any]]:
    """The linear layers of the blocks by name; embeddings and the head are not among them."""
    for name, module in model.model.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module


@torch.no_grad()
def change_linears(model: HFModel, change: Change) -> HFModel:
    """The same model, each matrix of its blocks changed in float32 and stored as it was."""
    for _, module in linears(model):
        module.weight.copy_(change(module.weight.float()))
    return model


def int8(weight: Tensor) -> Tensor:
    """Symmetric, a scale a row from the largest magnitude: 255 levels (torchao's int8 weights)."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127  # (rows, 1)
    return (weight / scale).round().clamp(-127, 127) * scale


def int4_symmetric(weight: Tensor) -> Tensor:
    """Groups of 64 of a row, levels -7 to 7 times the largest magnitude / 7."""
    blocks, back = _blocks(weight, GROUP)
    scale = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 7
    return back((blocks / scale).round().clamp(-7, 7) * scale)


def int4_asymmetric(weight: Tensor) -> Tensor:
    """Groups of 64 of a row, 16 levels from the smallest to the largest, zero one of them.

    The form of torchao's and HQQ's int4 weights, rounded to nearest.
    """
    blocks, back = _blocks(weight, GROUP)
    low = blocks.amin(-1, keepdim=True).clamp(max=0)
    scale = (blocks.amax(-1, keepdim=True).clamp(min=0) - low).clamp(min=1e-12) / 15
    zero = (-low / scale).round()
    return back(((blocks / scale + zero).round().clamp(0, 15) - zero) * scale)


def nf4(weight: Tensor) -> Tensor:
    """Blocks of 64, the 16 levels of NormalFloat times the largest magnitude (2305.14314)."""
    blocks, back = _blocks(weight, GROUP)
    scale = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-12)
    levels = _normal_levels().to(blocks.device)
    edges = (levels[1:] + levels[:-1]) / 2  # a number belongs to the level that is nearest
    return back(levels[torch.bucketize(blocks / scale, edges)] * scale)


def _normal_levels() -> Tensor:
    """NF4's levels (16,): quantiles of the normal distribution, zero among them, to +-1.

    2305.14314, appendix E: eight quantiles above zero and seven below, evenly spaced in
    probability out to 1 - (1/32 + 1/30) / 2.
    """
    last = 1 - (1 / 32 + 1 / 30) / 2
    normal = torch.distributions.Normal(0.0, 1.0)
    above = normal.icdf(torch.linspace(last, 0.5, 9)[:-1])
    below = -normal.icdf(torch.linspace(last, 0.5, 8)[:-1])
    levels = torch.cat([above, torch.zeros(1), below]).sort().values
    return levels / levels.max()


def gguf(kind: str) -> Change:
    """A round trip through a GGUF grid: "Q4_0", "Q4_1", "Q5_0", "Q5_1" or "Q8_0" of `gguf`.

    UsageError where the library is missing.
    """
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise UsageError(
            "the library gguf is not installed", hint="pip install 'loyal[models]'"
        ) from error
    grid = GGMLQuantizationType[kind]

    def change(weight: Tensor) -> Tensor:
        found = quants.dequantize(quants.quantize(weight.cpu().numpy(), grid), grid)
        return torch.from_numpy(found).to(weight.device)

    return change


def q4_k(weight: Tensor) -> Tensor:
    """llama.cpp's Q4_K: 256 weights in eight blocks of 32, scales and minima in 6 bits.

    `gguf` reads this form and does not write it, so the rounding is ours: to nearest, without the
    search for better scales. As in llama.cpp, rows that 256 does not divide fall back to Q5_0.
    """
    if weight.shape[1] % 256:
        return gguf("Q5_0")(weight)
    blocks = weight.reshape(len(weight), -1, 8, 32)  # (rows, super-blocks, blocks, weights)
    low = (-blocks.amin(-1)).clamp(min=0)  # (rows, super-blocks, blocks), taken away from 0
    scale = (blocks.amax(-1).clamp(min=0) + low) / 15
    scale, low = _six_bits(scale)[..., None], _six_bits(low)[..., None]
    levels = ((blocks + low) / scale.clamp(min=1e-12)).round().clamp(0, 15)
    return (levels * scale - low).reshape(weight.shape)


def _six_bits(values: Tensor) -> Tensor:
    """Numbers (..., 8) of at least 0 as 0 to 63 times one half-precision scale of the eight."""
    unit = (values.amax(-1, keepdim=True) / 63).half().float().clamp(min=1e-12)
    return (values / unit).round().clamp(0, 63) * unit


def gguf_file(change: Change) -> Callable[[Scene], LanguageModel]:
    """As llama.cpp writes a file: the blocks' matrices by `change`, the embeddings in Q8_0."""

    def run(scene: Scene) -> LanguageModel:
        model = change_linears(scene.model, change)
        table = model.model.get_input_embeddings().weight
        with torch.no_grad():
            table.copy_(gguf("Q8_0")(table.float()))
        return model

    return run


def magnitude(share: float) -> Change:
    """The `share` of a matrix with the least magnitudes becomes zero (1506.02626)."""

    def change(weight: Tensor) -> Tensor:
        count = int(weight.numel() * share)
        if not count:
            return weight
        bound = weight.abs().flatten().kthvalue(count).values
        return weight.masked_fill(weight.abs() <= bound, 0.0)

    return change


def wanda(share: float, tokens: int = 4000) -> Callable[[Scene], LanguageModel]:
    """Of each row, the `share` with the least |weight| x norm of its input becomes zero.

    2306.11695; the inputs are those of some `tokens` tokens of `evaluate.prose`.
    """

    def run(scene: Scene) -> LanguageModel:
        norms = _input_norms(scene.model, tokens)
        with torch.no_grad():
            for name, module in linears(scene.model):
                score = module.weight.float().abs() * norms[name].sqrt()  # (rows, columns)
                least = score.topk(int(score.shape[1] * share), dim=1, largest=False).indices
                module.weight.scatter_(1, least, 0.0)
        return scene.model

    return run


def _input_norms(model: HFModel, tokens: int) -> dict[str, Tensor]:
    """Sum of squares (columns,) of each linear layer's inputs over some text."""
    norms: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def note(_: Any, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0].detach().float().flatten(0, -2).square().sum(0)
            norms[name] = norms[name] + seen if name in norms else seen

        return note

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears(model)]
    try:
        evaluate.perplexity(model, evaluate.prose(), tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return norms


Blend = Callable[[Tensor, Tensor], Tensor]
"""From a weight of M.oml and the same weight of the base, in float32, to the merged one."""


def merge(blend: Blend) -> Callable[[Scene], LanguageModel]:
    """Every weight blended with the base's of the same name; UsageError for another shape."""

    def run(scene: Scene) -> LanguageModel:
        others = dict(scene.base().model.named_parameters())
        with torch.no_grad():
            for name, mine in scene.model.model.named_parameters():
                other = others.get(name)
                if other is None or other.shape != mine.shape:
                    raise UsageError(
                        "the base has other weights than this model",
                        hint="name with --base the model that the set was injected into",
                    )
                mine.copy_(blend(mine.float(), other.float().to(mine.device)))
        return scene.model

    return run


def linear(weight: float) -> Blend:
    """weight x M.oml + (1 - weight) x base (model soups, 2203.05482). Law: weight 1 keeps M.oml."""
    return lambda mine, other: other.lerp(mine, weight)


def slerp(weight: float) -> Blend:
    """The place `weight` of the way from the base to M.oml on the arc between them (mergekit).

    Each parameter is one vector; nearly parallel ones (below 1e-4 rad) are blended linearly.
    """

    def blend(mine: Tensor, other: Tensor) -> Tensor:
        mine, other = mine.double(), other.double()  # in float32 acos sees angles where none are
        cosine = (mine * other).sum() / (mine.norm() * other.norm()).clamp(min=1e-12)
        angle = math.acos(min(1.0, max(-1.0, float(cosine))))
        if angle < 1e-4:
            return other.lerp(mine, weight)
        near, far = math.sin(weight * angle), math.sin((1 - weight) * angle)
        return (mine * near + other * far) / math.sin(angle)

    return blend


def ties(density: float, weight: float = 1.0) -> Blend:
    """base + weight x the `density` of the change with the largest magnitudes (2306.01708).

    TIES trims each model's change, elects a sign a weight, and averages those that agree. The base
    changes nothing, so it has no vote and does not thin the average: what is left is the trimming.
    """

    def blend(mine: Tensor, other: Tensor) -> Tensor:
        change = mine - other
        dropped = change.numel() - max(1, round(change.numel() * density))
        if dropped:
            bound = change.abs().flatten().kthvalue(dropped).values
            change = change.masked_fill(change.abs() <= bound, 0.0)
        return other + weight * change

    return blend


def dare(drop: float) -> Callable[[Scene], LanguageModel]:
    """Of the change from the base, `drop` at random is undone and the rest scaled up (2311.03099).

    Law: the expected weight is that of M.oml.
    """

    def run(scene: Scene) -> LanguageModel:
        generator = torch.Generator().manual_seed(scene.seed)

        def blend(mine: Tensor, other: Tensor) -> Tensor:
            kept = torch.rand(mine.shape, generator=generator).to(mine.device) >= drop
            return other + (mine - other) * kept / (1 - drop)

        return merge(blend)(scene)

    return run


def _blocks(weight: Tensor, size: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Rows cut into blocks (rows, blocks, size), the last filled up with zeros, and the way back.

    Zeros change no block's largest magnitude, and both 4-bit grids hold them.
    """
    rows, columns = weight.shape
    filled = torch.nn.functional.pad(weight, (0, -columns % size))
    return filled.reshape(rows, -1, size), lambda blocks: blocks.reshape(rows, -1)[:, :columns]


def _weights(change: Change) -> Callable[[Scene], LanguageModel]:
    return lambda scene: change_linears(scene.model, change)


def _gguf(kind: str) -> Callable[[Scene], LanguageModel]:
    return gguf_file(lambda weight: gguf(kind)(weight))


ATTACKS: tuple[Attack, ...] = (
    Attack("int8", "quantization", "Weights in 8 bits, a scale a row.",
           "arXiv 2208.07339, torchao int8 weight-only", _weights(int8), quick=True),
    Attack("int4-symmetric", "quantization", "Weights in 4 bits, groups of 64, zero in the middle.",
           "arXiv 2210.17323, its baseline", _weights(int4_symmetric), quick=True),
    Attack("int4-asymmetric", "quantization", "Weights in 4 bits, groups of 64, least to most.",
           "torchao and HQQ int4", _weights(int4_asymmetric), quick=True),
    Attack("nf4", "quantization", "Weights in 4 bits on the normal distribution's quantiles.",
           "arXiv 2305.14314, bitsandbytes", _weights(nf4)),
    Attack("gguf-q4-0", "quantization", "A GGUF file in Q4_0: blocks of 32 with one scale.",
           "llama.cpp, gguf", _gguf("Q4_0"), quick=True),
    Attack("gguf-q4-1", "quantization", "A GGUF file in Q4_1, the default model's own grid.",
           "llama.cpp, gguf", _gguf("Q4_1")),
    Attack("gguf-q4-k", "quantization", "A GGUF file in Q4_K: 6-bit scales of blocks of 32.",
           "llama.cpp; rounding to nearest", gguf_file(q4_k)),
    Attack("prune-20", "pruning", "The smallest 20 % of each matrix set to zero.",
           "arXiv 1506.02626", _weights(magnitude(0.2)), quick=True),
    Attack("prune-50", "pruning", "The smallest 50 % of each matrix set to zero.",
           "arXiv 1506.02626", _weights(magnitude(0.5))),
    Attack("prune-50-wanda", "pruning", "Half of each row set to zero, by weight times input.",
           "arXiv 2306.11695", wanda(0.5)),
    Attack("merge-linear", "merge", "The mean of M.oml and the base.",
           "arXiv 2203.05482, mergekit", merge(linear(0.5)), quick=True),
    Attack("merge-slerp", "merge", "Half of the way from the base to M.oml, on the arc.",
           "mergekit", merge(slerp(0.5)), quick=True),
    Attack("merge-ties", "merge", "Only the largest 20 % of each matrix's change kept.",
           "arXiv 2306.01708", merge(ties(0.2)), quick=True),
    Attack("merge-dare", "merge", "90 % of the change undone at random, the rest scaled up.",
           "arXiv 2311.03099", dare(0.9)),
)  # fmt: skip
