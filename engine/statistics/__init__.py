"""Intervals that hold: pure functions of counts and scores, scipy underneath.

Every interval is two-sided: `alpha` is the probability that it misses on either side, about half of it on each.
"""

from __future__ import annotations

from .area import auc, shifted
from .claims import ClaimTest, claim_test, curve_inverse
from .counts import Bools, Count, Floats, Interval, Ints, bonferroni, difference, dkw, holm, proportion
from .epsilon import epsilon, epsilon_lower_bound
from .exposure import Exposed, exposed
from .gaussian import gaussian_delta, gaussian_epsilon, gaussian_mu
from .one_run import (
    SHARES,
    GaussianFit,
    Guesses,
    counted_epsilon,
    gaussian_fit,
    gaussian_trade_off_epsilon,
    guesses,
    one_run_ceiling,
    one_run_epsilon,
    one_run_p,
    ordered_epsilon,
    ordered_p,
    signed_mu,
    trade_off_p,
    trade_off_refuted,
)
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
    "SHARES",
    "Advantage",
    "Bools",
    "ClaimTest",
    "Count",
    "Exposed",
    "Floats",
    "GaussianFit",
    "Guesses",
    "Interval",
    "Ints",
    "RateAtRate",
    "Rates",
    "Separations",
    "advantage",
    "auc",
    "best_threshold",
    "bonferroni",
    "claim_test",
    "counted_epsilon",
    "cross_fitted_rates",
    "curve_inverse",
    "difference",
    "dkw",
    "dkw_band",
    "epsilon",
    "epsilon_lower_bound",
    "exposed",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_fit",
    "gaussian_mu",
    "gaussian_trade_off_epsilon",
    "guesses",
    "halves",
    "holm",
    "nonmembers_needed",
    "one_run_ceiling",
    "one_run_epsilon",
    "one_run_p",
    "ordered_epsilon",
    "ordered_p",
    "proportion",
    "quantile_ratio",
    "rates_of",
    "record_risk",
    "roc",
    "separations",
    "several",
    "shifted",
    "signed_mu",
    "tpr_at_fpr",
    "trade_off_p",
    "trade_off_refuted",
]
