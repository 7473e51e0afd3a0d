"""The quantile regression attack: a record is held against what its own content lets one expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import SCORES, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access

if TYPE_CHECKING:
    from numpy import float64, int64
    from numpy.typing import NDArray
    from sklearn.decomposition import PCA

    from ...engine.attack import Progress
    from ...engine.target import Records, Target

#: Auxiliary records with an answer below which no regression is attempted.
_LEAST = 20
#: A record's values are reduced to so many principal components where it has more.
_COMPONENTS = 24
#: Records in a leaf of the trees that predict the mean, and of those that predict the spread.
_MEAN_LEAF, _SPREAD_LEAF = 3, 20
#: The least squared residual that counts, as a share of their mean: one lucky record says little of the spread.
_FLOOR = 0.01
#: Features among which a tree looks for each split, where there are so many; three tenths where that is more.
_TRIED = 8


@dataclass(frozen=True, slots=True)
class Quantile:
    """Scores a record by how far its log-odds exceed what a regression expects of such a record.

    The regression (randomised trees) is fitted on the auxiliary records alone, never on a candidate, and predicts mean
    and spread of the log-odds from the record's values (principal components), its label, its distance from the mean
    record of its class and from the next class. The spread is that of records which the mean was not fitted on. The
    score is the standardised residual, so that a threshold on it is a quantile of a Gaussian for each record.

    Attributes:
        folds: Parts that take turns in being left out when the mean is fitted.
        trees: Trees of each fit.
    """

    folds: int = 5
    trees: int = 100

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
        auxiliary=True,
    )
    source: ClassVar[str] = "Bertran et al. 2023, arXiv 2307.03694, with Gaussian quantiles"

    def __post_init__(self) -> None:
        if not 2 <= self.folds <= _LEAST:
            raise ValueError(f"expected 2 <= folds={self.folds} <= {_LEAST}")
        if self.trees < 1:
            raise ValueError(f"expected trees={self.trees} >= 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """One for each candidate and for each auxiliary record."""
        return targets + auxiliary

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The standardised residual of each record's log-odds.

        Returns:
            `(n,)`; NaN where the model answers NaN, and throughout where it has answers on fewer than 20 auxiliary
            records.

        Raises:
            AttackError: The adversary owns no records.
        """
        import numpy as np

        from ._log_odds import log_odds

        found = log_odds(target, candidates)
        if len(found.owned) < _LEAST:
            return np.full(len(candidates), np.nan)
        centre = float(np.median(found.owned))  # exact zeros where the model's answers do not differ
        owned, order = found.owned - centre, np.random.default_rng(seed).permutation(len(found.owned))
        left_out, expected = np.empty(len(owned)), np.zeros(len(candidates))
        for number, out in enumerate(np.array_split(order, self.folds)):
            kept = np.setdiff1d(order, out)
            fit = self._fit(found.auxiliary.take(kept), owned[kept], _MEAN_LEAF, seed)
            left_out[out] = fit.predict(found.auxiliary.take(out))
            expected += fit.predict(candidates) / self.folds
            progress(0.8 * (number + 1) / self.folds)
        spread = self._spread(found.auxiliary, owned - left_out, candidates, seed)
        progress(1.0)
        return np.asarray((found.candidates - centre - expected) / spread)

    def _spread(
        self, auxiliary: Records, residuals: NDArray[float64], candidates: Records, seed: int
    ) -> NDArray[float64]:
        """The standard deviation to expect of each candidate, but for a factor that all share. Returns: `(n,)`."""
        import numpy as np

        squared = residuals**2
        if squared.mean() == 0:
            return np.ones(len(candidates))
        size = np.log(squared / squared.mean() + _FLOOR)
        return np.exp(self._fit(auxiliary, size, _SPREAD_LEAF, seed).predict(candidates) / 2)

    def _fit(self, records: Records, values: NDArray[float64], leaf: int, seed: int) -> _Regression:
        from sklearn.ensemble import ExtraTreesRegressor

        look = _Look.at(records, seed % 2**32)
        features = look.features(records)
        tried = min(features.shape[1], max(_TRIED, int(0.3 * features.shape[1])))
        trees = ExtraTreesRegressor(
            self.trees, min_samples_leaf=leaf, max_features=tried, random_state=seed % 2**32, n_jobs=1
        )
        return _Regression(look, trees.fit(features, values))


@dataclass(frozen=True, slots=True)
class _Regression:
    """A fitted regression and what it looks at."""

    look: _Look
    trees: object

    def predict(self, records: Records) -> NDArray[float64]:
        """What to expect of each record. Returns: `(n,)`."""
        return self.trees.predict(self.look.features(records))  # type: ignore[attr-defined,no-any-return]


@dataclass(frozen=True, slots=True)
class _Look:
    """What a regression sees of a record.

    Attributes:
        components: Principal components; `None` where a record has few values.
        classes: `(k,)`, the classes that were seen.
        means: `(k, d)`, the mean record of each.
    """

    components: PCA | None
    classes: NDArray[int64]
    means: NDArray[float64]

    @classmethod
    def at(cls, records: Records, seed: int) -> _Look:
        """Learn components and class means from these records."""
        import numpy as np
        from sklearn.decomposition import PCA

        flat = _flat(records)
        few = flat.shape[1] <= _COMPONENTS
        components = None if few else PCA(min(_COMPONENTS, len(flat)), random_state=seed).fit(flat)
        classes, place, counts = np.unique(records.y, return_inverse=True, return_counts=True)
        sums = np.zeros((len(classes), flat.shape[1]))
        np.add.at(sums, place, flat)
        return cls(components, classes, sums / counts[:, None])

    def features(self, records: Records) -> NDArray[float64]:
        """Values, label, distance from the own class's mean, and how much nearer that is than the next class's."""
        import numpy as np
        from scipy.spatial.distance import cdist

        flat = _flat(records)
        values = flat if self.components is None else self.components.transform(flat)
        distances = cdist(flat, self.means, "sqeuclidean")
        is_own = self.classes == records.y[:, None]
        # A class that was not seen has no mean: its records count as far from their own as from the next.
        next_best = np.where(is_own, np.inf, distances).min(axis=1)
        next_best = np.where(np.isfinite(next_best), next_best, distances.min(axis=1))
        own = np.where(is_own.any(axis=1), np.where(is_own, distances, 0.0).sum(axis=1), next_best)
        return np.column_stack([values, records.y, own, next_best - own])


def _flat(records: Records) -> NDArray[float64]:
    import numpy as np

    return records.x.reshape(len(records), -1).astype(np.float64)
