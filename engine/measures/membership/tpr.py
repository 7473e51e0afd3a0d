"""True positive rate at a false positive rate."""

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
class Tpr:
    """Share of training records that an adversary names while accusing at most a given share of others.

    Attributes:
        fpr: The share of others that may be accused wrongly, in (0, 1).
    """

    fpr: float = 0.001

    reads: ClassVar[Reads] = Reads.MEMBERSHIP
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.MEMBERSHIP})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Carlini et al. 2022, arXiv 2112.03570, sec. IV"

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise ValueError(f"expected 0 < fpr={self.fpr} < 1")

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """TPR at this FPR, with the realised FPR and the counts behind it."""
        from ...statistics import nonmembers_needed, tpr_at_fpr

        seen = membership(observation)
        nothing = unusable(seen, alpha)
        if nothing:
            return nothing
        found = tpr_at_fpr(seen.scores, seen.members, self.fpr, alpha, seen.persons)
        details = (
            Quantity("realised FPR", found.realised.share),
            Quantity("false positives", found.realised.k),
            Quantity("nonmembers", found.realised.n),
            Quantity("members found", found.hits.k),
            Quantity("members", found.hits.n),
            Quantity("smallest FPR these records can decide", found.smallest_fpr),
            Quantity("nonmembers needed at this FPR", nonmembers_needed(self.fpr)),
            Quantity("smallest TPR these records could show", found.smallest),
            *persons_of(seen),
        )
        n = found.realised.n + found.hits.n
        return Measurement(found.tpr.value, found.tpr.low, found.tpr.high, 1 - alpha, n, Basis.ATTACKED, details)

    def proved(self, ledger: Ledger) -> Measurement:
        """What the ledger's whole curve leaves possible to any attack on one of its units."""
        from ..privacy._proof import proof_of

        return proof_of(ledger, self.no_leak(), lambda curve: curve.at(self.fpr))

    def no_leak(self) -> float:
        """The FPR itself: as many members as others are accused."""
        return self.fpr

    def worst(self) -> float:
        """1: every member is named."""
        return 1.0
