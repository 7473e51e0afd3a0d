"""What an accountant says, and the guard around it."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..errors import AccountingError, NotMeasurable
from ..ledger import Ledger


@dataclass(frozen=True, slots=True)
class Bound:
    """An upper bound on ε.

    Attributes:
        name: The accountant's.
        epsilon: Never below the true value; infinite where something happened without a mechanism.
        error: How far above the true value it may lie, as the accountant states it; 0 where it states none.
        one_sided: Whether it bounds ε from above alone: the true value may lie anywhere below.
    """

    name: str
    epsilon: float
    error: float
    one_sided: bool = False

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"expected epsilon={self.epsilon} >= 0")
        if not 0 <= self.error < math.inf:
            raise ValueError(f"expected a finite error={self.error} >= 0")


@runtime_checkable
class Accountant(Protocol):
    """Turns a ledger into an upper bound on ε, for the ledger's unit and adjacency."""

    def epsilon(self, ledger: Ledger, delta: float) -> Bound | None:
        """The bound at this δ; `None` where the accountant has no theory for what happened, never a guess.

        Raises:
            AccountingError: It could not be computed.
            NotMeasurable: No accountant has a theory for it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a computation gave; as in `Bound`."""

    epsilon: float
    error: float
    one_sided: bool = False


def bound(name: str, ledger: Ledger, delta: float, compute: Callable[[], Estimate]) -> Bound:
    """What an accountant says of a ledger, whatever happens inside it: a bound or an error, never anything else.

    Args:
        name: The accountant's.
        ledger: What happened.
        delta: In (0, 1).
        compute: Its computation.

    Raises:
        AccountingError: The computation failed, or gave something that is no bound.
        NotMeasurable: No accountant has a theory for what happened.
    """
    if not 0 < delta < 1:
        raise AccountingError(f"{name}: expected 0 < delta={delta} < 1")
    if not ledger.private:
        return Bound(name, math.inf, 0.0)
    try:
        with _silence():
            found = compute()
            value = float(found.epsilon)
    except NotMeasurable:
        raise
    except Exception as failure:
        raise AccountingError(f"{name}: no bound for this ledger ({type(failure).__name__}: {failure})") from failure
    if not 0 <= value < math.inf:
        raise AccountingError(f"{name}: no bound for this ledger, the computation gave {value}")
    return Bound(name, value, found.error, found.one_sided)


@contextmanager
def _silence() -> Iterator[None]:
    """Without the numeric warnings of the libraries, on whichever way they come; what they compute is checked."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
