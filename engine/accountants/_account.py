"""The account: every accountant's bound over one ledger, and whether they agree."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache

from ..errors import AccountingError
from ..ledger import Ledger, SampledGaussian
from ..registry import load, names
from ._bound import Accountant, Bound, Estimate, bound
from ._losses import COARSE, epsilon_of, width
from ._pairs import Steps, steps_of

#: Two bounds may differ by their stated errors and by this share of the smaller one: each rounds its grid upwards.
TOLERANCE = 0.02
#: The number of record may lie above a looser bound by its own error and by this share, for rounding.
_ROUNDING = 1e-3
#: Whose number counts: the first of these that accounts for the ledger (docs/adr/0010).
_OF_RECORD = ("pld", "rdp")
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
        bounds: What each accountant that can account for it says, the number of record first.
        curve: ε over the steps; empty where it has no bound.
    """

    delta: float
    bounds: tuple[Bound, ...]
    curve: tuple[Point, ...] = ()

    @property
    def record(self) -> Bound:
        """The bound that counts; the others had to agree with it."""
        return self.bounds[0]

    @property
    def epsilon(self) -> float:
        """The number of record."""
        return self.record.epsilon

    @property
    def low(self) -> float:
        """The true ε is not below this, by the accountants' stated errors; 0 where none states one."""
        return max(0.0, min((b.epsilon - b.error for b in self.bounds if not b.one_sided), default=0.0))


def account(ledger: Ledger, delta: float, curve: bool = True) -> Accounting:
    """What the ledger cost for its unit and adjacency, by every accountant that can account for it.

    Args:
        ledger: What happened.
        delta: In (0, 1).
        curve: Whether to add ε over the steps, for a figure.

    Raises:
        AccountingError: An accountant failed, or two of them disagree beyond their stated errors.
        NotMeasurable: No accountant has a theory for what happened.
    """
    accounting = Accounting(delta, _bounds(_bare(ledger), delta))
    points = _curve(ledger, delta, accounting.epsilon) if curve and math.isfinite(accounting.epsilon) else ()
    return dataclasses.replace(accounting, curve=points)


def _bare(ledger: Ledger) -> Ledger:
    """All of the ledger that an accountant reads, so that the same training is accounted for once."""
    records = ledger.largest_group
    return dataclasses.replace(ledger, records=records, data="", model="", written_by="", resumed=0)


@lru_cache(maxsize=256)
def _bounds(ledger: Ledger, delta: float) -> tuple[Bound, ...]:
    """Every accountant's bound, when they agree; the number of record first."""
    said = {name: _accountant(name).epsilon(ledger, delta) for name in names("accountants")}
    found = {name: one for name, one in said.items() if one is not None}
    if len(found) < 2:
        raise AccountingError("two independent accountants are needed, so that one can contradict the other")
    counts = next((name for name in _OF_RECORD if name in found), None)
    if counts is None:
        raise AccountingError(f"none of {', '.join(_OF_RECORD)} could account for it, and no other number counts")
    record = found.pop(counts)
    for other in found.values():
        _agree(record, other)
    return (record, *found.values())


def _accountant(name: str) -> Accountant:
    accountant: Accountant = load("accountants", name)()
    return accountant


def _agree(record: Bound, other: Bound) -> None:
    """Refuse two bounds of which one cannot be right if the other is."""
    if record.epsilon == other.epsilon:
        return
    low, high = sorted((record.epsilon, other.epsilon))
    if record.one_sided or other.one_sided:
        allowed, above = record.error + _ROUNDING * (1 + other.epsilon), record.epsilon - other.epsilon
    else:
        allowed, above = record.error + other.error + TOLERANCE * low, high - low
    if not above <= allowed:
        says = " and ".join(f"{b.name} says ε ≤ {b.epsilon:.6g}" for b in (record, other))
        raise AccountingError(f"the accountants disagree beyond the {allowed:.4g} of their stated errors: {says}")


def _curve(ledger: Ledger, delta: float, final: float) -> tuple[Point, ...]:
    """ε after up to 20 step counts, evenly spread; the last is the number that counts.

    Empty where the best of many runs was kept: nothing is known of what part of them cost.
    """
    mechanisms = tuple(event for event in ledger.events if isinstance(event, SampledGaussian))
    if len(mechanisms) < len(ledger.events):
        return ()
    total = sum(mechanism.steps for mechanism in mechanisms)
    counts = sorted({max(1, round(total * k / _POINTS)) for k in range(1, _POINTS)} - {total})
    found = [_fast(dataclasses.replace(ledger, events=first_steps(mechanisms, n)), delta) for n in counts]
    # Part of a training never costs more than all of it, so the finer bound of all of it holds for each part.
    points = [Point(count, min(epsilon, final)) for count, epsilon in zip(counts, found, strict=True)]
    return (*points, Point(total, final))


def _fast(ledger: Ledger, delta: float) -> float:
    """An upper bound ten times as fast as the number of record, and nearly as good."""
    steps = steps_of(ledger)
    if steps is None:
        raise AccountingError("there is no fast bound for the best of many runs")
    return bound("pld", ledger, delta, lambda: _coarse(steps, delta)).epsilon


def _coarse(steps: tuple[Steps, ...], delta: float) -> Estimate:
    interval = width(steps, COARSE)
    return Estimate(epsilon_of(steps, delta, interval), interval)


def epsilon_so_far(planned: SampledGaussian, steps: int, delta: float) -> float:
    """A fast upper bound on ε after so many steps of a training, for a progress bar.

    Raises:
        AccountingError: It could not be computed.
    """
    taken = Ledger(events=(dataclasses.replace(planned, steps=steps),), records=1, data="", model="")
    return _fast(taken, delta)


def first_steps(mechanisms: tuple[SampledGaussian, ...], count: int) -> tuple[SampledGaussian, ...]:
    """What had happened after the first `count` steps."""
    taken: list[SampledGaussian] = []
    for mechanism in mechanisms:
        if count <= 0:
            break
        taken.append(dataclasses.replace(mechanism, steps=min(mechanism.steps, count)))
        count -= mechanism.steps
    return tuple(taken)
