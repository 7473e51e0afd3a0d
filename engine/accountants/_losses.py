"""Privacy loss distributions of sampled Gaussians (dp-accounting), for the accountant, the curve and the noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ledger import SampledGaussian

#: Width of the grid that losses are rounded to, pessimistically: for a number of record.
INTERVAL = 1e-4
#: Ten times faster, still an upper bound: for a first look.
COARSE = 1e-3
#: Above about this ε grids are made wider in proportion: nobody needs four decimals of ε = 500, and they take minutes.
_LARGE = 20.0


def widening(mechanisms: tuple[SampledGaussian, ...]) -> float:
    """How much wider a grid may be than the usual one, at least 1; it changes the stated error, never the direction.

    By the size of ε, roughly: that of a Gaussian mechanism of the same central limit (Bu et al. 2020, arXiv 1911.11607,
    eq. 6), or without any amplification by sampling, whichever is smaller.
    """
    mu = math.hypot(*(min(_central_limit(m), math.sqrt(m.steps) / m.noise_multiplier) for m in mechanisms))
    return max(1.0, (mu**2 / 2 + 5 * mu) / _LARGE)


def _central_limit(mechanism: SampledGaussian) -> float:
    """The μ that many small steps amount to; infinite where it cannot be said."""
    exponent = mechanism.noise_multiplier**-2
    if exponent > 50:
        return math.inf
    return mechanism.sampling_probability * math.sqrt(mechanism.steps * math.expm1(exponent))


def epsilon_of(mechanisms: tuple[SampledGaussian, ...], delta: float, interval: float) -> float:
    """Upper bound on ε of the composed mechanisms at this δ, under adding or removing one record."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=interval)
    for mechanism in mechanisms:
        step = GaussianDpEvent(mechanism.noise_multiplier)
        accountant.compose(PoissonSampledDpEvent(mechanism.sampling_probability, step), mechanism.steps)
    return float(accountant.get_epsilon(delta))
