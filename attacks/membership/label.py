"""The gap attack: a model is right more often on what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import ANSWERS, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target


@dataclass(frozen=True, slots=True)
class Label:
    """Calls a record a member where the model's predicted label is the recorded one.

    Its advantage is the gap between training and test accuracy. Where several classes share the first place, the score
    is the recorded label's chance to be drawn from them: an answer that is the same for all classes tells nothing.
    """

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
    )
    source: ClassVar[str] = "Yeom et al. 2018, arXiv 1709.01604, adversary 1 with the 0-1 loss"

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate."""
        return targets

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """Whether each prediction is right. Returns: `(n,)`, in [0, 1]; NaN where the model answers NaN."""
        import numpy as np

        from .._shares import at_label

        answers = np.asarray(target.query(candidates.x), dtype=np.float64)
        first = (answers == answers.max(axis=1, keepdims=True)).astype(np.float64)
        first[~np.isfinite(answers).all(axis=1)] = np.nan
        progress(1.0)
        return at_label(first / first.sum(axis=1, keepdims=True), candidates.y)
