"""What a search without gradients makes small: what an answer lacks to be the class's, and how unlikely the record is.

Imports torch, like what it asks with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...engine.attack import SCORES
from ...engine.errors import AccessError
from .._shares import read, undoing

if TYPE_CHECKING:
    from numpy import float64, int64
    from numpy.typing import NDArray

    from ...engine.target import Target
    from ._evolution import Asked, Drawn


def check_scores(target: Target) -> None:
    """Refuse a release whose answers carry no score for each class.

    Raises:
        AccessError: It gives labels alone, or cannot be asked.
    """
    if target.exposure not in SCORES:
        raise AccessError(
            f"expected answers with a score for each class ({' or '.join(sorted(SCORES))}), and the release exposes "
            f"{target.exposure}"
        )


def lacks(log_p: NDArray[float64], loss: str) -> NDArray[float64]:
    """What each answer lacks to be each class's.

    Args:
        log_p: `(n, classes)` log-probabilities.
        loss: `margin`, the best other class's log-probability minus its own; `ce`, its own with the sign changed.

    Returns:
        `(n, classes)`.
    """
    if loss == "ce" or log_p.shape[1] < 2:
        return -log_p
    ordered = np.sort(log_p, axis=1)
    first, second = ordered[:, -1:], ordered[:, -2:-1]
    # The best other class is the first of all but for the first itself.
    leads = np.arange(log_p.shape[1]) == log_p.argmax(axis=1)[:, None]
    return np.asarray(np.where(leads, second, first) - log_p)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of points, for searches that stand in the order of their classes, `restarts` of each beside each other.

    Attributes:
        asked: Who answers.
        classes: `(k,)`.
        loss: As in `lacks`.
        restarts: Searches for each class.
        scale: `(k,)`, what the lack of each class is divided by.
        weight: Of half the squared distance from the prior's centre.
        factor: What undoes a scale of the logits under which all answers look alike.
    """

    asked: Asked
    classes: NDArray[int64]
    loss: str
    restarts: int
    scale: NDArray[float64] | float = 1.0
    weight: float = 0.0
    factor: float = 1.0

    def undone_by(self, drawn: Drawn) -> Cost:
        """With a scale of the logits undone that makes all answers look alike."""
        return replace(self, factor=undoing(self.asked.target, drawn.answers))

    def spread_by(self, drawn: Drawn) -> Cost:
        """With each class's lack in units of how much it varies over these draws."""
        undone = self.undone_by(drawn)
        spread = undone._lacks(drawn.answers)[:, self.classes].std(axis=0)
        return replace(undone, scale=np.where(spread > 0, spread, 1.0))

    def weighed(self, weight: float) -> Cost:
        """With this weight of half the squared distance from the prior's centre."""
        return replace(self, weight=weight)

    def of_draws(self, drawn: Drawn) -> NDArray[float64]:
        """The cost of each draw for each class; nobody is asked again. Returns: `(n, k)`."""
        return self._lacks(drawn.answers)[:, self.classes] / self.scale + self._unlikely(drawn.z)[:, None]

    def __call__(self, points: NDArray[float64]) -> NDArray[float64]:
        """The cost of each search's points. Args: points `(k * restarts, p, size)`. Returns: `(k * restarts, p)`."""
        searches, number = points.shape[:2]
        flat = points.reshape(searches * number, -1)
        owners = np.repeat(np.arange(len(self.classes)), self.restarts * number)
        lack = np.take_along_axis(self._lacks(self.asked.answers(flat)), self.classes[owners][:, None], axis=1)[:, 0]
        scale = np.broadcast_to(self.scale, len(self.classes))[owners]
        return np.asarray(lack / scale + self._unlikely(flat)).reshape(searches, number)

    def _lacks(self, answers: NDArray[float64]) -> NDArray[float64]:
        return lacks(read(self.asked.target, answers, self.factor).log_p, self.loss)

    def _unlikely(self, z: NDArray[float64]) -> NDArray[float64]:
        return np.asarray(0.5 * self.weight * (z**2).sum(axis=1))
