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

#: Auxiliary records of a class below which its median says little.
_ENOUGH = 10


@dataclass(frozen=True, slots=True)
class ModifiedEntropy:
    """Scores a record by an entropy that is small only where the model is sure and right.

    Mentr(p, y) = -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i), in nats; the score is its negative. As in
    the paper, every class has a threshold of its own: where the adversary owns auxiliary records, an entropy is
    counted from the middle one of its class among them, so that one threshold over all scores is another in each class.
    """

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
    )
    source: ClassVar[str] = "Song & Mittal 2021, arXiv 2003.10595, equation 8 and section 3.2"

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate and for each auxiliary record."""
        return targets + auxiliary

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The negative modified entropy of each answer, by class. Returns: `(n,)`; NaN where the model answers NaN."""
        entropy = modified_entropy(target, candidates)
        progress(0.5)
        if target.auxiliary is not None:
            entropy = entropy - middle_of_each_class(target, target.auxiliary)[candidates.y]
        progress(1.0)
        return -entropy


def modified_entropy(target: Target, records: Records) -> NDArray[float64]:
    """Mentr of the model's answer on each record (equation 8). Returns: `(n,)`, at least 0."""
    import numpy as np

    from .._shares import ask, at_label

    answer = ask(target, records)
    own = np.exp(at_label(answer.log_rest, records.y)) * at_label(answer.log_p, records.y)
    is_own = np.arange(answer.p.shape[1]) == records.y[:, None]
    others = np.where(is_own, 0.0, answer.p * answer.log_rest)
    return np.asarray(-(own + others.sum(axis=1)))


def middle_of_each_class(target: Target, auxiliary: Records) -> NDArray[float64]:
    """The median Mentr of each class among records that the model was not trained on.

    Returns:
        `(classes,)`; a class with too few auxiliary records to tell gets the median of all.
    """
    import numpy as np

    entropy = modified_entropy(target, auxiliary)
    entropy = np.where(np.isfinite(entropy), entropy, np.nan)
    if np.isnan(entropy).all():
        return np.zeros(target.classes)
    middle = np.full(target.classes, np.nanmedian(entropy))
    for label in range(target.classes):
        of_class = entropy[auxiliary.y == label]
        if np.isfinite(of_class).sum() >= _ENOUGH:
            middle[label] = np.nanmedian(of_class)
    return middle
