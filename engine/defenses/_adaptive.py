"""The clipping norm, which may follow a quantile of the gradients' norms. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: A step never changes the clipping norm by more than this power of e, however few the records are.
_MOST = 2.0


@dataclass(frozen=True, slots=True)
class Adaptive:
    """How the clipping norm follows a quantile (Andrew et al. 2021, arXiv 1905.03871, alg. 1).

    Attributes:
        quantile: The share of records that should not be clipped, in (0, 1).
        rate: η of the geometric update.
        noise: Standard deviation of the noise on the count of unclipped records.
        expected: Records a step that are expected, which the count is divided by; how many there were is private.
    """

    quantile: float
    rate: float
    noise: float
    expected: float

    def next_norm(self, norm: float, unclipped: int, records: int, normal: float) -> float:
        """The clipping norm of the next step: C exp(-η (b - γ)).

        Args:
            norm: C of this step.
            unclipped: How many of its records were within it.
            records: How many it had; 0 is a step like any other.
            normal: From a standard normal distribution.
        """
        # Σ (b_i - 1/2): one record more or less changes it by 1/2.
        share = (unclipped - records / 2 + self.noise * normal) / self.expected + 0.5
        return norm * math.exp(max(-_MOST, min(_MOST, -self.rate * (share - self.quantile))))
