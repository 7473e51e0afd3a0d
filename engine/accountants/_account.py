"""The account: every accountant's bound over one ledger, and whether they agree."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache

from ..errors import AccountingError
from ..ledger import Event, Ledger, SampledGaussian
from ..registry import load, names
from ._bound import Accountant, Bound, bound
from ._losses import COARSE, epsilon_of, widening

#: Two bounds may differ by their stated errors and by this share of the smaller one: each rounds its grid upwards.
TOLERANCE = 0.02
_POINTS = 20


@dataclass(frozen=True, slots=True)
class Point:
    """ε after so many steps of the whole training."""

    step: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class Accounting:
    """What a ledger cost.

    Attributes:
        delta: The δ of every number.
        bounds: What each accountant says, in alphabetical order.
        curve: ε over the steps; empty where it has no bound.
    """

    delta: float
    bounds: tuple[Bound, ...]
    curve: tuple[Point, ...] = ()

    @property
    def epsilon(self) -> float:
        """The larger upper bound: the number that counts."""
        return max(bound.epsilon for bound in self.bounds)

    @property
    def low(self) -> float:
        """The true ε is not below this, by the accountants' stated errors."""
        return max(0.0, min(bound.epsilon - bound.error for bound in self.bounds))


def account(ledger: Ledger, delta: float, curve: bool = True) -> Accounting:
    """What the ledger cost, by every accountant there is.

    Args:
        ledger: What happened.
        delta: In (0, 1).
        curve: Whether to add ε over the steps, for a figure.

    Raises:
        AccountingError: An accountant failed, or two of them disagree beyond their stated errors.
    """
    accounting = Accounting(delta, _bounds(ledger.events, delta))
    points = _curve(ledger, delta, accounting.epsilon) if curve and math.isfinite(accounting.epsilon) else ()
    return dataclasses.replace(accounting, curve=points)


@lru_cache(maxsize=256)
def _bounds(events: tuple[Event, ...], delta: float) -> tuple[Bound, ...]:
    """Every accountant's bound, when they agree."""
    ledger = Ledger(events=events, records=1, data="", model="")
    bounds = tuple(_accountant(name).epsilon(ledger, delta) for name in names("accountants"))
    if len(bounds) < 2:
        raise AccountingError("two independent accountants are needed, so that one can contradict the other")
    _agree(bounds)
    return bounds


def _accountant(name: str) -> Accountant:
    accountant: Accountant = load("accountants", name)()
    return accountant


def _agree(bounds: tuple[Bound, ...]) -> None:
    """Refuse bounds of which one cannot be right if another is."""
    low, high = min(bounds, key=lambda b: b.epsilon), max(bounds, key=lambda b: b.epsilon)
    if low.epsilon == high.epsilon:
        return
    allowed = low.error + high.error + TOLERANCE * low.epsilon
    if not high.epsilon - low.epsilon <= allowed:
        says = f"{low.name} says ε ≤ {low.epsilon:.6g}, {high.name} says ε ≤ {high.epsilon:.6g}"
        raise AccountingError(f"the accountants disagree beyond the {allowed:.4g} of their stated errors: {says}")


def _curve(ledger: Ledger, delta: float, final: float) -> tuple[Point, ...]:
    """ε after up to 20 step counts, evenly spread; the last is the number that counts."""
    mechanisms = tuple(event for event in ledger.events if isinstance(event, SampledGaussian))
    total = sum(mechanism.steps for mechanism in mechanisms)
    counts = sorted({max(1, round(total * k / _POINTS)) for k in range(1, _POINTS)} - {total})
    width = COARSE * widening(mechanisms)
    found = [epsilon_of(first_steps(mechanisms, count), delta, width) for count in counts]
    # Part of a training never costs more than all of it, so the finer bound of all of it holds for each part.
    points = [Point(count, min(epsilon, final)) for count, epsilon in zip(counts, found, strict=True)]
    return (*points, Point(total, final))


def epsilon_so_far(planned: SampledGaussian, steps: int, delta: float) -> float:
    """A fast upper bound on ε after so many steps of a training, for a progress bar.

    Raises:
        AccountingError: It could not be computed.
    """
    taken = Ledger(events=(dataclasses.replace(planned, steps=steps),), records=1, data="", model="")
    return bound("pld", taken, delta, COARSE, lambda mechanisms, width: epsilon_of(mechanisms, delta, width)).epsilon


def first_steps(mechanisms: tuple[SampledGaussian, ...], count: int) -> tuple[SampledGaussian, ...]:
    """What had happened after the first `count` steps."""
    taken: list[SampledGaussian] = []
    for mechanism in mechanisms:
        if count <= 0:
            break
        taken.append(dataclasses.replace(mechanism, steps=min(mechanism.steps, count)))
        count -= mechanism.steps
    return tuple(taken)
