"""Privacy loss distributions (dp-accounting), for the accountant, the curve, the bounds and the noise."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import NotMeasurable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    from ._pairs import Steps

#: Width of the grid that losses are rounded to, pessimistically: for a number of record.
INTERVAL = 1e-4
#: Ten times faster, still an upper bound: for a first look.
COARSE = 1e-3
#: Above about this ε grids are made wider in proportion: nobody needs four decimals of ε = 500, and they take minutes.
_LARGE = 20.0
#: The library inverts mixtures of more than two Gaussians point by point: a grid so much wider takes a second.
_GROUPED = 10.0
#: One Gaussian is rounded once, with an error that falls as the square of the width: it may be wider where ε is large.
_PLAIN = 5.0
#: What no double can see of a probability, over all the steps that there can be.
_UNSEEN = 1e-22


def widening(steps: Sequence[Steps]) -> float:
    """How much wider a grid may be than the usual one, at least 1; it changes the stated error, never the direction."""
    return max(1.0, rough_epsilon(steps) / _LARGE)


def rough_epsilon(steps: Sequence[Steps]) -> float:
    """The size of ε, about, for choosing how to compute it; no bound.

    That of a Gaussian mechanism of the same central limit (Bu et al. 2020, arXiv 1911.11607, eq. 6), or without any
    amplification by sampling, whichever is smaller.
    """
    mu = math.hypot(*(min(_central_limit(entry), entry.mu) for entry in steps))
    return mu**2 / 2 + 5 * mu


def width(steps: Sequence[Steps], usual: float) -> float:
    """Width of the grid of losses. Args: usual: for steps of single records whose ε is not large."""
    grouped = _GROUPED if any(entry.group > 1 and not entry.plain for entry in steps) else 1.0
    plain = _PLAIN if all(entry.plain for entry in steps) else 1.0
    return usual * max(grouped, plain * widening(steps) - (plain - 1))


def _central_limit(steps: Steps) -> float:
    """The μ that many small steps amount to; infinite where it cannot be said."""
    exponent = steps.noise**-2
    if exponent > 50:
        return math.inf
    return steps.shift * steps.probability * math.sqrt(steps.count * math.expm1(exponent))


def epsilon_of(steps: tuple[Steps, ...], delta: float, interval: float) -> float:
    """Upper bound on ε of the composed steps at this δ."""
    return float(distribution(steps, interval).get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)
def distribution(steps: tuple[Steps, ...], interval: float) -> PrivacyLossDistribution:
    """The privacy loss distribution of all steps together, rounded upwards.

    Raises:
        NotMeasurable: No distribution of losses is known for steps of this kind.
    """
    from dp_accounting.pld import privacy_loss_distribution

    composed = privacy_loss_distribution.identity(interval)
    for entry in steps:
        composed = composed.compose(_of(entry, interval))
    return composed


def _of(steps: Steps, interval: float) -> PrivacyLossDistribution:
    """That of steps of one kind."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism, from_mixture_gaussian_mechanism
    from dp_accounting.privacy_accountant import NeighboringRelation

    if steps.plain:
        return from_gaussian_mechanism(1 / steps.mu, value_discretization_interval=interval)
    if steps.group > 1:
        refuse_replaced_groups(steps)
        shifts, probabilities = sampled_shifts(steps)
        one = from_mixture_gaussian_mechanism(
            steps.noise, shifts, probabilities, value_discretization_interval=interval
        )
        return one.self_compose(steps.count)
    relation = NeighboringRelation.REPLACE_ONE if steps.replaced else NeighboringRelation.ADD_OR_REMOVE_ONE
    one = from_gaussian_mechanism(
        steps.noise,
        value_discretization_interval=interval,
        sampling_prob=steps.probability,
        neighboring_relation=relation,
    )
    return one.self_compose(steps.count)


def refuse_replaced_groups(steps: Steps) -> None:
    """Refuse what no accountant has a distribution for.

    Raises:
        NotMeasurable: Sampled records of one person that are replaced together.
    """
    if steps.group > 1 and steps.replaced and not steps.plain:
        raise NotMeasurable(
            "sampled records of one person that are replaced by another's are not accounted for: "
            "ask for adjacency: add-or-remove-one"
        )


def sampled_shifts(steps: Steps) -> tuple[list[float], list[float]]:
    """How far a step is moved by the sampled records of one unit, and how probable that is.

    What is too improbable to be seen in all steps together is put where all records of the unit take part: more is
    never less (same source as `Steps`).
    """
    import numpy as np
    from scipy.stats import binom

    last = int(min(steps.group, binom.isf(_UNSEEN, steps.group, steps.probability) + 1))
    shifts = np.arange(last + 1, dtype=np.float64)
    probabilities = binom.pmf(shifts, steps.group, steps.probability)
    shifts[-1] = steps.group
    probabilities[-1] += max(0.0, float(binom.sf(last, steps.group, steps.probability)))
    seen = probabilities > 0
    return list(shifts[seen]), list(probabilities[seen] / probabilities[seen].sum())
