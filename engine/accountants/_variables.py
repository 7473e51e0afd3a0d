"""Privacy random variables of sampled Gaussians that Opacus has none for: records replaced, and groups of records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._losses import sampled_shifts
from ._renyi import composed, divergences, epsilon_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import float64
    from numpy.typing import NDArray

    from ._pairs import Steps

#: Points at which a loss is tabulated, and how many standard deviations beyond the outermost mean.
_POINTS, _REACH = 60_001, 14.0


def epsilon_of(steps: Sequence[Steps], delta: float, error: float) -> float:
    """The upper end of ε by numerical composition, the worse of both directions (Gopi et al. 2021, theorem 5.5)."""
    ways = (True,) if all(entry.replaced for entry in steps) else (True, False)  # replaced, both directions are alike
    return max(_one_way(steps, delta, error, removed) for removed in ways)


def _one_way(steps: Sequence[Steps], delta: float, error: float, removed: bool) -> float:
    from opacus.accountants.analysis.prv import compose_heterogeneous, discretize

    counts = [entry.count for entry in steps]
    slack = delta / 1000
    domain = _domain(steps, error, slack)
    parts = [discretize(LossVariable.of(e, removed, domain.t_min, domain.t_max), domain) for e in steps]
    return float(compose_heterogeneous(parts, counts).compute_epsilon(delta, slack, error)[2])


def _domain(steps: Sequence[Steps], error: float, slack: float):  # type: ignore[no-untyped-def]  # opacus has no types
    """Where the losses of one step and of all steps lie, but for a share of δ (same source, remark 5.6)."""
    from opacus.accountants.analysis.prv import Domain

    total = sum(entry.count for entry in steps)
    ends = [epsilon_at(composed(steps), slack / 4)]
    ends += [epsilon_at(divergences(entry), slack / (8 * total)) for entry in steps]
    end = max(*ends, error) + 3
    return Domain.create_aligned(-end, end, error / math.sqrt(total * math.log(12 / slack) / 2))


@dataclass(frozen=True, slots=True)
class LossVariable:
    """The loss log P(x)/Q(x) at x drawn from P, cut off at both ends, as Opacus' composition reads it.

    P and Q are the pair of `Steps`: the loss rises in x, so its distribution is that of x at the tabulated inverse.

    Attributes:
        losses: `(points,)`, rising.
        below: `(points,)`, the share of P whose loss is at most that.
        t_min: Lower end of what counts.
        t_max: Upper end.
    """

    losses: NDArray[float64]
    below: NDArray[float64]
    t_min: float
    t_max: float

    @classmethod
    def of(cls, steps: Steps, removed: bool, t_min: float, t_max: float) -> LossVariable:
        """The variable of one step where the unit is taken away (P has it), or added (Q has it)."""
        from scipy.special import ndtr

        shifts, probabilities = (np.asarray(part) for part in sampled_shifts(steps))
        reach = steps.shift + _REACH * steps.noise
        x = np.linspace(-reach, reach, _POINTS)
        losses = log_ratio(x, steps)
        if removed:
            below = (probabilities * ndtr((x[:, None] - shifts) / steps.noise)).sum(axis=1)
            return cls(losses, below, t_min, t_max)
        means = -shifts if steps.replaced else 0 * shifts
        above = (probabilities * ndtr((means - x[:, None]) / steps.noise)).sum(axis=1)
        return cls(-losses[::-1], above[::-1], t_min, t_max)

    def cdf(self, t: NDArray[float64]) -> NDArray[float64]:
        """The share of what counts that is at most t. Args: t `(n,)`."""
        low, high = self._share(np.asarray([self.t_min, self.t_max]))
        inside = (self._share(np.asarray(t)) - low) / (high - low)
        return np.asarray(np.where(t < self.t_min, 0.0, np.where(t < self.t_max, inside, 1.0)))

    def _share(self, t: NDArray[float64]) -> NDArray[float64]:
        return np.asarray(np.interp(t, self.losses, self.below, left=0.0, right=1.0))

    def mean(self) -> float:
        """Of what counts: t_max less the area under the distribution function."""
        t = np.unique(np.clip(self.losses, self.t_min, self.t_max))
        t = np.unique(np.concatenate([[self.t_min], t, [self.t_max]]))
        return float(self.t_max - np.trapezoid(self.cdf(np.minimum(t, np.nextafter(self.t_max, -np.inf))), t))


def log_ratio(x: NDArray[float64], steps: Steps) -> NDArray[float64]:
    """The loss log P(x)/Q(x), where P has the unit and Q does not, or others in its place. Args: x `(n,)`."""
    with_unit = _log_mixture(x, steps)
    return with_unit - (_log_mixture(-x, steps) if steps.replaced else 0.0)


def _log_mixture(x: NDArray[float64], steps: Steps) -> NDArray[float64]:
    """Logarithm of Σ_i p_i N(x; i, σ²) over N(x; 0, σ²)."""
    from scipy.special import logsumexp

    shifts, probabilities = (np.asarray(part) for part in sampled_shifts(steps))
    exponents = (x[:, None] * shifts - shifts**2 / 2) / steps.noise**2
    return np.asarray(logsumexp(exponents, axis=1, b=probabilities))
