"""Intervals that hold: pure functions of counts and scores, scipy underneath.

Every interval is two-sided: `alpha` is the probability that it misses on either side, about half of it on each.
"""

from __future__ import annotations

from .area import auc, shifted
from .counts import Bools, Count, Floats, Interval, Ints, bonferroni, difference, dkw, holm, proportion
from .epsilon import epsilon, epsilon_lower_bound
from .exposure import Exposed, exposed
from .persons import several
from .quantiles import quantile_ratio
from .risk import Separations, record_risk, separations
from .thresholds import (
    Advantage,
    RateAtRate,
    Rates,
    advantage,
    best_threshold,
    cross_fitted_rates,
    dkw_band,
    halves,
    nonmembers_needed,
    rates_of,
    roc,
    tpr_at_fpr,
)

__all__ = [
    "Advantage",
    "Bools",
    "Count",
    "Exposed",
    "Floats",
    "Interval",
    "Ints",
    "RateAtRate",
    "Rates",
    "Separations",
    "advantage",
    "auc",
    "best_threshold",
    "bonferroni",
    "cross_fitted_rates",
    "difference",
    "dkw",
    "dkw_band",
    "epsilon",
    "epsilon_lower_bound",
    "exposed",
    "halves",
    "holm",
    "nonmembers_needed",
    "proportion",
    "quantile_ratio",
    "rates_of",
    "record_risk",
    "roc",
    "separations",
    "several",
    "shifted",
    "tpr_at_fpr",
]
