"""A sum and its noise on one grid. Imports torch: to be imported inside functions only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

#: Sums and noise are rounded to one grid, so that the last bits of a weight do not tell what was added (Mironov 2012).
#: Over the clipping norm, and over the noise's deviation where that is larger.
_GRID = 2.0**-30
#: A little more noise than is accounted pays for what float32 and the grid add to the sensitivity.
SPARE = 1e-4
#: Added to one number and taken from another, it leaves both rounded to whole ones, and then their sum: doubles between
#: 2^52 and 2^53 have no fractions. Each may be 2^51 grids large, which is more than a million clipping norms.
_WHOLE = 1.5 * 2.0**52
#: Values that are noised at once: they stay in the cache.
_PIECE = 2**16


class Normals(Protocol):
    """Where noise is from."""

    def fill(self, out: NDArray[np.float64], deviation: float) -> None:
        """Write independent normals of mean zero. Args: out `(n,)`."""
        ...


class Noise:
    """Adds normal noise to sums, both rounded to one grid first.

    Args:
        source: Of the noise.
        multiplier: Its standard deviation over the clipping norm.
        sums: `(P,)` float, contiguous: where each step's sum will stand.
    """

    def __init__(self, source: Normals, multiplier: float, sums: torch.Tensor) -> None:
        self._source, self._multiplier, self._sums = source, multiplier, sums
        self._here = sums.cpu()  # the same memory, unless it is elsewhere
        self._noise, self._sum = (np.empty(min(_PIECE, len(sums))) for _ in range(2))
        self._values = self._here.numpy()

    def add(self, clipping_norm: float) -> None:
        """Add noise to the sum in its place. Args: clipping_norm, the bound on one record's contribution."""
        deviation = self._multiplier * clipping_norm
        whole = _WHOLE * 2.0 ** math.floor(math.log2(_GRID * max(clipping_norm, deviation)))
        if self._here is not self._sums:
            self._here.copy_(self._sums)
        values = self._values
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            own, total = self._sum[: len(piece)], self._noise[: len(piece)]
            self._source.fill(total, deviation * (1 + SPARE))
            total += whole
            np.copyto(own, piece)
            own -= whole
            total += own
            np.copyto(piece, total, casting="same_kind")
        if self._here is not self._sums:
            self._sums.copy_(self._here)
