"""The search of BREP-MI (Kahla et al. 2022, arXiv 2203.06580, algorithm 1): spheres that grow inside a class.

Imports torch, like what it asks with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ._evolution import Asked

#: The longest step, in standard deviations of the prior, and its share of the radius.
_LONGEST, _SHARE = 3.0, 1 / 3


@dataclass(frozen=True, slots=True)
class Labels:
    """The label of what z stands for, and nothing else that the model answers.

    Attributes:
        asked: Who answers.
        clamp: How far each coordinate of a centre may go.
    """

    asked: Asked
    clamp: float

    def of(self, z: NDArray[float64]) -> NDArray[int64]:
        """Ask. Args: z `(n, size)`. Returns: `(n,)`."""
        return np.asarray(self.asked.answers(z).argmax(axis=1))

    def kept(self, z: NDArray[float64]) -> NDArray[float64]:
        """Centres, put back into their box."""
        return np.clip(z, -self.clamp, self.clamp)

    def starts(self, classes: NDArray[int64], draws: int, generator: torch.Generator) -> NDArray[float64]:
        """For each class the first draw that bears its label; NaN where none does. Returns: `(k, size)`."""
        z = self.kept(self.asked.prior.sample(draws, generator).double().cpu().numpy())
        labels = self.of(z)
        found = np.full((len(classes), z.shape[1]), np.nan)
        for row, label in enumerate(classes):
            bearing = np.flatnonzero(labels == label)
            if len(bearing):
                found[row] = z[bearing[0]]
        return found


@dataclass(slots=True)
class _Climb:
    """Where the search for each class stands.

    Attributes:
        centre: `(k, size)`.
        radius: `(k,)` of its sphere.
        waited: `(k,)` spheres of this radius so far.
        best: `(k, size)`, the centre to be returned.
        most: `(k,)` the largest share inside so far; infinite once a sphere was mostly inside.
        going: `(k,)`, whether it goes on.
    """

    centre: NDArray[float64]
    radius: NDArray[float64]
    waited: NDArray[int64]
    best: NDArray[float64]
    most: NDArray[float64]
    going: NDArray[bool_]

    @classmethod
    def at(cls, centre: NDArray[float64], going: NDArray[bool_], radius: float) -> _Climb:
        """Where it begins. Args: centre `(k, size)`, going `(k,)`."""
        k = len(centre)
        return cls(centre, np.full(k, radius), np.zeros(k, np.int64), centre.copy(), np.full(k, -1.0), going)


@dataclass(frozen=True, slots=True)
class Spheres:
    """How spheres grow.

    Attributes:
        points: On each.
        radius: Of the first.
        growth: What the radius is multiplied by once a sphere is mostly inside.
        inside: What share that is, at least.
        patience: Spheres of the same radius after which a class is given up.
    """

    points: int
    radius: float
    growth: float
    inside: float
    patience: int

    def grow(
        self,
        labels: Labels,
        classes: NDArray[int64],
        starts: NDArray[float64],
        iterations: int,
        seed: int,
        progress: Progress,
    ) -> NDArray[float64]:
        """The centre of each class's largest sphere; 0 where there is no start. Args: starts `(k, size)`, or NaN."""
        rng, known = np.random.default_rng(seed), np.asarray(np.isfinite(starts).all(axis=1), dtype=bool)
        climb = _Climb.at(np.where(known[:, None], starts, 0.0), known, self.radius)
        for iteration in range(iterations):
            at = np.flatnonzero(climb.going)
            if not len(at):
                break
            self._once(labels, classes, climb, at, rng)
            progress((iteration + 1) / iterations)
        progress(1.0)
        return climb.best

    def _once(
        self, labels: Labels, classes: NDArray[int64], climb: _Climb, at: NDArray[int64], rng: np.random.Generator
    ) -> None:
        """One sphere around the centre of each of these classes."""
        ways = rng.normal(size=(len(at), self.points, climb.centre.shape[1]))
        ways /= np.linalg.norm(ways, axis=2, keepdims=True)
        sphere = climb.centre[at, None] + climb.radius[at, None, None] * ways
        said = labels.of(sphere.reshape(-1, sphere.shape[2])).reshape(len(at), self.points)
        outside = said != classes[at, None]
        self._note(climb, at, 1 - outside.mean(axis=1))
        away = -(ways * outside[:, :, None]).mean(axis=1)
        length = np.linalg.norm(away, axis=1, keepdims=True)
        step = np.minimum(climb.radius[at, None] * _SHARE, _LONGEST)
        climb.centre[at] = labels.kept(climb.centre[at] + step * away / np.where(length > 0, length, 1.0))

    def _note(self, climb: _Climb, at: NDArray[int64], share: NDArray[float64]) -> None:
        """Keep the centres of the best spheres so far, and enlarge those that are mostly inside."""
        mostly = share > self.inside
        better = mostly | (share >= climb.most[at])
        climb.best[at[better]] = climb.centre[at[better]]
        climb.most[at] = np.where(mostly, np.inf, np.maximum(climb.most[at], share))
        climb.radius[at] *= np.where(mostly, self.growth, 1.0)
        climb.waited[at] = np.where(mostly, 0, climb.waited[at] + 1)
        climb.going[at] = climb.waited[at] < self.patience
