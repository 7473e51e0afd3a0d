"""RMIA, the relative attack: does the subject favour the label more than models do on average, beside other records?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ._compared import Compared

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target


@dataclass(frozen=True, slots=True)
class Rmia(Compared):
    """Scores a record by how much more than the average model the subject favours its label.

    ratio(x) = p(x | subject) / p(x), LR(x, z) = ratio(x) / ratio(z); the score is the share of records z with
    LR(x, z) >= gamma. The z are the adversary's auxiliary records, or the candidates where he owns none. With a finite
    set of z many records share a score, above all at the top: within one step of the share, the order is that of
    log ratio(x), which the share is a step function of.

    p(x) is the mean of p with and without the record. Online, both are those of references as far as there are any;
    offline, p_in = a p_out + (1 - a), hence p(x) = ((1 + a) p_out + (1 - a)) / 2. Where a record has references on the
    other side alone, the same line is followed backwards, so that one reference is enough. Online is the default
    because it was the stronger from two references on; with one, both are the same.

    Attributes:
        references: How many of the reference models are compared with at most.
        online: Whether the models that were trained on the record are used too.
        gamma: By what factor a record must surpass another, at least 1.
        a: How p_in follows from p_out, in (0, 1]; `null` fits it on the references, each in the subject's place.
        views: How many views of each record are asked about, their log ratios averaged: an image shifted by a pixel
            and mirrored (up to 18), any other record with a little noise.
        label_views: How many where the release shows nothing but the label, if that is more; noisy for images too.
    """

    online: bool = True
    gamma: float = 2.0
    a: float | None = None

    source: ClassVar[str] = "Zarifzadeh et al. 2024, arXiv 2312.03262, equations 2 to 4 and appendix B.2.2"

    def __post_init__(self) -> None:
        Compared.__post_init__(self)
        if not 1 <= self.gamma < float("inf"):
            raise ValueError(f"expected gamma={self.gamma} >= 1")
        if self.a is not None and not 0 < self.a <= 1:
            raise ValueError(f"expected 0 < a={self.a} <= 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each view of each candidate and auxiliary record; labels alone take `label_views`."""
        return self.views * (targets + auxiliary)

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The share of records that each candidate surpasses, refined within its steps.

        Returns:
            `(n,)`, in [0, 1]; NaN where the subject, or every reference, answers NaN.

        Raises:
            NotMeasurable: There is no reference model.
        """
        import numpy as np

        from ._ratios import fitted, log_ratio
        from ._signals import view_signals, views_of

        n, total, seen, a = len(candidates), np.zeros(0), 0, self.a
        number = views_of(self, target)
        for signals in view_signals(target, candidates, self.references, number, seed, progress, target.auxiliary):
            a = fitted(signals.first(n), self.online) if a is None else a
            ratios = log_ratio(signals, a, self.online)
            total, seen = total + ratios if seen else ratios, seen + 1
        mean = total / seen
        return surpassed(mean[:n], mean if target.auxiliary is None else mean[n:], self.gamma)


def surpassed(ratios: NDArray[float64], others: NDArray[float64], gamma: float) -> NDArray[float64]:
    """The share of other records that each surpasses by a factor, refined within its steps.

    Args:
        ratios: `(n,)` log ratios.
        others: `(m,)` log ratios of the records beside which they are held; those without an answer do not count.
        gamma: The factor.

    Returns:
        `(n,)`, (c + u) / (m + 1) for c records surpassed, with u = (1 + r / (1 + |r|)) / 2 in (0, 1) for a log ratio r.
    """
    import numpy as np

    known = np.sort(others[np.isfinite(others)])
    # Compared by what is left of the log ratio, so that the comparison is the one that is written down.
    count = np.searchsorted(known, ratios - np.log(gamma), side="right")
    within = (1 + ratios / (1 + np.abs(ratios))) / 2
    return np.asarray((count + within) / (len(known) + 1))
