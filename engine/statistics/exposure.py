"""The members whom an adversary can name and be right about."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from .counts import Bools, Floats, Interval, Ints, lower, upper
from .thresholds import Rates, Sides, fixed_order, halves, ranks, rates_of


@dataclass(frozen=True, slots=True)
class Exposed:
    """The share of members that can be named at a precision.

    Attributes:
        interval: The share, between what was shown and what no rule exceeds.
        rates: What the rule did on records that it was not chosen on.
    """

    interval: Interval
    rates: Rates


def exposed(
    scores: Floats, members: Bools, groups: Ints, odds: float, alpha: float, persons: Ints | None = None
) -> Exposed:
    """Interval of the largest TPR among rules with TPR >= odds * FPR.

    A rule is a threshold, or a coin tossed between two. The rule is chosen on one half and judged on the other, both
    ways round; the lower end is 0 unless its precision's own lower limit suffices. The upper end is that of
    all rules that may satisfy it: by duality (Boyd & Vandenberghe 2004, 5.1), the largest of TPR + u (TPR - odds FPR)
    over all thresholds is no smaller for any u >= 0, and stays so with each rate at its limit. The best rule tosses a
    coin between two thresholds at most: four limits, an eighth of alpha each.

    Args:
        scores: `(n,)`, no NaN.
        members: `(n,)`, at least two of each kind.
        groups: `(n,)`, the halves are balanced over these.
        odds: How many times likelier members are called: p (1 - prior) / ((1 - p) prior) for a precision p.
        alpha: The error of both sides together.
        persons: `(n,)`, whose record it is; `None` where every record is a person of its own.
    """
    fixed = fixed_order(scores, members, groups, persons)
    scores, members, groups = scores[fixed], members[fixed], groups[fixed]
    persons = None if persons is None else persons[fixed]
    half, order = halves(members, groups, persons), ranks(scores)
    called = np.zeros(len(scores), dtype=bool)
    for fit in (half, ~half):
        part = Sides.of(order[fit], members[fit], None if persons is None else persons[fit])
        called[~fit] = order[~fit] > _surest(part, odds, alpha / 4)
    rates = rates_of(called, members, persons)
    value, low = _judged(rates, odds, alpha / 4)
    high = max(value, _most(Sides.of(order, members, persons), odds, alpha / 8))
    return Exposed(Interval(value, low, high), rates)


def _surest(sides: Sides, odds: float, error: float) -> float:
    """The threshold that shows most; where none shows anything, the one that comes nearest to it.

    Both halves together have twice the records, which leaves room for the luck of the other one.
    """
    cuts = sides.cuts()[1:]
    hits, false = sides.inside.reaching(cuts), sides.outside.reaching(cuts)
    one, other = sides.inside.effects[hits], sides.outside.effects[false]
    low = lower(hits / one, sides.inside.n / one, error)
    margin = _margin((hits, sides.inside.n), (false, sides.outside.n), odds, np.maximum(one, other), error)
    best = int(np.argmax(np.where(margin >= 0, 1 + low, margin)))
    return float(cuts[best] - 0.5) if len(cuts) and hits[best] else math.inf


def _margin(
    hits: tuple[Ints, int], false: tuple[Ints, int], odds: float, effect: Floats | float, error: float
) -> Floats:
    """By how much the lower limit of the members' share among those named exceeds what the odds ask for.

    Exact for rare events (Przyborowski & Wilenski 1940); shares vary less than these, so that it is safe for others.
    """
    (k, m), (j, n) = hits, false
    wanted = m * odds / (m * odds + n)
    return np.asarray(lower(k / effect, (k + j) / effect, error) - wanted)


def _judged(rates: Rates, odds: float, error: float) -> tuple[float, float]:
    """The share and its lower limit; 0 where the precision is not reached, or not surely."""
    (one, other), hits, false = rates.effects, rates.true_positives, rates.false_positives
    low = float(lower(hits.k / one, hits.n / one, error))
    named = (np.asarray(hits.k), hits.n), (np.asarray(false.k), false.n)
    sure = float(_margin(*named, odds, max(one, other), error)) >= 0
    value = hits.share if hits.share >= odds * false.share else 0.0
    return value, min(value, low) if sure else 0.0


def _most(sides: Sides, odds: float, error: float) -> float:
    """The upper limit of all rules; every u gives a valid one, the best is looked for."""
    cuts = sides.cuts()
    hits, false = sides.inside.reaching(cuts), sides.outside.reaching(cuts)
    one, other = sides.inside.effects[hits], sides.outside.effects[false]
    top = upper(hits / one, sides.inside.n / one, error)
    gain = top - odds * lower(false / other, sides.outside.n / other, error)

    def dual(log_u: float) -> float:
        return float((top + math.exp(log_u) * gain).max())

    grid = np.linspace(-12.0, 8.0, 81)
    best = float(grid[np.argmin([dual(u) for u in grid])])
    finer = optimize.minimize_scalar(dual, bounds=(best - 0.25, best + 0.25), method="bounded")
    return min(1.0, dual(best), float(finer.fun), float(top.max()))
