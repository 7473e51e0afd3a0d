"""What all records together tell of each: shrunken means and variances of the references' signals.

The model of a record, with one prior over all records, all of it fitted by moments:

- its variance on a side is inverse-gamma: mean s, shape a = 2 + s^2 / Var(variance); the sums of squares give both
  moments, E[S] = f s and E[S^2] = f (f + 2) E[variance^2] for f degrees of freedom;
- its two means (with it, without it) are Gaussian together: what the models without a record answer tells of what
  those with it do. Their covariance is that of the observed means less the noise in them.

The posterior of the means takes the shrunken variance as known; the predictive is Student's t with 2a degrees of
freedom, its scale that of the variance and of the doubt about the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy import bool_, float64
    from numpy.typing import NDArray

    from ._moments import Moments, Sides

#: The share of the records, those that vary least, that the variances' prior is fitted on.
_USUAL = 0.99
#: The least mean of that prior, as a share of the pooled variance.
_LEAST = 1e-9
#: Shape of a prior that says that all records have one variance.
_SAME = 1e6
#: The largest correlation between a record's two means; what it is where no record has models on both sides.
_TOGETHER = 0.999
#: The part of the variance between the observed means that is never taken for noise.
_TRUE_PART = 1e-3
#: With one pair of models, the part of the variance of the differences that is taken for noise.
_NOISE_PART = 0.5


@dataclass(frozen=True, slots=True)
class Spread:
    """The shrunken variance of each record on one side.

    Attributes:
        shape: `(n,)` shape of the inverse-gamma posterior.
        mean: `(n,)` its mean.
    """

    shape: NDArray[float64]
    mean: NDArray[float64]

    @classmethod
    def of(cls, moments: Moments, pooled: float, shape: float) -> Spread:
        """The posterior of every record from the prior of this mean and shape."""
        own = shape + moments.freedom / 2
        return cls(own, (pooled * (shape - 1) + moments.squares / 2) / (own - 1))


def _variances(side: Moments, otherwise: float) -> tuple[float, float]:
    """Mean and shape of the prior of the records' variances on one side, by moment matching.

    The hundredth of the records that vary most have no say: a few that explode would decide for all.

    Args:
        side: One side of the records.
        otherwise: The mean where no record has two models on this side.
    """
    some = side.freedom > 0
    freedom, squares = side.freedom[some].astype(np.float64), side.squares[some]
    if not len(freedom):
        return otherwise, _SAME
    usual = squares / freedom <= np.quantile(squares / freedom, _USUAL)
    total = freedom[usual].sum()
    mean = max(float(squares[usual].sum() / total), otherwise * _LEAST)
    second = float((squares[usual] ** 2 / (freedom[usual] + 2)).sum() / total)
    spread = second - mean**2
    return mean, min(2 + mean**2 / spread, _SAME) if spread > 0 else _SAME


@dataclass(frozen=True, slots=True)
class Predictive:
    """What a model answers on each record, on one side: Student's t.

    Attributes:
        freedom: `(n,)` degrees of freedom.
        middle: `(n,)`.
        scale: `(n,)`.
    """

    freedom: NDArray[float64]
    middle: NDArray[float64]
    scale: NDArray[float64]

    @classmethod
    def of(cls, spread: Spread, middle: NDArray[float64], doubt: NDArray[float64]) -> Predictive:
        """From the variance, the mean and the variance of that mean."""
        likely = spread.mean * (spread.shape - 1) / spread.shape
        return cls(2 * spread.shape, middle, np.sqrt(likely * (1 + doubt / spread.mean)))

    def log_density(self, at: NDArray[float64]) -> NDArray[float64]:
        """The logarithm of its density. Args: at `(n,)`."""
        return np.asarray(stats.t.logpdf(at, self.freedom, self.middle, self.scale))


def predictives(sides: Sides) -> tuple[Predictive, Predictive]:
    """What models with and without each record answer on it; at least one model must stand on each side of some."""
    both = tuple(zip((sides.inside, sides.outside), sides.variances(_NOISE_PART), strict=True))
    (noise_in, shape_in), (noise_out, shape_out) = (_variances(*side) for side in both)
    spread = Spread.of(sides.inside, noise_in, shape_in), Spread.of(sides.outside, noise_out, shape_out)
    pooled = noise_in, noise_out
    centre, covariance = _prior(sides, pooled)
    precision = np.linalg.inv(covariance)
    inside, outside = sides.inside, sides.outside
    weight = inside.count / spread[0].mean, outside.count / spread[1].mean
    pull = weight[0] * (inside.mean - centre[0]), weight[1] * (outside.mean - centre[1])
    own = precision[0, 0] + weight[0], precision[1, 1] + weight[1]
    determinant = own[0] * own[1] - precision[0, 1] ** 2
    middle_in = centre[0] + (own[1] * pull[0] - precision[0, 1] * pull[1]) / determinant
    middle_out = centre[1] + (own[0] * pull[1] - precision[0, 1] * pull[0]) / determinant
    return (
        Predictive.of(spread[0], middle_in, own[1] / determinant),
        Predictive.of(spread[1], middle_out, own[0] / determinant),
    )


def shrunken(sides: Sides) -> Predictive:
    """What models answer on each record where all of them stand on one side."""
    number = 0 if (sides.inside.count > 0).any() else 1
    side = (sides.inside, sides.outside)[number]
    pooled, shape = _variances(side, sides.variances(_NOISE_PART)[number])
    spread = Spread.of(side, pooled, shape)
    centre, variance = _level(side, side.count > 0, pooled, sides.least)
    weight = side.count / spread.mean
    doubt = 1 / (1 / variance + weight)
    return Predictive.of(spread, centre + doubt * weight * (side.mean - centre), doubt)


def _level(side: Moments, known: NDArray[bool_], noise: float, least: float) -> tuple[float, float]:
    """Mean and true variance of the records' means on one side, over the records that are known on it."""
    mean, count = side.mean[known], side.count[known]
    observed = float(mean.var())
    return float(mean.mean()), max(observed - float((noise / count).mean()), _TRUE_PART * observed, least)


def _prior(sides: Sides, pooled: tuple[float, float]) -> tuple[NDArray[float64], NDArray[float64]]:
    """Mean `(2,)` and covariance `(2, 2)` of a record's two means, with it first, over the records."""
    both = sides.both
    joint = int(both.sum()) > 2
    (mean_in, true_in), (mean_out, true_out) = (
        _level(side, both if joint else side.count > 0, noise, sides.least)
        for side, noise in zip((sides.inside, sides.outside), pooled, strict=True)
    )
    shared = _TOGETHER * math.sqrt(true_in * true_out)
    if joint:
        products = (sides.inside.mean[both] - mean_in) * (sides.outside.mean[both] - mean_out)
        shared = min(max(float(products.mean()), 0.0), shared)
    return np.array([mean_in, mean_out]), np.array([[true_in, shared], [shared, true_out]])
