"""Privacy loss of everything that was released on the same data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ...budget import composed
from ...errors import NotMeasurable
from ...ledger import Account
from ...measure import Reads
from ...measurement import Measurement, Quantity
from ...observation import Goal
from ._proof import account_of
from .epsilon import Epsilon

if TYPE_CHECKING:
    from ...ledger import Ledger
    from ...observation import Observation


@dataclass(frozen=True, slots=True)
class CumulativeEpsilon:
    """How much one record can change what all releases on its data set give away together: ε at this δ.

    The releases are those that a budget store holds on the same data, this one among them; a training that has not
    ended counts with all that it may do. The same data are records with the same digest, or data sets that were
    declared under one name: other sets that share records with these, and were not declared so, are not seen.

    Attributes:
        delta: Probability with which ε may be exceeded; below one over the number of records.
        unit: Whose privacy is counted; a person is all records of one person together.
        basis: `proved` from ledgers that midguard wrote; `declared` also accepts those of others.
        adjacency: Which data sets count as neighbours.
        delta_above_one_in_n: Accept a δ that publishing one of the records at random would satisfy.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = (
        "composition of privacy loss distributions: Sommer et al. 2019, eprint 2018/820, thm 1; accountants as for "
        "privacy.epsilon"
    )

    delta: float
    unit: Literal["record", "person"] = "record"
    basis: Literal["proved", "declared"] = "proved"
    adjacency: Literal["add-or-remove-one", "replace-one"] = "add-or-remove-one"
    delta_above_one_in_n: bool = False

    def __post_init__(self) -> None:
        self._of_all()

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The accountants' bound over all events of all releases; `alpha` is not spent, a proof holds always.

        Raises:
            NotMeasurable: No store was given, it does not hold this release, or one of the releases is accounted for
                by somebody whose word this requirement does not accept.
            AccountingError: An accountant failed, or they disagree.
        """
        releases = _releases(account_of(observation))
        found = self._of_all().measure(Account(composed(self._accepted(releases)), None), alpha)
        return replace(found, details=(*found.details, Quantity("releases on this data", len(releases))))

    def _of_all(self) -> Epsilon:
        """What one ledger of everything is measured by."""
        return Epsilon(self.delta, self.unit, self.basis, self.adjacency, self.delta_above_one_in_n)

    def _accepted(self, releases: tuple[Ledger, ...]) -> tuple[Ledger, ...]:
        """The releases whose ledgers decide."""
        proving = tuple(ledger for ledger in releases if ledger.proves)
        if self.basis == "declared" or len(proving) == len(releases):
            return releases
        if not all(ledger.private for ledger in proving):
            return proving  # no bound is left, whatever the others did
        raise NotMeasurable(
            f"{len(releases) - len(proving)} of the {len(releases)} ledgers of releases on this data were not written "
            "by midguard, and this requirement asks for a proof: train with `midguard train`, or write basis: declared"
        )

    def no_leak(self) -> float:
        """0: nothing that was released depends on any one record."""
        return 0.0

    def worst(self) -> float:
        """Infinite: a release without a mechanism leaves no bound."""
        return math.inf


def _releases(account: Account) -> tuple[Ledger, ...]:
    """Every release on the data, this one among them.

    Raises:
        NotMeasurable: It is not known which there are.
    """
    if account.releases is None:
        raise NotMeasurable("no budget of the data set was given: name its store with --budget")
    if account.ledger is None:
        raise NotMeasurable(
            "there is no ledger of the training: train with `midguard train --budget` and name its ledger in model.yaml"
        )
    if account.ledger not in account.releases:
        raise NotMeasurable(
            "the budget store does not hold this release, so it may not be the one in which releases on this data are "
            "written down: name that one, or add the release with `midguard budget add`"
        )
    return account.releases
