"""Area under the ROC of a membership attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...measure import Reads
from ...measurement import Basis, Measurement
from ...observation import Goal
from ._scores import membership, persons_of, unusable

if TYPE_CHECKING:
    from ...ledger import Account, Ledger
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Auc:
    """Probability that a training record looks more like one than another record does."""

    reads: ClassVar[Reads] = Reads.MEMBERSHIP
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.MEMBERSHIP})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Hanley & McNeil 1982; interval after DeLong et al. 1988 and Korn & Graubard 1998"

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The area with an interval that holds whatever the scores' distribution."""
        from ...statistics import auc

        seen = membership(observation)
        nothing = unusable(seen, alpha)
        if nothing:
            return nothing
        found = auc(seen.scores, seen.members, alpha, seen.persons)
        n, details = len(seen.scores), persons_of(seen)
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.ATTACKED, details)

    def proved(self, ledger: Ledger) -> Measurement:
        """What the ledger's whole curve leaves possible to any attack on one of its units."""
        from ..privacy._proof import proof_of

        return proof_of(ledger, self.no_leak(), lambda curve: curve.auc())

    def no_leak(self) -> float:
        """1/2: members and others look alike."""
        return 0.5

    def worst(self) -> float:
        """1: every member looks more like one than every other record."""
        return 1.0
