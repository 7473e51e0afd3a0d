"""LiRA, the likelihood-ratio attack: does the answer look like those of models with the record, or without it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ._compared import Compared

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target
    from ._signals import Signals

#: From how many references on a record's own variance is better than that of all records.
_ENOUGH = 64
#: The least variance of a record, as a share of the pooled one: a few answers that agree do not prove that all do.
_LEAST_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Lira(Compared):
    """Scores a record by how much likelier its answer is from models trained with it than without it.

    Both likelihoods are Gaussian in phi = log p_y - log(1 - p_y), around the mean of the record's own references
    (equation 4). Offline, the score is the distance above the references without the record, in their standard
    deviations: one-sided, so that a surer model is never less suspicious. The views' scores are averaged. A record
    without references on one side takes the other side's mean, moved by the gap between the sides of all records.

    Attributes:
        references: How many of the reference models are compared with at most.
        online: Whether the models that were trained on the record are used too.
        variance: `pooled` is that of the residuals around each record's own mean, over all records; `per-record` each
            record's own; `auto` is pooled below 64 references.
        views: How many views of each record are asked about: an image shifted by a pixel and mirrored (up to 18), any
            other record with a little noise.
        label_views: How many where the release shows nothing but the label, if that is more; noisy for images too.
    """

    online: bool = True
    variance: Literal["auto", "pooled", "per-record"] = "auto"

    source: ClassVar[str] = "Carlini et al. 2022, arXiv 2112.03570, algorithm 1"

    def __post_init__(self) -> None:
        Compared.__post_init__(self)
        if self.variance not in ("auto", "pooled", "per-record"):
            raise ValueError(f"expected variance to be auto, pooled or per-record, found {self.variance}")

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The log-likelihood ratio (offline: the standard score) of each candidate.

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

        sides = Sides.of(signals)
        inside, outside = sides.means()
        own = self.variance == "per-record" or (self.variance == "auto" and len(signals.references) >= _ENOUGH)
        spread_in, spread_out = (np.sqrt(v) for v in (sides.own_variances(_LEAST_SHARE) if own else sides.variances()))
        below = (signals.subject - outside) / spread_out
        if not self.online:
            return np.asarray(below)
        above = (signals.subject - inside) / spread_in
        return np.asarray((below**2 - above**2) / 2 + np.log(spread_out) - np.log(spread_in))
