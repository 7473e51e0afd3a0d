"""Membership advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity
from ...observation import Goal
from ._scores import membership, persons_of, unusable

if TYPE_CHECKING:
    from ...ledger import Account, Ledger
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Advantage:
    """How much better than guessing an adversary tells training records from others (TPR less FPR).

    The threshold is chosen on one half of the records and judged on the other, both ways round; the upper end holds for
    the best threshold there is.
    """

    reads: ClassVar[Reads] = Reads.MEMBERSHIP
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.MEMBERSHIP})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Yeom et al. 2018, arXiv 1709.01604, def. 4"

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The cross-fitted advantage with its interval."""
        from ...statistics import advantage

        seen = membership(observation)
        nothing = unusable(seen, alpha)
        if nothing:
            return nothing
        best = advantage(seen.scores, seen.members, seen.groups, alpha, seen.persons)
        found, rates = best.interval, best.rates
        details = (
            Quantity("TPR", rates.true_positives.share),
            Quantity("FPR", rates.false_positives.share),
            Quantity("smallest advantage these records could show", best.smallest),
            *persons_of(seen),
        )
        n = rates.true_positives.n + rates.false_positives.n
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.ATTACKED, details)

    def proved(self, ledger: Ledger) -> Measurement:
        """What the ledger's whole curve leaves possible to any attack on one of its units."""
        from ..privacy._proof import proof_of

        return proof_of(ledger, self.no_leak(), lambda curve: curve.advantage())

    def no_leak(self) -> float:
        """0: the adversary does no better than a coin."""
        return 0.0

    def worst(self) -> float:
        """1: every record is told apart."""
        return 1.0
