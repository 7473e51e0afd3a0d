"""A measurement: a value that carries its doubt, its basis and the number of records behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Basis(StrEnum):
    """What a value rests on."""

    PROVED = "proved"  # an accountant's bound over a ledger that midguard wrote
    ATTACKED = "attacked"  # an attack's outcome on this model
    OBSERVED = "observed"  # a plain evaluation on records, no adversary (docs/adr/0002)
    DECLARED = "declared"  # somebody's claim


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that belongs beside a measurement: a count, a realised rate."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value with its interval.

    Attributes:
        value: The point estimate; NaN where nothing could be estimated. Infinity is a value (no bound).
        low: Lower end of the interval, -inf where there is none.
        high: Upper end of the interval, +inf where there is none.
        confidence: Coverage of this one interval, after the family-wise error was split; 1 for a proof.
        records: How many records it rests on.
        basis: What it rests on.
        details: What else a reader needs to judge it (realised FPR, counts k and n, thresholds).
    """

    value: float
    low: float
    high: float
    confidence: float
    records: int
    basis: Basis
    details: tuple[Quantity, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.confidence <= 1:
            raise ValueError(f"expected 0 < confidence={self.confidence} <= 1")
        if self.records < 0:
            raise ValueError(f"expected records={self.records} >= 0")
        if self.low > self.value or self.value > self.high:
            raise ValueError(f"expected low <= value <= high, found {self.low}, {self.value}, {self.high}")

    @property
    def finite(self) -> bool:
        """Whether nothing of it is NaN (infinities are allowed)."""
        return not any(math.isnan(v) for v in (self.value, self.low, self.high))


def undetermined(confidence: float, records: int, basis: Basis) -> Measurement:
    """A measurement that says nothing: NaN in every place, so that it can neither pass nor fail."""
    return Measurement(math.nan, math.nan, math.nan, confidence, records, basis)
