"""Counts and shares, their exact limits, and what it costs to state several at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

#: Splits and resamples are drawn from here, so that the same observation always gives the same interval.
SEED = 20_090_615

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value between its ends."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Count:
    """`k` of `n` records."""

    k: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.k <= self.n or self.n < 1:
            raise ValueError(f"expected 0 <= k={self.k} <= n={self.n}, n >= 1")

    @property
    def share(self) -> float:
        """k/n."""
        return self.k / self.n

    def __add__(self, other: Count) -> Count:
        return Count(self.k + other.k, self.n + other.n)


def proportion(count: Count, alpha: float) -> Interval:
    """Exact interval of a binomial proportion (Clopper & Pearson 1934)."""
    k, n = float(count.k), float(count.n)
    return Interval(count.share, float(lower(k, n, alpha / 2)), float(upper(k, n, alpha / 2)))


def difference(first: Count, second: Count, alpha: float, effects: tuple[float, float] = (1.0, 1.0)) -> Interval:
    """Interval of p1 - p2 for independent proportions: MOVER over exact limits (Zou & Donner 2008, eq. 3).

    Args:
        first: k1 of n1.
        second: k2 of n2.
        alpha: The error of both sides together.
        effects: How many times fewer records each count is worth (`persons.Tail`); 1 for independent records.
    """
    one, other = (first.k, first.n, effects[0]), (second.k, second.n, effects[1])
    high, low = float(highest_difference(one, other, alpha / 2)), -float(highest_difference(other, one, alpha / 2))
    return Interval(first.share - second.share, max(-1.0, low), min(1.0, high))


def lower(k: Floats | float, n: Floats | float, error: float) -> Floats:
    """Exact one-sided lower limit of a share (Clopper & Pearson 1934); `k` and `n` need not be whole numbers."""
    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    return np.where(k <= 0, 0.0, special.betaincinv(np.where(k <= 0, 1.0, k), np.maximum(n - k, 0.0) + 1, error))


def upper(k: Floats | float, n: Floats | float, error: float) -> Floats:
    """Exact one-sided upper limit of a share."""
    k, n = np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64)
    return 1.0 - lower(n - k, n, error)


#: k of n with its design effect; each a number, or an array of them.
Shares = tuple[Ints | int, int, Floats | float]


def highest_difference(first: Shares, second: Shares, error: float) -> Floats:
    """Upper limits of k1/n1 - k2/n2 (MOVER as above), for one or many pairs of counts."""
    (k, m, one), (j, n, other) = first, second
    p, q = np.asarray(k) / m, np.asarray(j) / n
    top = upper(np.asarray(k) / one, m / np.asarray(one), error)
    bottom = lower(np.asarray(j) / other, n / np.asarray(other), error)
    return np.asarray(p - q + np.hypot(top - p, q - bottom))


def bonferroni(p: Sequence[float]) -> Floats:
    """p-values adjusted for being several, so that any false alarm is as rare as one was (Dunn 1961).

    Args:
        p: Any number of p-values, in any order.

    Returns:
        `(n,)` adjusted, in the given order; one that is NaN is 1: what was not tested shows nothing.
    """
    values = np.asarray(p, dtype=np.float64)
    return np.minimum(1.0, np.where(np.isnan(values), 1.0, values * len(values)))


def holm(p: Sequence[float]) -> Floats:
    """p-values adjusted for being several, step by step: never larger than `bonferroni` and as safe (Holm 1979).

    Args:
        p: Any number of p-values, in any order, however they depend on each other.

    Returns:
        `(n,)` adjusted, in the given order; one that is NaN is 1: what was not tested shows nothing.
    """
    values = np.asarray(p, dtype=np.float64)
    values = np.where(np.isnan(values), 1.0, values)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


def dkw(n: int, alpha: float) -> float:
    """How far an empirical distribution of n independent values is from the true one anywhere (Massart 1990)."""
    return math.sqrt(math.log(2 / alpha) / (2 * n))
