"""Seeded sampling and noise for models that are nobody's secret. Imports torch: to be imported inside functions only.

A subject's mechanism draws from `engine/defenses/_secret.py` alone and cannot reach this: the layers of the engine keep
training and defenses from importing ensembles.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray


class Chance:
    """Normals and Poisson samples that a seed repeats. Each has a stream of its own, apart from the module's.

    Args:
        seed: Of both streams, >= 0.
    """

    def __init__(self, seed: int) -> None:
        samples, noise = np.random.SeedSequence(seed).spawn(2)
        self._samples = np.random.Generator(np.random.SFC64(samples))
        self._noise = torch.Generator().manual_seed(int(noise.generate_state(1)[0]))

    def normals(self, n: int) -> NDArray[np.float32]:
        """`(n,)` independent standard normals."""
        return torch.empty(n).normal_(generator=self._noise).numpy()

    def normal(self) -> float:
        """A single one."""
        return float(self.normals(1)[0])

    def fill(self, out: torch.Tensor, deviation: float) -> None:
        """Those that `normals` would give, times the deviation, in place. Args: out float32, contiguous."""
        out.normal_(0.0, deviation, generator=self._noise)

    def poisson_sample(self, n: int, probability: float) -> NDArray[np.int64]:
        """Positions of a sample of n records that each enters with this probability, ascending."""
        drawn = self._samples.integers(0, 2**32, n, dtype=np.uint32)
        return np.flatnonzero(drawn < math.floor(probability * 2**32)).astype(np.int64, copy=False)
