"""The confidence attack: a model is surer of what it was trained on."""

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
class Confidence:
    """Scores a record by the largest probability in the model's answer, whatever its label.

    The score is the logarithm of that probability, which keeps apart what would round to 1.
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
        """The log-probability of the likeliest class. Returns: `(n,)`, at most 0; NaN where the model answers NaN."""
        import numpy as np

        from .._shares import ask

        log_p = ask(target, candidates).log_p
        progress(1.0)
        return np.asarray(log_p.max(axis=1))
