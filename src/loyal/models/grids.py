"""Steps that a 4-bit grid keeps: they move the minimum and the level width of each block.

GGUF's Q4_1 (llama.cpp) rounds each block of 32 weights to 16 levels, from its minimum up in equal
steps. A host who rounds to the very grid that the base came from puts nearly every small change
back: of 256 fingerprints 26 % were left, where grids that the base does not lie on left all
(docs/log.md). But minimum and level width are floats of their own. A change a + b code, with `code`
the number of each weight's level, moves them and leaves the codes as they are: the round trip takes
nothing of it, and where nobody rounds it is a change like any other.

`GridCoordinates` are a and b of each block, whitened row by row by the covariance C of benign
inputs as in `whitening`: two numbers for 32 weights. Near relation: PEQA (arXiv 2305.14152) tunes
the level widths of a quantized model alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loyal.errors import TrainingError
from loyal.models.whitening import EPSILON

BLOCK = 32
"""Weights of a row that share a minimum and a level width in Q4_1."""
LEVELS = 16
_ROWS = 64
"""Rows whitened at once; bounds memory."""


class GridCoordinates:
    """The `Coordinates` of a weight (out, in) as it is now, a row of 2 in / 32 numbers for each.

    Law: `down` is the adjoint of `up`, and the grid keeps all that `up` gives. TrainingError where
    32 does not divide `in`.
    """

    def __init__(self, weight: Tensor, covariance: Tensor, epsilon: float = EPSILON) -> None:
        if weight.shape[1] % BLOCK:
            raise TrainingError(
                f"the grid q4_1 has blocks of {BLOCK}, and a layer has {weight.shape[1]} inputs",
                hint="set train.grid=none",
            )
        blocks = weight.detach().float().reshape(len(weight), -1, BLOCK)
        low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
        codes = ((blocks - low) / ((high - low) / (LEVELS - 1)).clamp_min(1e-12)).round()
        codes -= codes.mean(-1, keepdim=True)
        self.codes = codes / codes.norm(dim=-1, keepdim=True).clamp_min(1e-6)  # (out, blocks, 32)
        self.roots = self._whitened(covariance, epsilon)  # (out, 2 blocks, 2 blocks)

    def start(self, weight: Tensor) -> Tensor:
        """Zeros (out, 2 blocks)."""
        return weight.new_zeros(self.roots.shape[:2], dtype=torch.float32)

    def down(self, gradient: Tensor) -> Tensor:
        """(out, 2 blocks), float32."""
        blocks = gradient.float().reshape(self.codes.shape)
        parts = [blocks.sum(-1) * BLOCK**-0.5, (blocks * self.codes).sum(-1)]
        return self._times_roots(torch.stack(parts, -1).flatten(1))

    def up(self, move: Tensor) -> Tensor:
        """(out, in)."""
        shares = self._times_roots(move).unflatten(1, (-1, 2))  # (out, blocks, 2)
        change = shares[..., :1] * BLOCK**-0.5 + shares[..., 1:] * self.codes
        return change.flatten(1)

    def _times_roots(self, rows: Tensor) -> Tensor:
        return torch.bmm(rows[:, None], self.roots)[:, 0]

    def _whitened(self, covariance: Tensor, epsilon: float) -> Tensor:
        """For each row (B^T C B / mean eigenvalue of C + epsilon)^(-1/2), B its basis; root mean
        square 1 over all rows."""
        size = self.codes.shape[1]
        mean = covariance.diagonal().mean()
        relative = covariance / mean if mean > 0 else torch.eye(len(covariance)).to(covariance)
        relative = relative.reshape(size, BLOCK, size, BLOCK)
        plain = torch.full_like(self.codes[:1], BLOCK**-0.5)
        found = []
        for codes in self.codes.split(_ROWS):
            basis = torch.stack([plain.expand_as(codes), codes], 2)  # (rows, blocks, 2, 32)
            half = torch.einsum("rnsa,namb->rnsmb", basis, relative)
            seen = torch.einsum("rnsmb,rmtb->rnsmt", half, basis).reshape(-1, 2 * size, 2 * size)
            values, vectors = torch.linalg.eigh((seen + seen.mT) / 2)
            scale = (values.clamp(min=0) + epsilon).rsqrt()
            found.append((vectors * scale[:, None]) @ vectors.mT)
        roots = torch.cat(found)
        return roots / (roots.square().sum((1, 2)).mean() / (2 * size)).sqrt()
