"""Gaussian differential privacy: one number μ for a whole trade-off curve (Dong et al. 2019, arXiv 1905.02383)."""

from __future__ import annotations

import math

from scipy import optimize, special

#: Beyond these nothing is asked: μ = 100 is an ε above 5,000.
_LARGEST = 100.0


def gaussian_delta(epsilon: float, mu: float) -> float:
    """δ at this ε of a mechanism that is exactly μ-GDP (same source, corollary 2.13): in [0, 1]."""
    if mu <= 0:
        return 0.0
    log_second = epsilon + float(special.log_ndtr(-epsilon / mu - mu / 2))
    return max(0.0, float(special.ndtr(-epsilon / mu + mu / 2)) - math.exp(min(0.0, log_second)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The ε >= 0 that a mechanism which is exactly μ-GDP has at this δ > 0; 0 where μ <= 0."""
    mu = min(mu, _LARGEST)
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    highest = mu * mu / 2 + mu * max(1.0, -float(special.ndtri(delta)))
    return float(optimize.brentq(lambda e: gaussian_delta(e, mu) - delta, 0.0, highest, xtol=1e-12))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The μ whose ε at this δ is the given one; inverse of `gaussian_epsilon` for ε > 0."""
    return float(optimize.brentq(lambda mu: gaussian_delta(epsilon, mu) - delta, 1e-9, _LARGEST, xtol=1e-12))
