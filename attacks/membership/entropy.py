"""The entropy attack: the answer on a training record is less spread over the classes."""

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


@dataclass(frozen=True, slots=True)
class Entropy:
    """Scores a record by the negative Shannon entropy of the model's answer, whatever its label.

    The score is the sum of p log p in nats, with 0 log 0 = 0.
    """

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the record",),
        goal=Goal.MEMBERSHIP,
    )
    source: ClassVar[str] = "Salem et al. 2019, arXiv 1806.01246, adversary 3"

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate."""
        return targets

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The negative entropy of each answer. Returns: `(n,)`, at most 0; NaN where the model answers NaN."""
        import numpy as np

        from .._shares import ask

        answer = ask(target, candidates)
        progress(1.0)
        return np.asarray((answer.p * answer.log_p).sum(axis=1))
