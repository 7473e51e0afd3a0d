"""Privacy loss distributions of sampled Gaussians (dp-accounting), for the accountant, the curve and the noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ledger import SampledGaussian

#: Width of the grid that losses are rounded to, pessimistically: for a number of record.
INTERVAL = 1e-4
#: Ten times faster, still an upper bound: for a first look.
COARSE = 1e-3


def epsilon_of(mechanisms: tuple[SampledGaussian, ...], delta: float, interval: float) -> float:
    """Upper bound on ε of the composed mechanisms at this δ, under adding or removing one record."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=interval)
    for mechanism in mechanisms:
        step = GaussianDpEvent(mechanism.noise_multiplier)
        accountant.compose(PoissonSampledDpEvent(mechanism.sampling_probability, step), mechanism.steps)
    return float(accountant.get_epsilon(delta))
