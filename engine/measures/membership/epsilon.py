"""The ε that an attack's operating points need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity
from ...observation import Goal
from ._scores import membership, persons_of, unusable

if TYPE_CHECKING:
    from ...ledger import Account
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class Epsilon:
    """Smallest ε that the attack's error rates leave possible, down to a false positive rate.

    No model with a smaller (ε, δ) guarantee could be attacked so well: the lower end refutes such a claim. The upper
    end is what this attack shows at error rates of `fpr` and more; rarer ones are counted as `fpr`. It is never a proof
    that the model keeps that ε: another attack, or a rarer error, may show more.

    Attributes:
        delta: The δ of the guarantee that is asked about, in [0, 1).
        fpr: The smallest error rate that counts, of members and of others alike, in (0, 1).
    """

    delta: float = 1e-5
    fpr: float = 0.01

    reads: ClassVar[Reads] = Reads.MEMBERSHIP
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.MEMBERSHIP})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Kairouz et al. 2015, arXiv 1311.0776, thm. 2.1; Nasr et al. 2021, arXiv 2101.04535"

    def __post_init__(self) -> None:
        if not 0 <= self.delta < 1:
            raise ValueError(f"expected 0 <= delta={self.delta} < 1")
        if not 0 < self.fpr < 1 - self.delta:
            raise ValueError(f"expected 0 < fpr={self.fpr} < 1 - delta")

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The largest log((TPR - δ) / FPR) of a rule or its complement, with the rates' own doubt."""
        from ...statistics import epsilon

        seen = membership(observation)
        nothing = unusable(seen, alpha)
        if nothing:
            return nothing
        found = epsilon(seen.scores, seen.members, self.delta, self.fpr, alpha, seen.persons)
        details = (Quantity("δ", self.delta), Quantity("smallest error rate counted", self.fpr), *persons_of(seen))
        n = len(seen.scores)
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.ATTACKED, details)

    def no_leak(self) -> float:
        """0: as many members as others are called members."""
        return 0.0

    def worst(self) -> float:
        """Every member is named at the smallest rate that counts."""
        return math.log((1 - self.delta) / self.fpr)
