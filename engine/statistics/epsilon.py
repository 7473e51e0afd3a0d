"""What ε an attack's operating points need: (ε, δ)-DP forces TPR <= e^ε FPR + δ (Kairouz et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .counts import Bools, Floats, Interval, Ints, lower, upper
from .persons import Tail
from .thresholds import Sides, fixed_order, halves, ranks

#: A rule is looked for among so many thresholds, closest together where few records are called.
_RULES = 400


def epsilon_lower_bound(
    scores: Floats, members: Bools, delta: float, alpha: float, persons: Ints | None = None, floor: float = 0.0
) -> float:
    """The smallest ε that these attack scores leave possible, with confidence 1 - alpha; 0 where they refute nothing.

    (ε, δ)-DP forces TPR <= e^ε FPR + δ and the same for the complements (Kairouz et al. 2015, arXiv 1311.0776, thm.
    2.1). The rule is chosen on one half and judged on the other by exact one-sided limits, both ways round, a half of
    alpha each.

    Args:
        scores: `(n,)`, no NaN.
        members: `(n,)`, at least two of each kind in either half.
        delta: The δ of the guarantee.
        alpha: The error, all of it on this one side.
        persons: `(n,)`, whose record it is; `None` where every record is a person of its own.
        floor: Smaller error rates are counted as this one.
    """
    ruled = _ruled(scores, members, persons, delta, alpha / 2, floor)
    return max(0.0, *(rule.bound for rule in ruled))


def epsilon(
    scores: Floats, members: Bools, delta: float, floor: float, alpha: float, persons: Ints | None = None
) -> Interval:
    """Interval of the largest log((TPR - δ) / max(FPR, floor)) over all thresholds and their complements, at least 0.

    The lower end is `epsilon_lower_bound`. The upper end is the largest pointwise upper limit (see
    `thresholds.advantage`, for why that is valid); it is what this attack shows down to error rates of `floor`, and
    proves nothing of another attack.
    """
    ruled = _ruled(scores, members, persons, delta, alpha / 4, floor)
    value = max(0.0, sum(rule.value for rule in ruled) / len(ruled))
    low = max(0.0, *(rule.bound for rule in ruled))
    high = _largest(Sides.of(ranks(scores), members, persons), delta, alpha / 4, floor)
    return Interval(min(max(value, low), max(low, high)), low, max(low, high))


@dataclass(frozen=True, slots=True)
class _Ruled:
    """What a rule chosen on one half shows on the other."""

    bound: float
    value: float


@dataclass(frozen=True, slots=True)
class _Test:
    """How often a rule is right about one side and wrong about the other.

    Attributes:
        right: k of n with its design effect, where the rule is right.
        wrong: Likewise, where it is wrong.
    """

    right: tuple[Ints, int, Floats]
    wrong: tuple[Ints, int, Floats]

    def bound(self, delta: float, error: float, floor: float) -> Floats:
        """The lower limit of log((right - δ) / wrong), by two exact limits."""
        return _log_ratio(_end(lower, self.right, error), _end(upper, self.wrong, error), delta, floor)

    def most(self, delta: float, error: float, floor: float) -> Floats:
        """Its upper limit."""
        return _log_ratio(_end(upper, self.right, error), _end(lower, self.wrong, error), delta, floor)

    def value(self, delta: float, floor: float) -> Floats:
        """Its plain estimate."""
        (k, n, _), (j, m, _) = self.right, self.wrong
        return _log_ratio(k / n, j / m, delta, max(floor, 0.5 / m))


def _end(limit: Callable[[Floats, Floats, float], Floats], count: tuple[Ints, int, Floats], error: float) -> Floats:
    k, n, effect = count
    return limit(k / effect, n / effect, error)


def _log_ratio(right: Floats, wrong: Floats, delta: float, floor: float) -> Floats:
    known = right > delta
    ratio = np.where(known, right - delta, 1.0) / np.maximum(wrong, max(floor, 1e-300))
    return np.where(known, np.log(ratio), -math.inf)


def _tests(sides: Sides, cuts: Floats) -> tuple[_Test, _Test]:
    """The rules "above the threshold is a member" and "not above it is none"."""
    hits, false = sides.inside.above(cuts), sides.outside.above(cuts)
    member, other = _called(sides.inside, hits), _called(sides.outside, false)
    return _Test(member, other), _Test(_left(other), _left(member))


def _called(side: Tail, k: Ints) -> tuple[Ints, int, Floats]:
    return k, side.n, side.effects[k]


def _left(count: tuple[Ints, int, Floats]) -> tuple[Ints, int, Floats]:
    """Those that are not called."""
    k, n, effect = count
    return n - k, n, effect


def _ruled(
    scores: Floats, members: Bools, persons: Ints | None, delta: float, error: float, floor: float
) -> list[_Ruled]:
    """Both ways round."""
    fixed = fixed_order(scores, members, None, persons)
    scores, members, persons = scores[fixed], members[fixed], None if persons is None else persons[fixed]
    half, order = halves(members, np.zeros(len(scores), dtype=np.int64), persons), ranks(scores)
    found = []
    for fit in (half, ~half):
        parts = [Sides.of(order[w], members[w], None if persons is None else persons[w]) for w in (fit, ~fit)]
        if min(side.n for part in parts for side in (part.inside, part.outside)) == 0:
            found.append(_Ruled(0.0, 0.0))
            continue
        cuts = _candidates(parts[0])
        bounds = [test.bound(delta, error / 2, floor) for test in _tests(parts[0], cuts)]
        kind, place = np.unravel_index(int(np.argmax(bounds)), (2, len(cuts)))
        judged = _tests(parts[1], cuts[[place]])[kind]
        found.append(_Ruled(float(judged.bound(delta, error / 2, floor)[0]), float(judged.value(delta, floor)[0])))
    return found


def _candidates(sides: Sides) -> Floats:
    """Thresholds between scores, thinned where many records lie on either side."""
    cuts = sides.cuts()[1:]
    if len(cuts) > _RULES:
        steps = np.unique(np.geomspace(1, len(cuts), _RULES // 2).astype(int)) - 1
        cuts = cuts[np.unique(np.concatenate([steps, len(cuts) - 1 - steps]))]
    return cuts - 0.5


def _largest(sides: Sides, delta: float, error: float, floor: float) -> float:
    """The largest upper limit of all rules."""
    cuts = np.concatenate([[math.inf], sides.cuts()[1:] - 0.5])
    return max(0.0, *(float(test.most(delta, error, floor).max()) for test in _tests(sides, cuts)))
