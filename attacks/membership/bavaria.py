"""BaVarIA: the likelihood-ratio attack whose few references borrow from those of all other records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ._compared import Compared

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target
    from ._signals import Signals


@dataclass(frozen=True, slots=True)
class Bavaria(Compared):
    """Scores a record by a likelihood ratio that borrows means and variances from all other records.

    A record's variances have an inverse-gamma prior, its means a Gaussian one over both sides at once; every number of
    both comes from all records by moment matching, so that nothing is to be set. The predictive with and without the
    record is Student's t. With many references it goes over into `lira` with a variance for each record. Where no
    reference at all was trained on any record (or every one on all), the score is one-sided, as LiRA's offline.

    Attributes:
        references: How many of the reference models are compared with at most.
        views: How many views of each record are asked about: an image shifted by a pixel and mirrored (up to 18), any
            other record with a little noise.
        label_views: How many where the release shows nothing but the label, if that is more; noisy for images too.
    """

    source: ClassVar[str] = "Brännvall 2026, arXiv 2603.11799; the joint prior of both means is our own"

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The logarithm of the ratio of the two predictive densities.

        Returns:
            `(n,)`; NaN where the subject, or every reference, answers NaN.

        Raises:
            NotMeasurable: There is no reference model.
        """
        from ._signals import mean_score

        return mean_score(self, self.compare, target, candidates, seed, progress)

    def compare(self, signals: Signals) -> NDArray[float64]:
        """The score of one view. Returns: `(n,)`."""
        import numpy as np

        from ._moments import Sides
        from ._shrinkage import predictives, shrunken

        sides = Sides.of(signals)
        if signals.inside.any() and signals.outside.any():
            inside, outside = predictives(sides)
            scores = inside.log_density(signals.subject) - outside.log_density(signals.subject)
        else:
            only = shrunken(sides)
            scores = (signals.subject - only.middle) / only.scale
        return np.where((signals.inside | signals.outside).any(axis=0), scores, np.nan)
