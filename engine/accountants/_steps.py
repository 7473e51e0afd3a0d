"""How many steps of a training a limit on ε allows."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from ..ledger import Ledger, SampledGaussian
from ._account import account, epsilon_so_far


@lru_cache(maxsize=64)
def steps_within(planned: SampledGaussian, epsilon: float, delta: float) -> int:
    """The most steps after which the number of record is within the limit; 0 where not even one is.

    Args:
        planned: All of the training.
        epsilon: The limit, > 0.
        delta: At which ε is counted.

    Raises:
        AccountingError: An accountant failed.
    """
    if _within(planned, planned.steps, epsilon, delta):
        return planned.steps
    low, high = _bracket(planned, _first_guess(planned, epsilon, delta), epsilon, delta)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _within(planned, middle, epsilon, delta) else (low, middle)
    return low


def _within(planned: SampledGaussian, steps: int, epsilon: float, delta: float) -> bool:
    """Whether the number of record allows so many steps."""
    taken = Ledger(events=(dataclasses.replace(planned, steps=steps),), records=1, data="", model="")
    return account(taken, delta, curve=False).epsilon <= epsilon


def _first_guess(planned: SampledGaussian, epsilon: float, delta: float) -> int:
    """By the fast bound, which lies near the number of record."""
    low, high = 0, planned.steps
    while high - low > max(1, high // 500):
        middle = (low + high) // 2
        low, high = (middle, high) if epsilon_so_far(planned, middle, delta) <= epsilon else (low, middle)
    return low


def _bracket(planned: SampledGaussian, guess: int, epsilon: float, delta: float) -> tuple[int, int]:
    """A number of steps that is allowed and one that is not, from a guess outwards."""
    low, high, reach = 0, planned.steps, max(1, guess // 100)
    if guess and _within(planned, guess, epsilon, delta):
        low = guess
        while low + reach < high and _within(planned, low + reach, epsilon, delta):
            low, reach = low + reach, 2 * reach
        return low, min(high, low + reach)
    high = min(high, max(1, guess))
    while high - reach > 0 and not _within(planned, high - reach, epsilon, delta):
        high, reach = high - reach, 2 * reach
    return max(0, high - reach), high
