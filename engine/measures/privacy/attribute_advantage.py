"""Attribute inference that the ledger leaves possible."""

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
class AttributeAdvantage:
    """How much more often any adversary could guess a record's hidden value than without that record.

    Success is at most 1 - f(baseline), for every attribute and every adversary; never more than δ(0) is gained.

    Attributes:
        baseline: How often the best guess is right without the record, in (0, 1): one over the number of values, or
            the share of the most frequent one.
        unit: Whose privacy is counted; a person is all records of one person together.
        adjacency: Which data sets count as neighbours.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody else's.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Kulynych et al. 2025, arXiv 2507.06969"

    baseline: float
    unit: Literal["record", "person"] = "record"
    adjacency: Literal["add-or-remove-one", "replace-one"] = "add-or-remove-one"
    basis: Literal["proved", "declared"] = "proved"

    def __post_init__(self) -> None:
        if not 0 < self.baseline < 1:
            raise ValueError(f"expected 0 < baseline={self.baseline} < 1")
        Terms(self.unit, self.adjacency, self.basis)

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The largest gain of any attack over its baseline, by proof; `alpha` is not spent, a proof holds always.

        Raises:
            NotMeasurable: There is no ledger that this requirement accepts.
            AccountingError: An accountant failed, or they disagree about the ledger.
        """
        terms = Terms(self.unit, self.adjacency, self.basis)
        return bounded(observation, terms, self.no_leak(), lambda curve: curve.success(self.baseline) - self.baseline)

    def no_leak(self) -> float:
        """0: the record adds nothing to a guess."""
        return 0.0

    def worst(self) -> float:
        """1 less the baseline: every guess is right."""
        return 1 - self.baseline
