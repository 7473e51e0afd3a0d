"""The separation of a record: what models trained with it and without it answer on it."""

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
class Separation:
    """Collects how sure each reference model is of each record, from which each record's own risk is read.

    The subject itself is not asked: the risk is that of the way it was trained.

    Attributes:
        references: How many of the reference models are asked at most.
    """

    references: int = 32

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("the record", "its recorded label", "how the model was trained"),
        goal=Goal.RISK,
        references=True,
    )
    source: ClassVar[str] = "Carlini et al. 2022, arXiv 2112.03570, sections V-C and VI"

    def __post_init__(self) -> None:
        if self.references < 1:
            raise ValueError(f"expected references={self.references} >= 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate, to each reference model; none to the subject."""
        return targets

    def signals(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The log odds of each recorded label.

        Returns:
            `(k, n)`; NaN where a reference answers NaN.

        Raises:
            NotMeasurable: There is no reference model.
        """
        from ._signals import reference_signals

        return reference_signals(target, candidates, self.references, progress)
