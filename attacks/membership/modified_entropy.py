"""The modified entropy attack: the entropy attack that also knows the recorded label."""

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
class ModifiedEntropy:
    """Scores a record by an entropy that is small only where the model is sure and right.

    Mentr(p, y) = -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i), in nats; the score is its negative. It is
    held against one threshold; the paper also chooses one for each class.
    """

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
    )
    source: ClassVar[str] = "Song & Mittal 2021, arXiv 2003.10595, equation 8"

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate."""
        return targets

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The negative modified entropy of each answer. Returns: `(n,)`, at most 0; NaN where the model answers NaN."""
        import numpy as np

        from .._shares import ask, at_label

        answer = ask(target, candidates)
        own = np.exp(at_label(answer.log_rest, candidates.y)) * at_label(answer.log_p, candidates.y)
        is_own = np.arange(answer.p.shape[1]) == candidates.y[:, None]
        others = np.where(is_own, 0.0, answer.p * answer.log_rest)
        in_one_order = np.sort(others, axis=1)  # so that equal answers get equal scores, to the last bit
        progress(1.0)
        return np.asarray(own + in_one_order.sum(axis=1))
