"""How well each record's membership could be told: a quantile over records, with the models' noise taken out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from .counts import SEED, Bools, Floats, Interval, Ints, lower, upper

#: How many copies of every record's noise are drawn, and at how many points two distributions are compared.
_COPIES, _POINTS = 16, 30
#: A mean of fewer records would take away a good part of what each of them shows.
_FEWEST_TO_CENTRE = 30
#: Signals that differ by less are alike.
_ROUNDING = 1e-9
#: Steps of the grid of true separations, in standard errors.
_STEP = 0.25
_EM_STEPS, _BINS = 300, 200
#: Draws by which a simultaneous level is found, and how many of them have to lie beyond it.
_DRAWS, _RESAMPLING_NEEDS = 20_000, 40


@dataclass(frozen=True, slots=True)
class Separations:
    """How far apart a record's signals lie with and without it, and what chance alone makes of that.

    Attributes:
        found: `(n,)` difference of means in standard deviations of one signal.
        noise: `(c,)` the same of records of which half the models on either side are held against the other half:
            the noise of `found`, whatever its distribution.
    """

    found: Floats
    noise: Floats


def separations(signals: Floats, inside: Bools, groups: Ints) -> Separations:
    """The separation of every record in units of the pooled residual deviation, and its noise.

    What a model answers higher on every record of a class says nothing of any one of them and is taken out.

    Args:
        signals: `(k, n)`, finite.
        inside: `(k, n)`, at least two models with and two without each record.
        groups: `(n,)` class of each record.
    """
    level = _centred(signals, groups)
    with_it, without = inside.sum(axis=0), (~inside).sum(axis=0)
    mean_in, mean_out = (level * inside).sum(axis=0) / with_it, (level * ~inside).sum(axis=0) / without
    residuals = level - np.where(inside, mean_in, mean_out)
    own = np.sqrt((residuals**2).sum(axis=0) / max(1, len(signals) - 2))
    deviation = np.maximum(own, 0.1 * np.median(own))
    if deviation.max() <= _ROUNDING * max(1.0, float(np.abs(signals).max())):
        return Separations(np.where(np.abs(mean_in - mean_out) <= _ROUNDING, 0.0, np.inf), np.zeros(1))
    noise = [_noise(residuals, inside, seed) for seed in range(_COPIES)]
    deviation = np.maximum(deviation, _ROUNDING * deviation.max())
    # Signs that cancel leave the deviation as it is, chance does not: a mean over its own deviation is Student's t.
    free, rng = max(1, len(signals) - 2), np.random.default_rng(SEED)
    luck = [np.sqrt(free / rng.chisquare(free, size=len(own))) for _ in noise]
    noise = [one / deviation * factor for one, factor in zip(noise, luck, strict=True)]
    return Separations((mean_in - mean_out) / deviation, np.concatenate(noise))


def _centred(signals: Floats, groups: Ints) -> Floats:
    """Signals less each model's mean over the records of a class; over all, where a class has too few for a mean."""
    if signals.shape[1] < _FEWEST_TO_CENTRE:
        return signals
    centred = np.asarray(signals - signals.mean(axis=1, keepdims=True), dtype=np.float64)
    for group in np.unique(groups):
        where = groups == group
        if where.sum() >= _FEWEST_TO_CENTRE:
            centred[:, where] = signals[:, where] - signals[:, where].mean(axis=1, keepdims=True)
    return centred


def _noise(residuals: Floats, inside: Bools, seed: int) -> Floats:
    """What `found` would be of nothing: residuals with signs that cancel on either side, drawn for each record."""
    draw = np.random.default_rng((SEED, seed)).random(residuals.shape)
    rank = np.argsort(np.argsort(np.where(inside, draw, draw + 2), axis=0), axis=0)
    with_it, without = inside.sum(axis=0), (~inside).sum(axis=0)
    signs = np.where(np.where(inside, rank, rank - with_it) % 2 == 0, 1.0, -1.0)
    lost_in, lost_out = (np.sqrt(side / (side - side % 2 / side)) for side in (with_it, without))
    total = (signs * residuals * inside).sum(axis=0) / with_it * lost_in
    return np.asarray(total + (signs * residuals * ~inside).sum(axis=0) / without * lost_out)


