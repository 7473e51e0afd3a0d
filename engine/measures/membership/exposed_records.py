"""Members that an adversary can name and be right about."""

from __future__ import annotations

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
class ExposedRecords:
    """Share of training records that an adversary names while being right with a given precision.

    He chooses the threshold: it is chosen on one half of the records and judged on the other. Of those that he names,
    prior TPR / (prior TPR + (1 - prior) FPR) are members.

    Attributes:
        precision: How often he must be right, in (prior, 1).
        prior: The share of members among the records that he asks about, in (0, 1).
    """

    precision: float = 0.9
    prior: float = 0.5

    reads: ClassVar[Reads] = Reads.MEMBERSHIP
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.MEMBERSHIP})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Jayaraman et al. 2021, arXiv 2005.10881, sec. 3; Carlini et al. 2022, arXiv 2112.03570"

    def __post_init__(self) -> None:
        if not 0 < self.prior < 1:
            raise ValueError(f"expected 0 < prior={self.prior} < 1")
        if not self.prior < self.precision < 1:
            raise ValueError(f"expected prior={self.prior} < precision={self.precision} < 1")

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The share of members named by the surest rule, with what it did on others."""
        from ...statistics import exposed

        seen = membership(observation)
        nothing = unusable(seen, alpha)
        if nothing:
            return nothing
        odds = self.precision * (1 - self.prior) / ((1 - self.precision) * self.prior)
        best = exposed(seen.scores, seen.members, seen.groups, odds, alpha, seen.persons)
        found, hits, false = best.interval, best.rates.true_positives, best.rates.false_positives
        details = (
            Quantity("members named", hits.k),
            Quantity("members", hits.n),
            Quantity("others named", false.k),
            Quantity("others", false.n),
            *persons_of(seen),
        )
        n = hits.n + false.n
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.ATTACKED, details)

    def no_leak(self) -> float:
        """0: nobody can be named with more than the prior's precision."""
        return 0.0

    def worst(self) -> float:
        """1: every member is named."""
        return 1.0
