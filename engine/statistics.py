"""Intervals that hold: pure functions of counts and scores, scipy underneath.

Every interval is two-sided: `alpha` is the probability that it misses on either side, about half of it on each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

#: Splits and resamples are drawn from here, so that the same observation always gives the same interval.
_SEED = 20_090_615

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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
    return Interval(count.share, _lower(count.k, count.n, alpha / 2), _upper(count.k, count.n, alpha / 2))


def difference(first: Count, second: Count, alpha: float) -> Interval:
    """Interval of p1 - p2 for independent proportions: MOVER over exact limits (Zou & Donner 2008, eq. 3)."""
    a, b = proportion(first, alpha), proportion(second, alpha)
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(value, max(-1.0, low), min(1.0, high))


@dataclass(frozen=True, slots=True)
class Rates:
    """What a decision rule did on members and on nonmembers."""

    true_positives: Count
    false_positives: Count

    def __add__(self, other: Rates) -> Rates:
        return Rates(self.true_positives + other.true_positives, self.false_positives + other.false_positives)


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


def halves(members: Bools, groups: NDArray[np.int64]) -> Bools:
    """A fair split in two, balanced within every cell of (member, group). Returns: `(n,)`, which half."""
    rng = np.random.default_rng(_SEED)
    order = np.lexsort((rng.random(len(members)), groups, members))
    half = np.zeros(len(members), dtype=bool)
    half[order] = np.arange(len(members)) % 2 == 1
    return half


def cross_fitted_rates(scores: Floats, members: Bools, groups: NDArray[np.int64]) -> Rates:
    """Rates of the best threshold, chosen on one half of the records and judged on the other, both ways round.

    No record is judged by a threshold that it helped to choose, and none is wasted.

    Args:
        scores: `(n,)`, finite.
        members: `(n,)`, at least two of each kind.
        groups: `(n,)`, the halves are balanced over these.
    """
    half, order = halves(members, groups), _ranks(scores)
    return _judged(order, members, half) + _judged(order, members, ~half)


def _ranks(scores: Floats) -> Floats:
    """The scores' order, which is all that a threshold sees; an infinite score is one like any other."""
    return np.asarray(stats.rankdata(scores, method="dense"), dtype=np.float64)


def _judged(scores: Floats, members: Bools, fit: Bools) -> Rates:
    called = scores > best_threshold(scores[fit], members[fit])
    inside, outside = members & ~fit, ~members & ~fit
    return Rates(
        Count(int((called & inside).sum()), int(inside.sum())), Count(int((called & outside).sum()), int(outside.sum()))
    )


@dataclass(frozen=True, slots=True)
class Advantage:
    """TPR less FPR of the best threshold.

    Attributes:
        interval: The cross-fitted estimate between its lower end and a limit that no threshold exceeds.
        rates: The rates behind the estimate.
    """

    interval: Interval
    rates: Rates


def advantage(scores: Floats, members: Bools, groups: NDArray[np.int64], alpha: float) -> Advantage:
    """Interval of max over t of P(score > t | member) - P(score > t | nonmember).

    The lower end is the cross-fitted rule's own: an adversary can reach it. A threshold learnt from few records falls
    short of the best, so the upper end is the largest pointwise upper limit over all thresholds. That is valid without
    any correction: the best threshold t* is a fixed unknown number, its own limit holds with 1 - alpha/2, and the
    largest of all limits is no smaller.
    """
    rates = cross_fitted_rates(scores, members, groups)
    found = difference(rates.true_positives, rates.false_positives, alpha)
    high = max(found.high, _largest_upper_limit(scores, members, alpha))
    return Advantage(Interval(found.value, found.low, high), rates)


def _largest_upper_limit(scores: Floats, members: Bools, alpha: float) -> float:
    """The upper limit of `difference`, for every threshold at once."""
    values = np.unique(scores)
    inside, outside = np.sort(scores[members]), np.sort(scores[~members])
    m, n = len(inside), len(outside)
    hits = m - np.searchsorted(inside, values, side="left")
    false = n - np.searchsorted(outside, values, side="left")
    top = np.where(hits == m, 1.0, stats.beta.ppf(1 - alpha / 2, hits + 1, np.maximum(m - hits, 1)))
    bottom = np.where(false == 0, 0.0, stats.beta.ppf(alpha / 2, np.maximum(false, 1), n - false + 1))
    limits = hits / m - false / n + np.hypot(top - hits / m, false / n - bottom)
    return min(1.0, float(limits.max()))


@dataclass(frozen=True, slots=True)
class RateAtRate:
    """TPR at a FPR.

    Attributes:
        tpr: The interval of the TPR at exactly this FPR.
        realised: False positives and nonmembers at the point estimate's threshold.
        hits: Members found there.
        smallest_fpr: Below this FPR the nonmembers are too few for any lower end above 0.
    """

    tpr: Interval
    realised: Count
    hits: Count
    smallest_fpr: float