def record_risk(found: Floats, noise: Floats, quantile: float, alpha: float) -> Interval:
    """Interval of a quantile over records of 2Φ(|d|/2) - 1, d the separation without its noise.

    What is found is what is there, plus noise: a quantile of it overstates the tail. The interval holds every
    distribution of true separations whose sum with the noise agrees with what was found, within exact limits at some
    30 order statistics at once (Ignatiadis & Wager 2022, arXiv 1902.02774; David & Nagaraja 2003; Bonferroni). The
    value is that of the likeliest one (Kiefer & Wolfowitz 1956; Jiang & Zhang 2009).

    Args:
        found: `(n,)` separations of the records that count.
        noise: `(c,)` their noise; all 0 where two models trained alike answer alike.
        quantile: Which, in (0, 1).
        alpha: The error of both sides together.
    """
    if not noise.any():
        return _without_noise(found, quantile, alpha)
    deviation = float(noise.std())
    grid = np.arange(np.floor(found.min() / deviation / _STEP), np.ceil(found.max() / deviation / _STEP) + 1)
    grid = np.unique(np.append(grid, 0.0)) * _STEP * deviation
    kernel = _Kernel.of(noise)
    # What no record shows may still be there: separations beyond all that were found.
    wide, sizes = np.concatenate([[-np.inf], grid, [np.inf]]), np.unique(np.abs(grid).round(12))
    bands, reach = _Bands.of(found, kernel, wide, alpha), np.append(sizes, np.inf)
    ends = [_quantile(bands, reach, 1 - quantile, sign) for sign in (1, -1)]
    weights = _likeliest(found, kernel, grid)
    below = np.cumsum([weights[np.abs(grid).round(12) == size].sum() for size in sizes])
    value = float(sizes[min(len(sizes) - 1, int(np.searchsorted(below, quantile - 1e-9)))])
    low, value, high = (float(2 * stats.norm.cdf(size / 2) - 1) for size in (ends[0], value, ends[1]))
    return Interval(min(max(value, low), high), low, high)


def _without_noise(found: Floats, quantile: float, alpha: float) -> Interval:
    """Every record is told for certain or not at all."""
    k, n, tail = int((found != 0).sum()), len(found), 1 - quantile
    low, high = float(lower(k, n, alpha / 2)), float(upper(k, n, alpha / 2))
    return Interval(float(k / n > tail), float(low > tail), float(high > tail))


@dataclass(frozen=True, slots=True)
class _Kernel:
    """The distribution of the noise, which is as likely up as down."""

    ordered: Floats

    @classmethod
    def of(cls, noise: Floats) -> _Kernel:
        return cls(np.sort(np.concatenate([noise, -noise])))

    def below(self, values: Floats) -> Floats:
        """How often the noise is at most as large."""
        return np.searchsorted(self.ordered, values, side="right") / len(self.ordered)


@dataclass(frozen=True, slots=True)
class _Bands:
    """The distributions over a grid of true separations that agree with what was found.

    Attributes:
        grid: `(g,)` true separations.
        chances: `(p, g)` how often a record of each would be found below each point.
        low: `(p,)` how often records are found below it, at least.
        high: `(p,)` at most.
    """

    grid: Floats
    chances: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, found: Floats, kernel: _Kernel, grid: Floats, alpha: float) -> _Bands:
        """Limits of the distribution of what was found; stretched, where no distribution at all would fit."""
        n, ordered = len(found), np.sort(found)
        rank = _positions(n)
        error = _each(n, alpha)
        low, high = (special.betaincinv(rank, n - rank + 1, level) for level in (error, 1 - error))
        chances = kernel.below(ordered[rank - 1][:, None] - grid[None, :])
        slack = _misfit(chances, low, high)
        return cls(grid, chances, low - slack * (high - low), high + slack * (high - low))

    def extreme(self, larger: float, sign: int) -> float:
        """The least (1) or the largest (-1) share of records whose separation is larger, either way."""
        cost = sign * (np.abs(self.grid) > larger + 1e-9)
        limits = np.concatenate([self.high, -self.low]) + 1e-9
        matrix = np.concatenate([self.chances, -self.chances])
        solved = optimize.linprog(cost, matrix, limits, np.ones((1, len(self.grid))), [1.0], method="highs")
        unknown = 0.0 if sign == 1 else 1.0
        return unknown if solved.status != 0 else float(np.clip(sign * solved.fun, 0.0, 1.0))


