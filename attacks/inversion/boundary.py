"""Inversion by labels alone: away from whatever the model calls something else, towards the middle of the class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import ANSWERS, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target

#: Where plausible records come from.
_Kind = Literal["pca", "vae"]
#: Share of the work that fitting the prior is reckoned as.
_FITTING = 0.1


@dataclass(frozen=True, slots=True)
class Boundary:
    """Grows a sphere of plausible records for as long as the model gives most of them the class's label.

    Only labels are read, whatever the model answers. A class that none of the draws belongs to cannot be searched for:
    its reconstruction is what the prior's centre stands for, which is no better than a guess without the model, and it
    counts like any other.

    Attributes:
        prior: `pca`, the directions in which the adversary's records differ most; or `vae`, a variational autoencoder.
        size: Directions, or coordinates of the autoencoder.
        draws: Records that the prior draws, for all classes together, until one bears the class's label.
        points: On each sphere.
        radius: Of the first sphere, in standard deviations of the prior.
        growth: What the radius is multiplied by once more than `inside` of a sphere bear the label.
        inside: That share.
        clamp: How far each coordinate of the sphere's centre may go from the prior's.
        patience: Spheres of the same radius after which a class is given up; the paper has 1,000.
        iterations: Spheres at most, for each class.
    """

    prior: _Kind = "pca"
    size: int = 64
    draws: int = 2000
    points: int = 32
    radius: float = 2.0
    growth: float = 1.3
    inside: float = 0.75
    clamp: float = 1.5
    patience: int = 100
    iterations: int = 200

    source: ClassVar[str] = "Kahla et al. 2022, arXiv 2203.06580 (BREP-MI)"
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("the class label",),
        goal=Goal.CLASS,
        auxiliary=True,
        unasked=frozenset({Exposure.LABEL}),
    )
    thorough: ClassVar[Mapping[str, object]] = {"draws": 20_000, "patience": 1000, "iterations": 2000}

    def __post_init__(self) -> None:
        if self.prior not in get_args(_Kind):
            raise ValueError(f"expected prior={self.prior!r} to be one of {', '.join(get_args(_Kind))}")
        for name in ("size", "draws", "points", "patience", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        for name in ("radius", "clamp"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name}={getattr(self, name)} > 0")
        if not 1 < self.growth < math.inf:
            raise ValueError(f"expected growth={self.growth} > 1")
        if not 0 < self.inside < 1:
            raise ValueError(f"expected 0 < inside={self.inside} < 1")

    def queries(self, targets: int, auxiliary: int) -> int:
        """The draws, and every point of every sphere; fewer where a class is given up."""
        return self.draws + targets * self.iterations * self.points

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once: the spheres of an iteration are one question.

        Args:
            target: Asked for labels alone. The adversary must own records.
            classes: `(k,)`.
            seed: Decides the prior, the draws and all directions.
            progress: Told the share of the work that is done.

        Returns:
            `(k, *shape)`: the centre of the largest sphere that was mostly inside; where none was, the centre of the
            one that was most so, the last of them; within the bounds.

        Raises:
            AttackError: He owns too few records, they do not differ, or an answer is not finite.
        """
        from ._evolution import OWN, Asked, fit_prior
        from ._spheres import Labels, Spheres
        from ._white_box import tell

        prior = fit_prior(self.prior, target, self.size, seed, partial(tell, progress, 0.0, _FITTING))
        labels = Labels(Asked(target, prior), self.clamp)
        spheres = Spheres(self.points, self.radius, self.growth, self.inside, self.patience)
        centres = labels.starts(classes, self.draws, OWN.generator(seed))
        told = partial(tell, progress, _FITTING, 1 - _FITTING)
        found = spheres.grow(labels, classes, centres, self.iterations, seed, told)
        return labels.asked.records(found)
