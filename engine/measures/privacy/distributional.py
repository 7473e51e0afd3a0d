"""What the ledger leaves possible to be learnt of the people as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ...ledger import Unit
from ...measure import Reads
from ...measurement import Measurement, Quantity
from ...observation import Goal
from ._proof import Terms, account_of, ledger_of, proof_of

if TYPE_CHECKING:
    from ...bounds import TradeOff
    from ...ledger import Account
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Distributional:
    """How much better than guessing any adversary could tell which of two populations was trained on.

    The bound for n records that may all differ: differential privacy protects one record, and says next to nothing of
    what all records have in common. Where it reaches 1 it says nothing, and the details say so.

    Attributes:
        over: How many records may differ: `record` (one), `person` (the most records of one person) or `all`.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody else's.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Wang, Zhang & Jia 2020, arXiv 2009.05241, in the form tanh(nε/2) (1 + 2δ/(e^ε - 1))"

    over: Literal["record", "person", "all"] = "all"
    basis: Literal["proved", "declared"] = "proved"

    def __post_init__(self) -> None:
        if self.over not in ("record", "person", "all"):
            raise ValueError(f"unknown over '{self.over}', expected record, person or all")
        self._terms()

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The bound by the best point of the curve, and in the details for each number of records; without `alpha`.

        Raises:
            NotMeasurable: There is no ledger that this requirement accepts.
            AccountingError: An accountant failed, or they disagree about the ledger.
        """
        from ...bounds import TradeOff

        # Of single records: groups of them are counted by the bound itself.
        ledger = replace(ledger_of(account_of(observation), self._terms()), unit=Unit.RECORD)
        sizes = {"record": 1, "person": ledger.largest_group, "all": ledger.records}
        found = proof_of(ledger, self.no_leak(), lambda curve: curve.distributional(sizes[self.over]))
        curve = TradeOff.of_ledger(ledger)
        details = [_said(curve, over, n) for over, n in sizes.items()]
        return replace(found, low=min(found.low, found.value), details=(*found.details, *details))

    def _terms(self) -> Terms:
        """A ledger that does not count persons has no number for them."""
        return Terms("person" if self.over == "person" else "record", "add-or-remove-one", self.basis)

    def no_leak(self) -> float:
        """0: nobody can tell."""
        return 0.0

    def worst(self) -> float:
        """1: whatever the population, it shows."""
        return 1.0


def _said(curve: TradeOff, over: str, n: int) -> Quantity:
    """The bound for so many records, and whether it says anything."""
    found = curve.distributional(n)
    words = {"record": "one record", "person": f"the {n} records of one person", "all": f"all {n} records"}[over]
    return Quantity(f"bound for {words}{' (vacuous)' if found >= 1 else ''}", found)
