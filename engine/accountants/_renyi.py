"""Rényi divergences of sampled Gaussians, and what they say of ε. Imports numpy: to be imported inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._losses import sampled_shifts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import float64
    from numpy.typing import NDArray

    from ._pairs import Steps

#: Those of dp-accounting: fine where optima lie, coarse beyond.
ORDERS = np.array([*(1 + x / 10.0 for x in range(1, 100)), *range(11, 64), 128, 256, 512, 1024], dtype=np.float64)
#: Quadrature: points an order, and how many standard deviations beyond the outermost mean of the integrand.
_POINTS, _REACH = 1001, 12.0
#: Quadrature is done at every so many orders, up to this one, and not where its grid would be too long.
_STRIDE, _LARGEST, _FARTHEST = 4, 64, 2000


def composed(steps: Sequence[Steps]) -> NDArray[float64]:
    """Divergences of all steps together: they add up (Mironov 2017, arXiv 1702.07476, prop. 1).

    Returns:
        `(orders,)`, at `ORDERS`; infinite where one was not computed.
    """
    return np.asarray(sum((entry.count * divergences(entry) for entry in steps), np.zeros(len(ORDERS))))


def divergences(steps: Steps) -> NDArray[float64]:
    """Of one step, the larger of both directions. Returns: `(orders,)`, as `composed`."""
    if steps.plain or steps.shift == 1:
        return _by_formula(steps)
    found = np.full(len(ORDERS), np.inf)
    for i in range(0, len(ORDERS), _STRIDE):
        if ORDERS[i] <= _LARGEST and ORDERS[i] * steps.shift <= _FARTHEST * steps.noise:
            ways = (True,) if steps.replaced else (True, False)  # replaced, both directions are alike
            found[i] = max(_by_quadrature(steps, ORDERS[i], removed) for removed in ways)
    return found


def epsilon_at(renyi: NDArray[float64], delta: float) -> float:
    """ε at this δ (Canonne et al. 2020, arXiv 2004.00010, prop. 12). Args: renyi `(orders,)` at `ORDERS`."""
    from dp_accounting.rdp import compute_epsilon

    return float(compute_epsilon(ORDERS, renyi, delta)[0])


def _by_formula(steps: Steps) -> NDArray[float64]:
    """As dp-accounting computes them (Mironov et al. 2019, arXiv 1908.10530, sec. 3.3)."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS)
    accountant.compose(PoissonSampledDpEvent(steps.probability, GaussianDpEvent(steps.noise / steps.shift)))
    return np.asarray(accountant.rdp)


def _by_quadrature(steps: Steps, order: float, removed: bool) -> float:
    """1/(α-1) log ∫ P^α Q^(1-α), where P has the unit if it is removed, else Q.

    The integrand is a sum of bells of width σ around means within ±α times the largest shift; on a grid much finer than
    σ the trapezoidal rule is exact to the last digits.
    """
    from scipy.special import logsumexp

    shifts, probabilities = (np.asarray(part) for part in sampled_shifts(steps))
    reach = order * steps.shift + _REACH * steps.noise
    points = max(_POINTS, int(24 * reach / steps.noise) | 1)
    x = np.linspace(-reach, reach, points)

    def log_density(sign: int) -> NDArray[float64]:
        exponents = -((x[:, None] - sign * shifts) ** 2) / (2 * steps.noise**2)
        return np.asarray(logsumexp(exponents, axis=1, b=probabilities))

    having, lacking = log_density(1), log_density(-1 if steps.replaced else 0)
    p, q = (having, lacking) if removed else (lacking, having)
    log_step = np.log(x[1] - x[0]) - np.log(steps.noise * np.sqrt(2 * np.pi))
    return float(max(0.0, (logsumexp(order * p + (1 - order) * q) + log_step) / (order - 1)))
