"""What a measure is: a frozen dataclass that turns one raw observation into a value with an interval."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from .ledger import Account, Ledger
from .measurement import Measurement
from .observation import Goal, Observation

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


class Reads(StrEnum):
    """What a measure is computed from; for the first two also the kind of attack that gives it."""

    MEMBERSHIP = "membership"
    INVERSION = "inversion"
    PREDICTIONS = "predictions"
    ACCOUNT = "account"


@runtime_checkable
class Measure(Protocol):
    """A measure; its fields are the parameters that a policy sets under `at`.

    Attributes:
        reads: What it is computed from.
        goals: Which goals of an attack it can judge (empty where no attack is read).
        higher_is_safer: Whether a policy bounds it from below (`min`) or from above (`max`).
        suffix: Printed behind the value, may be empty.
        source: Paper and equation.
    """

    reads: ClassVar[Reads]
    goals: ClassVar[frozenset[Goal]]
    higher_is_safer: ClassVar[bool]
    suffix: ClassVar[str]
    source: ClassVar[str]

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The value and its two-sided interval.

        Args:
            observation: Of the type that `reads` names.
            alpha: The error that this one interval may spend, both sides together.
        """
        ...

    def no_leak(self) -> float:
        """The value of a model that gives the adversary nothing: what a null control must be consistent with."""
        ...

    def worst(self) -> float:
        """The value that no model goes beyond: a limit there could not be violated, and is refused."""
        ...


@runtime_checkable
class Provable(Protocol):
    """A measure of attacks that a ledger can bound as well, for every attack there is."""

    def proved(self, ledger: Ledger) -> Measurement:
        """What no attack exceeds if the ledger is true, with the basis that the ledger has.

        Raises:
            NotMeasurable: No accountant has a theory for what happened.
            AccountingError: An accountant failed, or they disagree about the ledger.
        """
        ...


@runtime_checkable
class Informed(Protocol):
    """A measure of the account that needs records which the model was not trained on."""

    def with_auxiliary(self, auxiliary: NDArray[float32] | None) -> Measure:
        """The same measure, knowing them. Args: auxiliary: `(n, ...)`, `None` where there are none.

        Raises:
            NotMeasurable: It cannot do without, or there are too few.
        """
        ...
