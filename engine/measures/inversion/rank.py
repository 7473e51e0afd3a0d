"""Share of targets that their reconstruction is nearest to."""

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
class Rank:
    """Share of targets that are singled out: their reconstruction is nearer to them than to any other.

    For classes the others are the other classes (by their nearest training record), for records the other victims. How
    often the same happens to reconstructions that cannot carry the target (of models that never saw the class; of
    another record of the class) is measured and subtracted.
    """

    reads: ClassVar[Reads] = Reads.INVERSION
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.CLASS, Goal.RECORD, Goal.UPDATE})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "after the line-up test of Fredrikson et al. 2015"

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The share of rank 1 less its own false positives."""
        import numpy as np

        from ...statistics import Count, difference

        seen = reconstruction(observation)
        n = len(seen.targets)
        if seen.rank is None or seen.false_rank is None or n < 2 or not len(seen.false_rank):
            return undetermined(1 - alpha, n, Basis.ATTACKED)
        hits = Count(int((seen.rank == 1).sum()), n)
        false = Count(int((seen.false_rank == 1).sum()), len(seen.false_rank))
        found = difference(hits, false, alpha)
        details = (
            Quantity("nearest to their target", hits.share),
            Quantity("nearest where nothing can tell the target", false.share),
            Quantity("median rank", float(np.median(seen.rank))),
        )
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.ATTACKED, details)

    def no_leak(self) -> float:
        """0: nobody is singled out more often than by chance."""
        return 0.0

    def worst(self) -> float:
        """1: everybody is singled out, and nobody by mistake."""
        return 1.0
