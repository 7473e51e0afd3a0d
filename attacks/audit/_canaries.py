"""What canaries that were in or out by a coin say of a claim; shared by the tests that plant them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...engine.audit import LEVEL, Found
from ...engine.ledger import AuditBound
from ...engine.statistics import (
    SHARES,
    ClaimTest,
    claim_test,
    curve_inverse,
    gaussian_epsilon,
    gaussian_fit,
    gaussian_trade_off_epsilon,
    guesses,
    one_run_epsilon,
    ordered_epsilon,
    trade_off_p,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy import bool_, float64
    from numpy.typing import NDArray

    from ...engine.audit import Claimed

#: The probability with which an upper end of a false-positive rate may be too low, small beside the level.
_MISS = 1e-5
#: Confidence of the bounds that are reported.
_ALPHA = 0.05


def judged(scores: NDArray[float64], inside: NDArray[bool_], claimed: Claimed) -> Found:
    """The claim test and its strictly valid one-run version, half of the error each, with the bounds beside them.

    Args:
        scores: `(m,)`, higher means in.
        inside: `(m,)`, what the coins said.
        claimed: What the ledger says.
    """
    if inside.sum() < 1 or (~inside).sum() < 2:
        return Found(math.nan, math.nan, False, "there were too few canaries")
    if np.isnan(scores).any():
        return Found(math.nan, math.nan, False, "the score of a canary is not a number")
    inverse = curve_inverse(claimed.curve)
    p, test = _p(scores, inside, claimed, inverse)
    # The same canaries, told apart without a fault: a test that would not even refute this shows nothing.
    best, _ = _p(inside.astype(np.float64), inside, claimed, inverse)
    detail = f"{test.hits} of {test.inside} canaries that were in were found at a false-positive rate of at most "
    detail += f"{test.rate:.3g}; the ledger allows a share of {test.allowed:.3g} (claim test: p = {test.p:.2g})"
    return Found(test.hits / test.inside, p, best <= LEVEL, detail, bounds_of(scores, inside, claimed.delta))


def _p(
    scores: NDArray[float64], inside: NDArray[bool_], claimed: Claimed, inverse: Callable[[float], float]
) -> tuple[float, ClaimTest]:
    """Both tests together, and the first by itself."""
    test = claim_test(scores, inside, claimed.curve, _MISS)
    strict = trade_off_p(guesses(scores, inside, SHARES["f-DP"]), inverse)
    return min(1.0, 2 * min(test.p + test.spent, strict)), test


def bounds_of(scores: NDArray[float64], inside: NDArray[bool_], delta: float) -> tuple[AuditBound, ...]:
    """Lower bounds on ε at δ by every one-run method, each at 95 % by itself, and the Gaussian fit as an estimate."""
    methods = {
        "one-run": ("Steinke et al. 2023", one_run_epsilon),
        "f-DP": ("Mahloujifar et al. 2024, Gaussian mechanisms", gaussian_trade_off_epsilon),
        "order statistics": ("Xiang et al. 2025, Gaussian mechanisms", ordered_epsilon),
    }
    found = []
    for method, (name, bound) in methods.items():
        guessed = guesses(scores, inside, SHARES[method])
        found.append(AuditBound(name, bound(guessed, delta, _ALPHA), 1 - _ALPHA, guessed.made, guessed.right))
    if min(inside.sum(), (~inside).sum()) >= 2:
        fit = gaussian_fit(scores, inside)
        if math.isfinite(fit.mu):
            found.append(AuditBound("Andrew et al. 2024", gaussian_epsilon(fit.mu, delta), None, len(scores)))
    return tuple(found)
