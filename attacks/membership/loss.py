"""The loss attack: a record on which the model's loss is small looks like a training record."""

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
class Loss:
    """Scores a record by the log-probability that the model gives its recorded label.

    The score is the negative cross-entropy loss, so that any threshold on the loss is a threshold on the score.
    """

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
    )
    source: ClassVar[str] = "Yeom et al. 2018, arXiv 1709.01604, adversary 2"

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate."""
        return targets

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The log-probability of each recorded label. Returns: `(n,)`, at most 0; NaN where the model answers NaN."""
        from .._shares import ask, at_label

        scores = at_label(ask(target, candidates).log_p, candidates.y)
        progress(1.0)
        return scores
