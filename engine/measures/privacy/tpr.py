"""True positive rate that the ledger leaves possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...measure import Reads
from ...observation import Goal
from ._proof import Terms, bounded

if TYPE_CHECKING:
    from ...ledger import Account
    from ...measurement import Measurement
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Tpr:
    """Share of training records that any adversary could name while accusing a given share of others.

    The smallest of δ(ε) + e^ε FPR over all ε, from the whole privacy loss distribution.

    Attributes:
        fpr: The share of others that may be accused wrongly, in (0, 1).
        unit: Whose privacy is counted; a person is all records of one person together.
        adjacency: Which data sets count as neighbours.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody else's.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Dong et al. 2019, arXiv 1905.02383, prop. 2.12"

    fpr: float = 0.001
    unit: Literal["record", "person"] = "record"
    adjacency: Literal["add-or-remove-one", "replace-one"] = "add-or-remove-one"
    basis: Literal["proved", "declared"] = "proved"

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise ValueError(f"expected 0 < fpr={self.fpr} < 1")
        Terms(self.unit, self.adjacency, self.basis)

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The highest TPR of any attack at this FPR, by proof; `alpha` is not spent, a proof holds always.

        Raises:
            NotMeasurable: There is no ledger that this requirement accepts.
            AccountingError: An accountant failed, or they disagree about the ledger.
        """
        terms = Terms(self.unit, self.adjacency, self.basis)
        return bounded(observation, terms, self.no_leak(), lambda curve: curve.at(self.fpr))

    def no_leak(self) -> float:
        """The FPR itself: as many members as others are accused."""
        return self.fpr

    def worst(self) -> float:
        """1: every member is named."""
        return 1.0
