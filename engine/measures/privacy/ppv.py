"""Precision that the ledger leaves possible."""

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
class Ppv:
    """How sure any adversary could be of those whom he calls members (positive predictive value).

    Attributes:
        prior: The share of members among all whom he may call so, in (0, 1).
        fpr: The share of others that he accuses wrongly, in (0, 1).
        unit: Whose privacy is counted; a person is all records of one person together.
        adjacency: Which data sets count as neighbours.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody else's.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Bayes' rule over the highest TPR: Dong et al. 2019, arXiv 1905.02383, prop. 2.12"

    prior: float
    fpr: float = 0.01
    unit: Literal["record", "person"] = "record"
    adjacency: Literal["add-or-remove-one", "replace-one"] = "add-or-remove-one"
    basis: Literal["proved", "declared"] = "proved"

    def __post_init__(self) -> None:
        if not 0 < self.prior < 1:
            raise ValueError(f"expected 0 < prior={self.prior} < 1")
        if not 0 < self.fpr < 1:
            raise ValueError(f"expected 0 < fpr={self.fpr} < 1")
        Terms(self.unit, self.adjacency, self.basis)

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The largest precision of any attack at this FPR, by proof; `alpha` is not spent, a proof holds always.

        Raises:
            NotMeasurable: There is no ledger that this requirement accepts.
            AccountingError: An accountant failed, or they disagree about the ledger.
        """
        terms = Terms(self.unit, self.adjacency, self.basis)
        return bounded(observation, terms, self.no_leak(), lambda curve: curve.ppv(self.fpr, self.prior))

    def no_leak(self) -> float:
        """The prior itself."""
        return self.prior

    def worst(self) -> float:
        """1: whoever is called a member is one."""
        return 1.0