def tpr_at_fpr(scores: Floats, members: Bools, fpr: float, alpha: float) -> RateAtRate:
    """TPR at a FPR, exact for any scores.

    Ties are broken at random, which is what an adversary does who may accuse only some of those that look alike: the
    ROC between two thresholds is the straight line. The FPR of the k-th largest of n nonmember scores is then
    Beta(k, n-k+1) distributed, whatever the scores' distribution. A rank whose FPR is at most `fpr` with confidence
    gives the lower end, one whose FPR is at least `fpr` the upper end; the TPR at each has an exact binomial limit
    (Clopper & Pearson 1934). A quarter of alpha goes to each of the four statements.
    """
    order = np.empty(len(scores))
    order[np.lexsort((np.random.default_rng(_SEED).random(len(scores)), scores))] = np.arange(len(scores))
    inside, outside = order[members], np.sort(order[~members])[::-1]
    n, quarter = len(outside), alpha / 4
    ranks = np.arange(1, n + 1)
    fpr_may_be_above = stats.beta.sf(fpr, ranks, n - ranks + 1)
    safe = int((fpr_may_be_above <= quarter).sum())
    generous = int((1 - fpr_may_be_above > quarter).sum()) + 1
    cut = outside[min(n - 1, math.floor(fpr * n + 1e-9))]
    hits, false = Count(int((inside > cut).sum()), len(inside)), Count(int((outside > cut).sum()), n)
    sure = 0.0 if safe == 0 else _lower(int((inside > outside[safe - 1]).sum()), len(inside), quarter)
    most = 1.0 if generous > n else _upper(int((inside >= outside[generous - 1]).sum()), len(inside), quarter)
    value = hits.share
    return RateAtRate(Interval(value, min(sure, value), max(most, value)), false, hits, 1 - quarter ** (1 / n))


def _lower(k: int, n: int, error: float) -> float:
    return 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, error))


def _upper(k: int, n: int, error: float) -> float:
    return 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 1 - error))


def auc(scores: Floats, members: Bools, alpha: float) -> Interval:
    """Area under the ROC, ties counted half, with Hoeffding's interval for two-sample U-statistics (1963, eq. 5.7).

    Holds for every sample size and distribution, perfect separation included, where a normal approximation has no
    width.
    """
    inside, outside = scores[members], scores[~members]
    pairs = len(inside) * len(outside)
    value = float(stats.mannwhitneyu(inside, outside, method="asymptotic").statistic) / pairs
    width = math.sqrt(math.log(2 / alpha) / (2 * min(len(inside), len(outside))))
    return Interval(value, max(0.0, value - width), min(1.0, value + width))


def shifted(scores: Floats, members: Bools, alpha: float) -> bool:
    """Whether members and nonmembers score differently, in either direction (Mann & Whitney 1947, two-sided).

    Args:
        scores: `(n,)`; a NaN anywhere shows nothing.
        members: `(n,)`, some of each kind.
        alpha: How often it may say so of scores that do not differ.
    """
    if np.isnan(scores).any() or members.all() or not members.any():
        return False
    test = stats.mannwhitneyu(scores[members], scores[~members], alternative="two-sided", method="asymptotic")
    return bool(test.pvalue <= alpha)


def epsilon_lower_bound(scores: Floats, members: Bools, delta: float, alpha: float) -> float:
    """The smallest ε that these attack scores leave possible, with confidence 1 - alpha; 0 where they refute nothing.

    (ε, δ)-DP forces TPR <= e^ε FPR + δ and the same for the complements (Kairouz et al. 2015, arXiv 1311.0776, thm.
    2.1). The rule is chosen on one half and judged on the other by exact one-sided limits, both ways round, a half of
    alpha each.
    """
    half, order = halves(members, np.zeros(len(scores), dtype=np.int64)), _ranks(scores)
    return max(0.0, *(_epsilon_of_half(order, members, fit, delta, alpha / 2) for fit in (half, ~half)))


def _epsilon_of_half(scores: Floats, members: Bools, fit: Bools, delta: float, alpha: float) -> float:
    def bound(where: Bools, threshold: float, above: bool) -> float:
        called = scores > threshold if above else scores <= threshold
        positive, negative = (members, ~members) if above else (~members, members)
        true, false = positive & where, negative & where
        low = _lower(int((called & true).sum()), int(true.sum()), alpha / 2)
        high = _upper(int((called & false).sum()), int(false.sum()), alpha / 2)
        return math.log((low - delta) / high) if low > delta else -math.inf

    grid = np.unique(np.quantile(scores[fit], np.linspace(0, 1, 101)))
    rules = [(bound(fit, float(t), above), float(t), above) for t in grid for above in (True, False)]
    _, threshold, above = max(rules)
    return bound(~fit, threshold, above)


