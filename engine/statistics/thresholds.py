"""What an adversary achieves with a threshold: chosen on one half of the records, judged on the other."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .counts import SEED, Bools, Count, Floats, Interval, Ints, difference, dkw, highest_difference, lower, upper
from .persons import Tail, design_effect, several, tail


@dataclass(frozen=True, slots=True)
class Rates:
    """What a decision rule did on members and on nonmembers.

    Attributes:
        true_positives: Members that it called members.
        false_positives: Others that it called members.
        effects: Design effects of the two counts; above 1 where a person has several records.
    """

    true_positives: Count
    false_positives: Count
    effects: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Sides:
    """Members and others, each from the highest score down."""

    inside: Tail
    outside: Tail

    @classmethod
    def of(cls, scores: Floats, members: Bools, persons: Ints | None) -> Sides:
        """Both sides of an outcome."""
        kept = (None, None) if persons is None else (persons[members], persons[~members])
        return cls(tail(scores[members], kept[0]), tail(scores[~members], kept[1]))

    def cuts(self) -> Floats:
        """Every threshold that calls other records than the next does: +inf, then each score, the highest first."""
        return np.concatenate(
            [[math.inf], np.unique(np.concatenate([self.inside.ordered, self.outside.ordered]))[::-1]]
        )


def fixed_order(scores: Floats, members: Bools, groups: Ints | None = None, persons: Ints | None = None) -> Ints:
    """An order of the records that does not hang on that of the rows: whatever is drawn, the same rows give the same.

    Returns:
        `(n,)` positions, lowest score first.
    """
    keys = [key for key in (persons, groups, members, scores) if key is not None]
    return np.asarray(np.lexsort(keys), dtype=np.int64)


def best_threshold(scores: Floats, members: Bools) -> float:
    """The threshold t that maximises the share of members above it less the share of nonmembers above it.

    Args:
        scores: `(n,)`, finite.
        members: `(n,)`.

    Returns:
        Halfway between two neighbouring scores; +inf where nothing is gained by calling anyone a member.
    """
    values, where = np.unique(scores, return_inverse=True)
    worth = np.where(members, 1 / max(1, members.sum()), -1 / max(1, (~members).sum()))
    above = np.cumsum(np.bincount(where, weights=worth, minlength=len(values))[::-1])[::-1]
    best = int(np.argmax(above))
    if above[best] <= 1e-12:
        return math.inf
    return -math.inf if best == 0 else float((values[best - 1] + values[best]) / 2)


def halves(members: Bools, groups: Ints, persons: Ints | None = None) -> Bools:
    """A fair split in two, balanced within every cell of (member, group); a person's records stay together.

    Args:
        members: `(n,)`.
        groups: `(n,)`.
        persons: `(n,)`, `None` where nobody has more than one record.

    Returns:
        `(n,)`, which half.
    """
    rng, numbered = np.random.default_rng(SEED), several(persons)
    if numbered is not None:
        first = np.unique(numbered, return_index=True)[1]
        return halves(members[first], groups[first])[numbered]
    order = np.lexsort((rng.random(len(members)), groups, members))
    half = np.zeros(len(members), dtype=bool)
    half[order] = np.arange(len(members)) % 2 == 1
    return half


def cross_fitted_rates(scores: Floats, members: Bools, groups: Ints, persons: Ints | None = None) -> Rates:
    """Rates of the best threshold, chosen on one half of the records and judged on the other, both ways round.

    No record is judged by a threshold that it helped to choose, and none is wasted.

    Args:
        scores: `(n,)`, finite.
        members: `(n,)`, at least two of each kind.
        groups: `(n,)`, the halves are balanced over these.
        persons: `(n,)`, whose record it is.
    """
    half, order = halves(members, groups, persons), ranks(scores)
    called = np.zeros(len(scores), dtype=bool)
    for fit in (half, ~half):
        called[~fit] = order[~fit] > best_threshold(order[fit], members[fit])
    return rates_of(called, members, persons)


def ranks(scores: Floats) -> Floats:
    """The scores' order, which is all that a threshold sees; an infinite score is one like any other."""
    return np.asarray(stats.rankdata(scores, method="dense"), dtype=np.float64)


def rates_of(called: Bools, members: Bools, persons: Ints | None = None) -> Rates:
    """Rates of a rule that called these records members."""
    hits, false = (Count(int((called & side).sum()), int(side.sum())) for side in (members, ~members))
    if persons is None:
        return Rates(hits, false)
    inside, outside = (design_effect(called[side].astype(np.float64), persons[side]) for side in (members, ~members))
    return Rates(hits, false, (inside, outside))


