"""The population attack: where a record's answer stands among those on records the model never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import SCORES, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target

#: Share of the population, and least number of its records, from which the steepness of a tail is read.
_TAIL, _TAIL_RECORDS = 0.1, 5


@dataclass(frozen=True, slots=True)
class Population:
    """Scores a record by its p-value among records that the model never saw.

    The signal is the log-odds of the recorded label, the population the auxiliary records of the same class. The score
    is the logit of the share that lies below, ties by half, straight between two records of the population; beyond its
    last record it goes on as an exponential tail would, so that the surest candidates are not all tied.

    Attributes:
        enough: Auxiliary records from which on a class is a population of its own; a smaller one is held against all.
    """

    enough: int = 30

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
        auxiliary=True,
    )
    source: ClassVar[str] = "Ye et al. 2022, arXiv 2111.09679, attack P"

    def __post_init__(self) -> None:
        if self.enough < 1:
            raise ValueError(f"expected enough={self.enough} >= 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate and for each auxiliary record."""
        return targets + auxiliary

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The logit of each p-value's complement.

        Returns:
            `(n,)`; NaN where the model answers NaN, and throughout where it has no answer on any auxiliary record.

        Raises:
            AttackError: The adversary owns no records.
        """
        import numpy as np

        from ._log_odds import log_odds

        found = log_odds(target, candidates)
        progress(0.9)
        scores = _standing(found.candidates, found.owned)
        labels, counts = np.unique(found.auxiliary.y, return_counts=True)
        for label in labels[counts >= self.enough]:
            mine = candidates.y == label
            scores[mine] = _standing(found.candidates[mine], found.owned[found.auxiliary.y == label])
        progress(1.0)
        return scores


def _standing(values: NDArray[float64], population: NDArray[float64]) -> NDArray[float64]:
    """The logit of the share of a population that lies below each value. Returns: `(n,)`; NaN for NaN."""
    import numpy as np
    from scipy.special import logit

    if len(population) == 0:
        return np.full(len(values), np.nan)
    levels, counts = np.unique(population, return_counts=True)
    heights = logit((np.cumsum(counts) - counts / 2) / len(population))
    inside = np.interp(values, levels, heights)
    above = np.maximum(values - levels[-1], 0.0) / _tail(population)
    below = np.maximum(levels[0] - values, 0.0) / _tail(-population)
    return np.asarray(inside + above - below)


def _tail(population: NDArray[float64]) -> float:
    """By how much the largest values exceed the next one on average: the scale of an exponential tail; 1 if by none."""
    import numpy as np

    falling = -np.sort(-population)
    largest = min(max(int(_TAIL * len(falling)), _TAIL_RECORDS), len(falling) - 1)
    excess = float((falling[:largest] - falling[largest]).mean()) if largest else 0.0
    return excess if excess > 0 else 1.0
