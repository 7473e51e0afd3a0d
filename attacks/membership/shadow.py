"""The shadow model attack: a classifier learns from models of one's own what members' answers look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import SCORES, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target

#: The largest shares of an answer that the classifier looks at.
_LEADING = 10
#: Rows that one classifier is fitted on at most.
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Shadow:
    """Scores a record by a classifier that was taught on reference models which answers members get.

    Each row it learns from is one reference model's answer on one candidate: the ten largest probabilities in falling
    order and their log-odds, then probability, log-odds and rank of the recorded label. Boosted trees and a logistic
    regression are fitted side by side and their log-odds averaged: the trees bend where the line cannot, the line goes
    on beyond the largest answer that was seen. As in the paper every class has a classifier of its own, but only where
    it has enough rows: with fewer, one that learns from all classes is the stronger.

    Attributes:
        references: Reference models that it learns from.
        enough: Rows of a class, over all reference models, from which on it has a classifier of its own.
    """

    references: int = 16
    enough: int = 5000

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the record", "its recorded label", "how the model was trained"),
        goal=Goal.MEMBERSHIP,
        references=True,
    )
    source: ClassVar[str] = "Shokri et al. 2017, arXiv 1610.05820, section V"

    def __post_init__(self) -> None:
        if self.references < 1:
            raise ValueError(f"expected references={self.references} >= 1")
        if self.enough < 1:
            raise ValueError(f"expected enough={self.enough} >= 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate."""
        return targets

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The log-odds of membership that the candidate's class gives its answer.

        Returns:
            `(n,)`; NaN where the model answers NaN, and throughout where there are no rows of both kinds to learn from.
        """
        import numpy as np

        lesson = _lesson(target, candidates, progress)
        answers = _features(target, candidates)
        scores = lesson.log_odds(answers, seed)
        labels, counts = np.unique(lesson.labels, return_counts=True)
        for label in labels[counts >= self.enough]:
            mine = candidates.y == label
            scores[mine] = lesson.of_class(label).log_odds(answers[mine], seed)
        progress(1.0)
        return scores


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What a classifier learns from.

    Attributes:
        features: `(rows, d)`, finite.
        labels: `(rows,)` recorded label.
        inside: `(rows,)` bool, whether the model that answered was trained on the record.
    """

    features: NDArray[float64]
    labels: NDArray[int64]
    inside: NDArray[bool_]

    def of_class(self, label: int) -> _Lesson:
        """The rows of one class."""
        mine = self.labels == label
        return _Lesson(self.features[mine], self.labels[mine], self.inside[mine])

    def log_odds(self, answers: NDArray[float64], seed: int) -> NDArray[float64]:
        """Fit on these rows and judge these answers. Args: answers `(n, d)`. Returns: `(n,)`."""
        import numpy as np
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        scores = np.full(len(answers), np.nan)
        known = np.isfinite(answers).all(axis=1)
        if not known.any() or self.inside.all() or not self.inside.any():
            return scores
        x, inside = self._rows(seed)
        trees = HistGradientBoostingClassifier(
            learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=50, early_stopping=False, random_state=seed % 2**32
        )
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        found = [model.fit(x, inside).decision_function(answers[known]) for model in (trees, line)]
        scores[known] = (found[0] + found[1]) / 2
        return scores

    def _rows(self, seed: int) -> tuple[NDArray[float64], NDArray[bool_]]:
        """Features and membership of at most `_MOST` rows, in an order that does not depend on the candidates'."""
        import numpy as np

        rng = np.random.default_rng(seed)
        order = np.lexsort((self.features[:, 0], *self.features[:, -3:].T, self.inside))
        kinds = [order[self.inside[order] == kind] for kind in (False, True)]
        kept = [kind[np.sort(rng.permutation(len(kind))[: _MOST // 2])] for kind in kinds]
        return self.features[np.concatenate(kept)], self.inside[np.concatenate(kept)]


def _lesson(target: Target, candidates: Records, progress: Progress) -> _Lesson:
    """What every reference model answers on every candidate; answers that are not finite teach nothing."""
    import numpy as np

    parts = [np.empty((0, _width(target.classes)))]
    for number, reference in enumerate(target.references):
        parts.append(_features(reference.target, candidates))
        progress(0.8 * (number + 1) / len(target.references))
    features = np.concatenate(parts)
    inside = np.concatenate([np.empty(0, bool), *(reference.inside for reference in target.references)])
    labels = np.tile(candidates.y, len(target.references))
    known = np.isfinite(features).all(axis=1)
    return _Lesson(features[known], labels[known], inside[known])


def _width(classes: int) -> int:
    return 2 * min(classes, _LEADING) + 3


def _features(target: Target, candidates: Records) -> NDArray[float64]:
    """What the classifier sees of a model's answers. Returns: `(n, d)`; NaN where the model answers NaN."""
    import numpy as np

    from .._shares import ask, at_label

    answer = ask(target, candidates)
    odds = answer.log_p - answer.log_rest
    leading = np.argsort(-answer.log_p, axis=1, kind="stable")[:, :_LEADING]
    own = at_label(answer.log_p, candidates.y)
    return np.column_stack(
        [
            np.take_along_axis(answer.p, leading, axis=1),
            np.take_along_axis(odds, leading, axis=1),
            at_label(answer.p, candidates.y),
            at_label(odds, candidates.y),
            (answer.log_p > own[:, None]).sum(axis=1),
        ]
    )
