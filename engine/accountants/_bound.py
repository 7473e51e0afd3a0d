"""What an accountant says, and the guard around it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..errors import AccountingError
from ..ledger import Ledger, SampledGaussian
from ._losses import widening


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on ε.

    Attributes:
        name: The accountant's.
        epsilon: Never below the true value; infinite where something happened without a mechanism.
        error: How far above the true value it may lie, as the accountant states it.
    """

    name: str
    epsilon: float
    error: float

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"expected epsilon={self.epsilon} >= 0")
        if not 0 <= self.error < math.inf:
            raise ValueError(f"expected a finite error={self.error} >= 0")


@runtime_checkable
class Accountant(Protocol):
    """Turns a ledger into an upper bound on ε under adding or removing one record."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound:
        """The bound at this δ.

        Raises:
            AccountingError: It could not be computed.
        """
        ...


def bound(
    name: str,
    ledger: Ledger,
    delta: float,
    error: float,
    epsilon: Callable[[tuple[SampledGaussian, ...], float], float],
) -> Bound:
    """What an accountant says of a ledger, whatever happens inside it: a bound or an error, never anything else.

    Args:
        name: The accountant's.
        ledger: What happened.
        delta: In (0, 1).
        error: The accountant's usual error.
        epsilon: Its computation from the mechanisms and the error that it may make.

    Raises:
        AccountingError: The computation failed, or gave something that is no bound.
    """
    if not 0 < delta < 1:
        raise AccountingError(f"{name}: expected 0 < delta={delta} < 1")
    mechanisms = tuple(event for event in ledger.events if isinstance(event, SampledGaussian))
    if len(mechanisms) < len(ledger.events):
        return Bound(name, math.inf, 0.0)
    try:
        with warnings.catch_warnings(action="ignore"):  # numeric warnings of the libraries; the result is checked below
            error *= widening(mechanisms)
            value = float(epsilon(mechanisms, error))
    except Exception as failure:
        raise AccountingError(f"{name}: no bound for this ledger ({type(failure).__name__}: {failure})") from failure
    if not 0 <= value < math.inf:
        raise AccountingError(f"{name}: no bound for this ledger, the computation gave {value}")
    return Bound(name, value, error)
