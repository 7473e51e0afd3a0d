"""The area under the ROC, and whether two sets of scores differ at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from .counts import Bools, Floats, Interval, Ints, lower, upper
from .persons import several


def auc(scores: Floats, members: Bools, alpha: float, persons: Ints | None = None) -> Interval:
    """Area under the ROC, ties counted half, with an interval that also holds where a normal one has no width.

    The area is treated as a share of as many records as would leave it the variance it has (Korn & Graubard 1998), with
    exact limits (Clopper & Pearson 1934). The variance is that of the placements (DeLong et al. 1988), summed by person
    (Obuchowski 1997), after a record above all others and one below were added to either side: so perfect separation
    is doubted as much as that few records deserve. Few records are paid for by Student's t (Satterthwaite 1946).

    Args:
        scores: `(n,)`, no NaN.
        members: `(n,)`, at least two of each kind.
        alpha: The error of both sides together.
        persons: `(n,)`, whose record it is; `None` where every record is a person of its own.
    """
    inside, outside = scores[members], scores[~members]
    value = float(_placements(inside, outside).mean())
    padded = _padded(scores, members, several(persons))
    added = len(padded.ranks) - len(scores)
    fewest = min(len(inside), len(outside))
    n = _worth(padded, alpha / 2) * fewest / (fewest + added / 2)
    low, high = lower(value * n, n, alpha / 2), upper(value * n, n, alpha / 2)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _placements(these: Floats, those: Floats) -> Floats:
    """The share of those that each of these outranks, ties counted half."""
    ordered = np.sort(those)
    below, upto = np.searchsorted(ordered, these, side="left"), np.searchsorted(ordered, these, side="right")
    return np.asarray((below + upto) / (2 * len(those)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Padded:
    """An outcome with a record above all others and one below on either side, as ranks."""

    ranks: Floats
    members: Bools
    persons: Ints


def _padded(scores: Floats, members: Bools, persons: Ints | None) -> _Padded:
    """The four added records are persons of their own, of typical size: they are repeated as often as a person is."""
    n = len(scores)
    own = np.arange(n) if persons is None else persons
    typical = 1 if persons is None else round(float((np.bincount(own) ** 2).sum() / n))
    ranks = np.asarray(stats.rankdata(scores, method="dense"), dtype=np.float64)
    ends = np.repeat([0.0, ranks.max() + 1, 0.0, ranks.max() + 1], typical)
    sides = np.repeat([True, True, False, False], typical)
    added = own.max() + 1 + np.repeat(np.arange(4), typical)
    return _Padded(np.append(ranks, ends), np.append(members, sides), np.append(own, added))


def _worth(seen: _Padded, error: float) -> float:
    """How many independent records would leave a share the variance that this area has."""
    area, shares = _influence(seen)
    one, other = (_spread(shares[side], seen.persons[side]) for side in (seen.members, ~seen.members))
    together = _spread(shares, seen.persons).variance
    variance = max(together, one.variance + other.variance)
    squares = one.variance**2 / one.freedom + other.variance**2 / other.freedom
    freedom = (one.variance + other.variance) ** 2 / squares
    stretch = float(stats.t.isf(error, max(1.0, freedom)) / stats.norm.isf(error)) ** 2
    return area * (1 - area) / (variance * stretch)


def _influence(seen: _Padded) -> tuple[float, Floats]:
    """The area, and by how much each record moves it."""
    inside, outside = seen.ranks[seen.members], seen.ranks[~seen.members]
    area, shares = float(_placements(inside, outside).mean()), np.empty(len(seen.ranks))
    shares[seen.members] = (_placements(inside, outside) - area) / len(inside)
    shares[~seen.members] = (1 - _placements(outside, inside) - area) / len(outside)
    return area, shares


@dataclass(frozen=True, slots=True)
class _Spread:
    """A variance, and from how many persons it is known."""

    variance: float
    freedom: float


def _spread(shares: Floats, persons: Ints) -> _Spread:
    """The variance of a sum over persons."""
    sums = np.bincount(np.unique(persons, return_inverse=True)[1], weights=shares)
    g = len(sums)
    return _Spread(float((sums**2).sum() * g / (g - 1)), g - 1)


def shifted(scores: Floats, members: Bools, alpha: float, persons: Ints | None = None) -> bool:
    """Whether members and nonmembers score differently, in either direction (Mann & Whitney 1947, two-sided).

    Args:
        scores: `(n,)`; a NaN anywhere shows nothing.
        members: `(n,)`, some of each kind.
        alpha: How often it may say so of scores that do not differ.
        persons: `(n,)`, whose record it is; where somebody has several, the area's own interval decides.
    """
    if np.isnan(scores).any() or members.all() or not members.any():
        return False
    if several(persons) is not None:
        found = auc(scores, members, alpha, persons)
        return found.low > 0.5 or found.high < 0.5
    test = stats.mannwhitneyu(scores[members], scores[~members], alternative="two-sided", method="asymptotic")
    return bool(test.pvalue <= alpha)