@dataclass(frozen=True, slots=True)
class Advantage:
    """TPR less FPR of the best threshold.

    Attributes:
        interval: The cross-fitted estimate between its lower end and a limit that no threshold exceeds.
        rates: The rates behind the estimate.
        smallest: The smallest advantage that so many records would show to be more than none.
    """

    interval: Interval
    rates: Rates
    smallest: float


def advantage(scores: Floats, members: Bools, groups: Ints, alpha: float, persons: Ints | None = None) -> Advantage:
    """Interval of max over t of P(score > t | member) - P(score > t | nonmember).

    The lower end is the cross-fitted rule's own: an adversary can reach it. A threshold learnt from few records falls
    short of the best, so the upper end is the largest pointwise upper limit over all thresholds. That is valid without
    any correction: the best threshold t* is a fixed unknown number, its own limit holds with 1 - alpha/2, and the
    largest of all limits is no smaller.

    Args:
        scores: `(n,)`, no NaN.
        members: `(n,)`, at least two of each kind.
        groups: `(n,)`, the halves are balanced over these.
        alpha: The error of both sides together.
        persons: `(n,)`, whose record it is; `None` where every record is a person of its own.
    """
    order = fixed_order(scores, members, groups, persons)
    scores, members, groups = scores[order], members[order], groups[order]
    persons = None if persons is None else persons[order]
    rates = cross_fitted_rates(scores, members, groups, persons)
    found = difference(rates.true_positives, rates.false_positives, alpha, rates.effects)
    high = max(found.high, _largest_upper_limit(Sides.of(scores, members, persons), alpha / 2))
    return Advantage(Interval(found.value, found.low, high), rates, _smallest_difference(rates, alpha / 2))


def _largest_upper_limit(sides: Sides, error: float) -> float:
    """The upper limit of `difference`, for every threshold at once."""
    inside, outside, cuts = sides.inside, sides.outside, sides.cuts()
    hits, false = inside.reaching(cuts), outside.reaching(cuts)
    one, other = (hits, inside.n, inside.effects[hits]), (false, outside.n, outside.effects[false])
    return min(1.0, float(highest_difference(one, other, error).max()))


def _smallest_difference(rates: Rates, error: float) -> float:
    """The smallest gap around one half, where chance is widest, whose lower limit is above 0."""
    first, second = rates.effects
    m, n = rates.true_positives.n / first, rates.false_positives.n / second

    def shows(thousandths: int) -> bool:
        gap = thousandths / 1000
        p, q = 0.5 + gap / 2, 0.5 - gap / 2
        return bool(gap - np.hypot(p - lower(p * m, m, error), upper(q * n, n, error) - q) > 0)

    return bisect_left(range(1000), True, key=shows) / 1000


@dataclass(frozen=True, slots=True)
class RateAtRate:
    """TPR at a FPR.

    Attributes:
        tpr: The interval of the TPR at exactly this FPR.
        realised: False positives and nonmembers at the point estimate's threshold.
        hits: Members found there.
        smallest_fpr: Below this FPR the nonmembers are too few for any lower end above 0.
        smallest: The smallest share of members found that would show more than the FPR itself; 1 where none would.
    """

    tpr: Interval
    realised: Count
    hits: Count
    smallest_fpr: float
    smallest: float


def tpr_at_fpr(scores: Floats, members: Bools, fpr: float, alpha: float, persons: Ints | None = None) -> RateAtRate:
    """TPR at a FPR, exact for any scores.

    Ties are broken at random, which is what an adversary does who may accuse only some of those that look alike: the
    ROC between two thresholds is the straight line. The FPR of the k-th largest of n nonmember scores is then
    Beta(k, n-k+1) distributed, whatever the scores' distribution. A rank whose FPR is at most `fpr` with confidence
    gives the lower end, one whose FPR is at least `fpr` the upper end; the TPR at each has an exact binomial limit
    (Clopper & Pearson 1934). A quarter of alpha goes to each of the four statements. Where persons have several
    records, n is what they are worth.
    """
    sides, quarter = Sides.of(_ties_broken(scores, members, persons), members, persons), alpha / 4
    inside, outside = sides.inside, sides.outside
    n, rank = outside.n, np.arange(outside.n)
    above = upper(rank / outside.effects[:-1], n / outside.effects[:-1], quarter)  # of the FPR at the k-th largest
    below = lower((rank + 1) / outside.effects[1:], n / outside.effects[1:], quarter)
    safe, generous = _leading(above <= fpr), _leading(below < fpr) + 1
    cut = outside.ordered[min(n - 1, math.floor(fpr * n + 1e-9))]
    hits, false = Count(int(inside.above(cut)), inside.n), Count(int(outside.above(cut)), n)
    sure = 0.0 if safe == 0 else float(_limit(lower, inside, inside.above(outside.ordered[safe - 1]), quarter))
    most = 1.0 if generous > n else float(_limit(upper, inside, inside.above(outside.ordered[generous - 1]), quarter))
    smallest_fpr = float(upper(0.0, n / outside.effects[0], quarter))
    least = 1.0 if safe == 0 else _least_share_above(fpr, inside, quarter)
    return RateAtRate(
        Interval(hits.share, min(sure, hits.share), max(most, hits.share)), false, hits, smallest_fpr, least
    )


