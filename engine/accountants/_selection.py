"""What choosing the best of a random number of runs costs. Imports numpy: to be imported inside functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..ledger import Repetitions, SampledGaussian, Tuned
from ._losses import INTERVAL, distribution, refuse_replaced_groups, width
from ._pairs import Steps, steps_in
from ._renyi import ORDERS, composed

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ..ledger import Ledger


def divergences_of(ledger: Ledger) -> NDArray[float64]:
    """Rényi divergences of everything in the ledger: they add up. Returns: `(orders,)`."""
    total = np.zeros(len(ORDERS))
    for event in ledger.events:
        if isinstance(event, Tuned):
            total += selected(event, steps_in(event.event, ledger))
        elif isinstance(event, SampledGaussian):
            refuse_replaced_groups(steps_in(event, ledger))
            total += composed((steps_in(event, ledger),))
        else:
            total += np.inf
    return total


def selected(event: Tuned, run: Steps) -> NDArray[float64]:
    """Divergences of the best of a random number of runs. Returns: `(orders,)`.

    Args:
        event: How many runs there were, in distribution.
        run: One of them.
    """
    refuse_replaced_groups(run)
    once = composed((run,))
    found = _poisson(event, run, once) if event.distribution is Repetitions.POISSON else _negative_binomial(event, once)
    # A divergence never falls as its order grows: what holds at an order holds at those below.
    return np.asarray(np.minimum.accumulate(found[::-1])[::-1])


def _negative_binomial(event: Tuned, once: NDArray[float64]) -> NDArray[float64]:
    """Truncated negative binomial number of runs (Papernot & Steinke 2022, arXiv 2110.03620, theorem 2).

    ε'(λ) = ε(λ) + (1+η)(1-1/λ^) ε(λ^) + (1+η) log(1/γ)/λ^ + log E[K]/(λ-1) for any λ^ > 1.
    """
    eta, gamma = float(event.eta or 0.0), float(event.gamma or 0.0)
    rest = (1 + eta) * np.min((1 - 1 / ORDERS) * once - math.log(gamma) / ORDERS)
    return np.asarray(once + rest + math.log(event.expected_runs) / (ORDERS - 1))


def _poisson(event: Tuned, run: Steps, once: NDArray[float64]) -> NDArray[float64]:
    """Poisson number of runs (same source, theorem 6), with δ^ from the privacy loss distribution of one run.

    ε'(λ) = ε(λ) + m δ^ + log(m)/(λ-1), where a run is (ε^, δ^)-DP with e^ε^ <= 1 + 1/(λ-1).
    """
    allowed = np.log1p(1 / (ORDERS - 1))
    losses = distribution((run,), width((run,), INTERVAL))
    deltas = np.asarray([losses.get_delta_for_epsilon(float(epsilon)) for epsilon in allowed])
    mean = event.expected_runs
    return np.asarray(once + mean * deltas + math.log(mean) / (ORDERS - 1))
