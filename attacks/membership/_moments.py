"""Means and variances of the references' signals, of those with a record and of those without it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray

    from ._signals import Signals

#: The least standard deviation, as a share of the largest signal: where models do not differ at all.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Moments:
    """What the models on one side of a record answer on it.

    Attributes:
        count: `(n,)` how many models there are.
        mean: `(n,)` of their signals; 0 where there is none.
        squares: `(n,)` sum of the squared residuals around that mean.
    """

    count: NDArray[int64]
    mean: NDArray[float64]
    squares: NDArray[float64]

    @classmethod
    def of(cls, signals: NDArray[float64], mask: NDArray[bool_]) -> Moments:
        """Over the models that the mask names. Args: both `(k, n)`."""
        count = mask.sum(axis=0)
        mean = np.where(mask, signals, 0.0).sum(axis=0) / np.maximum(count, 1)
        return cls(count, mean, (np.where(mask, signals - mean, 0.0) ** 2).sum(axis=0))

    @property
    def freedom(self) -> NDArray[int64]:
        """`(n,)` degrees of freedom of each sum of squares."""
        return np.maximum(self.count - 1, 0)

    def pooled(self) -> float:
        """The variance of the residuals over all records; NaN where no record has two models."""
        freedom = int(self.freedom.sum())
        return float(self.squares.sum() / freedom) if freedom else float("nan")


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides of each record.

    Attributes:
        inside: Models that were trained on the record.
        outside: Models that were not.
        least: The least variance that is told from none.
    """

    inside: Moments
    outside: Moments
    least: float

    @classmethod
    def of(cls, signals: Signals) -> Sides:
        """From one view."""
        known = signals.references[signals.inside | signals.outside]
        largest = float(np.abs(known).max()) if known.size else 0.0
        return cls(
            Moments.of(signals.references, signals.inside),
            Moments.of(signals.references, signals.outside),
            (_LEAST * max(1.0, largest)) ** 2,
        )

    @property
    def both(self) -> NDArray[bool_]:
        """`(n,)` which records have models on both sides."""
        return np.asarray((self.inside.count > 0) & (self.outside.count > 0))

    def variances(self, noise: float = 1.0) -> tuple[float, float]:
        """Pooled residual variance of the models with and without a record.

        A side on which no record has two models takes the other's. Where neither has (one pair of models), half the
        variance of the differences between them; where no record has both (one model), 1.

        Args:
            noise: Which part of the variance of the differences of one pair is noise, not that records differ.
        """
        differences = (self.inside.mean - self.outside.mean)[self.both]
        single = noise * float(differences.var(ddof=1)) / 2 if len(differences) > 1 else 1.0
        inside, outside = self.inside.pooled(), self.outside.pooled()
        found = first_number(inside, outside, single), first_number(outside, inside, single)
        return max(found[0], self.least), max(found[1], self.least)

    def own_variances(self, least_share: float) -> tuple[NDArray[float64], NDArray[float64]]:
        """Each record's own residual variance with and without it, unbiased; the pooled one where it has no two models.

        Args:
            least_share: What share of the pooled variance it is at least.

        Returns:
            Two of `(n,)`.
        """
        pooled = self.variances()
        inside, outside = (
            np.where(side.freedom > 0, side.squares / np.maximum(side.freedom, 1), whole)
            for side, whole in zip((self.inside, self.outside), pooled, strict=True)
        )
        return np.maximum(inside, least_share * pooled[0]), np.maximum(outside, least_share * pooled[1])

    def gap(self) -> float:
        """By how much a model is surer of a record that it was trained on, on average.

        Over the records that have models on both sides; where there is none, between the records that have them on one
        and those on the other; where all models are on one side, one standard deviation, which keeps their order.
        """
        inside, outside = self.inside, self.outside
        if self.both.any():
            return float((inside.mean - outside.mean)[self.both].mean())
        if (inside.count > 0).any() and (outside.count > 0).any():
            return float(inside.mean[inside.count > 0].mean() - outside.mean[outside.count > 0].mean())
        return math.sqrt(max(self.variances()))

    def means(self) -> tuple[NDArray[float64], NDArray[float64]]:
        """Mean signal with and without each record; a side without models is the other, moved by the gap.

        Returns:
            Two of `(n,)`; NaN where no model has an answer.
        """
        gap = self.gap()
        inside = np.where(self.inside.count > 0, self.inside.mean, np.nan)
        outside = np.where(self.outside.count > 0, self.outside.mean, np.nan)
        return np.where(np.isnan(inside), outside + gap, inside), np.where(np.isnan(outside), inside - gap, outside)


def first_number(*values: float) -> float:
    """The first that is not NaN."""
    return next(value for value in values if not math.isnan(value))