def _positions(n: int) -> Ints:
    """Ranks of the order statistics at which two distributions are compared: closest together in the tails."""
    tail = np.unique(np.geomspace(1, max(1, n // 8), _POINTS // 2 - 4).round().astype(np.int64))
    middle = np.linspace(n // 8 + 1, n - n // 8, 8).astype(np.int64)
    return np.unique(np.concatenate([tail, middle, n + 1 - tail]))


@lru_cache(maxsize=64)
def _each(n: int, alpha: float) -> float:
    """The error on either side of each order statistic that makes alpha of all together (Berk & Jones 1979).

    Order statistics move together, so that each may err more often than Bonferroni's share; how often is found by
    drawing them, and a tenth is kept back for the luck of the draw. Too rare for that: Bonferroni's share.
    """
    rank = _positions(n)
    fair = alpha / (2 * len(rank))
    if alpha * _DRAWS < _RESAMPLING_NEEDS:
        return fair
    gaps = np.diff(np.concatenate([[0], rank, [n + 1]]))
    walk = np.cumsum(np.random.default_rng(SEED).standard_gamma(gaps, size=(_DRAWS, len(gaps))), axis=1)
    chance = special.betainc(rank, n - rank + 1, walk[:, :-1] / walk[:, -1:])
    return max(fair, 0.9 * float(np.quantile(np.minimum(chance, 1 - chance).min(axis=1), alpha)))


def _misfit(chances: Floats, low: Floats, high: Floats) -> float:
    """By what part of their width the limits must be stretched for any distribution to fit."""
    g = chances.shape[1]
    width = (high - low)[:, None]
    matrix = np.concatenate([np.hstack([chances, -width]), np.hstack([-chances, -width])])
    limits, total = np.concatenate([high, -low]), np.append(np.ones(g), 0.0)[None, :]
    solved = optimize.linprog(np.append(np.zeros(g), 1.0), matrix, limits, total, [1.0], method="highs")
    return float(solved.x[-1]) if solved.status == 0 else 1.0


def _quantile(bands: _Bands, sizes: Floats, tail: float, sign: int) -> float:
    """The smallest (1) or largest (-1) size that so large a share of records may exceed; found by halving."""
    first, last = 0, len(sizes) - 1
    while first < last:
        middle = (first + last) // 2
        if bands.extreme(float(sizes[middle]), sign) <= tail + 1e-9:
            last = middle
        else:
            first = middle + 1
    return float(sizes[max(0, first - 1)] if sign == 1 else sizes[min(len(sizes) - 1, first + 1)])


def _likeliest(found: Floats, kernel: _Kernel, grid: Floats) -> Floats:
    """Weights on the grid under which what was found is likeliest, by expectation and maximisation over bins."""
    edges = np.quantile(found, np.linspace(0, 1, min(len(found), _BINS) + 1))
    edges = np.unique(edges)
    edges[0], edges[-1] = -np.inf, np.inf
    counts = np.histogram(found, bins=edges)[0] / len(found)
    chances = np.maximum(np.diff(kernel.below(edges[:, None] - grid[None, :]), axis=0), 1e-12)
    weights = np.full(len(grid), 1 / len(grid))
    for _ in range(_EM_STEPS):
        weights = weights * (chances.T @ (counts / (chances @ weights)))
    return np.asarray(weights / weights.sum(), dtype=np.float64)
