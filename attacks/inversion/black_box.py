"""Inversion by questions alone: what an adversary finds who has answers with scores, and no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from ...engine.attack import SCORES, ThreatModel
from ...engine.observation import Goal
from ...engine.target import Access

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy import float32, int64
    from numpy.typing import NDArray

    from ...engine.attack import Progress
    from ...engine.target import Target

#: Where plausible records come from.
_Kind = Literal["pca", "vae"]
#: What is made small: the log-probability that another class leads by, or that the class itself lacks.
_Loss = Literal["margin", "ce"]
#: Share of the work that fitting the prior is reckoned as.
_FITTING = 0.1


@dataclass(frozen=True, slots=True)
class BlackBox:
    """Searches plausible records by CMA-ES for the one that the answers put deepest into the class.

    Neither weights nor gradients are used, even by an adversary who holds them: a model that masks its gradients is
    searched like any other. The loss is divided by how much it varies over records that the prior draws, and the
    prior's distance by the root of its size, so that neither the scale of the logits nor the number of directions
    decides how much the prior counts: where the loss is linear, the search ends as far from the centre as a record that
    the prior draws.

    Attributes:
        prior: `pca`, the directions in which the adversary's records differ most; or `vae`, a variational autoencoder.
        size: Directions, or coordinates of the autoencoder.
        loss: `margin`, how far the best other class leads in log-probability; or `ce`, the class's own -log p.
        typicality: Weight of the distance from the prior's centre.
        population: Points of a generation.
        generations: How many there are.
        restarts: Searches for each class: one from the prior's centre, the others from the draws that the model already
            puts furthest into the class.
        draws: Records that the prior draws to begin with, for all classes together.
        repeats: How often each record is asked about where the release answers differently every time.
    """

    prior: _Kind = "pca"
    size: int = 64
    loss: _Loss = "margin"
    typicality: float = 1.0
    population: int = 32
    generations: int = 100
    restarts: int = 2
    draws: int = 500
    repeats: int = 4

    source: ClassVar[str] = "after An et al., NDSS 2022 (MIRROR); CMA-ES: Hansen, arXiv 1604.00772"
    threat: ClassVar[ThreatModel] = ThreatModel(
        access=Access.RELEASE,
        exposures=SCORES,
        knowledge=("the class label",),
        goal=Goal.CLASS,
        auxiliary=True,
    )
    thorough: ClassVar[Mapping[str, object]] = {"population": 64, "generations": 200}

    def __post_init__(self) -> None:
        for name, kinds in (("prior", get_args(_Kind)), ("loss", get_args(_Loss))):
            if getattr(self, name) not in kinds:
                raise ValueError(f"expected {name}={getattr(self, name)!r} to be one of {', '.join(kinds)}")
        for name in ("size", "generations", "restarts", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 1")
        for name in ("population", "draws"):
            if getattr(self, name) < 4:
                raise ValueError(f"expected {name}={getattr(self, name)} >= 4")
        if not 0 <= self.typicality < math.inf:
            raise ValueError(f"expected typicality={self.typicality} >= 0")

    def queries(self, targets: int, auxiliary: int) -> int:
        """The draws, every point of every generation, and each search's end once more; `repeats` times all of it."""
        searched = self.population * self.generations + 1
        return self.repeats * (self.draws + targets * self.restarts * searched)

    def reconstruct_classes(
        self, target: Target, classes: NDArray[int64], seed: int, progress: Progress
    ) -> NDArray[float32]:
        """Reconstruct these classes, all at once: every generation is one question.

        Args:
            target: Asked alone; its release must give scores. The adversary must own records.
            classes: `(k,)`.
            seed: Decides the prior, the draws and all steps.
            progress: Told the share of the work that is done.

        Returns:
            `(k, *shape)`: of each class the search that ended at the least cost, within the bounds.

        Raises:
            AccessError: The release gives no scores.
            AttackError: He owns too few records, they do not differ, or an answer is not finite.
        """
        from ._evolution import Asked, Drawn, Evolution, favourites, fit_prior
        from ._scores import Cost, check_scores
        from ._white_box import tell

        check_scores(target)
        prior = fit_prior(self.prior, target, self.size, seed, partial(tell, progress, 0.0, _FITTING))
        asked = Asked(target, prior, self.repeats if target.noisy else 1)
        drawn = Drawn.ask(asked, self.draws, seed)
        cost = Cost(asked, classes, self.loss, self.restarts).spread_by(drawn)
        weighed = cost.weighed(self.typicality / math.sqrt(prior.size))
        evolution = Evolution(self.population, self.generations)
        starts = drawn.starts(weighed.of_draws(drawn), self.restarts)
        told = partial(tell, progress, _FITTING, 1 - _FITTING)
        found = evolution.search(starts, weighed, seed, told)
        return asked.records(favourites(found, weighed, self.restarts))
