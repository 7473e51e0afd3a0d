"""Records of one person are not independent: how many independent ones they are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from .counts import Floats, Ints

#: Two-sided error at which few persons are paid for; the factor hardly depends on it where persons are many.
_TYPICAL_ERROR = 0.01


def several(persons: Ints | None) -> Ints | None:
    """The persons as 0, 1, 2, ...; `None` where nobody has more than one record."""
    if persons is None:
        return None
    distinct, numbered = np.unique(persons, return_inverse=True)
    return None if len(distinct) == len(persons) else numbered.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Tail:
    """One side's records from the highest score down, and what calling the first j of them tells.

    Attributes:
        ordered: `(n,)` the scores, highest first.
        effects: `(n + 1,)` for j = 0 ... n: the design effect of "j of n", at least 1. So many times fewer independent
            records would tell as much.
    """

    ordered: Floats
    effects: Floats

    @property
    def n(self) -> int:
        """How many records."""
        return len(self.ordered)

    def above(self, cuts: Floats) -> Ints:
        """How many score higher. Args: cuts `(c,)`. Returns: `(c,)`."""
        return np.asarray(np.searchsorted(-self.ordered, -cuts, side="left"), dtype=np.int64)

    def reaching(self, cuts: Floats) -> Ints:
        """How many score as high or higher."""
        return np.asarray(np.searchsorted(-self.ordered, -cuts, side="right"), dtype=np.int64)


def tail(scores: Floats, persons: Ints | None) -> Tail:
    """The tail of one side's scores. Args: scores `(n,)`, persons `(n,)` or `None` for independent records."""
    order = np.argsort(-scores, kind="stable")
    numbered = None if persons is None else several(persons)
    effects = np.ones(len(scores) + 1) if numbered is None else _effects(numbered[order])
    return Tail(scores[order], effects)


def design_effect(called: Floats, persons: Ints | None) -> float:
    """The design effect of one share. Args: called `(n,)` 0 or 1; persons `(n,)`."""
    k = int(called.sum())
    return float(tail(called, persons).effects[k])


def _effects(persons: Ints) -> Floats:
    """Variance of the share of the first j, by persons, over that of as many independent records (Kish 1965).

    It is the variance that resampling persons converges to, in closed form. Two persons of typical size are added, one
    called and one not, so that a share of 0 or 1 is doubted as much as that few persons deserve; and few persons are
    paid for as Student's t pays (Korn & Graubard 1998).

    Args:
        persons: `(n,)` numbered 0 ... g-1, in the order in which records are called.
    """
    n, sizes = len(persons), np.bincount(persons)
    typical, squares, own = (sizes**2).sum() / n, float((sizes**2).sum()), sizes[persons]
    before = _earlier_of_the_same(persons)
    called = np.arange(n + 1.0)
    hits2 = np.concatenate([[0.0], np.cumsum(2.0 * before + 1)]) + typical**2
    cross = np.concatenate([[0.0], np.cumsum(own)]) + typical**2
    whole = n + 2 * typical
    share = (called + typical) / whole
    spread = hits2 - 2 * share * cross + share**2 * (squares + 2 * typical**2)
    g = len(sizes)
    effect = spread / (share * (1 - share) * whole) * g / max(1, g - 1)
    return np.asarray(np.maximum(1.0, effect) * few(g - 1), dtype=np.float64)


def few(freedom: float) -> float:
    """By how much a variance known from few persons has to be stretched."""
    error = _TYPICAL_ERROR / 2
    return float((stats.t.isf(error, max(1.0, freedom)) / stats.norm.isf(error)) ** 2)


def _earlier_of_the_same(persons: Ints) -> Ints:
    """How many records of the same person come before each."""
    order = np.argsort(persons, kind="stable")
    ordered = persons[order]
    first = np.searchsorted(ordered, ordered, side="left")
    before = np.empty(len(persons), dtype=np.int64)
    before[order] = np.arange(len(persons)) - first
    return before
