"""The whiteness of the noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from ...engine.audit import LEVEL, Found, Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.audit import Claimed, Planned, Training
    from ...engine.defenses import StepSeen

#: The correlation between two steps that must be found for a run to say anything.
_BREAK = 0.5
#: Rows that are correlated with all others at a time.
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Whiteness:
    """Whether the noise of every step is new: uncorrelated with that of other steps and coordinates.

    Attributes:
        coordinates: How many coordinates are looked at, half of them drawn, half side by side from a drawn place.
        steps: At most so many steps are looked at, the first ones.
    """

    coordinates: int = 512
    steps: int = 20_000

    source: ClassVar[str] = "exact test of a correlation, Student 1908; Bonferroni over all pairs, Dunn 1961"

    def __post_init__(self) -> None:
        if self.coordinates < 2 or self.steps < 2:
            raise ValueError(f"expected coordinates={self.coordinates} and steps={self.steps} >= 2")

    def plan(self, planned: Planned) -> Observer:
        """Which coordinates will be looked at is drawn when it is known how many there are."""
        return _White(self, planned.chance())


class _White(Observer):
    """Keeps the noise of some coordinates, step by step."""

    def __init__(self, test: Whiteness, chance: np.random.Generator) -> None:
        self._test, self._chance = test, chance
        self._where: list[torch.Tensor] = []
        self._noise: list[NDArray[float64]] = []

    def begins(self, training: Training) -> None:
        """Draw the coordinates."""
        import numpy as np
        import torch

        sizes = [p.numel() for p in training.parameters]
        total = sum(sizes)
        some = self._chance.choice(total, size=min(self._test.coordinates // 2, total), replace=False)
        start = int(self._chance.integers(total))
        beside = (start + np.arange(min(self._test.coordinates // 2, total))) % total
        chosen = np.union1d(some, beside)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._where = [
            torch.from_numpy(chosen[(chosen >= low) & (chosen < high)] - low) for low, high in pairwise(starts)
        ]

    def saw(self, seen: StepSeen, contributed: Sequence[torch.Tensor] | None) -> None:
        """Keep the step's noise at the drawn coordinates."""
        import numpy as np

        if len(self._noise) == self._test.steps:
            return
        parts = [
            (noised.detach().flatten()[where].double() - total.detach().flatten()[where].double()).numpy()
            for noised, total, where in zip(seen.noised, seen.sums, self._where, strict=True)
        ]
        self._noise.append(np.concatenate(parts) / seen.clipping_norm)  # which may follow the gradients' norms

    def found(self, claimed: Claimed, module: torch.nn.Module) -> Found:
        """The largest correlation of any two steps and of any two coordinates, and the mean one of neighbours."""
        import numpy as np

        noise = np.array(self._noise)
        if len(noise) < 2:
            return Found(math.nan, math.nan, False, "fewer than two steps were seen")
        steps, coordinates = _largest(noise), _largest(noise.T)
        neighbours = [_neighbours(noise), _neighbours(noise.T)]
        p = min(1.0, 4 * min(steps[1], coordinates[1], *neighbours))
        detail = f"the largest correlation of the noise of two steps is {steps[0]:.3g}, of two coordinates "
        detail += f"{coordinates[0]:.3g}"
        conclusive = 4 * _p_of(_BREAK, *noise.shape) <= LEVEL
        return Found(steps[0], p, conclusive, detail)


def _largest(rows: NDArray[float64]) -> tuple[float, float]:
    """The largest correlation of any two rows in absolute value, and its p-value over all pairs."""
    import numpy as np

    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    # A row of zeros is the same noise as another row of zeros.
    unit = np.where(norms > 0, rows / np.where(norms > 0, norms, 1.0), 1 / math.sqrt(rows.shape[1]))
    largest = 0.0
    for start in range(0, len(unit), _BLOCK):
        found = np.abs(unit[start : start + _BLOCK] @ unit.T)
        found[np.arange(len(found)), start + np.arange(len(found))] = 0.0
        largest = max(largest, float(found.max()))
    return largest, _p_of(largest, *rows.shape)


def _p_of(correlation: float, rows: int, length: int) -> float:
    """How likely the largest of all pairs of independent normal rows is at least this.

    The correlation r about a mean of zero of two rows of length k: r √((k - 1)/(1 - r²)) is Student's t with k - 1
    degrees of freedom, whatever the rows' variances.
    """
    from scipy import stats

    if length < 2 or rows < 2:
        return 1.0
    r = min(correlation, 1 - 1e-15)
    return min(1.0, rows * (rows - 1) * float(stats.t.sf(r * math.sqrt((length - 1) / (1 - r * r)), length - 1)))


def _neighbours(rows: NDArray[float64]) -> float:
    """The p-value of the mean product of neighbouring rows, normal to a good approximation where there are many."""
    import numpy as np
    from scipy import special

    products = rows[1:] * rows[:-1]
    spread = float(np.sqrt((products**2).sum()))
    return 2 * float(special.ndtr(-abs(float(products.sum())) / spread)) if spread > 0 else 1.0
