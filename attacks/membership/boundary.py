"""The boundary attack: training records lie further from where the model's label changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...engine.attack import ANSWERS, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access, Exposure

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Records, Target
    from ._sides import Sides


#: The smallest budget: the record's own label, and a walk with one direction a round.
_LEAST = 82


@dataclass(frozen=True, slots=True)
class Boundary:
    """Scores a record by its distance from the decision boundary, found by asking for labels alone.

    The distance counts negative where the model's label is not the recorded one: there it is that from the nearest
    point with the recorded label, so that records the model gets wrong come last and are told apart too. Images and
    continuous records: HopSkipJump in the Euclidean norm, from the nearest candidate beyond the boundary. Records whose
    values all lie at the bounds: how often the recorded label is given under random flips of 1 to half of them.

    Attributes:
        budget: Queries for each record.
    """

    budget: int = 250

    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=ANSWERS,
        knowledge=("the record", "its recorded label"),
        goal=Goal.MEMBERSHIP,
        unasked=frozenset({Exposure.LABEL}),
    )
    source: ClassVar[str] = "Choquette-Choo et al. 2021, arXiv 2007.14321; HopSkipJump: arXiv 1904.02144"

    def __post_init__(self) -> None:
        if self.budget < _LEAST:
            raise ValueError(f"expected budget={self.budget} >= {_LEAST}")

    def queries(self, targets: int, auxiliary: int) -> int:
        """The budget for each candidate, all of it."""
        return self.budget * targets

    def score(self, target: Target, candidates: Records, seed: int, progress: Progress) -> NDArray[float64]:
        """The signed distance from the boundary, or the share of the recorded label under flips.

        Returns:
            `(n,)`; NaN where the model answers NaN; 0 throughout where no point beyond any boundary is found.
        """
        import numpy as np

        from ._sides import Sides, agreement

        sides = Sides.ask(target, candidates)
        if np.isin(sides.x, target.bounds).all():
            scores = sides.right + np.concatenate(
                [agreement(sides.take(block), self.budget - 1, seed) for block in sides.blocks()]
            )
        else:
            scores = self._signed(sides, seed, progress)
        progress(1.0)
        return np.where(sides.known, scores, np.nan)

    def _signed(self, sides: Sides, seed: int, progress: Progress) -> NDArray[float64]:
        """Distances, negative where the model is wrong. Returns: `(n,)`."""
        import numpy as np

        from ._sides import Walk, distances

        walk, blocks, done = Walk.within(self.budget - 1), sides.blocks(), [0]

        def asked() -> None:
            done[0] += 1
            progress(done[0] / (len(blocks) * len(walk.directions)))

        parts = []
        for block in blocks:
            here = sides.take(block)
            parts.append(distances(here, here.nearest_beyond(sides), walk, seed, asked))
        found = np.concatenate(parts)
        if not np.isfinite(found).any():
            return np.zeros(len(found))
        low, high = sides.target.bounds
        furthest = (high - low) * np.sqrt(sides.x.shape[1])
        return np.where(sides.right, 1.0, -1.0) * np.where(np.isfinite(found), found, furthest)
