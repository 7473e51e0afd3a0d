"""The classes of an update, by the shares that somebody tells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import AttackError

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray


def named(shares: NDArray[float64], n: int) -> NDArray[int64]:
    """How often each class is named among n: its share of n, rounded so that they sum to n (largest remainders).

    Args:
        shares: `(classes,)`, none below 0; they need not sum to 1.
        n: How many are named.

    Raises:
        AttackError: A share is not finite or below 0, or all of them are 0.
    """
    if shares.ndim != 1 or not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        raise AttackError("expected the shares of the classes, finite and none below 0, and not all of them 0")
    exact = shares / shares.sum() * n
    counts: NDArray[int64] = np.floor(exact).astype(np.int64)
    left = np.argsort(-(exact - counts), kind="stable")[: n - int(counts.sum())]
    counts[left] += 1
    return counts


def told(shares: NDArray[float64], y: NDArray[int64]) -> NDArray[bool_]:
    """Whose class is among those that are named, each as often as it was named.

    Args:
        shares: `(classes,)`.
        y: `(n,)`, the classes.

    Returns:
        `(n,)`; of several records of a class the first ones.
    """
    counts = named(shares, len(y))
    earlier = np.array([(y[:i] == label).sum() for i, label in enumerate(y)], dtype=np.int64)
    return np.asarray(earlier < counts[y], dtype=np.bool_)
