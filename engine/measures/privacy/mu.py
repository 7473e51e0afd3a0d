"""The training as one Gaussian mechanism."""

from __future__ import annotations

import math
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
class Mu:
    """The smallest μ of a Gaussian mechanism that gives away at least as much as the training did.

    One number for the whole curve: told apart as well as a standard normal from one whose mean is μ.

    Attributes:
        fpr: Smallest FPR and FNR at which that holds, in (0, 0.5): the far tails of sampled Gaussians are heavier than
            those of any one Gaussian.
        unit: Whose privacy is counted; a person is all records of one person together.
        adjacency: Which data sets count as neighbours.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody else's.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Dong et al. 2019, arXiv 1905.02383, def. 2.6; Gomez et al. 2025, arXiv 2503.10945"

    fpr: float = 1e-10
    unit: Literal["record", "person"] = "record"
    adjacency: Literal["add-or-remove-one", "replace-one"] = "add-or-remove-one"
    basis: Literal["proved", "declared"] = "proved"

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 0.5:
            raise ValueError(f"expected 0 < fpr={self.fpr} < 0.5")
        Terms(self.unit, self.adjacency, self.basis)

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """That μ, by proof; `alpha` is not spent, a proof holds always.

        Raises:
            NotMeasurable: There is no ledger that this requirement accepts.
            AccountingError: An accountant failed, or they disagree about the ledger.
        """
        terms = Terms(self.unit, self.adjacency, self.basis)
        return bounded(observation, terms, self.no_leak(), lambda curve: curve.smallest_mu(self.fpr))

    def no_leak(self) -> float:
        """0: nothing is given away."""
        return 0.0

    def worst(self) -> float:
        """Infinite: training without a mechanism has no bound."""
        return math.inf
