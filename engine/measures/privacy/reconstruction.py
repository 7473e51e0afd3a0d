"""Reconstruction that the ledger leaves possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ...errors import NotMeasurable
from ...measure import Reads
from ...measurement import Measurement, Quantity
from ...observation import Goal
from ._proof import Terms, account_of, bounded, ledger_of

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from ...ledger import Account
    from ...observation import Observation

#: The error that an estimate of κ may spend; it comes on top of the policy's.
ERROR = 1e-6
#: So many auxiliary records are tried as guesses, beside the mean of them.
_GUESSES = 200


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """How often any adversary could come as close to a training record as a lucky guess.

    Success is at most 1 - f(κ) against every adversary, where κ is how often the best guess succeeds without the
    record: stated, or estimated from the auxiliary records as the share of them within a distance of the best of 201
    guesses (their mean and 200 of them) that were chosen without looking at those.

    Attributes:
        kappa: κ, in (0, 1); or
        within: the mean squared error within which a reconstruction succeeds, > 0. One of the two.
        unit: Whose privacy is counted; a person is all records of one person together.
        adjacency: Which data sets count as neighbours.
        basis: `proved` from a ledger that midguard wrote; `declared` also accepts somebody else's.
    """

    reads: ClassVar[Reads] = Reads.ACCOUNT
    goals: ClassVar[frozenset[Goal]] = frozenset()
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Balle et al. 2022, arXiv 2201.04845, def. 2; Hayes et al. 2023, arXiv 2302.07225"

    kappa: float | None = None
    within: float | None = None
    unit: Literal["record", "person"] = "record"
    adjacency: Literal["add-or-remove-one", "replace-one"] = "add-or-remove-one"
    basis: Literal["proved", "declared"] = "proved"

    def __post_init__(self) -> None:
        if self.kappa is not None and self.within is not None:
            raise ValueError("a reconstruction bound needs kappa or within, not both")
        if self.kappa is not None and not 0 < self.kappa < 1:
            raise ValueError(f"expected 0 < kappa={self.kappa} < 1")
        if self.within is not None and not self.within > 0:
            raise ValueError(f"expected within={self.within} > 0")
        Terms(self.unit, self.adjacency, self.basis)

    def with_auxiliary(self, auxiliary: NDArray[float32] | None) -> Reconstruction:
        """The same bound with κ from records that the model was not trained on. Args: auxiliary `(n, ...)`.

        Raises:
            NotMeasurable: There are none, or too few to tell guesses from records.
        """
        if self.within is None:
            return self
        if auxiliary is None or len(auxiliary) < 2 * _FEWEST:
            raise NotMeasurable(
                f"κ is estimated from at least {2 * _FEWEST} auxiliary records: name spec.data.auxiliary"
            )
        return replace(self, kappa=_estimated(auxiliary, self.within), within=None)

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The highest rate of success, by proof; `alpha` is not spent, a proof holds always.

        Raises:
            NotMeasurable: There is no ledger that this requirement accepts, or κ is not known.
            AccountingError: An accountant failed, or they disagree about the ledger.
        """
        terms, kappa = Terms(self.unit, self.adjacency, self.basis), self.kappa
        if kappa is None:
            ledger_of(account_of(observation), terms)
            raise NotMeasurable("how often a guess succeeds without the record is not known: state kappa, or within")
        found = bounded(observation, terms, kappa, lambda curve: curve.success(kappa))
        return replace(found, details=(*found.details, Quantity("κ", kappa)))

    def no_leak(self) -> float:
        """κ: as often as without the record; 0 while that is to be estimated."""
        return self.kappa or 0.0

    def worst(self) -> float:
        """1: every record is reconstructed."""
        return 1.0


_FEWEST = 20


def _estimated(auxiliary: NDArray[float32], within: float) -> float:
    """κ's upper end: guesses from the first half of the records, held against the second."""
    import numpy as np

    from ...bounds import guess_rate

    flat = auxiliary.reshape(len(auxiliary), -1).astype(np.float64)
    known, unseen = flat[: len(flat) // 2], flat[len(flat) // 2 :]
    guesses = np.concatenate([known.mean(axis=0)[None], known[:_GUESSES]])
    squares = (guesses**2).sum(axis=1)[:, None] + (unseen**2).sum(axis=1) - 2 * guesses @ unseen.T
    return guess_rate(np.maximum(squares, 0.0) / flat.shape[1], within, ERROR)
