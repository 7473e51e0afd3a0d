"""The reference attack: is the model surer of the record than models that never saw it?"""

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


#: Silverman's width of a kernel over m values, in standard deviations times m^(-1/5).
_SILVERMAN = 1.06


@dataclass(frozen=True, slots=True)
class AttackR(Compared):
    """Scores a record by the share of models without it that are less sure of it than the subject.

    The share would have as many values as there are references and one more; each reference is therefore smeared by a
    Gaussian kernel (Silverman's width from the pooled residual variance), which gives the same share where the subject
    is far from all references and a graded one where it is not. The score is the share's log odds, which keeps apart
    what would round to 1. A record that every reference was trained on is compared with those, moved by the gap.

    Attributes:
        references: How many of the reference models are compared with at most.
        views: How many views of each record are asked about: an image shifted by a pixel and mirrored (up to 18), any
            other record with a little noise.
        label_views: How many where the release shows nothing but the label, if that is more; noisy for images too.
    """

    source: ClassVar[str] = "Ye et al. 2022, arXiv 2111.09679, attack R"

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The log odds of the smoothed share.

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
        from scipy.stats import norm

        from ._moments import Sides

        sides = Sides.of(signals)
        without = sides.outside.count > 0
        mask = np.where(without, signals.outside, signals.inside)
        compared = np.where(without, signals.references, signals.references - sides.gap())
        width = _SILVERMAN * sides.variances()[1] ** 0.5 * np.maximum(mask.sum(axis=0), 1) ** -0.2
        steps = np.where(mask, (signals.subject - compared) / width, np.nan)
        return _log_sum(norm.logcdf(steps)) - _log_sum(norm.logsf(steps))


def _log_sum(logs: NDArray[float64]) -> NDArray[float64]:
    """Logarithm of the sum of each column's exponentials without the NaN; NaN where there is nothing else."""
    import numpy as np
    from scipy.special import logsumexp

    known = ~np.isnan(logs)
    total = logsumexp(np.where(known, logs, -np.inf), axis=0)
    return np.where(known.any(axis=0), total, np.nan)
