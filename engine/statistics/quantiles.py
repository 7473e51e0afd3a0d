"""How near an attack came to its targets, beside the best guess without the model: ratios of quantiles."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from .counts import SEED, Floats, Interval

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
    rng, n = np.random.default_rng(SEED), len(numerator)
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