#: Below so many expected records on the short side of a quantile a resample says little of it.
_RESAMPLING_NEEDS = 10


def quantile_ratio(numerator: Floats, denominator: Floats, quantile: float, alpha: float) -> Interval:
    """Interval of Q(numerator) / Q(denominator) for paired positive values.

    Where at least 10 records lie on the shorter side of the quantile: percentile bootstrap over the pairs (Efron 1979).
    Below: distribution-free limits of each quantile by order statistics (David & Nagaraja 2003, 7.1), combined by
    Bonferroni; they are unbounded where the records are too few to say anything.
    """
    value = _ratio(float(np.quantile(numerator, quantile)), float(np.quantile(denominator, quantile)))
    if len(numerator) * min(quantile, 1 - quantile) >= _RESAMPLING_NEEDS:
        low, high = _resampled_ratio(numerator, denominator, quantile, alpha)
    else:
        top, bottom = _order_limits(numerator, quantile, alpha / 2), _order_limits(denominator, quantile, alpha / 2)
        low, high = _ratio(top[0], bottom[1]), _ratio(top[1], bottom[0])
    return Interval(value, min(low, value), max(high, value))


def _ratio(top: float, bottom: float) -> float:
    """top/bottom for values that may be 0 or unbounded; 0/0 leaks nothing more than the baseline does, which is 1."""
    if bottom == 0:
        return 1.0 if top == 0 else math.inf
    return 0.0 if math.isinf(bottom) else top / bottom


def _order_limits(values: Floats, quantile: float, alpha: float) -> tuple[float, float]:
    ordered, n = np.sort(values), len(values)
    low = int(stats.binom.ppf(alpha / 2, n, quantile))
    high = int(stats.binom.ppf(1 - alpha / 2, n, quantile))
    low -= stats.binom.cdf(low, n, quantile) > alpha / 2
    return (float(ordered[low]) if low >= 0 else 0.0, float(ordered[high]) if high < n else math.inf)


def _resampled_ratio(numerator: Floats, denominator: Floats, quantile: float, alpha: float) -> tuple[float, float]:
    rng, n = np.random.default_rng(_SEED), len(numerator)
    rounds = int(min(20_000, max(2_000, 80 / alpha)))
    chunk = max(1, 2_000_000 // n)
    ratios = []
    for start in range(0, rounds, chunk):
        pick = rng.integers(0, n, size=(min(chunk, rounds - start), n))
        top = np.quantile(numerator[pick], quantile, axis=1)
        bottom = np.quantile(denominator[pick], quantile, axis=1)
        ratios.append(np.divide(top, bottom, out=np.full_like(top, math.inf), where=bottom > 0))
    low, high = np.quantile(np.concatenate(ratios), [alpha / 2, 1 - alpha / 2], method="nearest")
    return float(low), float(high)


def roc(scores: Floats, members: Bools, alpha: float, points: int = 200) -> NDArray[np.float64]:
    """The ROC with a pointwise exact band. Returns: `(p, 4)`: FPR, TPR, the band's lower and upper end."""
    values = np.unique(scores)[::-1]
    cuts = np.concatenate([[math.inf], values, [-math.inf]])
    inside, outside = np.sort(scores[members]), np.sort(scores[~members])
    hits = len(inside) - np.searchsorted(inside, cuts, side="left")
    false = len(outside) - np.searchsorted(outside, cuts, side="left")
    keep = _thin(false, hits, points)
    hits, false = hits[keep], false[keep]
    low = np.where(hits == 0, 0.0, stats.beta.ppf(alpha / 2, np.maximum(hits, 1), len(inside) - hits + 1))
    short = np.maximum(len(inside) - hits, 1)
    high = np.where(hits == len(inside), 1.0, stats.beta.ppf(1 - alpha / 2, hits + 1, short))
    return np.stack([false / len(outside), hits / len(inside), low, high], axis=1)


def _thin(false: NDArray[np.int64], hits: NDArray[np.int64], points: int) -> NDArray[np.int64]:
    """Positions of a curve's corners: for every number of false positives the most hits, thinned on a log scale."""
    last = np.flatnonzero(np.append(np.diff(false) > 0, True))
    first = np.flatnonzero(np.append(True, np.diff(false) > 0))
    corners = np.unique(np.concatenate([first, last]))
    if len(corners) <= points:
        return corners
    picks = np.unique(np.geomspace(1, len(corners), points).astype(int)) - 1
    return np.unique(np.concatenate([corners[picks], corners[-1:]]))
