"""What a measure is: a frozen dataclass that turns one raw observation into a value with an interval."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable

from .ledger import Account
from .measurement import Measurement
from .observation import Goal, Observation


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
