"""How well each record's membership could be told: the vulnerable tail that an average hides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity
from ...observation import Goal, Separation

if TYPE_CHECKING:
    from ...ledger import Account
    from ...observation import Observation

#: With fewer models, or fewer on either side of a record, chance is all that its separation shows.
_FEWEST_MODELS, _FEWEST_A_SIDE = 16, 4


@dataclass(frozen=True, slots=True)
class RecordRisk:
    """Quantile over training records of the advantage with which each one's membership could be told.

    A record's advantage is 2Φ(|d|/2) - 1, d how far apart models trained with and without it answer on it, in standard
    deviations of one model. That of a few models is mostly their chance: the quantile is that of the separations whose
    sum with this chance gives what was found.

    Attributes:
        quantile: Which record, in (0, 1): 0.99 is the one that only 1 % of the training records exceed.
    """

    quantile: float = 0.99

    reads: ClassVar[Reads] = Reads.MEMBERSHIP
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.RISK})
    higher_is_safer: ClassVar[bool] = False
    suffix: ClassVar[str] = ""
    source: ClassVar[str] = "Carlini et al. 2022, arXiv 2112.03570, sec. VI; Ignatiadis & Wager 2022, arXiv 1902.02774"

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"expected 0 < quantile={self.quantile} < 1")

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The quantile over the members, the models' noise taken out.

        Raises:
            TypeError: It is no observation of separations.
        """
        from ...statistics import record_risk, separations

        if not isinstance(observation, Separation):
            raise TypeError(f"expected an observation of separations, found {type(observation).__name__}")
        n, models = int(observation.members.sum()), len(observation.signals)
        details = (Quantity("models", models), Quantity("models needed", _FEWEST_MODELS))
        if not _usable(observation):
            return Measurement(math.nan, math.nan, math.nan, 1 - alpha, n, Basis.ATTACKED, details)
        apart = separations(observation.signals, observation.inside, observation.groups)
        found = record_risk(apart.found[observation.members], apart.noise, self.quantile, alpha)
        return Measurement(found.value, found.low, found.high, 1 - alpha, n, Basis.ATTACKED, details)

    def no_leak(self) -> float:
        """0: with a record or without it, models answer alike."""
        return 0.0

    def worst(self) -> float:
        """1: the record is told for certain."""
        return 1.0


def _usable(seen: Separation) -> bool:
    """Whether there are models enough on either side of every record, members, and no signal that is no number."""
    import numpy as np

    with_it, models = seen.inside.sum(axis=0), len(seen.signals)
    enough = models >= _FEWEST_MODELS and int(seen.members.sum()) >= 2
    if not enough or not np.isfinite(seen.signals).all():
        return False
    return bool(min(with_it.min(), (models - with_it).min()) >= _FEWEST_A_SIDE)
