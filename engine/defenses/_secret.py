"""Randomness that nobody can repeat: straight from the operating system, no seed that could leak or be guessed."""

from __future__ import annotations

import math
import os

import numpy as np
from numpy.typing import NDArray


def normals(n: int) -> NDArray[np.float64]:
    """`(n,)` independent standard normals (Box-Muller over uniforms of 53 bits)."""
    pairs = (n + 1) // 2
    bits = np.frombuffer(os.urandom(16 * pairs), dtype=np.uint64) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1): the logarithm below is finite
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:pairs])), 2.0 * math.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]


def poisson_sample(n: int, probability: float) -> NDArray[np.int64]:
    """Positions of a sample of n records that each enters with this probability, independently of the others.

    The probability is rounded down to a multiple of 2^-32, so that no record enters more often than accounted.
    """
    drawn = np.frombuffer(os.urandom(4 * n), dtype=np.uint32)
    return np.flatnonzero(drawn.astype(np.uint64) < math.floor(probability * 2**32)).astype(np.int64)
