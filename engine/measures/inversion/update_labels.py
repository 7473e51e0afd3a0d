"""Share of an update's classes that are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity, undetermined
from ...observation import Goal
from ._outcome import reconstruction

if TYPE_CHECKING:
    from ...ledger import Account
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class UpdateLabels:
    """Share of the last update's records whose class is told, over what is told without the model.

    The attack names as many classes as the update has records, by the shares that it tells; a record counts whose class
    is among them, each as often as it was named. Without the model the shares are those of the adversary's own records.
    """

    reads: ClassVar[Reads] = Reads.INVERSION
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.UPDATE})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Salem et al. 2020, arXiv 1904.01067 (label inference, label distribution estimation)"

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The share that is told less the share that is told without the model."""
        from ...statistics import Count, difference

        seen = reconstruction(observation)
        n = len(seen.targets)
        if seen.told is None or seen.told_without is None or not n:
            return undetermined(1 - alpha, n, Basis.ATTACKED)
        told, without = (Count(int(each.sum()), n) for each in (seen.told, seen.told_without))
        found = difference(told, without, alpha)
        details = (
            Quantity("classes told", told.share),
            Quantity("classes told without the model", without.share),
        )
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.ATTACKED, details)

    def no_leak(self) -> float:
        """0: no more is told than without the model."""
        return 0.0

    def worst(self) -> float:
        """1: every class is told, and none without the model."""
        return 1.0
