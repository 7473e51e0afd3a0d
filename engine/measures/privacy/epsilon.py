"""Privacy loss of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...errors import NotMeasurable
from ...ledger import Account
from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity, undetermined
from ...observation import Goal

if TYPE_CHECKING:
    from ...ledger import Claim, Ledger
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Epsilon:
    """How much one record can change what training gives away: ε at this δ, one record added or removed.

    Attributes:
        delta: Probability with which ε may be exceeded; below one over the number of records.
        unit: Whose privacy is counted.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody's claim.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = (
        "Doroshenko et al. 2022, arXiv 2207.04380; Gopi et al. 2021, arXiv 2106.02848; the larger counts"
    )

    delta: float
    unit: Literal["record"] = "record"
    basis: Literal["proved", "declared"] = "proved"

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"expected 0 < delta={self.delta} < 1")
        if self.unit != "record":
            raise ValueError(f"unit '{self.unit}' cannot be accounted for, expected record")
        if self.basis not in ("proved", "declared"):
            raise ValueError(f"unknown basis '{self.basis}', expected proved or declared")

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The larger of the accountants' upper bounds; `alpha` is not spent, a proof holds always.

        The interval reaches down to where the smaller bound's stated error ends: only a limit below that is
        violated for sure. A ledger counts before a claim.

        Raises:
            NotMeasurable: There is no ledger (or claim) that this requirement accepts.
            AccountingError: An accountant failed, or they disagree.
        """
        if not isinstance(observation, Account):
            raise TypeError(f"expected an account, found {type(observation).__name__}")
        ledger, claim = observation.ledger, observation.claim
        if ledger is not None and ledger.proves:
            return self._accounted(ledger, Basis.PROVED)
        if self.basis == "proved":
            raise NotMeasurable(_missing(ledger, claim))
        if ledger is not None:
            return self._accounted(ledger, Basis.DECLARED)
        if claim is None:
            raise NotMeasurable(_missing(ledger, claim))
        return self._claimed(claim)

    def _accounted(self, ledger: Ledger, basis: Basis) -> Measurement:
        """What the accountants say of a ledger."""
        from ...accountants import account

        if self.delta * ledger.records >= 1:
            raise NotMeasurable(
                f"δ = {self.delta:g} is not below 1/{ledger.records}: publishing one of the {ledger.records} records "
                f"at random would satisfy any ε; ask for delta: {0.01 / ledger.records:.1g} or less"
            )
        found = account(ledger, self.delta, curve=False)
        details = (*(Quantity(f"ε by {b.name}", b.epsilon) for b in found.bounds), Quantity("δ", self.delta))
        return Measurement(found.epsilon, found.low, found.epsilon, 1.0, ledger.records, basis, details)

    def _claimed(self, claim: Claim) -> Measurement:
        """What somebody says; a claim at a larger δ says nothing about this one."""
        if claim.delta > self.delta or not math.isfinite(claim.epsilon):
            return undetermined(1.0, 0, Basis.DECLARED)
        details = (Quantity("δ of the claim", claim.delta),)
        return Measurement(claim.epsilon, claim.epsilon, claim.epsilon, 1.0, 0, Basis.DECLARED, details)

    def no_leak(self) -> float:
        """0: nothing that training gives away depends on any one record."""
        return 0.0

    def worst(self) -> float:
        """Infinite: training without a mechanism has no bound."""
        return math.inf


def _missing(ledger: Ledger | None, claim: Claim | None) -> str:
    """Why nothing can be said, and what to do."""
    way = "train with `midguard train` and name its ledger in model.yaml (spec.ledger)"
    if ledger is not None:
        writer = f"'{ledger.written_by}'" if ledger.written_by else "nobody named"
        return f"the ledger was written by {writer}, not by midguard, and proves nothing: {way}"
    if claim is not None:
        return f"there is only a claim (ε = {claim.epsilon:g}), and this requirement asks for a proof: {way}"
    return f"there is no ledger of the training: {way}"
