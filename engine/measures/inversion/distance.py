"""Relative reconstruction distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...measure import Reads
from ...measurement import Basis, Measurement, Quantity, undetermined
from ...observation import Goal

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...ledger import Account
    from ...observation import Observation, Reconstruction

from ._outcome import Guess, reconstruction


@dataclass(frozen=True, slots=True)
class Distance:
    """How far reconstructions stay away, over the best guess without the model (1: no help).

    A quantile of the attack's distances over the same quantile of the best no-model reconstruction's, by an adversary
    who owns the auxiliary records and knows the true label (docs/adr/0003).

    Attributes:
        metric: `mse`, `ssim` (its distance is 1 - SSIM), or `feature`, between what independent evaluators see.
        quantile: Which targets count: 0.05 the worst protected twentieth, 0.5 the middle one.
    """

    metric: Literal["mse", "ssim", "feature"] = "mse"
    quantile: float = 0.05

    reads: ClassVar[Reads] = Reads.INVERSION
    goals: ClassVar[frozenset[Goal]] = frozenset({Goal.CLASS, Goal.RECORD, Goal.UPDATE})
    higher_is_safer: ClassVar[bool] = True
    suffix: ClassVar[str] = "×"
    source: ClassVar[str] = "Yang et al. 2019, arXiv 1902.08552 (distance); Wang et al. 2004 (SSIM)"

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"expected 0 < quantile={self.quantile} < 1")

    def measure(self, observation: Observation | Account, alpha: float) -> Measurement:
        """The ratio of the two quantiles with its interval."""
        import numpy as np

        from ...statistics import quantile_ratio

        seen = reconstruction(observation)
        attack, baseline = self.attack_distances(seen), self.best_guess(seen).distances
        if len(attack) < 2 or not (np.isfinite(attack).all() and np.isfinite(baseline).all()):
            return undetermined(1 - alpha, len(attack), Basis.ATTACKED)
        found = quantile_ratio(attack, baseline, self.quantile, alpha)
        details = (
            Quantity(f"attack's {self.metric} distance", float(np.quantile(attack, self.quantile))),
            *(Quantity(f"{self.metric} distance without the model, {name}", far) for name, far in self._guesses(seen)),
        )
        return Measurement(found.value, found.low, found.high, 1 - alpha, len(attack), Basis.ATTACKED, details)

    def attack_distances(self, seen: Reconstruction) -> NDArray[float64]:
        """The attack's distance from each target, `(n,)`, 0 for a perfect reconstruction."""
        if self.metric == "feature":
            return _or_nan(seen.feature, seen.mse)
        return seen.mse if self.metric == "mse" else 1 - seen.ssim

    def _guesses(self, seen: Reconstruction) -> list[tuple[str, float]]:
        """Every reconstruction without the model with its distance at this quantile, the best first."""
        import numpy as np

        every = np.quantile(self._baseline_distances(seen), self.quantile, axis=1)
        return sorted(zip(seen.baselines, every.tolist(), strict=True), key=lambda guess: guess[1])

    def _baseline_distances(self, seen: Reconstruction) -> NDArray[float64]:
        if self.metric == "feature":
            return _or_nan(seen.baseline_feature, seen.baseline_mse)
        return seen.baseline_mse if self.metric == "mse" else 1 - seen.baseline_ssim

    def best_guess(self, seen: Reconstruction) -> Guess:
        """The reconstruction without the model that is best by this metric at this quantile."""
        import numpy as np

        every = self._baseline_distances(seen)
        best = int(np.argmin(np.quantile(every, self.quantile, axis=1)))
        return Guess(seen.baselines[best], every[best])

    def no_leak(self) -> float:
        """1: as far away as the best guess without the model."""
        return 1.0

    def worst(self) -> float:
        """0: the reconstruction is the record."""
        return 0.0


def _or_nan(found: NDArray[float64] | None, like: NDArray[float64]) -> NDArray[float64]:
    """What was measured; NaN, which decides nothing, where nothing was."""
    import numpy as np

    return np.full(like.shape, np.nan) if found is None else found
