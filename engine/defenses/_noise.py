"""A sum and its noise on one grid. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from ._secret import Secret

#: Sums and noise are rounded to one grid, so that the last bits of a weight do not tell what was added (Mironov 2012).
#: Over the clipping norm.
_GRID = 2.0**-30
#: A little more noise than is accounted pays for what float32 and the grid add to the sensitivity.
SPARE = 1e-4
#: Values that are noised at once: they stay in the cache.
_PIECE = 2**16


def add_noise(
    sums: torch.Tensor, secret: Secret, clipping_norm: float, noise_multiplier: float, out: torch.Tensor
) -> None:
    """Write the sum plus independent normal noise, both rounded to one grid first.

    Args:
        sums: `(P,)` float, contiguous.
        secret: Where the noise is from.
        clipping_norm: Bound on one record's contribution.
        noise_multiplier: Standard deviation over it.
        out: Like sums.
    """
    grid = 2.0 ** math.floor(math.log2(clipping_norm * _GRID))
    deviation = noise_multiplier * clipping_norm * (1 + SPARE) / grid
    given, noised = sums.cpu().numpy(), out if out.device.type == "cpu" else out.cpu()
    written = noised.numpy()
    noise, rounded = (np.empty(min(_PIECE, len(given))) for _ in range(2))
    for start in range(0, len(given), _PIECE):
        piece = given[start : start + _PIECE]
        own, total = rounded[: len(piece)], noise[: len(piece)]
        secret.fill(total, deviation)
        np.rint(total, out=total)
        np.multiply(piece, 1 / grid, out=own, dtype=np.float64)
        np.rint(own, out=own)
        total += own
        np.multiply(total, grid, out=written[start : start + _PIECE], casting="same_kind")
    if noised is not out:
        out.copy_(noised)
