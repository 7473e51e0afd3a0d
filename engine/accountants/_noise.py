"""How much noise a training needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ..errors import AccountingError, InputError
from ..ledger import ENGINE_SAMPLER, Ledger, SampledGaussian, Sampler
from ._account import account
from ._losses import COARSE, epsilon_of, width
from ._pairs import steps_of

#: Beyond this much noise nothing is learnt; a target that needs more is refused.
MAX_NOISE = 1000.0
_MIN_NOISE = 0.1
#: The noise is rounded up to this many decimals, so that it can be read and typed in again.
_DECIMALS = 4
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Run:
    """Everything but the noise of a training that samples each record with one probability.

    Attributes:
        sampling_probability: Of each record in each step.
        steps: How many.
        clipping_norm: Bound on one record's contribution.
    """

    sampling_probability: float
    steps: int
    clipping_norm: float

    def with_noise(self, noise_multiplier: float) -> SampledGaussian:
        """What will have happened."""
        return SampledGaussian(
            self.sampling_probability,
            noise_multiplier,
            self.steps,
            self.clipping_norm,
            sampler=Sampler.POISSON,
            evidence=ENGINE_SAMPLER,
        )


@lru_cache(maxsize=256)
def noise_for(run: Run, epsilon: float, delta: float) -> float:
    """The smallest noise multiplier (to 1 % of ε) for which the number of record is within the target.

    Raises:
        InputError: No amount of noise up to 1000 is enough.
        AccountingError: An accountant failed near the answer.
    """
    aim = epsilon
    for _ in range(_ATTEMPTS):
        noise = _round_up(_solve(run, aim, epsilon, delta))
        found = account(_ledger(run, noise), delta, curve=False).epsilon
        if found <= epsilon:
            return noise
        # The fast bound that was solved for may lie below the number of record: aim as much lower.
        aim -= 1.05 * (found - epsilon) + 1e-4
    raise AccountingError(f"no noise multiplier was found that the accountants put at or under ε = {epsilon}")


def _solve(run: Run, aim: float, epsilon: float, delta: float) -> float:
    """The noise at which the fast bound meets the aim, from below in ε."""

    def excess(logarithm: float) -> float:
        steps = steps_of(_ledger(run, math.exp(logarithm))) or ()
        return math.log(max(epsilon_of(steps, delta, width(steps, COARSE)), 1e-12)) - math.log(aim)

    if aim <= 0 or excess(math.log(MAX_NOISE)) > 0:
        raise InputError.of(
            f"no noise multiplier up to {MAX_NOISE:g} reaches ε = {epsilon:g} at δ = {delta:g} in {run.steps} steps",
            "train fewer epochs, on more records or with smaller batches, or allow a larger target_epsilon",
        )
    return math.exp(_root(excess, _lower_end(excess), math.log(MAX_NOISE)))


def _lower_end(excess: Callable[[float], float]) -> float:
    """A noise that is too small, approached from above: very small noise is slow to account for."""
    noise = 1.0
    while noise > _MIN_NOISE and excess(math.log(noise)) <= 0:
        noise /= 1.5
    return math.log(noise)


def _root(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero; the lower end where it does so below it."""
    from scipy.optimize import brentq

    if excess(low) <= 0:
        return low
    return float(brentq(excess, low, high, xtol=1e-4, rtol=1e-6))


def _round_up(noise: float) -> float:
    """The next noise multiplier of four decimals."""
    return float(math.ceil(noise * 10**_DECIMALS) / 10**_DECIMALS)


def _ledger(run: Run, noise: float) -> Ledger:
    """A ledger that holds this run alone."""
    return Ledger(events=(run.with_noise(noise),), records=1, data="", model="")
