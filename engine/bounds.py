"""What a ledger proves about every attack on membership, whatever it is: the trade-off curve of its mechanisms."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .accountants._losses import INTERVAL, distribution, width
from .accountants._pairs import steps_of
from .errors import AccountingError
from .ledger import Ledger, SampledGaussian

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

#: Every ε gives a valid bound, so a grid loses a little tightness and nothing of the proof.
_GRID = (-4.0, 14.0, 0.02)


def tpr_bound(ledger: Ledger, fpr: NDArray[float64]) -> NDArray[float64] | None:
    """No attack on one record has a higher true-positive rate at these false-positive rates.

    TPR(a) <= min over ε of δ(ε) + e^ε a, where δ(ε) is the hockey-stick curve of the composed mechanisms, the larger of
    adding and removing the record (Dong et al. 2019, arXiv 1905.02383, prop. 2.12, the dual of the trade-off function).

    Args:
        ledger: What happened.
        fpr: `(n,)` in [0, 1].

    Returns:
        `(n,)` in [0, 1]; `None` where something happened without a mechanism.

    Raises:
        AccountingError: It could not be computed.
    """
    mechanisms = _mechanisms(ledger)
    if mechanisms is None:
        return None
    epsilons = _epsilons()
    lines = _divergences(mechanisms) + np.exp(epsilons) * np.asarray(fpr, dtype=np.float64)[:, None]
    return np.asarray(np.minimum(1.0, lines.min(axis=1)))


def advantage_bound(ledger: Ledger) -> float | None:
    """No attack on one record has a higher TPR less FPR: δ(0), the total variation (same source and conditions)."""
    mechanisms = _mechanisms(ledger)
    if mechanisms is None:
        return None
    return float(min(1.0, np.interp(0.0, _epsilons(), _divergences(mechanisms))))


def _epsilons() -> NDArray[float64]:
    start, end, step = _GRID
    return np.linspace(start, end, round((end - start) / step) + 1)


def _mechanisms(ledger: Ledger) -> tuple[SampledGaussian, ...] | None:
    """The ledger's mechanisms; `None` where not every event is one."""
    found = tuple(event for event in ledger.events if isinstance(event, SampledGaussian))
    return found if len(found) == len(ledger.events) else None


@lru_cache(maxsize=16)
def _divergences(mechanisms: tuple[SampledGaussian, ...]) -> NDArray[float64]:
    """δ at every ε of the grid, never below the true one."""
    try:
        with warnings.catch_warnings(action="ignore"):  # numeric warnings of the library; the result is checked below
            found = _composed(mechanisms)
    except Exception as failure:
        raise AccountingError(f"no trade-off curve for this ledger ({type(failure).__name__}: {failure})") from failure
    if not (np.isfinite(found).all() and (found >= 0).all() and (np.diff(found) <= 1e-9).all()):
        raise AccountingError("no trade-off curve for this ledger: the computation gave no falling curve")
    return found


def _composed(mechanisms: tuple[SampledGaussian, ...]) -> NDArray[float64]:
    steps = steps_of(Ledger(mechanisms, 1, "", "")) or ()
    return np.asarray(distribution(steps, width(steps, INTERVAL)).get_delta_for_epsilon(_epsilons()), dtype=np.float64)
