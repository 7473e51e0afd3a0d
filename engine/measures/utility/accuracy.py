"""Accuracy of the released model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...measure import Reads
from ...measurement import Basis, Measurement, undetermined
from ...observation import NO_ANSWER, Goal, Predictions

if TYPE_CHECKING:
    from ...ledger import Account
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of records it never saw that the model puts into their recorded class."""

    reads: ClassVar[Reads] = Reads.PREDICTIONS
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = True
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "interval by Clopper & Pearson 1934"

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The share with its exact interval."""
        from ...statistics import Count, proportion

        if not isinstance(observation, Predictions):
            raise TypeError(f"expected predictions, found {type(observation).__name__}")
        n = len(observation.labels)
        if n == 0 or (observation.predicted == NO_ANSWER).any():
            return undetermined(1 - alpha, n, Basis.OBSERVED)
        found = proportion(Count(int((observation.labels == observation.predicted).sum()), n), alpha)
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.OBSERVED)

    def no_leak(self) -> float:
        """Not a leak: no control applies."""
        return math.inf

    def worst(self) -> float:
        """0: every record is put into a wrong class."""
        return 0.0
