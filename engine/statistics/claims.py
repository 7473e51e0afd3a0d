"""Whether canaries are told apart better than a claimed trade-off curve allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .counts import SEED, Bools, Floats, upper

#: At which false-positive rates a threshold is set, fixed before any score is seen.
RATES = (0.01, 0.05, 0.10)


@dataclass(frozen=True, slots=True)
class ClaimTest:
    """What the canaries say of a claim.

    Attributes:
        p: How likely so many hits are at most if the claim holds, times the number of thresholds; in [0, 1].
        spent: The probability that some false-positive rate is above its upper end, over all thresholds.
        rate: The false-positive rate at whose threshold the claim looks worst, upper end.
        hits: How many of the canaries that were in lie above that threshold.
        inside: How many canaries were in.
        allowed: The highest true-positive rate that the claim allows there.
    """

    p: float
    spent: float
    rate: float
    hits: int
    inside: int
    allowed: float

    def refutes(self, level: float) -> bool:
        """Whether the claim is refuted with an error of at most this."""
        return self.p + self.spent <= level


def claim_test(scores: Floats, members: Bools, curve: Callable[[Floats], Floats], miss: float) -> ClaimTest:
    """Hold the canaries' true-positive rate against the most that the claim allows at their false-positive rate.

    Thresholds are set on a random half of the canaries that were left out; on the other half the false-positive rate's
    exact upper end is taken; the hits among those that were in are held against a binomial of the claim's true-positive
    rate there. Canaries count as independent; unequal ones do no harm, since the curve is concave and the tail of a
    Poisson-binomial lies below the binomial's (Hoeffding 1956).

    Args:
        scores: `(m,)`, higher means in; no NaN.
        members: `(m,)`, what the coins said; at least two out and one in.
        curve: The highest true-positive rates that the claim allows at false-positive rates, `(k,)` to `(k,)`.
        miss: The probability with which each upper end may be too low.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN, so its canary says nothing")
    inside, outside = scores[members], np.random.default_rng(SEED).permutation(scores[~members])
    if len(inside) < 1 or len(outside) < 2:
        raise ValueError(f"expected canaries in and at least two out, found {len(inside)} and {len(outside)}")
    chosen, judged = np.sort(outside[: len(outside) // 2])[::-1], outside[len(outside) // 2 :]
    cuts = chosen[[int(rate * len(chosen)) for rate in RATES]]
    found = [_at(float(cut), inside, judged, curve, miss) for cut in cuts]
    worst = min(found, key=lambda test: test.p)
    return ClaimTest(
        min(1.0, worst.p * len(RATES)), miss * len(RATES), worst.rate, worst.hits, worst.inside, worst.allowed
    )


def _at(cut: float, inside: Floats, judged: Floats, curve: Callable[[Floats], Floats], miss: float) -> ClaimTest:
    """The test at one threshold."""
    hits, false = int((inside > cut).sum()), int((judged > cut).sum())
    rate = float(upper(false, len(judged), miss))
    allowed = float(curve(np.array([rate]))[0])
    p = float(stats.binom.sf(hits - 1, len(inside), min(1.0, max(0.0, allowed))))
    return ClaimTest(p, miss, rate, hits, len(inside), allowed)


def curve_inverse(curve: Callable[[Floats], Floats]) -> Callable[[float], float]:
    """The false-positive rate at which a claim allows a true-positive rate at the soonest, never above the true one.

    The curve is read on a grid, and the grid point before the crossing is given.
    """
    grid = np.concatenate([[0.0], np.geomspace(1e-9, 1.0, 4001)])
    heights = np.maximum.accumulate(np.asarray(curve(grid)))

    def inverse(y: float) -> float:
        return float(grid[max(0, int(np.searchsorted(heights, y, side="left")) - 1)])

    return inverse