def _ties_broken(scores: Floats, members: Bools, persons: Ints | None) -> Floats:
    """Ranks of the scores, those of equal ones in random order."""
    order = fixed_order(scores, members, None, persons)
    drawn = np.random.default_rng(SEED).random(len(scores))
    ranked = np.empty(len(scores))
    ranked[order[np.lexsort((drawn, scores[order]))]] = np.arange(len(scores))
    return ranked


def _leading(holds: Bools) -> int:
    """For how many ranks it holds, from the first on."""
    return len(holds) if holds.all() else int(np.argmin(holds))


def _limit(side: Callable[[Floats, Floats, float], Floats], found: Tail, k: Ints, error: float) -> Floats:
    """A limit of the share of records that the first k are."""
    return side(k / found.effects[k], found.n / found.effects[k], error)


def _least_share_above(fpr: float, inside: Tail, error: float) -> float:
    """The smallest share of members whose lower limit is above the FPR; 1 where none is."""
    k = np.arange(inside.n + 1)
    shows = _limit(lower, inside, k, error) > fpr
    return float(np.argmax(shows) / inside.n) if shows.any() else 1.0


def nonmembers_needed(fpr: float) -> int:
    """How many nonmembers a FPR wants: ten false positives, or their number is mostly luck (Carlini et al. 2022)."""
    return math.ceil(10 / fpr - 1e-9)


def roc(
    scores: Floats, members: Bools, alpha: float, points: int = 200, persons: Ints | None = None
) -> NDArray[np.float64]:
    """The ROC with a pointwise exact band.

    Returns:
        `(p, 4)`: FPR, TPR, the band's lower and upper end.
    """
    sides = Sides.of(scores, members, persons)
    hits, false = _corners(sides, points)
    low, high = (_limit(side, sides.inside, hits, alpha / 2) for side in (lower, upper))
    return np.stack([false / sides.outside.n, hits / sides.inside.n, low, high], axis=1)


def dkw_band(scores: Floats, members: Bools, alpha: float, points: int = 200) -> NDArray[np.float64]:
    """The ROC with a band that holds the whole of it: both distributions at once, half of alpha each (Massart 1990).

    Where the FPR is known to be within e of x, the TPR there lies between that at x - e and that at x + e, less and
    more its own error (Campbell 1994). Records are taken to be independent.

    Returns:
        `(p, 4)`: FPR, TPR, the band's lower and upper end.
    """
    sides = Sides.of(scores, members, None)
    hits, false = _corners(sides, points)
    m, n = sides.inside.n, sides.outside.n
    up, aside = dkw(m, alpha / 2), dkw(n, alpha / 2)
    every = sides.cuts()
    fpr, tpr = sides.outside.reaching(every) / n, sides.inside.reaching(every) / m
    fpr[0], tpr[0] = 0.0, 0.0
    x = false / n
    low = tpr[np.maximum(0, np.searchsorted(fpr, x - aside + 1e-12, side="right") - 1)]
    high = tpr[np.minimum(len(fpr) - 1, np.searchsorted(fpr, x + aside - 1e-12, side="left"))]
    low = np.where(x < aside, 0.0, low - up)
    high = np.where(x + aside >= 1, 1.0, high + up)
    return np.stack([x, hits / m, np.maximum(0.0, low), np.minimum(1.0, high)], axis=1)


def _corners(sides: Sides, points: int) -> tuple[Ints, Ints]:
    """Members and others above each threshold that a picture of the ROC needs."""
    cuts = np.concatenate([[math.inf], sides.cuts()[1:], [-math.inf]])
    hits, false = sides.inside.reaching(cuts), sides.outside.reaching(cuts)
    keep = _thin(false, hits, points)
    return hits[keep], false[keep]


def _thin(false: Ints, hits: Ints, points: int) -> Ints:
    """Positions of a curve's corners: for every number of false positives the most hits, thinned on a log scale."""
    last = np.flatnonzero(np.append(np.diff(false) > 0, True))
    first = np.flatnonzero(np.append(True, np.diff(false) > 0))
    corners = np.unique(np.concatenate([first, last]))
    if len(corners) <= points:
        return corners
    picks = np.unique(np.geomspace(1, len(corners), points).astype(int)) - 1
    return np.unique(np.concatenate([corners[picks], corners[-1:]]))
